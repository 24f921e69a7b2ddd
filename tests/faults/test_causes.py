"""What the kernel says of a process that waits for storage: whose it is, in words, and without waiting with it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dcmpool import diagnose
from dcmpool.model import Side, Stage
from tests.faults.conftest import Disk, wait_for

READS = {
    "read": "open(sys.argv[1], 'rb', 0).read(1)",
    "open": "open(sys.argv[1], 'rb')",
    "getattr": "os.stat(sys.argv[1])",
}
WRITES = {
    "write": "os.write(os.open(sys.argv[1], os.O_WRONLY), b'x')",
    "fsync": "f = os.open(sys.argv[1], os.O_WRONLY); os.write(f, b'x'); os.fsync(f)",
    "truncate": "os.ftruncate(os.open(sys.argv[1], os.O_WRONLY), 1)",
}


@contextmanager
def hanging(disk: Disk, op: str, path: str, program: str) -> Iterator[int]:
    """Have a process call `op` on a file of the disk, which does not answer; give its pid."""
    file = disk.real / path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"slice")
    disk.rules({"op": op, "path": f"/{path}", "do": "stall"})
    command = [sys.executable, "-c", f"import os, sys; {program}", str(disk.path / path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        disk.await_hit(op)
        try:
            yield process.pid
        finally:
            process.kill()
            disk.rules()


def cause(pid: int, stage: Stage) -> tuple[str, Side | None]:
    begun = time.monotonic()
    found = diagnose.examine(pid)
    words = diagnose.cause(found, stage), diagnose.waits_for(found, stage)
    assert time.monotonic() - begun < 10
    return words


@pytest.mark.parametrize("op", READS)
@pytest.mark.parametrize("stage", [Stage.INSPECT, Stage.DECODE])
def test_blocked_reading_the_source(disk: Disk, op: str, stage: Stage) -> None:
    with hanging(disk, op, "series/CT0001.dcm", READS[op]) as pid:
        wait_for(lambda: cause(pid, stage) == ("blocked reading the source", Side.SOURCE), "the cause")


@pytest.mark.parametrize("op", WRITES)
@pytest.mark.parametrize("path", ["target/.dcmpool/tmp/run-1-1", "elsewhere/result"])
def test_blocked_writing_the_target(disk: Disk, op: str, path: str) -> None:
    """Wherever the temp file lies: nobody writes to SOURCE."""
    with hanging(disk, op, path, WRITES[op]) as pid:
        due = ("blocked writing the target (storage)", Side.TARGET)
        wait_for(lambda: cause(pid, Stage.WRITE) == due, "the cause")
