"""What TARGET stands on, looked at before a run: room, the kind of file system, and whether it tells `a` from `A`.

Called by the clerk alone, since all of it may block.
"""

import os
from collections.abc import Iterator

import msgspec

from dcmpool import _os, place
from dcmpool.errors import UsageError
from dcmpool.text import shown, size

LEAST_BYTES = 4 << 20
LEAST_FILES = 100
"""Of bytes and inodes. With less free, a run would stop before it has done anything worth the while."""
FEW_BYTES = 1 << 30
FEW_FILES = 10_000
"""With less free, it is said: a run may well need more."""
_ADVICE = (
    (place.NFS, "it is NFS: `--profile network-share` has limits and writers for it"),
    (place.SMB, 'it is SMB: `--profile network-share` has limits for it; names with any of <>:"|?* may be refused'),
    (place.NETWORK, "`--profile network-share` has limits and writers for it"),
)


class Room(msgspec.Struct, frozen=True):
    """What a file system has left for this user; None where it does not count."""

    free_bytes: int | None
    free_files: int | None


def check(target: bytes) -> list[str]:
    """Return what the user should know of TARGET, which need not exist yet.

    Raises
    ------
    OSError
        As the storage gives it.
    """
    there = place.existing(os.path.realpath(target))
    few = _less_than(_room(there), FEW_BYTES, FEW_FILES)
    return ([f"the target has little room: {few}"] if few else []) + list(_advice(_os.file_system(there)))


def lack(target: bytes, *, in_place: bool, journal: bytes) -> str:
    """Say how little is free, if it is practically nothing; "" if a run may write.

    In place it may: it needs next to nothing, so that it begins on a disk that is all but full. Where there is a
    `journal`, nothing may be left to do, and that can be seen without writing.

    Raises
    ------
    UsageError
        It would be the first run.
    OSError
        As the storage gives it.
    """
    if in_place:
        return ""
    little = _less_than(_room(place.existing(os.path.realpath(target))), LEAST_BYTES, LEAST_FILES)
    if little and not os.path.lexists(journal):
        raise UsageError(f"the target has no room: {shown(target)}: {little}; make some, or choose another target")
    return little


def way_of_results(root: bytes, temp: bytes) -> list[str]:
    """Return a line if results cannot be renamed from the temp folder into the tree."""
    if os.stat(root).st_dev == os.stat(temp).st_dev:
        return []
    return [f"{shown(temp)} is on another file system than the target: each result is copied once more"]


def ignores_case(state: bytes) -> bool:
    """Whether a directory with letters in its name, TARGET/.dcmpool, is found by a name that is not listed.

    Not by its inode: that is made up for each name where FUSE or SMB has none.
    """
    above, name = os.path.split(state)
    try:
        return os.path.lexists(os.path.join(above, name.swapcase())) and name.swapcase() not in os.listdir(above)
    except OSError:
        return False


class Spelling:
    """How names below `root` are spelled, on a file system that ignores case; for two threads.

    By what directories list, since each file system has its own rule of which letters are the same.
    """

    _MOST_KNOWN = 10_000

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._known: set[bytes] = set()

    def other(self, path: bytes) -> bytes:
        """Return the first part of a path that stands there in another spelling, as asked for; b"" if none does.

        Raises
        ------
        OSError
            As the storage gives it.
        """
        above = b""
        for name in path.split(b"/"):
            here = os.path.join(above, name)
            full = os.path.join(self._root, here)
            if here not in self._known:
                if not os.path.lexists(full):
                    return b""
                if name not in os.listdir(os.path.dirname(full)):
                    return here
                self._learn(here, full)
            above = here
        return b""

    def _learn(self, here: bytes, full: bytes) -> None:
        if os.path.isdir(full):
            if len(self._known) >= self._MOST_KNOWN:
                self._known.clear()
            self._known.add(here)


def _room(path: bytes) -> Room:
    """What statvfs(3) says; some say nothing, with 0 blocks or inodes in all."""
    status = os.statvfs(path)
    return Room(
        status.f_bavail * status.f_frsize if status.f_blocks else None, status.f_favail if status.f_files else None
    )


def _less_than(room: Room, least_bytes: int, least_files: int) -> str:
    if room.free_bytes is not None and room.free_bytes < least_bytes:
        return f"{size(room.free_bytes)} free"
    if room.free_files is not None and room.free_files < least_files:
        return f"{room.free_files:,} inodes free"
    return ""


def _advice(kind: str) -> Iterator[str]:
    for kinds, advice in _ADVICE:
        if kind in kinds:
            yield f"the target is on a network ({kind}): {advice}"
            return
    if kind.startswith("fuse"):
        yield f"the target is served by a program ({kind}): what is written is as durable as that makes it"
