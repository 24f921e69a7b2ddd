"""Run the command line as a user does: a process of its own, seen from outside alone.

Nothing of dcmpool is imported here. Every process of a run is found by a mark in its environment, which children
and grandchildren inherit, so that one which escaped its parent, its group and its session is found too.
"""

import ctypes
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.series import make_series

TOP = Path(__file__).resolve().parent.parent
"""The folder that holds the package, for PYTHONPATH."""

PATIENCE = 250.0
"""Seconds until a wait counts as failed: far over what a slow and busy machine needs, under pytest's own limit."""

Record = dict[str, str]
"""File name to SHA-256 of the native Pixel Data before compression."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run that ended left behind: exit code (negative: the signal), and what it said."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def summary(self) -> dict[str, Any]:
        """The one object that `--json` prints; stdout must hold nothing else."""
        summary = json.loads(self.out)
        assert isinstance(summary, dict)
        return summary

    @property
    def failed(self) -> dict[str, dict[str, Any]]:
        """The failed files of the summary by path."""
        return {item["path"]: item for item in self.summary["failed"]}

    def lines(self) -> list[str]:
        """The lines of stdout and stderr that are not blank."""
        return [line for line in (self.out + self.err).splitlines() if line.strip()]


@dataclass(slots=True)
class Running:
    """A run that is on."""

    process: subprocess.Popen[bytes]
    mark: str
    started: float = field(default_factory=time.monotonic)

    def processes(self, words: str = "") -> list[int]:
        """Return the ids of the run's living processes, the supervisor among them, with `words` in the command line."""
        return [pid for pid in marked(self.mark) if words in command_line(pid)]

    def children(self) -> list[int]:
        """Return the ids of all processes of the run but the supervisor."""
        return [pid for pid in self.processes() if pid != self.process.pid]

    def workers(self) -> list[int]:
        """Return the ids of the workers: the children of the fork server."""
        servers = self.processes("dcmpool.forkserver")
        return [pid for pid in servers if parent(pid) in servers]

    def fork_server(self) -> list[int]:
        """Return the id of the fork server; empty while there is none."""
        servers = self.processes("dcmpool.forkserver")
        return [pid for pid in servers if parent(pid) not in servers]

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Return what `condition` gives once that is true; fails when the run ends before."""

        def met() -> Any:
            on = self.process.poll() is None
            return condition() or ("ended" if not on else None)

        found = until(met)
        assert found != "ended", f"the run ended too early: {self.end()}"
        return found

    def send(self, signal_number: int) -> None:
        """Send a signal to the supervisor alone."""
        self.process.send_signal(signal_number)

    def end(self, seconds: float = PATIENCE) -> Ended:
        """Wait for the end; kills and fails after `seconds`."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_marked(self.mark)
            out, err = self.process.communicate()
            pytest.fail(f"the run did not end in {seconds} s; it said:\n{out[-2000:]!r}\n{err[-2000:]!r}")
        spent = time.monotonic() - self.started
        texts = [(stream or b"").decode("utf-8", "backslashreplace") for stream in (out, err)]
        return Ended(self.process.returncode, texts[0], texts[1], spent)


@dataclass(slots=True)
class Command:
    """`python -m dcmpool` in a folder of its own, `path`, with a mark on all its processes."""

    path: Path
    mark: str
    temporary: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def runtime(self) -> Path:
        """The user's directory for sockets."""
        return self.temporary.with_name("run")

    def run(self, *arguments: str | bytes | os.PathLike[str], seconds: float = PATIENCE, **options: Any) -> Ended:
        """Run to the end; `options` as for `start`."""
        return self.start(*arguments, **options).end(seconds)

    def start(
        self,
        *arguments: str | bytes | os.PathLike[str],
        environment: dict[str, str | None] | None = None,
        powerless: bool = False,
        under: Sequence[str] = (),
        cwd: Path | None = None,
        **options: Any,
    ) -> Running:
        """Start `python -m dcmpool ARGUMENTS` with both outputs captured.

        `environment` is put over this process's own (None removes a variable). `powerless` takes from root the
        power to pass over file permissions. `under` is a command that runs the command. Other `options` go to
        subprocess.Popen.
        """
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        if powerless:
            options["preexec_fn"] = drop_power_over_permissions
        command = [*under, sys.executable, "-m", "dcmpool", *arguments]
        process = subprocess.Popen(command, cwd=cwd or self.path, env=self.variables(environment), **options)
        self.started.append(process)
        return Running(process, self.mark)

    def variables(self, changes: dict[str, str | None] | None = None) -> dict[str, str]:
        """Return the environment of a run: this process's own, the mark, and `changes` (None removes)."""
        own = {
            "PYTHONPATH": str(TOP),
            "TMPDIR": str(self.temporary),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "DCMPOOL_TEST": self.mark,
        }
        merged = {**os.environ, **own, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}


def own_command(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Command]:
    """Give a Command; afterwards no process of it lives and no temp file is left. To be made a fixture."""
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    temporary.with_name("run").mkdir()
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    command = Command(work, mark, temporary)
    yield command
    left = {pid: command_line(pid) for pid in marked(mark)}
    kill_marked(mark)
    # A test that was cut short has not waited for them: they would be held against every later one.
    for process in command.started:
        if process.returncode is None or (process.stdout and not process.stdout.closed):
            process.communicate()
    assert not left, f"processes left after the test: {left}"
    assert temp_files(work) == []
    assert list(temporary.iterdir()) == []


def temp_files(folder: Path) -> list[Path]:
    """Return what lies in temp folders and beside journals, in all targets under `folder`; evidence may stay."""
    known = {"journal.sqlite", "lock"}
    private = [path for path in folder.rglob(".dcmpool") if path.is_dir()]
    found = [path for own in private for path in own.rglob("*") if path.name not in known and not path.is_dir()]
    return [path for path in found if path.parent.parent.name != "evidence"]


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return what `condition` gives once that is true; fails after `seconds`.

    For what gives no event to wait on: files that appear in a tree, processes that are not our children.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        time.sleep(0.002)
    return found


def all_dead(pids: Sequence[int], seconds: float = PATIENCE) -> list[int]:
    """Wait until all `pids` are dead, by pidfd; returns those that are not after `seconds`."""
    end = time.monotonic() + seconds
    alive = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        readable, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        os.close(descriptor)
        if not readable:
            alive.append(pid)
    return alive


def marked(mark: str) -> list[int]:
    """Return the ids of living processes with the mark in their environment; a zombie has none and is dead."""
    wanted = f"DCMPOOL_TEST={mark}".encode()
    return [pid for pid in numbers() if wanted in of_process(pid, "environ").split(b"\0")]


def numbers() -> list[int]:
    """Return the ids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def of_process(pid: int, name: str) -> bytes:
    """Return a file of /proc/PID; empty when the process is gone, a zombie, or not ours."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def command_line(pid: int) -> str:
    """Return a process's command line, words joined by spaces."""
    return of_process(pid, "cmdline").replace(b"\0", b" ").decode("utf-8", "replace")


def parent(pid: int) -> int:
    """Return the id of the parent; 0 when the process is gone."""
    after_name = of_process(pid, "stat").rpartition(b")")[2].split()
    return int(after_name[1]) if after_name else 0


def kill_marked(mark: str) -> None:
    """End every process with the mark."""
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def drop_power_over_permissions() -> None:
    """In a child before exec: root without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH is as any user, capabilities(7)."""
    bounding_set_drop, capability_dac_override, capability_dac_read_search = 24, 1, 2
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (capability_dac_override, capability_dac_read_search):
            if libc.prctl(bounding_set_drop, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")


def tree(folder: Path, own: bool = False) -> dict[bytes, bytes]:
    """Return all regular files under `folder`, relative path to content; dcmpool's own with `own`."""
    found = {}
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and (own or relative.parts[0] != ".dcmpool"):
            found[os.fsencode(relative)] = path.read_bytes()
    return found


SLOWLY = ("--bandwidth", "5M")
"""With it a run over a `long_series` takes three seconds, however fast the machine is: ten files each."""


def long_series(folder: Path, names: int = 40) -> Record:
    """Make a series of 512 x 512: `names` files, hard links to six of them, each of half a MiB when native."""
    folder.mkdir()
    record = {}
    slices = list(_six_slices().items())
    for index in range(names):
        first, (content, digest) = slices[index % len(slices)]
        name = f"CT{index + 1:04}.dcm"
        if index < len(slices):
            (folder / name).write_bytes(content)
        else:
            os.link(folder / first, folder / name)
        record[name] = digest
    return record


@functools.cache
def _six_slices() -> dict[str, tuple[bytes, str]]:
    """Return six slices, name to content and digest; made once in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {name: ((folder / name).read_bytes(), digest) for name, digest in make_series(folder, 6, 512).items()}
