"""A long soak: archives with 2 % faults of all kinds, and processes killed at random. `make soak MINUTES=10`.

    python -m tests.soak [MINUTES [SEED]]

Half of the time goes to archives that are run, with SIGKILLs of anything, until they are finished; the other half to
one run over one large archive, with SIGKILLs of workers, whose descriptors and memory are watched. Exit code 1 if a
file is lost or wrong, a run is stuck, a token is not given back, or a process grows.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from dcmpool import cli, supervisor, terminal
from dcmpool.report import Report
from tests.command import TOP
from tests.series import check_series, make_series

FAULTS = (
    "segfault", "abort", "exit_quietly", "half_a_file", "grandchild_and_crash", "hang_in_c", "spin_in_c",
    "ignore_sigterm", "stop_itself", "half_a_frame", "garbage", "huge_message", "wrong_id", "wants_everything",
    "close_channel", "lie", "kill_itself", "kill_parent", "eat_memory", "truncated", "nonsense",
)  # fmt: skip
"""Files that must fail: what their child does (`tests.children`), or what they are."""
HARMLESS = ("flood", "grandchild")
FOLDER_FILES = 98
"""Good files in a folder, beside two faults."""
_STUCK_SECONDS = 300
_GROWTH_BYTES = 24 << 20
_GROWTH_DESCRIPTORS = 8
_TOKENS = "DCMPOOL_SOAK_TOKENS"
_SETTINGS = """
[work]
workers = 2
[limits]
attempt_seconds = 1.0
memory_mib = 1024
[storage]
stall_seconds = 5.0
give_up_seconds = 60.0
"""


class Watched(supervisor.Supervisor):
    """The supervisor; when its run is over it writes down what is left of its tokens."""

    def run(self) -> Report:
        report = super().run()
        gate = self._pool.gate
        left = {"bytes": gate.bytes_held, "writers": gate.writers_held, "waiting": gate.waiting}
        Path(os.environ[_TOKENS]).write_text(json.dumps(left))
        return report


@dataclass(slots=True)
class Archive:
    """An archive under `folder` made of a small series in `series`; `digests` are those of its native results."""

    folder: Path
    series: Path
    digests: dict[str, str]
    good: dict[str, str] = field(default_factory=dict)
    """Relative path to the digest of the result."""
    bad: set[str] = field(default_factory=set)

    def make(self, folders: int, dice: random.Random) -> None:
        """Make it: hard links to the series, and two faults in each folder."""
        names = sorted(self.digests)
        for number in range(folders):
            folder = self.folder / f"{number:05}"
            folder.mkdir(parents=True)
            for index in range(FOLDER_FILES):
                name = names[(number + index) % len(names)]
                os.link(self.series / name, folder / f"CT{index:03}.dcm")
                self.good[f"{folder.name}/CT{index:03}.dcm"] = self.digests[name]
            for fault in dice.sample((*FAULTS, *HARMLESS), 2):
                self._add(folder / f"{fault}.dcm", self.series / names[0], dice)

    def _add(self, path: Path, original: Path, dice: random.Random) -> None:
        relative = f"{path.parent.name}/{path.name}"
        data = original.read_bytes()
        codestream = data.rfind(b"\xe0\x7f\x10\x00") + 30  # a header cut between two elements is a file without pixels
        if path.stem == "truncated":
            data = data[: dice.randrange(codestream, len(data) - 200)]
        elif path.stem == "nonsense":
            at = dice.randrange(codestream, len(data) - 600)
            data = data[:at] + dice.randbytes(500) + data[at + 500 :]
        path.write_bytes(data)
        if path.stem in HARMLESS:
            self.good[relative] = self.digests[original.name]
        else:
            self.bad.add(relative)

    def problems(self, target: Path, *, finished: bool) -> tuple[list[str], list[str]]:
        """Return what is lost and what is wrong in a target."""
        found = {f"{path.parent.name}/{path.name}": path for path in target.glob("[0-9]*/*")}
        lost = sorted(self.good.keys() - found.keys()) if finished else []
        wrong = [name for name, path in found.items() if digest(path) != self.good.get(name)]
        return lost, wrong


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(slots=True)
class Figures:
    """What came of a soak."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    growth: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    """Part to descriptors and bytes of memory, first and last."""

    def show(self) -> None:
        """Print them."""
        for name in ("runs", "files", "faults", "SIGKILLs", "lost", "wrong", "stuck", "tokens left"):
            print(f"{name}: {self.counts[name]}")
        for part, (fds, last_fds, rss, last_rss) in self.growth.items():
            print(f"{part}: descriptors {fds} -> {last_fds}, memory {rss >> 20} -> {last_rss >> 20} MiB")
        print(*self.problems, sep="\n", end="\n" if self.problems else "")


class Soak:
    """A soak in `folder`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.figures = Figures()
        self._folder = folder
        self._dice = random.Random(seed)
        self._config = folder / "config.toml"
        self._config.write_text(_SETTINGS)
        self._tokens = folder / "tokens.json"
        self._series = folder / "series"
        self._digests = self._make_series()

    def _make_series(self) -> dict[str, str]:
        """Return the digests of the results of a series that was checked, pixel for pixel."""
        record = make_series(self._series, 24, size=128)
        target = self._folder / "checked"
        process = self._start(self._series, target)
        if process.wait() != 0 or check_series(record, target):
            raise RuntimeError("not even a small series comes out right")
        return {name: digest(target / name) for name in record}

    def round(self, folders: int) -> None:
        """Run an archive, with SIGKILLs, until it is finished; compare it."""
        archive, target = self._archive(folders)
        for _ in range(self._dice.randint(1, 4)):
            process = self._start(archive.folder, target)
            end = time.monotonic() + self._dice.uniform(1, 10)
            while process.poll() is None and time.monotonic() < end:
                time.sleep(self._dice.uniform(0.05, 1.0))
                self._kill_something(process, ("clerk", "forkserver", "worker", "worker", "worker"))
            if process.poll() is None:
                process.send_signal(self._dice.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT)))
                self.figures.counts["SIGKILLs"] += 1
            if self._wait(process) not in (0, 1, 70, 75, 130, -signal.SIGKILL):
                self.figures.problems.append(f"exit code {process.returncode}")
        if self._wait(self._start(archive.folder, target)) != 1:
            self.figures.problems.append("the last run of an archive did not end with 1")
        self._compare(archive, target, finished=True)

    def long_run(self, folders: int, seconds: float) -> None:
        """Watch one run over a large archive, with SIGKILLs of workers."""
        archive, target = self._archive(folders)
        process = self._start(archive.folder, target)
        end = time.monotonic() + seconds
        samples: list[dict[str, tuple[int, int]]] = []
        while process.poll() is None and time.monotonic() < end:
            time.sleep(1.0)
            if self._dice.random() < 0.3:
                self._kill_something(process, ("worker",))
            samples.append(sample(process))
        finished = process.poll() is not None
        if not finished:
            process.send_signal(signal.SIGINT)
        if self._wait(process) != (1 if finished else 130):
            self.figures.problems.append(f"the long run ended with {process.returncode}")
        self._compare(archive, target, finished=finished)
        self._watch_growth(samples)

    def _archive(self, folders: int) -> tuple[Archive, Path]:
        archive = Archive(self._folder / "archive", self._series, self._digests)
        target = self._folder / "target"
        for path in (archive.folder, target):
            shutil.rmtree(path, ignore_errors=True)
        archive.make(folders, self._dice)
        self.figures.counts["files"] += len(archive.good) + len(archive.bad)
        self.figures.counts["faults"] += 2 * folders
        return archive, target

    def _start(self, source: Path, target: Path) -> subprocess.Popen[bytes]:
        self.figures.counts["runs"] += 1
        self._tokens.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.soak", "run", "--quiet", "--config", str(self._config)]
        with (self._folder / "errors").open("ab") as errors:
            return subprocess.Popen(
                [*command, str(source), "-o", str(target)], cwd=TOP, env=os.environ | {_TOKENS: str(self._tokens)},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            code = process.wait(_STUCK_SECONDS)
        except subprocess.TimeoutExpired:
            self.figures.counts["stuck"] += 1
            process.kill()
            return process.wait()
        if code >= 0 and self._tokens.exists():
            self.figures.counts["tokens left"] += sum(json.loads(self._tokens.read_text()).values())
        elif code in (0, 1):
            self.figures.problems.append("a run said nothing of its tokens")
        return code

    def _kill_something(self, process: subprocess.Popen[bytes], parts: tuple[str, ...]) -> None:
        with contextlib.suppress(psutil.Error):
            found = family(psutil.Process(process.pid))[self._dice.choice(parts)]
            if found:
                self._dice.choice(found).kill()
                self.figures.counts["SIGKILLs"] += 1

    def _compare(self, archive: Archive, target: Path, *, finished: bool) -> None:
        lost, wrong = archive.problems(target, finished=finished)
        self.figures.counts["lost"] += len(lost)
        self.figures.counts["wrong"] += len(wrong)
        self.figures.problems += [f"lost: {name}" for name in lost] + [f"wrong: {name}" for name in wrong]
        if left := list(target.glob(".dcmpool/tmp/*")):
            self.figures.problems.append(f"left in tmp: {left}")

    def _watch_growth(self, samples: list[dict[str, tuple[int, int]]]) -> None:
        """Compare the medians of the first and the last fifth of a run."""
        fifth = max(1, len(samples) // 5)
        for part in ("supervisor", "clerk", "forkserver"):
            first, last = (
                [entry[part] for entry in some if part in entry] for some in (samples[:fifth], samples[-fifth:])
            )
            (fds, rss), (last_fds, last_rss) = (
                tuple(sorted(entry[kind] for entry in some)[len(some) // 2] for kind in (0, 1))
                for some in (first, last)
            )
            self.figures.growth[part] = (fds, last_fds, rss, last_rss)
            if last_fds > fds + _GROWTH_DESCRIPTORS or last_rss > rss + _GROWTH_BYTES:
                self.figures.problems.append(f"the {part} grows")


def family(process: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the processes of a run by part."""
    helpers = process.children()
    servers = [helper for helper in helpers if "dcmpool.forkserver" in helper.cmdline()]
    return {
        "supervisor": [process],
        "clerk": [helper for helper in helpers if "dcmpool.clerk" in helper.cmdline()],
        "forkserver": servers,
        "worker": [worker for server in servers for worker in server.children()],
    }


def sample(process: subprocess.Popen[bytes]) -> dict[str, tuple[int, int]]:
    """Return descriptors and bytes of memory of the lasting processes of a run."""
    found = {}
    with contextlib.suppress(psutil.Error):
        for part, members in family(psutil.Process(process.pid)).items():
            if members and part != "worker":
                found[part] = members[0].num_fds(), members[0].memory_info().rss
    return found


def soak(minutes: float, seed: int) -> Figures:
    """Soak for so long and return the figures."""
    with tempfile.TemporaryDirectory(prefix="dcmpool-soak-") as name:
        soak = Soak(Path(name), seed)
        half = time.monotonic() + minutes * 30
        while time.monotonic() < half:
            soak.round(folders=10)
            print(dict(soak.figures.counts), flush=True)
        soak.long_run(folders=max(10, int(minutes * 100)), seconds=minutes * 30)
        errors = (Path(name) / "errors").read_text(errors="replace")
        if "Traceback" in errors:
            soak.figures.problems.append(errors[-2000:])
        return soak.figures


def main(arguments: list[str]) -> int:
    """Soak; or be the command that a soak runs."""
    if arguments[:1] == ["run"]:

        def watched(*positional: Any, **options: Any) -> Watched:
            return Watched(*positional, **options, worker_module="tests.children")

        setattr(terminal, "Supervisor", watched)  # noqa: B010 - mypy
        cli.main()
    minutes = float(arguments[0]) if arguments else 10.0
    seed = int(arguments[1]) if len(arguments) > 1 else random.SystemRandom().randrange(1 << 32)
    print(f"make soak MINUTES={minutes:g} SEED={seed}", flush=True)
    figures = soak(minutes, seed)
    figures.show()
    counts = figures.counts
    return 1 if figures.problems or counts["lost"] + counts["wrong"] + counts["stuck"] + counts["tokens left"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
