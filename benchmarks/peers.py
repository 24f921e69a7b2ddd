"""Who is measured: dcmpool, the floor, and what people use; each one function that gives a command line.

None of the peers syncs what it writes, checks it, confines its decoder or can be resumed; dcmpool does all of that.
"""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.series import SYNTAXES

_HERE = Path(__file__).parent
_DCMTK = {".70": "dcmdjpeg", ".57": "dcmdjpeg", ".80": "dcmdjpls", "RLE": "dcmdrle"}


@dataclass(frozen=True, slots=True)
class Task:
    """What a command is to do: every file of `source` into the folder `target`, with so many processes."""

    source: Path
    target: Path
    workers: int
    syntax: str


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to decompress a folder of files."""

    name: str
    title: str
    command: Callable[[Task], list[str]]
    syntaxes: tuple[str, ...] = tuple(SYNTAXES)
    needs: tuple[str, ...] = ()
    """Programs, which `install_peers.sh` installs."""
    kinds: tuple[str, ...] = ()
    """Of series, where it is not measured on all."""
    apart: bool = False
    """Whether it prints its seconds, without start-up, which then count as its time."""

    def missing(self) -> str:
        """Return the first program that it needs and this machine has not."""
        return next((program for program in self.needs if not find_program(program)), "")


def dcmpool(task: Task) -> list[str]:
    """As it comes: sync, check, digest, proof of completeness, sandbox."""
    return [sys.executable, "-m", "dcmpool", "run", "--quiet", str(task.source), "-o", str(task.target)]


def floor(task: Task) -> list[str]:
    """See `floor`."""
    return [sys.executable, "-P", str(_HERE / "floor.py"), str(task.source), str(task.target), str(task.workers)]


def loop(task: Task, workers: int = 0, sleep_seconds: float = 0.0) -> list[str]:
    """See `loops`."""
    program = [sys.executable, "-P", str(_HERE / "loops.py"), str(task.source), str(task.target)]
    return [*program, str(workers), str(sleep_seconds)]


def sleeping_loop(task: Task) -> list[str]:
    """Wait 50 ms after each file: the loop as it is when it has hung once."""
    return loop(task, sleep_seconds=0.05)


def pool(task: Task) -> list[str]:
    """Hand the loop's work to a ProcessPoolExecutor."""
    return loop(task, task.workers)


def parallel(task: Task) -> list[str]:
    """Start GDCM's program for each file, by GNU parallel."""
    script = 'cd "$1" && ls | "$4" --will-cite -j "$3" "$5" --raw {} "$2"/{}'
    return _shell(script, task, find_program("parallel"), find_program("gdcmconv"))


def xargs(task: Task) -> list[str]:
    """Start DCMTK's program for this Transfer Syntax for each file, by xargs."""
    script = 'cd "$1" && ls | xargs -P "$3" -I {} "$4" {} "$2"/{}'
    return _shell(script, task, find_program(_DCMTK[task.syntax]))


def _shell(script: str, task: Task, *programs: str) -> list[str]:
    return ["sh", "-c", script, "sh", str(task.source), str(task.target), str(task.workers), *programs]


def find_program(name: str) -> str:
    """Return the path of a program, "" without one; not of the wrapper in Python that comes with python-gdcm."""
    found = (shutil.which(name, path=folder) for folder in os.get_exec_path())
    return next((path for path in found if path and b"python" not in _first_line(path)), "")


def _first_line(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.readline(200)


DCMPOOL = Peer("dcmpool", "dcmpool", dcmpool)
FLOOR = Peer("floor", "the floor, start-up apart", floor, apart=True)
PEERS = (
    Peer("loop", "pydicom + gdcm, a loop", loop),
    Peer("sleep", "the same with sleep(0.05)", sleeping_loop, kinds=("ct",), syntaxes=(".70",)),
    Peer(
        "parallel",
        "GNU parallel, gdcmconv --raw",
        parallel,
        syntaxes=(".70", ".57", ".80", ".90", "RLE"),
        needs=("parallel", "gdcmconv"),
    ),
    Peer("xargs", "xargs -P, DCMTK", xargs, syntaxes=tuple(_DCMTK), needs=("dcmdjpeg", "dcmdjpls", "dcmdrle")),
    Peer("pool", "ProcessPoolExecutor, pydicom + gdcm", pool),
    FLOOR,
)
