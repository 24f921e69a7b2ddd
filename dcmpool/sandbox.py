"""What a worker may touch: Landlock (landlock(7)), by three system calls; the kernel enforces it, once for all.

Writable: TARGET/.dcmpool/tmp alone. Readable: SOURCE, Python, and all directories of "/" but those with secrets (/etc,
/root, ...): a SOURCE full of symlinks that lead out of it is common in archives, and Landlock can only allow. No
TCP; no signals to, and no abstract sockets of, anybody but the worker's own children, where the kernel has that.

The rules are made once, by the fork server, when the clerk has just found SOURCE and TARGET answering; a child only
enters them, which touches no storage. Mounts of other machines that are no part of the run are not even looked at.
"""

import contextlib
import ctypes
import os
import resource
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""System calls, the same number on every architecture."""
_PR_SET_NO_NEW_PRIVS = 38
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ALL_FS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TCP = 0b11
"""Bind and connect (since ABI 4)."""
_SCOPES = 0b11
"""Abstract Unix sockets and signals (since ABI 6)."""

_SECRET = frozenset({b"etc", b"root", b"proc", b"sys", b"boot", b"run", b"dev"})
_NEEDED = (b"/etc/ld.so.cache", b"/etc/localtime", b"/dev/urandom", b"/dev/zero", b"/dev/shm", b"/run/media")
_FOREIGN = ("nfs", "cifs", "smb", "fuse", "autofs", "9p", "ceph", "afs", "glusterfs", "lustre")
_OPEN_FILES = 256

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def abi() -> int:
    """Return the kernel's version of Landlock; 0 where it has none, or it is switched off."""
    try:
        return _call(_CREATE, None, ctypes.c_size_t(0), 1)
    except OSError:
        return 0


def make_rules(readable: Sequence[bytes], scratch: bytes) -> int:
    """Return a descriptor of the rules for children that read `readable` and write into the directory `scratch`, or
    nowhere.

    Raises
    ------
    OSError
        The kernel has no Landlock, or a path is gone.
    """
    version = abi()
    every = _ALL_FS.get(version, (1 << 16) - 1)
    attributes = struct.pack("=QQQ", every, _TCP, _SCOPES)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _call(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for path in _readable(readable):
            with contextlib.suppress(FileNotFoundError):
                _allow(rules, path, _READ & every)
        _allow(rules, b"/dev/null", (_READ_FILE | _WRITE_FILE) & every)
        if scratch:
            _allow(rules, scratch, every & ~_IOCTL_DEV)
    except OSError:
        os.close(rules)
        raise
    return rules


def enter(rules: int) -> None:
    """Have this process and all its children obey the rules from now on, and gain no privilege by any program."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    _call(_RESTRICT, rules, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _readable(wanted: Sequence[bytes]) -> list[bytes]:
    foreign = _foreign_mounts()
    top = [b"/" + name for name in os.listdir(b"/") if name not in _SECRET and b"/" + name not in foreign]
    python = [os.fsencode(path) for path in (sys.prefix, sys.base_prefix, *sys.path) if os.path.isabs(path)]
    return [*map(os.path.realpath, wanted), *python, *top, *_NEEDED]


def _foreign_mounts() -> set[bytes]:
    """Return the mount points that may belong to another machine, and so may hang."""
    found = set()
    for line in Path("/proc/self/mounts").read_bytes().splitlines():
        words = line.split()
        if words[2].decode("ascii", "replace").startswith(_FOREIGN):
            found.add(words[1])
    return found


def _allow(rules: int, path: bytes, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _OF_FILES
        _call(_ADD, rules, _PATH_BENEATH, struct.pack("=Qi", access, fd), 0)
    finally:
        os.close(fd)
