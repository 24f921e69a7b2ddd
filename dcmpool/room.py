"""What the file system under TARGET is, and what it has left: looked at by the clerk, since any of it may block."""

import os

from dcmpool import _os, place
from dcmpool.protocol import Room


def room(path: bytes) -> Room:
    """Return what is left under a path, which need not exist yet.

    Raises
    ------
    OSError
        As the storage gives it.
    """
    there = place.existing(path)
    status = os.statvfs(there)
    free_files = status.f_favail if status.f_files else None  # btrfs and many network file systems count none
    return Room(status.f_bavail * status.f_frsize, free_files, _os.file_system(there))
