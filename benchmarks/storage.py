"""A disk whose fsync takes 5 ms (FUSE over this machine's): more workers wait for it at once, so it costs little."""

import shutil
from pathlib import Path

from benchmarks.measure import timed
from benchmarks.peers import DCMPOOL, Task
from benchmarks.results import Results
from benchmarks.series import KINDS, SYNTAXES, make
from tests.faults.conftest import Disk, why_no_fuse

_FILES = 1000
_FSYNC_SECONDS = 0.005
_WORKERS = (1, 2, 4, 8, 16)


def bench_storage(folder: Path, results: Results) -> None:
    """Files a second by `--workers`, of small slices, whose decoding takes less than the fsync."""
    why = why_no_fuse()
    if why:
        print(f"fsync: skipped, no FUSE disk here: {why}")
        return
    series = make(folder / "small", KINDS["small"], SYNTAXES[".70"], _FILES, [])
    for seconds in (0.0, _FSYNC_SECONDS):
        disk = Disk(folder, f"disk-{seconds}")
        try:
            disk.rules({"op": ["fsync", "fsyncdir"], "do": seconds})
            for workers in _WORKERS:
                command = DCMPOOL.command(Task(series.folder, disk.path / "target", workers, ".70"))
                measured = timed([*command, "--workers", str(workers)])
                shutil.rmtree(disk.path / "target")
                what = f"fsync takes {seconds * 1e3:.0f} ms more, --workers {workers}"
                rate = f"{_FILES / measured.wall_seconds:.0f} files/s"
                results.figure("A FUSE disk, small slices (256 x 256, .70), start-up included", what, rate)
        finally:
            disk.close()
