"""`run --dry-run`: what would be done is said, and nothing is written."""

import fcntl
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dcmpool.child import Stream
from dcmpool.model import Due
from dcmpool.protocol import FROM_CLERK, TO_CLERK, Plan, Planned
from tests.command import Command, long_series, own_command, until
from tests.series import make_series
from tests.test_usage import everything, refused

command = pytest.fixture(own_command)


@pytest.fixture
def source(command: Command) -> Path:
    """A series of six in `series`."""
    make_series(command.path / "series", slices=6, size=32)
    return command.path / "series"


def rehearsed(command: Command, *arguments: str) -> list[str]:
    """Return the lines of a dry run, and assert that it leaves no trace."""
    before = everything(command.path)
    ended = command.run("run", "series", *arguments, "--dry-run")
    assert ended.code == 0, ended
    assert everything(command.path) == before
    assert "nothing was written" in ended.err
    return ended.out.splitlines()


def test_before_the_first_run(command: Command, source: Path) -> None:
    os.mkfifo(source / "pipe")
    (source / "two\nlines").write_text("no DICOM")
    files = [f"do CT{number:04}.dcm" for number in range(1, 7)]
    for arguments in ([], ["-o", "native"], ["--in-place"]):
        assert rehearsed(command, *arguments) == [*files, "leave pipe", "do two\\nlines"]


def test_what_a_run_would_do_is_what_it_does(command: Command, source: Path) -> None:
    broken = source / "CT0006.dcm"
    broken.write_bytes(broken.read_bytes()[:-500])
    (source / "CT0007.dcm").write_text("not DICOM")
    arguments = ("series", "-o", "native", "--json")
    assert command.run("run", *arguments).code == 1
    os.utime(source / "CT0001.dcm", ns=(0, 0))  # another source
    (command.path / "native/CT0002.dcm").unlink()  # no result
    (command.path / "native/CT0003.dcm").write_text("mine")
    (source / "CT0008.dcm").write_text("new")
    lines = rehearsed(command, "-o", "native")
    assert lines == [
        "again CT0001.dcm",
        "again CT0002.dcm",
        "fails CT0003.dcm",
        "settled CT0004.dcm",
        "settled CT0005.dcm",
        "fails CT0006.dcm",
        "settled CT0007.dcm",
        "do CT0008.dcm",
    ]
    counts = command.run("run", *arguments, "--dry-run").summary["counts"]
    assert counts == {"do": 1, "again": 2, "settled": 3, "fails": 2, "leave": 0}
    done = command.run("run", *arguments).summary["counts"]
    assert (done["settled"], done["failed"], done["decompressed"] + done["other"]) == (3, 2, 3)


def test_a_list_in_place_with_a_journal_elsewhere(command: Command, source: Path) -> None:
    place = ("--in-place", "--journal", "journal")
    (command.path / "list").write_text("CT0002.dcm\nCT0001.dcm\nmissing\n")
    lines = ["CT0002.dcm", "CT0001.dcm"]
    listed = (*place, "--files-from", "list")
    assert rehearsed(command, *listed) == [*(f"do {name}" for name in lines), "fails missing"]
    assert command.run("run", "series", *listed).code == 1
    assert rehearsed(command, *listed) == [*(f"settled {name}" for name in lines), "fails missing"]


def committed(journal: Path) -> int:
    """Return how many files a journal tells of while its run is on."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM files").fetchone()[0])
    return 0


def test_after_a_run_that_was_killed(command: Command) -> None:
    """What it has journalled lies in SQLite's write-ahead log alone, and stays there."""
    long_series(command.path / "series")
    running = command.start("run", "series", "-o", "native", "--bandwidth", "4M")  # in several commits
    running.wait_for(lambda: committed(command.path / "native/.dcmpool/journal.sqlite") > 4)
    running.send(signal.SIGSTOP)  # or the clerk might see it die first, and close the journal in order
    for process in running.processes("dcmpool.clerk"):
        os.kill(process, signal.SIGKILL)
    running.send(signal.SIGKILL)
    running.end()
    until(lambda: not running.processes())
    assert (command.path / "native/.dcmpool/journal.sqlite-wal").stat().st_size
    lines = rehearsed(command, "-o", "native")
    assert sum(line.startswith("settled") for line in lines) > 4
    assert len(lines) == 40
    shutil.rmtree(command.path / "native")


def test_what_a_run_would_refuse(command: Command, source: Path) -> None:
    (command.path / "file").write_text("mine")
    (command.path / "locked").mkdir(mode=0o555)
    refused(command, "missing", "--dry-run", says="missing")
    refused(command, "series", "-o", "series/native", "--dry-run", says="inside")
    refused(command, "series", "-o", "file/native", "--dry-run", says="not a directory")
    shutil.copytree(source, command.path / "other")
    assert command.run("run", "other", "-o", "done").code == 0
    refused(command, "series", "-o", "done", "--dry-run", says="holds results of")
    os.chmod(command.path / "done/.dcmpool", 0o555)
    refused(command, "other", "-o", "done", "--dry-run", says=".dcmpool", powerless=True)
    refused(command, "series", "-o", "locked/native", "--dry-run", says="locked", powerless=True)
    refused(command, "series", "--dry-run", "--journal", "file", says="not a journal")
    refused(command, "series", "--dry-run", "--events", "events", says="--events")
    refused(command, "series", "--dry-run", "--in-place", "--backup", "file", says="Not a directory")
    refused(command, "series", "--dry-run", "--in-place", "--backup", "series/kept", says="lie in one another")


def test_beside_a_run_there_is_nothing_to_foresee(command: Command, source: Path) -> None:
    """Its journal changes while it would be read."""
    assert command.run("run", "series", "-o", "native").code == 0
    with (command.path / "native/.dcmpool/lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = command.run("run", "series", "-o", "native", "--dry-run")
    assert (ended.code, ended.lines()) == (3, [f"dcmpool: another run is working on {command.path / 'native'}"])
    assert rehearsed(command, "-o", "native")[0] == "settled CT0001.dcm"


def test_a_run_is_not_kept_away_and_said_to_have_been_there(command: Command, source: Path) -> None:
    """However long somebody reads; what has been said may not be true any more."""
    assert command.run("run", "series", "-o", "native").code == 0
    for number in range(20_000):
        (source / f"{number:0100}").touch()
    running = command.start("run", "series", "-o", "native", "--dry-run", stdout=subprocess.PIPE)
    assert running.process.stdout is not None
    assert running.process.stdout.readline().startswith(b"do ")
    with (command.path / "native/.dcmpool/lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.utime(command.path / "native/.dcmpool/journal.sqlite")
    ended = running.end()
    assert ended.code == 75
    assert "a run has begun meanwhile" in ended.err


def test_a_message_may_come_in_parts_from_a_planner_that_has_ended() -> None:
    """It is over when all of it was read, not when the process is."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(FROM_CLERK.encode(Planned((Plan(Due.DO, b"x" * 1000),)))[:500])
            ours.setblocking(False)
            stream = Stream(ours, FROM_CLERK, TO_CLERK)
            assert (stream.receive(), stream.is_over) == ([], False)
        assert (stream.receive(), stream.is_over) == ([], True)


def test_a_reader_that_has_seen_enough(command: Command, source: Path) -> None:
    for number in range(20_000):
        (source / f"{number:0100}").touch()
    running = command.start("run", "series", "--dry-run", stdout=subprocess.PIPE)
    assert running.process.stdout is not None
    assert running.process.stdout.readline() == b"do " + b"0" * 100 + b"\n"
    running.process.stdout.close()
    running.process.stdout = None
    ended = running.end()
    assert ended.code == 0, ended
    assert "Traceback" not in ended.err
