"""A machine that runs out of memory: the kernel kills, the run says so, and goes on."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcmpool.memory import killer_count
from tests.faults.conftest import Run

LIMIT_BYTES = 500 << 20


def group_files() -> dict[str, tuple[str, ...]]:
    """Return the folder for a new memory cgroup (cgroups(7), version 2 or 1), and its files that limit memory."""
    return {
        "/sys/fs/cgroup/dcmpool-test": ("memory.max", "memory.swap.max"),
        "/sys/fs/cgroup/memory/dcmpool-test": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    }


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a memory cgroup of 500 MiB without swap."""
    for name, (limit, swap) in group_files().items():
        folder = Path(f"{name}-{os.getpid()}")
        try:
            folder.mkdir()
            (folder / "cgroup.procs").read_text()  # of a cgroup, and no folder like any other
            (folder / limit).write_text(str(LIMIT_BYTES))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        with contextlib.suppress(OSError):  # there may be no swap to limit
            (folder / swap).write_text("0" if swap == "memory.swap.max" else str(LIMIT_BYTES))
        yield folder
        deadline = time.monotonic() + 10
        while (folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        folder.rmdir()
        return
    pytest.skip("no memory cgroup can be made here")


def test_the_kernel_kills_for_memory(run: Run, group: Path) -> None:
    """A child that takes more than the machine has, but not more than its own limit, which is the larger one."""
    before = killer_count()
    shutil.copy(run.source / "CT0001.dcm", run.source / "eat_memory.dcm")
    run.start("tests.children", group=group, limits={"memory_mib": 4096, "attempt_seconds": 30.0})
    assert run.wait(100) == 1, run.errors
    (failed,) = run.report["failed"]
    assert (failed["path"], failed["kind"]) == ("eat_memory.dcm", "MEMORY")
    words = (
        "out of memory: the worker was killed by SIGKILL; the kernel's out-of-memory killer has struck in this memory"
    )
    assert all(attempt["reason"].startswith(words) for attempt in failed["attempts"])
    run.check()
    diagnoses = run.diagnoses
    assert {(diagnosis["kind"], diagnosis["cause"]) for diagnosis in diagnoses} == {("MEMORY", "out of memory")}
    assert all("oom_kill" in diagnosis["reason"] for diagnosis in diagnoses)
    assert (killer_count().machine or 0) > (before.machine or 0)
    assert killer_count().cgroup == before.cgroup  # of this process, which is not in that group
