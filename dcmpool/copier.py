"""Copies of sources as evidence: made by a thread of its own, so that a SOURCE that does not answer stops no commit.

Promises: what is called `source` in the evidence is whole; at the end nobody waits longer than a few seconds.
"""

import contextlib
import os
import shutil
import threading
from queue import SimpleQueue

from dcmpool.commit import Target

_MOST_BYTES = 1 << 30
"""A larger source is not copied: evidence must not fill TARGET. There are `evidence.MAX_KEPT` copies at most."""
_PATIENCE_SECONDS = 5.0
"""How long the end of a run waits for copies that are not made yet."""


class Copier:
    """The thread, which begins with the first copy."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._wanted: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)
        self._temp = b""

    def add(self, name: str, source: bytes) -> None:
        """Have a copy of a source put into the evidence of this name, where it can be had."""
        self._wanted.put((name, source))
        if not self._thread.ident:
            self._thread.start()

    def end(self) -> None:
        """Wait a little for what is not done yet, and drop the rest."""
        if self._thread.ident:
            self._wanted.put(None)
            self._thread.join(_PATIENCE_SECONDS)
            self._drop()

    def _run(self) -> None:
        while wanted := self._wanted.get():
            name, source = wanted
            self._temp = os.path.join(self._target.temp, os.path.basename(name.encode()) + b"-source")
            with contextlib.suppress(OSError):  # it is evidence: the best that can be had
                self._copy(source, os.path.join(self._target.evidence(name), b"source"))
            self._drop()

    def _copy(self, source: bytes, final: bytes) -> None:
        if os.stat(source).st_size <= _MOST_BYTES:
            shutil.copyfile(source, self._temp)
            os.rename(self._temp, final)

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._temp)
