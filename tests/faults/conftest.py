"""Disks that fail, and runs over them as a user starts them. Nothing here may touch a mount that may hang.

Teardown order: the run is killed, then the disk (which ends whatever hangs in it), then the mount is detached.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.command import PATIENCE
from tests.faults import FSNAME
from tests.series import check_series, make_series

ROOT = Path(__file__).parent.parent.parent


def why_no_fuse() -> str:
    """Say why there can be no FUSE disk here; "" if there can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if os.geteuid() != 0:
        return "only root can mount without asking"
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"libfuse: {error}"
    return ""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """Return the first true value of `condition`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)
    return value


def detach(mountpoint: Path | str) -> None:
    """Detach a mount without asking what is behind it."""
    subprocess.run(["umount", "--lazy", mountpoint], check=False, capture_output=True)


@pytest.fixture(scope="session", autouse=True)
def swept() -> None:
    """Detach what an earlier, killed session left mounted; its disk died with it."""
    for line in Path("/proc/mounts").read_text().splitlines():
        words = line.split()
        if words[0] == FSNAME and not _is_served(words[1]):
            detach(words[1])


def _is_served(mountpoint: str) -> bool:
    disks = (p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"]))
    return any(mountpoint in line for line in disks)


class Disk:
    """A disk under `folder`: `path` is the mount, `real` what lies behind it and never hangs."""

    def __init__(self, folder: Path, name: str, kind: str = "") -> None:
        self.path, self.real = folder / name, folder / f"{name}-real"
        self._control = folder / f"{name}.json"
        self._log = folder / f"{name}.log"
        self.path.mkdir()
        self.real.mkdir()
        self._write([])
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "tests.faults.disk"]
            self._process = subprocess.Popen(
                [*command, str(self.real), str(self.path), str(self._control), str(os.getpid()), kind],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(self._is_up, "the disk")

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return f" {self.path} fuse" in Path("/proc/mounts").read_text()

    def rules(self, *rules: dict[str, Any]) -> None:
        """Have these rules from now on, and no others; those that stalled go on."""
        self._write(list(rules))

    def _write(self, rules: list[dict[str, Any]]) -> None:
        fresh = self._control.with_suffix(".new")
        fresh.write_text(json.dumps(rules))
        fresh.replace(self._control)

    @property
    def hits(self) -> list[str]:
        """One line for each rule met."""
        hits = Path(f"{self._control}.hits")
        return hits.read_text().splitlines() if hits.exists() else []

    def await_hit(self, word: str = "") -> None:
        """Wait until a rule has been met."""
        wait_for(lambda: any(word in hit for hit in self.hits), f"a fault: {word}")

    def close(self) -> None:
        """Kill it, which ends everything that hangs in it, and take the mount away."""
        self._process.kill()
        self._process.wait()
        detach(self.path)


class Run:
    """`python -m dcmpool run` over a series of `record`, in a process of its own."""

    def __init__(self, folder: Path, source: Path, target: Path, real_target: Path) -> None:
        self.source, self.target, self.real_target = source, target, real_target
        self.record: dict[str, str] = {}
        self.settings: dict[str, dict[str, Any]] = {
            "work": {"workers": 2},
            "limits": {"attempt_seconds": 2.0, "lost_seconds": 1.0},
            "storage": {"stall_seconds": 1.0, "give_up_seconds": 30.0},
        }
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, module: str = "", group: Path | None = None, **settings: Any) -> None:
        """Start it; `module` has the children's `serve_child`, `group` is the cgroup to be in."""
        tables = {name: self.settings.get(name, {}) | settings.get(name, {}) for name in {**self.settings, **settings}}
        lines = [
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in tables.items()
        ]
        config = self._folder / "config.toml"
        config.write_text("\n".join(lines))
        self._output = self._folder / f"output-{len(self._processes)}"
        self._errors = self._folder / f"errors-{len(self._processes)}"
        command = ["-m", "tests.faults.command", module] if module else ["-m", "dcmpool"]
        command = [*into(group), sys.executable, *command]
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._processes.append(
                subprocess.Popen(
                    [*command, "run", self.source, "-o", self.target, "--config", config, "--json"],
                    cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True,
                )
            )  # fmt: skip

    @property
    def process(self) -> psutil.Process:
        """The supervisor."""
        return psutil.Process(self._processes[-1].pid)

    @property
    def errors(self) -> str:
        """What it has said on stderr so far."""
        return self._errors.read_text()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._processes[-1].poll() is not None

    def signal(self, number: int) -> None:
        """Signal the supervisor."""
        self._processes[-1].send_signal(number)

    def await_notice(self, text: str, seconds: float = 120.0) -> None:
        """Wait until stderr has this text."""
        wait_for(lambda: text in self.errors, f"{text!r} in {self.errors!r}", seconds)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the end and return the exit code."""
        try:
            return self._processes[-1].wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run does not end: {self.errors}\n{processes(self.process)}")

    @property
    def report(self) -> dict[str, Any]:
        """What it printed at its end."""
        value: dict[str, Any] = json.loads(self._output.read_text())
        return value

    @property
    def diagnoses(self) -> list[dict[str, Any]]:
        """What the evidence says of children that died."""
        folders = (self.real_target / ".dcmpool" / "evidence").iterdir()
        return [json.loads((folder / "diagnosis.json").read_text()) for folder in folders]

    def check(self) -> None:
        """Fail unless every file of the record is in the target, right, and nothing half made is."""
        assert check_series(self.record, self.real_target) == []
        self.check_whole()

    def check_whole(self) -> None:
        """Fail if anything in the target is not a whole result: some may be missing, none may be wrong."""
        found = [path for path in self.real_target.glob("*") if path.name != ".dcmpool"]
        strange = [path.name for path in found if path.name not in self.record]
        assert strange == []
        assert check_series({path.name: self.record[path.name] for path in found}, self.real_target) == []

    def finish(self, **settings: Any) -> None:
        """Run once more, with nothing in the way: all must be done."""
        self.start(**settings)
        assert self.wait() == 0, f"{self.errors}\n{self._output.read_text()}"
        self.check()

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                psutil.wait_procs(family, timeout=5)


def into(group: Path | None) -> list[str]:
    """Return words that put the command after them into a cgroup."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"] if group else []


def processes(parent: psutil.Process) -> list[str]:
    """Return a line for each process below `parent`, for messages."""
    lines = []
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            lines.append(f"{process.pid} {process.status()} {' '.join(process.cmdline()[-3:])}")
    return lines


def is_gone(pid: int) -> bool:
    """Whether a process is dead, or a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A series of 24 compressed slices of 128 x 128, and the digests of their pixels."""
    folder = tmp_path_factory.mktemp("series") / "series"
    return folder, make_series(folder, 24, size=128)


@pytest.fixture
def run(tmp_path: Path, series: tuple[Path, dict[str, str]]) -> Iterator[Run]:
    """A run from a real directory into a real one."""
    source = tmp_path / "source"
    shutil.copytree(series[0], source)
    target = tmp_path / "target"
    run = Run(tmp_path, source, target, target)
    run.record = dict(series[1])
    yield run
    run.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of its own, empty."""
    if reason := why_no_fuse():
        pytest.skip(f"no FUSE: {reason}")
    disk = Disk(tmp_path, "disk")
    yield disk
    disk.close()


@pytest.fixture
def from_disk(run: Run, disk: Disk) -> Iterator[Run]:
    """A run whose source is on the disk."""
    shutil.copytree(run.source, disk.real / "series")
    run.source = disk.path / "series"
    yield run
    run.close()
    disk.close()


@pytest.fixture
def onto_disk(run: Run, disk: Disk) -> Iterator[Run]:
    """A run whose target is on the disk."""
    run.target, run.real_target = disk.path / "target", disk.real / "target"
    yield run
    run.close()
    disk.close()
