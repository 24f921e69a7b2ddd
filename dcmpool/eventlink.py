"""The event stream as the loop holds it: events go in, and whoever reads them keeps nobody waiting.

    `send` -> a bounded buffer -> a socket -> scribe (a process of its own) -> file, FIFO, standard output

When the buffer is full, events are dropped and counted. When the stream cannot be written any more, it ends with one
notice, and the run goes on.
"""

import contextlib
import errno
import fcntl
import os
import re
import select
import selectors
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec

from dcmpool.errors import UsageError
from dcmpool.events import Dropped, Event, encode
from dcmpool.helper import Helper
from dcmpool.scribe import OPENED, STDIN
from dcmpool.text import shown

STDOUT = "-"
"""Instead of a path: standard output."""
_MAX_BYTES = 4 * 1024 * 1024
"""What may wait for the reader, beside what the kernel holds."""
_OPEN_SECONDS = 2.0
"""How long a run waits to hear whether its stream can be written; storage that takes longer is not waited for."""
_PATIENCE_SECONDS = 2.0
"""How long a run that is over waits for a reader that does not read on."""
_MOST_PATIENCE_SECONDS = 10.0
_MOMENT_SECONDS = 0.2
_STANDARD = {STDOUT: 1, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"//?(?:dev|proc/self)/fd/(\d{1,9})")
"""As a shell names what it has opened, such as a process substitution."""


class EventLink:
    """The stream `to`: a path, "-" for standard output, or None for no stream. `notice` tells the user.

    `trees`: SOURCE, TARGET and where originals are kept: it may not lie there.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        to: str | None,
        notice: Callable[[str], None],
        *,
        trees: Iterable[bytes] = (),
        most: int = _MAX_BYTES,
    ) -> None:
        self._selector = selector
        self._to = to
        self._notice = notice
        self._trees = [os.fsdecode(tree) for tree in trees if tree]
        self._most = most
        self._scribe: Helper | None = None
        self._is_open = self._is_over = self._is_behind = self._is_begun = False
        self._buffer = bytearray()
        self._dropped = 0
        self._begun = time.monotonic()

    @property
    def is_wanted(self) -> bool:
        """Whether anybody is to hear of events."""
        return self._scribe is not None

    # --- beginning

    def start(self) -> None:
        """Start the scribe, which opens the stream meanwhile; raise `UsageError` if there is no such descriptor."""
        if self._to is None:
            return
        try:
            descriptor = _descriptor(self._to)
            stdin = subprocess.DEVNULL if descriptor is None else os.dup(descriptor)
            path = STDIN if descriptor is not None else os.path.abspath(self._to)
        except OSError as error:
            raise self._unusable(error.strerror or "") from error
        self._scribe = Helper("dcmpool.scribe", path, *self._trees, packets=False, stdin=stdin)
        if descriptor is not None:
            os.close(stdin)
        self._scribe.watch(self._selector, self._on_channel)

    def await_opening(self) -> None:
        """Wait until the stream is open, but not for ever.

        Raises
        ------
        UsageError
            It cannot be.
        """
        if self._scribe is not None:
            poll = select.poll()
            poll.register(self._scribe.channel, select.POLLIN)
            if poll.poll(_OPEN_SECONDS * 1000):
                self._on_channel()
        self._is_begun = True

    def _unusable(self, reason: str) -> UsageError:
        return UsageError(f"events cannot be written to {self._name}: {reason}")

    @property
    def _name(self) -> str:
        return "standard output" if self._to == STDOUT else shown(os.fsencode(self._to or ""))

    # --- going on

    def send(self, event: Event, *, at_any_price: bool = False) -> None:
        """Send an event, or drop it if the reader is too far behind."""
        if self._scribe is None:
            return
        if not at_any_price and len(self._buffer) > self._most // (1 + (self._dropped > 0)):
            self._dropped += 1  # until half of the buffer is free, so that gaps are few
            return
        if self._dropped:
            self._buffer += self._line(Dropped(events=self._dropped))
            self._dropped = 0
        self._buffer += self._line(event)

    def _line(self, event: Event) -> bytes:
        at_seconds = round(time.monotonic() - self._begun, 3)
        return encode(msgspec.structs.replace(event, time=utc_now(), at_seconds=at_seconds))

    def flush(self) -> None:
        """Send what waits, and have the loop woken when more goes."""
        if self._scribe is None:
            return
        try:
            while self._buffer:
                del self._buffer[: self._scribe.channel.send(self._buffer)]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._on_channel()  # it says why
            return
        if self._is_behind != bool(self._buffer):
            self._is_behind = bool(self._buffer)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._is_behind else 0)
            self._selector.modify(self._scribe.channel, events, self._on_channel)

    def _on_channel(self) -> None:
        """Hear the scribe, if it has anything to say; else the loop was woken because more goes."""
        if self._scribe is None:
            return
        try:
            said = self._scribe.channel.recv(4096)
        except BlockingIOError:
            return
        except ConnectionResetError:
            said = b""
        if not self._is_open and said.startswith(OPENED):
            self._is_open = True
            said = said[len(OPENED) :]
            if not said:
                return
        reason = said.decode("utf-8", "replace") or self._scribe.last_words()
        is_complete = self._is_over and not said
        self.close()
        if not self._is_begun:
            raise self._unusable(reason)
        if not is_complete:
            self._notice(f"no more events go to {self._name}: {reason or 'its process died'}")

    # --- the end

    def finish(self, *, at_once: bool) -> None:
        """Let the reader have the rest, as long as it reads; `at_once` gives it a moment alone."""
        patience = _MOMENT_SECONDS if at_once else _PATIENCE_SECONDS
        deadline = time.monotonic() + _MOST_PATIENCE_SECONDS
        while self._scribe is not None and time.monotonic() < deadline:
            self.flush()
            if not self._buffer:
                self._hang_up()
            waiting = self._waiting()
            if not self._wait(patience) and self._waiting() == waiting:
                self._notice(f"nobody reads the events that go to {self._name}: the last ones are lost")
                break
            self._on_channel()
        self.close()

    def _hang_up(self) -> None:
        """Have the scribe end when it has written all."""
        if self._scribe is not None and not self._is_over:
            self._is_over = True
            with contextlib.suppress(OSError):
                self._scribe.channel.shutdown(socket.SHUT_WR)

    def _waiting(self) -> int:
        """Return how many bytes the scribe has not taken yet."""
        if self._scribe is None:
            return 0
        left = fcntl.ioctl(self._scribe.channel, termios.TIOCOUTQ, bytes(4))  # unix(7), as SIOCOUTQ
        return len(self._buffer) + int.from_bytes(left, sys.byteorder)

    def _wait(self, seconds: float) -> bool:
        """Wait for the scribe; return whether it has said something or takes more."""
        if self._scribe is None:
            return True
        poll = select.poll()
        poll.register(self._scribe.channel, select.POLLIN | (select.POLLOUT if self._buffer else 0))
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Let go of the scribe; a second call does nothing."""
        if self._scribe is not None:
            self._scribe.kill()
            self._scribe.close()
            self._scribe = None


def utc_now() -> str:
    """Return the time as events have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _descriptor(to: str) -> int | None:
    """Return the descriptor that a path stands for, one that we were given; None for a path of the file system.

    Raises
    ------
    OSError
        There is no such descriptor, or it is of our own: then it is closed on exec(3), which what we inherited is not.
    """
    path = to if to == STDOUT else os.path.abspath(to)
    found = _DESCRIPTOR.fullmatch(path)
    number = int(found[1]) if found else _STANDARD.get(path)
    if number is not None and fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return number
