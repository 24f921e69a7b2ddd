"""What the file system under TARGET is, and what it has left: looked at by the clerk, since any of it may block."""

import os
from pathlib import Path

from dcmpool.protocol import Room


def room(path: bytes) -> Room:
    """Return what is left under a path, which need not exist yet.

    Raises
    ------
    OSError
        As the storage gives it.
    """
    existing = _existing(path)
    status = os.statvfs(existing)
    free_files = status.f_favail if status.f_files else None  # btrfs and many network file systems count none
    return Room(status.f_bavail * status.f_frsize, free_files, file_system(existing))


def file_system(path: bytes) -> str:
    """Return the type of the file system that holds a path, as the kernel names it (ext4, nfs4, fuse.sshfs).

    By the longest mount point above it (proc(5), mountinfo); "" if none is found.
    """
    found: tuple[int, str] = (-1, "")
    real = os.path.join(os.path.realpath(path), b"")
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        point = _unescaped(before.split()[4])
        if real.startswith(os.path.join(point, b"")) and len(point) >= found[0]:  # the last mount on a point counts
            found = len(point), after.split()[0].decode("ascii", "replace")
    return found[1]


def _existing(path: bytes) -> bytes:
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _unescaped(point: bytes) -> bytes:
    """Return a mount point as it is: space, tab, newline and backslash stand as octal numbers."""
    for octal, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        point = point.replace(octal, byte)
    return point
