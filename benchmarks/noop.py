"""A run whose children do nothing: what supervision itself costs. A process of its own, as the command is.

    python -m benchmarks.noop SOURCE WORKERS TARGET

Nothing is written but the journal, durable as always: where TARGET is SOURCE each file is settled as one that needs
nothing, which the next run knows; elsewhere it is skipped, as what is not DICOM. Prints what `Cost` holds.
"""

import os
import resource
import sys
import time
from pathlib import Path

import msgspec
import psutil

from benchmarks.measure import peak_of, watched
from dcmpool.config import load
from dcmpool.model import Outcome
from dcmpool.progress import Mode, Progress
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task

_LOOK_SECONDS = 0.1


class Cost(msgspec.Struct):
    """One run: `cpu_seconds` is the supervisor's own, peaks (bytes) are filled in by who looks on."""

    wall_seconds: float
    cpu_seconds: float
    settled: int
    supervisor_peak: int = 0
    clerk_peak: int = 0


def supervise(source: Path, workers: int, *, in_place: bool = False) -> Cost:
    """Run no-op children over a folder, in a process of its own that is looked at while it runs."""
    target = source if in_place else source.with_name(source.name + "-target")
    peaks = {"supervisor": 0, "clerk": 0}

    def look(processes: list[psutil.Process]) -> None:
        clerks = [process for process in processes if "dcmpool.clerk" in process.cmdline()]
        for name, found in (("supervisor", processes[:1]), ("clerk", clerks)):
            peaks[name] = max([peaks[name], *map(peak_of, found)])

    command = [sys.executable, "-m", "benchmarks.noop", str(source), str(workers), str(target)]
    cost = msgspec.json.decode(watched(command, look, _LOOK_SECONDS), type=Cost)
    cost.supervisor_peak, cost.clerk_peak = peaks["supervisor"], peaks["clerk"]
    return cost


def main(source: Path, workers: int, target: Path) -> None:
    """Run, and print the cost."""
    config = load(flags={"work": {"workers": workers, "others": "skip"}})
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.monotonic()
    task = Task(os.fsencode(source), os.fsencode(target), in_place=source == target)
    report = Supervisor(task, config, Progress(Mode.OFF), worker_module="benchmarks.noop_worker").run()
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(msgspec.json.encode(Cost(wall, cpu, report.counts[Outcome.SETTLED])).decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
