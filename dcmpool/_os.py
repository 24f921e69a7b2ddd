"""Every call that differs between operating systems; today Linux alone is served.

What dcmpool needs from the kernel: pidfd (5.3) as proof of death, sealed memfds for the output of children,
PR_SET_PDEATHSIG so that nothing outlives the supervisor, PR_SET_CHILD_SUBREAPER so that grandchildren cannot
escape. `check_platform` says so in one line elsewhere.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dcmpool.errors import LockedError, UsageError

CALLER = "DCMPOOL_CALLER"
"""The environment variable by which the command knows the process with which it has to end (`end_with`)."""
OUTPUT_BYTES = 64 * 1024
"""How much of a child's output is kept; what it prints beyond that is refused, and nobody waits for anybody."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def check_platform() -> None:
    """Raise `UsageError` where the kernel cannot prove that a child is dead."""
    if sys.platform != "linux":
        raise UsageError(f"dcmpool runs on Linux; this is {sys.platform}. Use a Linux machine, a container or WSL 2")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise UsageError(f"dcmpool needs a Linux kernel of 5.4 or later with pidfd ({error.strerror})") from error


def end_with(parent: int) -> None:
    """Have SIGTERM come to this process when its parent `parent` is dead.

    Called by the child itself. Not PR_SET_PDEATHSIG, which comes when the *thread* ends that made the child, and no
    pipe, which whatever else the parent has forked may hold open: a pidfd of the parent says when all of it is gone.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        pidfd = os.pidfd_open(parent)
    except ProcessLookupError:
        pidfd = -1
    if os.getppid() != parent or pidfd < 0:
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=_end_after, args=(pidfd,), name="parent", daemon=True).start()


def _end_after(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent `parent` dies (prctl(2), PR_SET_PDEATHSIG).

    Called by the child itself. The parent may have died before the call, so it is looked at afterwards.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans(*, wanted: bool = True) -> None:
    """Become the parent of every orphaned descendant, or no longer (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(wanted))


def children() -> set[int]:
    """Return the pids of this process's children (proc(5), /proc/pid/task/tid/children)."""
    pid = os.getpid()
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def end_children(pids: set[int], seconds: float) -> None:
    """Kill children of this process and reap those that die within `seconds`."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        os.close(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def orphans_adopted(seconds: float) -> Iterator[None]:
    """Have what a dead child leaves behind become ours, and end with the block: killed, and waited for that long."""
    before = children()
    adopt_orphans()
    try:
        yield
    finally:
        end_children(children() - before, seconds)
        adopt_orphans(wanted=False)


def wait_for_death(pidfds: set[int], seconds: float) -> None:
    """Wait until all these processes are dead, but not longer: what hangs in the kernel may never be."""
    living = set(pidfds)
    poll = select.poll()
    for fd in living:
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + seconds
    while living and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            living.discard(fd)


def sealed_memory(name: str, size: int) -> int:
    """Return a memfd of `size` zero bytes that cannot grow: writing to it never waits and never fills a disk."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def read_output(fd: int) -> str:
    """Return what was written to a sealed memfd so far; never blocks."""
    return read_bytes(fd).decode("utf-8", "replace")


def read_bytes(fd: int) -> bytes:
    """Return what was written to a sealed memfd so far; never blocks."""
    return os.pread(fd, min(os.lseek(fd, 0, os.SEEK_CUR), OUTPUT_BYTES), 0)


def set_limits(memory_bytes: int) -> None:
    """Limit this process's address space and forbid core files, which would hold patient data (setrlimit(2))."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_descriptors() -> None:
    """Allow this process as many descriptors as it may have: a worker takes five."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def spare_descriptors() -> int:
    """Return how many more descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return soft - len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0  # not even one to look with


def prefer_as_victim() -> None:
    """Let the out-of-memory killer take this process before the supervisor (proc(5), oom_score_adj)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def arm_alarm(seconds: float) -> None:
    """Have the kernel kill this process after `seconds`; 0 disarms. Works while C code holds the GIL."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def be_nice(pid: int, more: int) -> None:
    """Have a process, and those that it will start, let others go first (setpriority(2))."""
    if more:
        os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, pid) + more))


def send_signal(pidfd: int, pid: int, number: int) -> None:
    """Signal a child and its process group; a dead one is left alone.

    The pidfd is asked first: only while it proves the leader alive is the group's number sure to be its own.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pidfd, number)
        os.killpg(pid, number)


def sync_directory(path: bytes) -> None:
    """Make the names in a directory durable; file systems that have no such thing answer EINVAL."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != 22:  # EINVAL: some network file systems cannot sync a directory
            raise
    finally:
        os.close(fd)


def make_directory(path: bytes, *, durable: bool, mode: int = 0o777) -> None:
    """Make a directory and its missing parents, where they are missing; raise OSError where that fails."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        try:
            os.mkdir(directory, mode)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
        else:
            if durable:
                sync_directory(os.path.dirname(directory))


def file_system(path: bytes) -> str:
    """Return the type of the file system that holds a path, as the kernel names it (ext4, nfs4, fuse.sshfs).

    By the number of its mount (proc(5), fdinfo and mountinfo): of FUSE, statfs(2) knows no more than that it is FUSE.
    "" if it cannot be known. Raises OSError as the storage gives it.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        about = Path(f"/proc/self/fdinfo/{fd}").read_bytes()
    finally:
        os.close(fd)
    number = about.partition(b"mnt_id:")[2].split()[:1]
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        if line.split()[:1] == number:
            return line.partition(b" - ")[2].split()[0].decode("ascii", "replace")
    return ""


def lock_file(path: bytes) -> int:
    """Take the lock and return its descriptor; the kernel gives it back when the process ends.

    Raises
    ------
    LockedError
        Another process holds it.
    """
    return _locked(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), path, fcntl.LOCK_EX)


def share_lock(path: bytes) -> int | None:
    """Take the lock together with others who only look; return its descriptor, or None if there is no such file.

    Raises
    ------
    LockedError
        A run holds it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    return _locked(fd, path, fcntl.LOCK_SH)


def _locked(fd: int, path: bytes, how: int) -> int:
    """Return the descriptor of TARGET/.dcmpool/lock, locked; or close it and raise `LockedError`."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        target = os.path.dirname(os.path.dirname(path))
        raise LockedError(f"another run is working on {os.fsdecode(target)}") from error
    return fd


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity and its cgroup's quota, not the machine's count."""
    cpus = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, max(1, int(quota) // int(period)))
    return cpus


def available_memory() -> int:
    """Return how many bytes of memory this process may count on: the machine's available ones, its cgroup's limit."""
    import psutil  # noqa: PLC0415 - of all commands, a run alone needs it

    available = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = min(available, max(0, limit - used))
    return int(available)
