"""`dcmpool attempt`: one line for what cannot be, and nothing left behind, however it ends."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.command import TOP, Command, Running, all_dead, own_command
from tests.series import make_series

command = pytest.fixture(own_command)

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def file(command: Command) -> Path:
    """One slice."""
    make_series(command.path / "series", slices=1, size=16)
    return command.path / "series" / "CT0001.dcm"


def stuck(command: Command, file: Path, *options: str) -> tuple[Running, int]:
    """Start an attempt whose child never comes to an end; return it, and the child's id, once it is at work."""
    folder = command.path / "modules"
    folder.mkdir()
    mark = folder / "mark"
    (folder / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if 'attempt' in sys.orig_argv:\n"
        "    from dcmpool import worker\n"
        f"    worker.inspect = lambda source: (open({os.fspath(mark)!r}, 'x').close(), time.sleep(600))\n"
    )
    path = os.pathsep.join((os.fspath(folder), os.fspath(TOP)))
    running = command.start("attempt", file, *options, environment={"PYTHONPATH": path})
    running.wait_for(mark.exists)
    (child,) = running.children()
    shutil.rmtree(folder)
    return running, child


def test_a_result_is_told_and_thrown_away(command: Command, file: Path) -> None:
    ended = command.run("attempt", file, "--engine", "gdcm")
    assert (ended.code, ended.err) == (0, ""), ended
    assert ", gdcm\n" in ended.out
    assert "decompressed: " in ended.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "nonsense"], "turbo, "),
        (["--limit", "1e300"], "--limit"),
        (["--limit", "nan"], "--limit"),
        (["--memory", "9" * 20], "--memory"),
    ],
    ids=["engine", "long", "nan", "memory"],
)
def test_what_cannot_be_is_one_line(command: Command, file: Path, options: list[str], says: str) -> None:
    """An engine that there is not must not be another one silently."""
    ended = command.run("attempt", file, *options)
    (line,) = ended.lines()
    assert (ended.code, ended.out) == (2, ""), ended
    assert says in line


def test_a_file_that_is_not_there_is_one_line(command: Command) -> None:
    """The child finds out: storage that does not answer holds it alone."""
    ended = command.run("attempt", "missing.dcm")
    assert (ended.code, ended.lines()) == (1, ["READ: cannot be opened: No such file or directory"])


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_ends_the_child_too(command: Command, file: Path, number: signal.Signals) -> None:
    """And the temp folder is gone, which the fixture sees."""
    running, child = stuck(command, file, "--limit", "600")
    running.wait_for(lambda: os.getsid(child) == child)
    running.send(number)
    ended = running.end()
    assert (ended.code, ended.lines()) == (128 + number, []), ended
    assert all_dead([child], 0.0) == []


def test_a_child_ends_itself_where_its_parent_does_not(command: Command, file: Path) -> None:
    """At twice the limit."""
    running, child = stuck(command, file, "--limit", "1")
    running.send(signal.SIGSTOP)
    assert all_dead([child]) == []
    running.send(signal.SIGCONT)
    assert running.end().code == 1
