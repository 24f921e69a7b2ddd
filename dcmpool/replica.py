"""What a file has beside its bytes - owner, mode, access list, extended attributes, times - and whole copies with it.

Taken over as far as user and file system allow: nobody may be given more rights than the origin gives.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from typing import Final

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What storage says that is full."""

_ACCESS_LIST = "system.posix_acl_access"
"""acl(5): the mode's group bits are then the mask of the list, not the group's rights."""
_CARRIED = (_ACCESS_LIST, "system.nfs4_acl", "security.selinux")
"""Attributes outside `user.` that belong to a file. All others are the file system's own (trusted.*), or seals of the
content that a new content breaks (security.ima)."""
_BLOCK_BYTES = 1 << 20


def take_over(fd: int, origin: int, *, exact: bool) -> tuple[str, ...]:
    """Give a file what another one (two descriptors) has beside its bytes; return in words what could not be kept.

    `exact`: an access list that the file has from its directory, and the origin has not, goes.

    Raises
    ------
    OSError
        The storage failed; that it refuses is no failure.
    """
    status, own = os.fstat(origin), os.fstat(fd)
    lost = []
    if (status.st_uid, status.st_gid) != (own.st_uid, own.st_gid):
        with _unless_storage_fails():
            os.fchown(fd, status.st_uid, status.st_gid)
            own = status
        if own is not status:
            lost.append("the owner")
    refused = _take_over_attributes(fd, origin, exact=exact)
    lost += [f"the extended attribute {name}" for name in refused]
    mode = status.st_mode & (0o707 if _ACCESS_LIST in refused else 0o777)
    with _unless_storage_fails():
        os.fchmod(fd, mode)
    with _unless_storage_fails():
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    return tuple(f"{what} could not be kept" for what in lost)


def copy(origin: bytes, place: bytes, *, durable: bool) -> None:
    """Copy a file to a name that nobody has, private until it is complete.

    Raises
    ------
    OSError
        It cannot be read or written; nothing is left behind.
    """
    try:
        fd = os.open(origin, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(fd, "rb") as source, open(os.open(place, flags, 0o600), "wb") as made:
            shutil.copyfileobj(source, made, _BLOCK_BYTES)
            made.flush()
            take_over(made.fileno(), source.fileno(), exact=True)
            if durable:
                os.fsync(made.fileno())
    except FileExistsError:
        raise
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(place)
        raise


def _take_over_attributes(fd: int, origin: int, *, exact: bool) -> list[str]:
    """Take over extended attributes, which hold access lists too; return the names of those refused (xattr(7))."""
    wanted, refused = _attributes(origin), []
    for name in wanted:
        try:
            os.setxattr(fd, name, os.getxattr(origin, name))
        except OSError as error:
            # A file system that has less room for attributes than the origin's says that it is full.
            if error.errno == errno.EIO:
                raise
            refused.append(name)
    if exact and _ACCESS_LIST not in wanted and _ACCESS_LIST in _attributes(fd):
        with _unless_storage_fails():
            os.removexattr(fd, _ACCESS_LIST)
    return [name for name in refused if name != "security.selinux"]  # few may set it, and the directory's policy has


def _attributes(fd: int) -> list[str]:
    try:
        return [name for name in os.listxattr(fd) if name.startswith("user.") or name in _CARRIED]
    except OSError as error:
        if error.errno == errno.EIO:
            raise
        return []  # a file system without attributes


@contextlib.contextmanager
def _unless_storage_fails() -> Iterator[None]:
    """Pass over every refusal: EPERM for most users, EINVAL in a user namespace, EOPNOTSUPP on some network storage."""
    try:
        yield
    except OSError as error:
        if error.errno in (*FULL, errno.EIO):
            raise
