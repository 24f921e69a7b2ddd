"""One command as one whole: its wall time, the CPU time and the memory of all its processes."""

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dcmpool import _os

_LOOK_SECONDS = 0.01
_PIPES: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A command that ended well. `cpu_seconds` is user and system time of every process that it started."""

    wall_seconds: float
    cpu_seconds: float
    output: str


class CommandError(Exception):
    """A command did not end with 0; the text says how, with its last words."""


def timed(command: Sequence[str]) -> Measured:
    """Run a command from start to exit, start-up included, on a disk that has nothing left to write.

    Raises
    ------
    CommandError
        It did not end with 0.
    """
    os.sync()
    with _orphans_reaped():
        before = _children_seconds()
        begun = time.monotonic()
        done = subprocess.run(command, **_PIPES, check=False)  # noqa: S603 - our own commands
        wall = time.monotonic() - begun
    _demand_success(done.returncode, done.stderr)
    return Measured(wall, _children_seconds() - before, done.stdout)


def watched(command: Sequence[str], look: Callable[[list[psutil.Process]], None], every: float = _LOOK_SECONDS) -> str:
    """Run a command and show `look` its living processes again and again, itself first; return what it printed.

    Raises
    ------
    CommandError
        It did not end with 0.
    """
    with _orphans_reaped(), subprocess.Popen(command, **_PIPES) as process:  # noqa: S603 - our own commands
        root = psutil.Process(process.pid)
        while True:
            try:
                output, errors = process.communicate(timeout=every)
                break
            except subprocess.TimeoutExpired:
                with contextlib.suppress(psutil.Error):
                    look([root, *root.children(recursive=True)])
    _demand_success(process.returncode, errors)
    return str(output)


def peak_bytes(command: Sequence[str]) -> int:
    """Run a command and return the peak of its memory: the sum of the proportional set sizes of all its processes.

    A page that n processes share counts 1/n for each. Looked at every 10 ms, so a shorter peak is missed.
    """
    peak = 0

    def look(processes: list[psutil.Process]) -> None:
        nonlocal peak
        peak = max(peak, sum(map(_shared_bytes, processes)))

    watched(command, look)
    return peak


def peak_of(process: psutil.Process) -> int:
    """Return the greatest resident size (bytes) of one process so far, VmHWM of proc(5); 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _shared_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def _orphans_reaped() -> Iterator[None]:
    """Take over and wait for all that outlives a command, so that its CPU time is counted too."""
    _os.adopt_orphans()
    before = _os.children()
    yield
    for pid in _os.children() - before:
        os.waitpid(pid, 0)


def _demand_success(code: int, errors: str) -> None:
    if code:
        words = errors.strip().splitlines()[-1:] or ["it said nothing"]
        raise CommandError(f"exit code {code}: {words[0][:120]}")
