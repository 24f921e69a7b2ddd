"""Out of memory: who was, by the counters of the kernel's killer or a child's last words; and who may have been.

Nothing here can block.
"""

import contextlib
import mmap
import signal
from pathlib import Path

import msgspec

OUT_OF_MEMORY = "out of memory"
_SAID = (b"std::bad_alloc", b"Cannot allocate memory")
"""What a program says that was refused memory, before it aborts."""
_STRIKE_SECONDS = 1.0
"""Victims of one strike of the killer are dead within this time."""


class KillerCount(msgspec.Struct, frozen=True):
    """How often the kernel's out-of-memory killer has struck; None where the kernel does not tell.

    `cgroup` counts the victims in this process's own memory cgroup, which its children share: it tells more than
    `machine`, of which this may be a small part.
    """

    machine: int | None
    cgroup: int | None

    def since(self, before: "KillerCount") -> str:
        """Say where it has struck since `before`; empty if it has not."""
        if self.cgroup is not None and before.cgroup is not None:
            place, was, is_now = "this memory cgroup", before.cgroup, self.cgroup
        else:
            place, was, is_now = "this machine", before.machine or 0, self.machine or 0
        if is_now <= was:
            return ""
        return f"the kernel's out-of-memory killer has struck in {place} (oom_kill {was} -> {is_now})"


def killer_count() -> KillerCount:
    """Count the victims of the out-of-memory killer (proc(5), /proc/vmstat; cgroups(7))."""
    return KillerCount(_oom_kills("/proc/vmstat"), _oom_kills(*_cgroup_files()))


class Killer:
    """Who ran out of memory: by the counters of the kernel's out-of-memory killer, or by a child's own last words."""

    def __init__(self) -> None:
        self._before = self._last = killer_count()
        self._asked_at = -_STRIKE_SECONDS

    def had(self, code: int | None, output: bytes, now: float) -> str:
        """Say how it is known that a child which nobody killed on purpose ran out of memory; empty if it did not.

        `code` is as `subprocess.Popen.returncode`, `output` what it printed.
        """
        if code == -signal.SIGKILL:
            return self._struck(now)
        said = next((words.decode() for words in _SAID if words in output), "")
        return f'it said "{said}"' if said and code == -signal.SIGABRT else ""

    def _struck(self, now: float) -> str:
        """Say where the killer has struck since the death before this one.

        Those that die together may all be its victims, so that they are held against the same count.
        """
        if now - self._asked_at > _STRIKE_SECONDS:
            self._before = self._last
        self._last, self._asked_at = killer_count(), now
        return self._last.since(self._before)


def has_room(size: int) -> bool:
    """Tell whether this process may have `size` bytes more of address space (mmap(2)); none of them is touched."""
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except (OSError, OverflowError):
        return False
    return True


def _cgroup_files() -> list[str]:
    """Give the files that may hold the counter of this process's memory cgroup: version 2, then version 1."""
    with contextlib.suppress(OSError):
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        # In a container the path may be that of its host, and the own group be mounted as the top.
        two = [f"/sys/fs/cgroup{at}/memory.events" for _, kinds, path in lines if not kinds for at in (path, "")]
        one = [
            f"/sys/fs/cgroup/memory{at}/memory.oom_control"
            for _, kinds, path in lines
            if "memory" in kinds.split(",")
            for at in (path, "")
        ]
        return two + one
    return []


def _oom_kills(*files: str) -> int | None:
    for file in files:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int(dict(line.split() for line in Path(file).read_text().splitlines())["oom_kill"])
    return None
