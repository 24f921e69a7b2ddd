"""`make bench`: what supervision costs, and the whole command against the usual loop. Prints figures, asserts nothing.

All in one run on one machine: read the figures as ratios.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dcmpool.config import load
from dcmpool.progress import Mode, Progress
from dcmpool.supervisor import Supervisor, Task
from tests.series import make_series

JOBS = 5000
CRASHES = 200
SLICES = 240
ROUNDS = 3

LOOP = """
import sys
from pathlib import Path
import pydicom
source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir()
for path in sorted(source.iterdir()):
    instance = pydicom.dcmread(path)
    instance.decompress(decoding_plugin="gdcm" if "4.80" not in instance.file_meta.TransferSyntaxUID else "")
    instance.save_as(target / path.name)
"""


def supervise(source: Path, target: Path, workers: int) -> tuple[float, float]:
    """Run no-op children over a folder; return wall and the supervisor's own CPU seconds."""
    config = load(flags={"work": {"workers": workers, "others": "skip"}})
    task = Task(os.fsencode(source), os.fsencode(target))
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.monotonic()
    Supervisor(task, config, Progress(Mode.OFF), worker_module="benchmarks.noop_worker").run()
    wall = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def empty_files(folder: Path, name: str, count: int) -> Path:
    """Make `count` empty files."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{name}{number:06}.dcm").touch()
    return folder


def bench_supervisor(folder: Path) -> None:
    """The cost of a job, and of a child that crashes and is replaced."""
    start, start_cpu = supervise(empty_files(folder / "none", "x", 0), folder / "none-out", 1)
    wall, cpu = supervise(empty_files(folder / "noop", "x", JOBS), folder / "noop-out", 2)
    print(f"start-up and end of a run without files      {start * 1e3:8.0f} ms")
    print(f"supervisor's CPU a job ({JOBS} no-op jobs)     {(cpu - start_cpu) / JOBS * 1e6:8.0f} us")
    print(f"no-op jobs a second                          {JOBS / (wall - start):8.0f}")
    wall, _ = supervise(empty_files(folder / "crash", "crash", CRASHES), folder / "crash-out", 1)
    print(f"a crash: reap, relaunch, ready, next job     {(wall - start) / (2 * CRASHES) * 1e3:8.1f} ms")


def bench_command(folder: Path) -> None:
    """The whole command against a loop of pydicom and gdcm, start-up included, interleaved."""
    source = folder / "series"
    make_series(source, SLICES)
    commands = {
        "loop of pydicom + gdcm": [sys.executable, "-c", LOOP, str(source)],
        "python -m dcmpool run": [sys.executable, "-m", "dcmpool", "run", "--quiet", str(source), "-o"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            target = folder / "out"
            begun = time.monotonic()
            subprocess.run([*command, str(target)], check=True)  # noqa: S603 - our own commands
            seconds[name].append(time.monotonic() - begun)
            shutil.rmtree(target)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:44} {median / SLICES * 1e3:8.1f} ms a slice of 512 x 512")
    loop, ours = medians.values()
    print(f"times faster                                 {loop / ours:8.1f}")


def main() -> None:
    """Print all figures."""
    with tempfile.TemporaryDirectory() as folder:
        bench_supervisor(Path(folder))
        bench_command(Path(folder))


if __name__ == "__main__":
    main()
