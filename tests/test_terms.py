"""The user's own terms: how many files may fail, how long a run may take, at what hours; and the bytes a second."""

import os
import time as clock
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmpool.bucket import Bucket
from dcmpool.config import Schedule, load
from dcmpool.model import FailureKind, Outcome
from dcmpool.progress import Mode, Progress
from dcmpool.protocol import Ending, Scanned
from dcmpool.report import Tally
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task
from dcmpool.terms import Hours, Terms
from tests.command import Command, Ended, Record, long_series, own_command, tree, until
from tests.series import check_series, make_series

command = pytest.fixture(own_command)

NOON = datetime(2026, 11, 25, 12, 0, 0)


# The rules


@given(begin=st.integers(0, 1439), end=st.integers(0, 1439), at=st.integers(0, 86399))
def test_hours_are_what_a_clock_shows(begin: int, end: int, at: int) -> None:
    """Against a walk around the dial, second by second for the change, over midnight or not."""
    if begin == end:
        return
    hours = Hours(f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}")
    moment = NOON.replace(hour=0) + timedelta(seconds=at)
    inside = (at // 60 - begin) % 1440 < (end - begin) % 1440
    assert hours.hold(moment) is inside
    seconds = hours.seconds_to_change(moment)
    assert 0 < seconds <= 86400
    change = moment + timedelta(seconds=seconds)
    assert hours.hold(change) is not inside
    assert hours.hold(change - timedelta(seconds=1)) is inside or seconds < 1


def tally(failed: int, good: int, earlier: int = 0, settled: int = 0) -> Tally:
    """Return the tally of a run."""
    found = Tally(lambda _: None)
    found.walked(Scanned(0, 0, settled, complete=False))
    for number in range(failed + earlier + good):
        bad = number < failed + earlier
        outcome, kind = (Outcome.FAILED, FailureKind.CORRUPT) if bad else (Outcome.COPIED, None)
        ending = Ending(number, b"%d" % number, 1, 1, outcome, "", kind, "", ())
        found.ending(ending, earlier=number < earlier)
    return found


@pytest.mark.parametrize(
    ("most", "found", "is_breach"),
    [
        ("", tally(1000, 0), False),
        ("0", tally(0, 10), False),
        ("0", tally(1, 10), True),
        ("5", tally(5, 10), False),
        ("5", tally(6, 1000), True),
        ("5", tally(5, 10, earlier=50), False),  # failures of other runs are not held against this one
        ("5%", tally(99, 0), False),  # too few to tell
        ("5%", tally(5, 95), False),
        ("5%", tally(6, 94), True),
        ("0.5%", tally(1, 199), False),
        ("0.5%", tally(1, 198), True),
        ("5%", tally(6, 93, settled=500), False),  # nor are those that were done before counted for it
        ("5%", tally(6, 94, earlier=500), True),
    ],
)
def test_how_many_may_fail(most: str, found: Tally, is_breach: bool) -> None:
    assert bool(Terms(Schedule(max_failures=most)).breach(found)) is is_breach


@given(
    rate=st.integers(1, 1000),
    writes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 40)), min_size=1, max_size=60),
)
def test_what_is_written_keeps_to_the_rate(rate: int, writes: list[tuple[int, int]]) -> None:
    """In every span: at most the rate, a second's worth, and one write; and who waits waits no longer than he must."""
    bucket, now, begun = Bucket(rate), 0.0, []
    for size, pause in writes:
        now += pause / 8
        if not bucket.is_open(now):
            assert bucket.free_at > now
            now = bucket.free_at
            assert bucket.is_open(now)
        bucket.take(size, now)
        begun.append((now, size))
    for first in range(len(begun)):
        total = 0
        for last in range(first, len(begun)):
            span = begun[last][0] - begun[first][0]
            assert total <= rate * (span + 1) * 1.000001
            total += begun[last][1]


# Through the command line


@pytest.fixture
def record(command: Command) -> Record:
    """Forty slices of 512 x 512: 20 MiB of native Pixel Data."""
    return long_series(command.path / "series")


def run(command: Command, *options: str, workers: str = "2") -> Ended:
    return command.run("run", "series", "-o", "native", "--json", "--workers", workers, *options)


def broken(command: Command, count: int) -> None:
    """Put damaged files before all others."""
    content = (command.path / "series" / "CT0001.dcm").read_bytes()[:-900]
    for number in range(count):
        (command.path / "series" / f"0{number:03}.dcm").write_bytes(content)


def test_too_many_failures_stop_the_run(command: Command, record: Record) -> None:
    """And it can be resumed: those that have failed are not held against the next run."""
    broken(command, 9)
    ended = run(command, "--max-failures", "2", workers="1")
    assert ended.code == 75
    assert "failed, --max-failures 2 is passed" in ended.summary["stopped"]
    assert 3 <= len(ended.failed) < 9
    again = run(command, "--max-failures", "8")
    assert (again.code, len(again.failed)) == (1, 9)
    assert check_series(record, command.path / "native") == []


def test_a_share_of_failures_stops_the_run_once_it_means_something(command: Command) -> None:
    record = make_series(command.path / "series", 3, 64)
    broken(command, 10)
    for number in range(150):
        (command.path / "series" / f"n{number:03}.txt").write_text("no DICOM")
    # Of good files those count whose result is committed: no more than a few may wait for that.
    (command.path / "own.toml").write_text("[work]\nscan_ahead = 8\n")
    ended = run(command, "--max-failures", "5%", "--config", "own.toml", workers="1")
    assert ended.code == 75
    assert "of 1" in ended.summary["stopped"]
    assert "--max-failures 5% is passed" in ended.summary["stopped"]
    assert 100 <= sum(ended.summary["counts"].values()) < 163
    again = run(command, "--max-failures", "12%")
    assert (again.code, len(again.failed)) == (1, 10)
    assert check_series(record, command.path / "native") == []


def test_a_run_that_has_had_its_time_ends_and_can_be_resumed(command: Command, record: Record) -> None:
    ended = run(command, "--max-duration", "2s", "--bandwidth", "2M")
    assert ended.code == 130
    assert ended.summary["stopped"] == "--max-duration is over: 2.0 s"
    assert ended.summary["seconds"] >= 2
    assert ended.summary["counts"]["decompressed"] < len(record)
    again = run(command, "--max-duration", "8h")
    assert again.code == 0
    assert check_series(record, command.path / "native") == []


def test_what_is_written_a_second_is_limited(command: Command, record: Record) -> None:
    """20 MiB at 8 MiB a second: but for the first second's worth, and the last two files that may be under way."""
    ended = run(command, "--bandwidth", "8M")
    assert ended.code == 0
    assert ended.summary["seconds"] >= (20 - 1) / 8 - 1
    assert check_series(record, command.path / "native") == []


def hours(begin: timedelta, end: timedelta) -> str:
    """Return a window, relative to now."""
    now = datetime.now()
    return f"{now + begin:%H:%M}-{now + end:%H:%M}"


def test_outside_of_the_window_nothing_is_begun(command: Command, record: Record) -> None:
    running = command.start(
        "run", "series", "-o", "native", "--window", hours(timedelta(hours=2), timedelta(hours=4)), "--events", "events"
    )
    said = command.path / "events"
    until(lambda: said.exists() and '"state": "closed"' in said.read_text())
    assert tree(command.path / "native") == {}
    assert '"workers": []' in said.read_text()
    ended = command.run("control", "native", "resume")
    assert "outside of the window" in ended.out
    assert command.run("control", "native", "drain").code == 0
    ended = running.end()
    assert ended.code == 130
    assert tree(command.path / "native") == {}
    assert "no file is begun until" in ended.err


def test_inside_of_the_window_all_is_done(command: Command, record: Record) -> None:
    assert run(command, "--window", hours(timedelta(hours=-2), timedelta(hours=2))).code == 0
    assert check_series(record, command.path / "native") == []


def test_the_run_begins_when_the_window_does(tmp_path: Path) -> None:
    """A clock on the wall that shows one second before."""
    record = make_series(tmp_path / "series", 3, 64)
    begun = clock.monotonic()

    def wall() -> datetime:
        return NOON.replace(hour=19, minute=59, second=59) + timedelta(seconds=clock.monotonic() - begun)

    config = load(flags={"work": {"workers": 1}, "schedule": {"window": "20:00-06:00"}})
    task = Task(os.fsencode(tmp_path / "series"), os.fsencode(tmp_path / "native"))
    report = Supervisor(task, config, Progress(Mode.OFF), wall=wall).run()
    assert report.exit_code == 0
    assert report.seconds >= 0.9
    assert check_series(record, tmp_path / "native") == []


def test_workers_and_clerk_let_others_go_first(command: Command, record: Record) -> None:
    running = command.start("run", "series", "-o", "native", "--nice", "7", "--bandwidth", "1M")
    (worker, *_) = running.wait_for(running.workers)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for pid in (worker, *running.processes("dcmpool.clerk")):
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + 7)
    assert os.getpriority(os.PRIO_PROCESS, running.process.pid) == own
    command.run("control", "native", "drain")
    running.end()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-failures", "many"], "'many' is neither a number nor a share such as 5%"),
        (["--max-failures", "100%"], "is neither a number nor a share"),
        (["--max-duration", "8x"], "'8x' is not a time such as 8h or 90m"),
        (["--max-duration", "0"], "is not a time that a run can take"),
        (["--window", "20-06"], "'20-06' is no part of a day such as 20:00-06:00"),
        (["--window", "20:00-20:00"], "is no part of a day"),
        (["--window", "20:00-24:00"], "is no part of a day"),
        (["--nice", "20"], "work.nice"),
        (["--bandwidth", "fast"], "'fast' is not a size such as 512M or 2G"),
        (["--bandwidth", "10"], "at least 1K is needed"),
        (["--workers", "0"], "'0' is not a number of 1 or more"),
    ],
)
def test_terms_that_make_no_sense(command: Command, options: list[str], says: str) -> None:
    (command.path / "series").mkdir()
    ended = run(command, *options)
    assert ended.code == 2
    (line,) = ended.lines()
    assert says in line
    assert not (command.path / "native").exists()


def test_terms_may_stand_in_a_file(command: Command, record: Record) -> None:
    (command.path / "night.toml").write_text(
        '[schedule]\nmax_failures = "3"\nmax_duration_seconds = 28800.0\nwindow = ""\n'
        "[work]\nnice = 3\n[gate]\nbytes_per_second = 100000000\n"
    )
    ended = run(command, "--config", "night.toml", "--events", "events")
    assert ended.code == 0
    assert '"bytes_per_second": 100000000' in (command.path / "events").read_text()
