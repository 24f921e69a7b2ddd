"""The file that an attempt reads: opened once, read by offset, and known to be the same file at the end.

Promises: only regular files are opened; a read gives all the bytes asked for or a `Fault`; no mapping (a file
truncated while it is mapped kills the process with SIGBUS); files up to `IN_MEMORY_BYTES` are read once.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dcmpool.errors import Fault
from dcmpool.model import FailureKind

IN_MEMORY_BYTES: Final = 64 << 20
WINDOW_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 26


class Source:
    """An open source file; `size` (bytes) and `mtime_ns` are those at opening."""

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
        self.mtime_ns = status.st_mtime_ns
        self._held_from = 0
        self._held = b""

    def read(self, offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset`; a range beyond the file's end is the caller's mistake.

        Raises
        ------
        Fault
            READ when the storage refuses, CHANGED when the file has become shorter.
        """
        start = offset - self._held_from
        if start >= 0 and start + length <= len(self._held):
            return self._held[start : start + length]
        if length >= WINDOW_BYTES:
            return self._pread(offset, length)
        self._held = self._pread(offset, min(WINDOW_BYTES, self.size - offset))
        self._held_from = offset
        return self._held[:length]

    def hold(self) -> None:
        """Read a file of up to `IN_MEMORY_BYTES` whole, so that every later read is served from memory."""
        if self.size <= IN_MEMORY_BYTES and len(self._held) < self.size:
            self._held, self._held_from = self._pread(0, self.size), 0

    def check_unchanged(self) -> None:
        """Raise Fault(CHANGED) if size or modification time differ from those at opening."""
        try:
            status = os.fstat(self.fd)
        except OSError as error:
            raise Fault(FailureKind.READ, f"cannot be examined: {error.strerror}") from error
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise Fault(FailureKind.CHANGED, "the source changed while it was read")

    def _pread(self, offset: int, length: int) -> bytes:
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
