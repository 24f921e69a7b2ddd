"""Where a worker's time goes, for the instances of one series."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.results import Results
from benchmarks.series import Series

_STAGES = ("inspect", "decode", "write", "fsync", "verify")
_WORDS = {"decode": "decode, with its proof"}


def bench_stages(folder: Path, series: Series, syntax: str, results: Results) -> None:
    """The median of each stage over all instances; a worker takes a core, so these times are of a busy machine."""
    target = folder / "staged"
    program = [sys.executable, "-m", "tests.faults.command", "benchmarks.staged_worker"]
    command = [*program, "run", str(series.folder), "-o", str(target), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own command
    spent = [json.loads(note["reason"]) for note in json.loads(done.stdout)["notes"]]
    for stage in _STAGES:
        value = statistics.median(seconds.get(stage, 0.0) for seconds in spent)
        what = f"{syntax}: {_WORDS.get(stage, stage)}"
        results.figure("A worker's time, 512 x 512", what, f"{value * 1e3:.2f} ms")
