"""The list of `--files-from`: read once, before the run begins, and held in memory.

What it comes from may be a pipe, which can be read only once, or a file that somebody rewrites. A clerk that dies is
followed by one that walks from the beginning, so the copy is read by offset: each clerk sees the whole list.
"""

import os
import sys
from collections.abc import Iterator
from itertools import count
from typing import BinaryIO, Final

from dcmpool.errors import UsageError
from dcmpool.text import shown, words

MAX_LINE_BYTES: Final = 4096
"""PATH_MAX (limits.h): no path that the kernel takes is longer."""
MAX_BYTES = 1 << 30
"""Some ten million paths; a list without end must not take all memory."""
_CHUNK_BYTES = 1 << 16


def hold(path: str) -> int:
    """Return the descriptor of a copy in memory (memfd_create(2)) of the list; "-" is stdin.

    Raises
    ------
    UsageError
        It cannot be read, or is no list of paths.
    """
    name = shown(os.fsencode(path)) if path != "-" else "stdin"
    try:
        with _open(path) as lines:
            os.set_blocking(lines.fileno(), True)  # else a pipe that is empty for a while would look like its end
            with open(os.memfd_create("files-from", os.MFD_CLOEXEC), "wb") as copy:
                _copy(lines, copy, name)
                copy.flush()
                return os.dup(copy.fileno())
    except (OSError, ValueError) as error:
        raise UsageError(f"the list of files cannot be read: {name}: {words(error)}") from error


def paths(copy: int) -> Iterator[bytes]:
    """Yield the lines of a copy from its beginning, whoever has read how much of it before."""
    offset, rest = 0, b""
    while chunk := os.pread(copy, _CHUNK_BYTES, offset):
        offset += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
    if rest:
        yield rest.rstrip(b"\r")


def _open(path: str) -> BinaryIO:
    if path != "-":
        return open(path, "rb")
    if sys.stdin is None:
        raise ValueError("it is closed")
    return open(sys.stdin.fileno(), "rb", closefd=False)


def _copy(lines: BinaryIO, copy: BinaryIO, name: str) -> None:
    left = MAX_BYTES
    for number in count(1):
        line = lines.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise UsageError(
                f"the list of files {name} is no list of paths: line {number} has more than {MAX_LINE_BYTES} bytes"
            )
        left -= len(line)
        if left < 0:
            raise UsageError(f"the list of files {name} has more than {MAX_BYTES} bytes: split it")
        copy.write(line)
