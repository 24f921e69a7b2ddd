"""Supervision without work: what a job costs, with few and many workers; how time and memory grow with the files."""

import shutil
from pathlib import Path

from benchmarks.noop import Cost, supervise
from benchmarks.results import Results

_JOBS = 5000
_MANY_WORKERS = (1, 2, 16, 64)
_CRASHES = 200
_SIZES = (1_000, 10_000, 100_000)
_MILLION = 1_000_000
_FILES_A_FOLDER = 1000


def bench_noop(folder: Path, results: Results) -> None:
    """The cost of a job, and of a child that crashes and is replaced."""
    section = "Supervision, with children that do nothing"
    start = supervise(_empty_files(folder / "none", "x", 0), 1)
    results.figure(section, "start-up and end of a run without files", f"{start.wall_seconds * 1e3:.0f} ms")
    for workers in _MANY_WORKERS:
        files = _empty_files(folder / f"noop-{workers}", "x", _JOBS)
        cost = supervise(files, workers)
        each = (cost.cpu_seconds - start.cpu_seconds) / _JOBS * 1e6
        rate = _JOBS / (cost.wall_seconds - start.wall_seconds)
        words = f"{workers} worker{'s' * (workers > 1)}"
        results.figure(section, f"supervisor's CPU a job, {words}", f"{each:.0f} us")
        results.figure(section, f"jobs a second, {words}", f"{rate:,.0f}")
        shutil.rmtree(files)
    crash = supervise(_empty_files(folder / "crash", "crash", _CRASHES), 1)
    each = (crash.wall_seconds - start.wall_seconds) / (2 * _CRASHES)
    results.figure(section, "a crash: reap, relaunch, ready, next job", f"{each * 1e3:.1f} ms")


def bench_scale(folder: Path, results: Results, *, million: bool) -> None:
    """Memory, and the time of a second run over a journal in which everything is settled."""
    section = "From a thousand files to many, with children that do nothing"
    for size in (*_SIZES, _MILLION) if million else _SIZES:
        files = _empty_files(folder / f"scale-{size}", "x", size)
        first = supervise(files, 2, in_place=True)
        again = supervise(files, 2, in_place=True)
        shutil.rmtree(files)
        if again.settled != size:
            raise RuntimeError(f"{again.settled} of {size} files were settled")
        results.figure(section, f"{size:,} files: jobs a second", f"{size / first.wall_seconds:,.0f}")
        results.figure(section, f"{size:,} files: peak of supervisor and clerk", _peaks(first))
        results.figure(section, f"{size:,} settled files: resumed in", f"{again.wall_seconds:.2f} s")
        results.figure(section, f"{size:,} settled files: peak of supervisor and clerk", _peaks(again))


def _peaks(cost: Cost) -> str:
    return f"{cost.supervisor_peak / 2**20:.0f} and {cost.clerk_peak / 2**20:.0f} MiB"


def _empty_files(folder: Path, name: str, count: int) -> Path:
    """Make `count` empty files, a thousand in a folder."""
    folder.mkdir()
    for number in range(count):
        inner = folder / f"{number // _FILES_A_FOLDER:04}"
        if number % _FILES_A_FOLDER == 0:
            inner.mkdir()
        (inner / f"{name}{number % _FILES_A_FOLDER:03}.dcm").touch()
    return folder
