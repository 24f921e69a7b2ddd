"""Originals that failed, copied into one folder: by a thread of its own, as evidence is (`copier.py`).

    DIR/sub/broken.dcm, DIR/sub/broken.dcm.dcmpool.json (why), DIR/files.txt (paths, as `--files-from` reads them)

Promises: what has its name there is whole; nothing is replaced but an earlier copy of the same original; what cannot be
copied is said, and stops nothing.
"""

import contextlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, BinaryIO, Final

import msgspec

from dcmpool import _os
from dcmpool.commit import Target
from dcmpool.model import stored_time
from dcmpool.protocol import Ending
from dcmpool.text import shown, words

LIST: Final = b"files.txt"
WORDS: Final = b".dcmpool.json"
_PRIVATE_DIRECTORY, _PRIVATE = 0o700, 0o600
"""The copies are patient data."""
_CHUNK_BYTES = 1 << 20
_STILL_SECONDS = 30.0
"""How long the end of a run waits for a copy that does not get on."""


class Quarantine:
    """The folder `root` and its thread, which begins with the first copy. `base`: what paths are relative to."""

    def __init__(self, root: bytes, base: bytes, target: Target, run: str, say: Callable[[str], None]) -> None:
        self._root = root
        self._base = base
        self._target = target
        self._run = run
        self._say = say
        self._wanted: SimpleQueue[Ending | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="quarantine", daemon=True)
        self._listed: set[bytes] | None = None
        self._steps = 0

    def add(self, ending: Ending) -> None:
        """Have the original of a failure copied."""
        self._wanted.put(ending)
        if not self._thread.ident:
            self._thread.start()

    def end(self) -> None:
        """Wait for what is not done yet, as long as it gets on."""
        if not self._thread.ident:
            return
        self._wanted.put(None)
        steps = -1
        while self._thread.is_alive() and steps != self._steps:
            steps = self._steps
            self._thread.join(_STILL_SECONDS)
        if self._thread.is_alive():
            self._say("the quarantine is not complete: storage does not answer; the next run goes on with it")

    def _work(self) -> None:
        while ending := self._wanted.get():
            try:
                self._take(ending)
            except OSError as error:
                self._say(f"not in quarantine: {shown(ending.path)}: {words(error)}")
            except Exception as error:  # noqa: BLE001 - the border: a thread that ends silently leaves files out unsaid
                self._say(f"not in quarantine: {shown(ending.path)}: {type(error).__name__}: {words(error)}")
            self._steps += 1

    def _take(self, ending: Ending) -> None:
        final = os.path.join(self._root, ending.path)
        if ending.path == LIST or self._is_other(final, ending.path):
            self._say(f"not in quarantine: {shown(ending.path)}: another file of this name is there")
            return
        _os.make_directory(os.path.dirname(final), durable=True, mode=_PRIVATE_DIRECTORY)
        with _opened(os.path.join(self._base, ending.path)) as original:
            status = os.fstat(original.fileno())
            about = json.dumps(self._about(ending, status), indent=1).encode()
            self._write(final + WORDS, lambda file: file.write(about))  # first: a copy without words is not ours
            self._write(final, lambda file: self._pour(original, file), status)
        _os.sync_directory(os.path.dirname(final))
        self._list(ending.path)

    def _is_other(self, final: bytes, path: bytes) -> bool:
        """Whether what stands there is no copy that dcmpool has made of this original."""
        names = [name for name in (final, final + WORDS) if os.path.lexists(name)]
        if not names:
            return False
        try:
            with open(final + WORDS, "rb") as file:
                about = json.load(file)
            status = os.lstat(final)
        except FileNotFoundError:
            return os.path.lexists(final)  # words without a copy are ours: it comes first, and a user may take it away
        except ValueError:
            return True
        if not isinstance(about, dict) or about.get("path") != os.fsdecode(path):
            return True
        return (about.get("size"), about.get("mtime_ns")) != (status.st_size, stored_time(status.st_mtime_ns))

    def _pour(self, original: BinaryIO, copy: BinaryIO) -> None:
        while chunk := original.read(_CHUNK_BYTES):
            copy.write(chunk)
            self._steps += 1

    def _write(self, final: bytes, fill: Callable[[BinaryIO], object], like: os.stat_result | None = None) -> None:
        """Give a file its name when it is whole and on disk."""
        temp = os.path.join(os.path.dirname(final), b".dcmpool-" + self._run.encode())
        try:
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
            with open(fd, "wb") as file:
                fill(file)
                file.flush()
                if like:
                    _demand_size(file.tell(), like)
                    os.utime(file.fileno(), ns=(like.st_atime_ns, like.st_mtime_ns))
                os.fsync(file.fileno())
            os.rename(temp, final)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temp)
            raise

    def _about(self, ending: Ending, status: os.stat_result) -> dict[str, Any]:
        return {
            "path": os.fsdecode(ending.path),
            "source": os.fsdecode(self._base),
            "run": self._run,
            "size": status.st_size,
            "mtime_ns": stored_time(status.st_mtime_ns),
            "kind": ending.kind,
            "reason": ending.reason,
            "transfer_syntax_uid": ending.transfer_syntax_uid,
            "attempts": msgspec.to_builtins(ending.attempts),
            "diagnoses": self._diagnoses(ending),
        }

    def _diagnoses(self, ending: Ending) -> list[Any]:
        """Return what is kept of the deaths over this file in this run, as far as it can be read."""
        found = []
        for attempt in range(1, 2 * len(ending.attempts) + 3):  # some deaths are no attempt
            path = os.path.join(self._target.evidence(f"{self._run}-{ending.job}-{attempt}"), b"diagnosis.json")
            with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
                found.append(json.load(file))
        return found

    def _list(self, path: bytes) -> None:
        """Add a path to the list, once."""
        if b"\n" in path or path.endswith(b"\r"):
            self._say(f"not in {shown(LIST)}, since its name has a line break: {shown(path)}")
            return
        name = os.path.join(self._root, LIST)
        with open(name, "a+b", opener=_opener) as file:
            file.seek(0)
            if self._listed is None:
                self._listed = {line.rstrip(b"\r\n") for line in file}
            if path not in self._listed:
                file.write(path + b"\n")
                file.flush()
                os.fsync(file.fileno())
                self._listed.add(path)


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[BinaryIO]:
    """Open a regular file to read; a FIFO that took its place since must not hang."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("not a regular file")
        yield file


def _demand_size(size: int, like: os.stat_result) -> None:
    if size != like.st_size:
        raise OSError("it changed while it was copied")


def _opener(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CLOEXEC, _PRIVATE)
