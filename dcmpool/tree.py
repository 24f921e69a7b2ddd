"""Walking SOURCE: which paths are files to be done, and which must be named and left.

Opens no file. Follows symlinks to files and to directories, as archives are full of them, but not into TARGET, nor
where paths without end would come of it. Paths are bytes, relative to SOURCE: file names need not be UTF-8.
"""

import errno
import os
import stat
from collections.abc import Iterator

import msgspec

from dcmpool.model import STATE_DIRECTORY, FailureKind, stored_time
from dcmpool.text import shown

_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class File(msgspec.Struct, frozen=True):
    """A regular file, by its path relative to SOURCE."""

    path: bytes
    size: int
    mtime_ns: int


class Note(msgspec.Struct, frozen=True):
    """A path that is no job: left out by design (no `kind`), or a failure to look at it."""

    path: bytes
    kind: FailureKind | None
    reason: str


class _Directory(msgspec.Struct, frozen=True):
    """A directory to be walked: `ancestors` are (device, inode) of all above it and of itself."""

    path: bytes
    ancestors: tuple[tuple[int, int], ...]
    links: int
    """How many links lead to it."""


def base_of(source: bytes) -> bytes:
    """Return the directory to which paths are relative: SOURCE, or the one that holds it."""
    return source if os.path.isdir(source) else os.path.dirname(source)


def walk(source: bytes, *, target: bytes | None) -> Iterator[File | Note]:
    """Yield what lies under a directory, or the file itself, sorted by name within each directory.

    A TARGET to which a link leads is not walked; b"" if there is none. In place (`target` is None), symlinks are named
    and left: renaming a result over one would break it.
    """
    if os.path.isdir(source):
        yield from _Walk(source, target).run()
        return
    found = look(source, os.path.basename(source), in_place=target is None)
    if not isinstance(found, tuple):
        yield found


class _Walk:
    """One walk: which directories are not to be entered.

    A link that is met at its own place is followed, however many lead to the same directory: each is wanted where it
    is. One that is met below another link is followed once: two links in each of forty directories would else make 2^40
    paths; so no directory is walked more often than once and twice for each link.
    """

    def __init__(self, source: bytes, target: bytes | None) -> None:
        self._source = source
        self._in_place = target is None
        self._target = os.path.realpath(target) if target else b""
        self._target_itself = _identity(os.stat(target)) if target else None
        self._followed: dict[tuple[tuple[int, int], bytes], bytes] = {}
        """Links met below another: directory and name of each, and the path by which it was followed."""

    def run(self) -> Iterator[File | Note]:
        pending = [_Directory(b"", (_identity(os.stat(self._source)),), 0)]
        while pending:
            directory = pending.pop()
            deeper = []
            for name, is_link, problem in _entries(os.path.join(self._source, directory.path)):
                if problem:
                    yield Note(directory.path or b".", FailureKind.READ, problem)
                    continue
                path = os.path.join(directory.path, name)
                if path == STATE_DIRECTORY:
                    if not self._in_place:  # in place it is this very run's
                        yield Note(path, None, "dcmpool's own folder, of a run that wrote here")
                    continue
                found = look(os.path.join(self._source, path), path, in_place=self._in_place)
                if not isinstance(found, tuple):
                    yield found
                    continue
                below = _Directory(path, (*directory.ancestors, found), directory.links + is_link)
                if reason := self._why_not(below, is_link=is_link):
                    yield Note(path, None, reason)
                else:
                    deeper.append(below)
            pending.extend(reversed(deeper))

    def _why_not(self, directory: _Directory, *, is_link: bool) -> str:
        """Say why a directory must not be entered; "" if it may."""
        *above, itself = directory.ancestors
        if itself in above:
            return "a link to a directory that contains it"
        if itself == self._target_itself:
            return "a link to the target" if is_link else "the target of this run"
        if is_link and self._target and self._is_in_target(directory.path):
            return "a link into the target"
        if is_link and directory.links > 1:
            link = above[-1], os.path.basename(directory.path)
            first = self._followed.setdefault(link, directory.path)
            return "" if first == directory.path else f"a link that is followed already, as {shown(first)}"
        return ""

    def _is_in_target(self, path: bytes) -> bool:
        real = os.path.realpath(os.path.join(self._source, path))
        return real.startswith(os.path.join(self._target, b""))


def look(full: bytes, path: bytes, *, in_place: bool) -> "File | Note | tuple[int, int]":
    """Say what a path is: a file, something to be named, or a directory's (device, inode)."""
    try:
        status = os.lstat(full)
        if stat.S_ISLNK(status.st_mode):
            if in_place:
                return Note(path, None, "a symbolic link; in place, links are left alone")
            status = os.stat(full)
    except (OSError, ValueError) as error:
        return _unseen(full, path, error)
    if stat.S_ISDIR(status.st_mode):
        return _identity(status)
    if not stat.S_ISREG(status.st_mode):
        return Note(path, None, f"{_SPECIAL.get(stat.S_IFMT(status.st_mode), 'no regular file')}, not a file")
    return File(path, status.st_size, stored_time(status.st_mtime_ns))


def _unseen(full: bytes, path: bytes, error: OSError | ValueError) -> Note:
    """Name a path that cannot be looked at; a link that leads nowhere is no failure."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if os.path.islink(full):
            return Note(path, None, "a link to nothing")
        return Note(path, FailureKind.READ, "no such file")
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return Note(path, None, "a link that leads back to itself, or by more than 40 links")
    return Note(path, FailureKind.READ, f"cannot be looked at: {getattr(error, 'strerror', None) or error}")


def _entries(directory: bytes) -> list[tuple[bytes, bool, str]]:
    """Return (name, is it a link, problem) of each entry, sorted; a directory that cannot be read is one problem."""
    try:
        with os.scandir(directory) as entries:
            return sorted((entry.name, _is_symlink(entry), "") for entry in entries)
    except OSError as error:
        return [(b"", False, f"the directory cannot be read: {error.strerror}")]


def _is_symlink(entry: "os.DirEntry[bytes]") -> bool:
    """Whether it is a link; storage that fails to say so for one file must not fail its whole directory."""
    try:
        return entry.is_symlink()
    except OSError:
        return False  # `look` will name the trouble


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
