"""The file that an attempt reads: opened once, read by offset, and known to be the same file at the end.

A data set in a form that cannot be read by offset is read through a *view*, which gives its Explicit VR Little
Endian form in its place.

Promises: only regular files are opened; a read gives all the bytes asked for or a `Fault`; no mapping (a file
truncated while it is mapped kills the process with SIGBUS); files up to `IN_MEMORY_BYTES` are read once.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from dcmpool.errors import Fault
from dcmpool.model import FailureKind

IN_MEMORY_BYTES: Final = 64 << 20
WINDOW_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 26


class View(Protocol):
    """What stands in the place of a file's last bytes: `size` bytes, read by offset from its own start."""

    size: int

    def read(self, offset: int, length: int, /) -> bytes:
        """Give `length` bytes from `offset`."""


class Source:
    """An open source file; `size` (bytes), `mtime_ns` and `links` (how many names it has) are those at opening.

    `end` is the offset after the last byte that can be read: `size`, or another once there is a view. `held` are the
    bytes in memory, from offset `held_from` on.
    """

    def __init__(self, fd: int) -> None:
        """Take an open descriptor; the caller closes it.

        Raises
        ------
        Fault
            READ when it cannot be examined or is not a regular file.
        """
        try:
            status = os.fstat(fd)
        except OSError as error:
            raise Fault(FailureKind.READ, f"cannot be examined: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise Fault(FailureKind.READ, "not a regular file")
        self.fd = fd
        self.size = status.st_size
        self.end = status.st_size
        self.mtime_ns = status.st_mtime_ns
        self.links = status.st_nlink
        self._view: View | None = None
        self._view_start = status.st_size
        self.held_from = 0
        self.held = b""

    def read(self, offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset`; a range beyond `end` is the caller's mistake.

        Raises
        ------
        Fault
            READ when the storage refuses, CHANGED when the file has become shorter.
        """
        start = offset - self.held_from
        if start >= 0 and start + length <= len(self.held):
            return self.held[start : start + length]
        if length >= WINDOW_BYTES:
            return self._fetch(offset, length)
        self.held = self._fetch(offset, min(WINDOW_BYTES, self.end - offset))
        self.held_from = offset
        return self.held[:length]

    def hold(self) -> None:
        """Read a file of up to `IN_MEMORY_BYTES` whole, so that every later read is served from memory."""
        if self.end <= IN_MEMORY_BYTES and len(self.held) < self.end:
            self.held, self.held_from = self._fetch(0, self.end), 0

    def look_through(self, view: View, start: int) -> None:
        """From now on read `view` in place of the file's bytes from `start` on."""
        self.held, self.held_from = b"", 0
        self._view, self._view_start = view, start
        self.end = start + view.size

    def check_unchanged(self) -> None:
        """Raise Fault(CHANGED) if size or modification time differ from those at opening."""
        try:
            status = os.fstat(self.fd)
        except OSError as error:
            raise Fault(FailureKind.READ, f"cannot be examined: {error.strerror}") from error
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise Fault(FailureKind.CHANGED, "the source changed while it was read")

    def _fetch(self, offset: int, length: int) -> bytes:
        before = max(0, min(length, self._view_start - offset))
        if self._view is None or before == length:
            return self.read_raw(offset, length)
        rest = self._view.read(offset + before - self._view_start, length - before)
        return self.read_raw(offset, before) + rest if before else rest

    def read_raw(self, offset: int, length: int) -> bytes:
        """Give `length` bytes of the file itself from `offset`, past any view; raises as `read` does."""
        parts = []
        while length > 0:
            try:
                part = os.pread(self.fd, min(length, _CHUNK_BYTES), offset)
            except OSError as error:
                raise Fault(FailureKind.READ, f"cannot be read: {error.strerror}") from error
            if not part:
                raise Fault(FailureKind.CHANGED, "the source became shorter while it was read")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def open_source(path: bytes) -> Iterator[Source]:
    """Open a regular file for reading; raise Fault(READ) when that fails."""
    try:  # O_NONBLOCK: should a FIFO have taken the file's place since the walk, opening it must not hang
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise Fault(FailureKind.READ, f"cannot be opened: {error.strerror}") from error
    except ValueError as error:
        raise Fault(FailureKind.READ, "cannot be opened: the name holds a NUL") from error
    try:
        yield Source(fd)
    finally:
        os.close(fd)
