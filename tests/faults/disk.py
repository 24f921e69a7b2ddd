"""A disk that fails on demand: a FUSE file system over a real directory, in a process of its own.

    python -m tests.faults.disk DIRECTORY MOUNTPOINT CONTROL PARENT [KIND]

KIND is what FUSE calls it; one that is called CARELESS does not tell upper from lower case.

CONTROL is a JSON list of rules, read again whenever it changes; `CONTROL.hits` gets a line for each rule met.
A rule is {"op": ..., "path": pattern, "do": ...}:

- `op`: the operation (read, write, fsync, fsyncdir, rename, open, create, readdir, getattr, ...), or a list;
- `path`: a shell pattern on the path below the mount ("/tmp/*"); all without it;
- `do`: an errno's name ("EIO"), "stall" (until the rule is gone), or a number: a delay in seconds;
- `after`, `times`: let so many pass first; act so many times at most.

The kernel kills this process when its parent dies, and so ends the connection: what hangs in it gets ENOTCONN.
"""

import errno
import json
import os
import sys
import threading
import time
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mfusepy

from dcmpool import _os
from tests.faults import CARELESS, FSNAME

_READDIRPLUS = 0b11 << 13
"""FUSE_CAP_READDIRPLUS and FUSE_CAP_READDIRPLUS_AUTO (fuse_common.h)."""


class Faults:
    """The rules of CONTROL, as they stand now."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._hits = open(f"{control}.hits", "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - for life
        self._lock = threading.Lock()
        self._version = 0
        self._rules: list[dict[str, Any]] = []
        self._met: Counter[int] = Counter()

    def meet(self, op: str, path: str) -> None:
        """Do what the first rule for this operation says."""
        with self._lock:
            number = self._find(op, path)
            if number is None:
                return
            do = self._rules[number]["do"]
            version = self._version
            self._hits.write(f"{op} {path} {do}\n")
        if isinstance(do, int | float):
            time.sleep(do)
        elif do == "stall":
            while not self._is_gone(version):
                time.sleep(0.01)
        else:
            raise mfusepy.FuseOSError(getattr(errno, do))

    def _find(self, op: str, path: str) -> int | None:
        self._load()
        for number, rule in enumerate(self._rules):
            ops = rule["op"] if isinstance(rule["op"], list) else [rule["op"]]
            if op not in ops or not fnmatchcase(path, rule.get("path", "*")):
                continue
            self._met[number] += 1
            first = rule.get("after", 0)
            if first < self._met[number] <= first + rule.get("times", 1 << 60):
                return number
        return None

    def _load(self) -> None:
        version = os.stat(self._control).st_mtime_ns
        if version != self._version:
            self._version = version
            self._rules = json.loads(self._control.read_text())
            self._met.clear()

    def _is_gone(self, version: int) -> bool:
        with self._lock:
            self._load()
            return self._version != version


class Disk(mfusepy.Operations):  # type: ignore[misc]  # mfusepy carries no type information that mypy accepts
    """Everything passes through to `root`, after the rules have been asked."""

    use_ns = True

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        """Have names read without their attributes, as most disks do: a file that fails must not fail its folder."""
        if conn_info is not None:
            conn_info.want &= ~_READDIRPLUS

    def __init__(self, root: Path, faults: Faults) -> None:
        self._root = str(root)
        self._faults = faults

    def _real(self, op: str, path: str) -> str:
        self._faults.meet(op, path)
        return self._at(path)

    def _at(self, path: str) -> str:
        return self._root + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        real = self._real("getattr", path)
        status = os.fstat(fh) if fh else os.lstat(real)
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino")
        times = {f"st_{t}time": getattr(status, f"st_{t}time_ns") for t in "amc"}
        return {name: getattr(status, name) for name in names} | times

    def access(self, path: str, amode: int) -> int:
        if not os.access(self._real("access", path), amode):
            raise mfusepy.FuseOSError(errno.EACCES)
        return 0

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._real("readdir", path))]

    def readlink(self, path: str) -> str:
        return os.readlink(self._real("readlink", path))

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real("open", path), flags & ~os.O_NOFOLLOW)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._real("create", path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._faults.meet("read", path)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._faults.meet("write", path)
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._real("truncate", path), length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._faults.meet("fsync", path)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._faults.meet("fsyncdir", path)
        return 0

    def flush(self, path: str, fh: int) -> int:
        self._faults.meet("flush", path)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def rename(self, old: str, new: str) -> int:
        self._faults.meet("rename", new)
        os.rename(self._at(old), self._at(new))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._real("mkdir", path), mode)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._real("unlink", path))
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._real("rmdir", path))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._real("chmod", path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._real("chown", path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        real = self._real("utimens", path)
        os.utime(real, ns=times) if times else os.utime(real)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self._root)
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_") and name != "f_fsid"}


class Careless(Disk):
    """One that takes a name for the one that is there, if they differ in case alone."""

    def _at(self, path: str) -> str:
        real = self._root
        for name in path.strip("/").split("/"):
            same = [n for n in os.listdir(real) if n.lower() == name.lower()] if os.path.isdir(real) else []
            real = os.path.join(real, same[0] if same else name)
        return real


def main(arguments: list[str]) -> None:
    """Mount, and serve until killed."""
    root, mountpoint, control = (Path(argument) for argument in arguments[:3])
    _os.die_with_parent(int(arguments[3]))
    disk = (Careless if arguments[4:5] == [CARELESS] else Disk)(root, Faults(control))
    kind = {"subtype": arguments[4]} if arguments[4:5] > [""] else {}
    mfusepy.FUSE(
        disk, str(mountpoint), **kind, foreground=True, fsname=FSNAME, default_permissions=True, hard_remove=True,
        max_idle_threads=64, max_threads=256,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
