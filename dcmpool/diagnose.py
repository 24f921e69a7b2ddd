"""What the kernel says of a child that takes long, from files of /proc that cannot block the reader, and in words.

Never cmdline, maps or environ: they take the process's mmap lock and can hang with it (proc(5)).
"""

import contextlib
import os
from pathlib import Path

import msgspec

from dcmpool.model import Side, Stage

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_BUSY_SHARE = 0.5
"""CPU seconds in a second above which a child counts as computing, not waiting."""
_MAX_CHILDREN = 4

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
_OTHER_CALLS = {
    7: "poll", 34: "pause", 23: "select", 35: "nanosleep", 61: "wait4", 73: "flock", 202: "futex",
    230: "clock_nanosleep", 232: "epoll_wait", 247: "waitid", 270: "pselect6", 271: "ppoll", 281: "epoll_pwait",
}  # fmt: skip
_WRITES = frozenset({1, 18, 20, 74, 75, 77, 91, 93, 277, 285, 296})
"""Those that change a file: only TARGET's are ever changed."""
_LOCKS = ("futex", "flock")


class Evidence(msgspec.Struct, frozen=True):
    """A process's state at one moment; fields are empty where the kernel does not tell."""

    state: str
    cpu_seconds: float
    system_call: str
    path: bytes
    """What is behind the call's file descriptor: a path, or "pipe:[1]"."""
    kernel_function: str = ""
    rss_bytes: int = 0
    peak_bytes: int = 0
    """The most memory that it has held at a time (proc(5), VmHWM)."""
    read_bytes: int = 0
    written_bytes: int = 0
    cpu_share: float | None = None
    """CPU seconds in a second since the look before; None if there was none."""
    children: tuple["Evidence", ...] = ()

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
        """Return the state in words; of a path, the last part alone."""
        where = f" in {self.system_call}" if self.system_call else ""
        behind = f" on {os.path.basename(self.path).decode('utf-8', 'backslashreplace')}" if self.path else ""
        return f"{_STATES.get(self.state, self.state)}{where}{behind}, {self.cpu_seconds:.1f} s of CPU"


def examine(pid: int, *, descend: bool = True) -> Evidence:
    """Return what can be known of a process and of its children."""
    state, cpu, rss = "?", 0.0, 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        # After the last ")": a process may have parentheses in its name.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, cpu, rss = fields[0], (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE
    system_call, path = _system_call(pid)
    function = ""
    with contextlib.suppress(OSError):
        function = Path(f"/proc/{pid}/wchan").read_text().strip("0\n")
    read, written = _transferred(pid)
    children = tuple(examine(child, descend=False) for child in _children(pid)) if descend else ()
    return Evidence(state, cpu, system_call, path, function, rss, _peak(pid), read, written, None, children)


def _system_call(pid: int) -> tuple[str, bytes]:
    """Return the name of the system call that a process sits in, and the path behind its file descriptor."""
    if os.uname().machine != "x86_64":
        return "", b""
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = Path(f"/proc/{pid}/syscall").read_text().split()
        number = int(words[0])
        if number in _FD_CALLS:
            return _FD_CALLS[number], os.readlink(f"/proc/{pid}/fd/{int(words[1], 16)}".encode())
        return _PATH_CALLS.get(number) or _OTHER_CALLS.get(number) or f"system call {number}", b""
    return "", b""


def _peak(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return 1024 * int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0])
    return 0


def _transferred(pid: int) -> tuple[int, int]:
    """Return the bytes that a process has read and written (proc(5), rchar and wchar)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        return int(lines[0].split()[1]), int(lines[1].split()[1])
    return 0, 0


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError, ValueError):
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(word) for word in words[:_MAX_CHILDREN]]
    return []


def waits_for(evidence: Evidence, stage: Stage) -> Side | None:
    """Say whose storage the child waits for, and so is not to blame; None if it waits for none.

    A call by path that lasts is one on storage: a worker opens nothing else once it is ready. So is a call on a
    file; what is none has a name without a slash ("pipe:[1]") or in no directory of the user's ("/memfd:output").
    """
    on_storage = evidence.system_call in _PATH_CALLS.values() or evidence.path
    if not evidence.in_kernel and (evidence.state != "S" or not on_storage):
        return None
    if evidence.path:
        if not evidence.path.startswith(b"/") or evidence.path.startswith((b"/memfd:", b"/dev/", b"/proc/")):
            return None
        writes = evidence.system_call in (_FD_CALLS[number] for number in _WRITES)
        return Side.TARGET if writes or b"/.dcmpool/" in evidence.path else Side.SOURCE
    return Side.TARGET if stage in (Stage.WRITE, Stage.VERIFY) else Side.SOURCE


def cause(evidence: Evidence, stage: Stage) -> str:
    """Say in words why a child gets no further."""
    if evidence.is_stopped:
        return "stopped"
    if side := waits_for(evidence, stage):
        return "blocked reading the source" if side is Side.SOURCE else "blocked writing the target (storage)"
    if evidence.path.startswith(b"pipe:") and evidence.system_call.startswith(("write", "pwrite")):
        return "blocked on a full pipe"
    if evidence.state == "R" or (evidence.cpu_share or 0) > _BUSY_SHARE:
        return "spinning in the decoder" if stage is Stage.DECODE else f"computing ({stage})"
    for child in evidence.children:
        return f"waiting for a program of its own, which is {cause(child, stage)}"
    return "waiting for a lock" if evidence.system_call in _LOCKS else "waiting"
