"""What the kernel says of a child that is at its limit, from files of /proc that cannot block the reader.

Never cmdline, maps or environ: they take the process's mmap lock and can hang with it (proc(5)).
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from dcmpool.model import Side, Stage

_TICKS = os.sysconf("SC_CLK_TCK")

_STATES = {"R": "running", "S": "sleeping", "D": "in uninterruptible sleep", "T": "stopped", "t": "traced"}

_FD_CALLS = {
    0: "read", 1: "write", 3: "close", 5: "fstat", 17: "pread64", 18: "pwrite64", 19: "readv",
    20: "writev", 74: "fsync", 75: "fdatasync", 77: "ftruncate", 91: "fchmod", 93: "fchown",
    277: "sync_file_range", 285: "fallocate", 295: "preadv", 296: "pwritev", 326: "copy_file_range",
}  # fmt: skip
_PATH_CALLS = {
    2: "open", 4: "stat", 6: "lstat", 82: "rename", 83: "mkdir", 87: "unlink", 257: "openat", 262: "newfstatat",
    263: "unlinkat", 264: "renameat", 280: "utimensat", 332: "statx",
}  # fmt: skip
"""System calls of x86-64 (syscalls(2)) that wait for storage: by a file descriptor, or by a path."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A child's state at one moment."""

    state: str
    cpu_seconds: float
    system_call: str
    path: bytes

    @property
    def in_kernel(self) -> bool:
        """Whether it waits in the kernel where no signal reaches it."""
        return self.state == "D"

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has stopped it."""
        return self.state in ("T", "t")

    @property
    def mark(self) -> str:
        """Name the call and the CPU time spent: equal marks mean that nothing has moved."""
        return f"{self.system_call} {self.path!r} {self.cpu_seconds}"

    def text(self) -> str:
        """Return the state in words."""
        where = f" in {self.system_call}" if self.system_call else ""
        return f"{_STATES.get(self.state, self.state)}{where}, {self.cpu_seconds:.1f} s of CPU"


def examine(pid: int) -> Evidence:
    """Return what can be known of a process; fields are empty where the kernel does not tell."""
    state, cpu = "?", 0.0
    with contextlib.suppress(OSError, IndexError, ValueError):
        # After the last ")": a process may have parentheses in its name.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, cpu = fields[0], (int(fields[11]) + int(fields[12])) / _TICKS
    system_call, path = _system_call(pid)
    return Evidence(state, cpu, system_call, path)


def _system_call(pid: int) -> tuple[str, bytes]:
    """Return the name of the system call that a process sits in, and the path behind its file descriptor."""
    if os.uname().machine != "x86_64":
        return "", b""
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = Path(f"/proc/{pid}/syscall").read_text().split()
        number = int(words[0])
        if number in _PATH_CALLS:
            return _PATH_CALLS[number], b""
        if number in _FD_CALLS:
            return _FD_CALLS[number], os.readlink(f"/proc/{pid}/fd/{int(words[1], 16)}".encode())
    return "", b""


def waits_for(evidence: Evidence, stage: Stage) -> Side | None:
    """Say whose storage the child waits for, and so is not to blame; None if it waits for none.

    A call by path that lasts is one on storage: a worker opens nothing else once it is ready. So is a call on a
    file; what is none has a name without a slash ("pipe:[1]") or in no directory of the user's ("/memfd:output").
    """
    if not evidence.in_kernel and (evidence.state != "S" or not evidence.system_call):
        return None
    if evidence.path:
        if not evidence.path.startswith(b"/") or evidence.path.startswith((b"/memfd:", b"/dev/", b"/proc/")):
            return None
        return Side.TARGET if b"/.dcmpool/" in evidence.path else Side.SOURCE
    return Side.TARGET if stage in (Stage.WRITE, Stage.VERIFY) else Side.SOURCE
