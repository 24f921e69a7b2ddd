"""What a codec prints on fd 2: for some of them the only sign that a stream was damaged."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_ROOM_BYTES: Final = 1 << 16
# Said of whole streams too: gdcmconv asks its 8-bit library first; some writers leave Ss and Se of a sequential scan
# at 0, which decoders do not use.
_HARMLESS: Final = ("Unsupported JPEG data precision", "Invalid SOS parameters for sequential JPEG")


class Printed:
    """What was printed: `text` is its first line that is no harmless one, empty if there is none."""

    text: str = ""


@contextmanager
def watched(printed: Printed) -> Iterator[None]:
    """Send fd 2 to a sealed memory file for a while: text beyond 64 KiB is refused by the kernel, never waits."""
    sys.stderr.flush()
    saved = os.dup(2)
    file = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, _ROOM_BYTES)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        os.dup2(file, 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            length = os.lseek(file, 0, os.SEEK_CUR)
            printed.text = complaint(os.pread(file, min(length, _ROOM_BYTES), 0))
    finally:
        os.close(file)
        os.close(saved)


def complaint(text: bytes) -> str:
    """Give the first line that is no harmless one, at most 160 plain characters."""
    for line in text.decode("ascii", "replace").splitlines():
        words = "".join(c if c.isprintable() and c.isascii() else "?" for c in line).strip()
        if words and not words.startswith(_HARMLESS):
            return words[:160]
    return ""
