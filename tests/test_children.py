"""Every kind of bad child, through the real supervisor: the bad file ends with its reason, all others are right."""

import os
import selectors
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from dcmpool import wakeup
from dcmpool.child import Child
from dcmpool.config import load
from dcmpool.errors import LaunchError
from dcmpool.forklink import ForkLink
from dcmpool.model import FailureKind, Outcome
from dcmpool.pool import Pool
from dcmpool.progress import Mode, Progress
from dcmpool.protocol import Launch
from dcmpool.report import Report
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task
from tests.series import check_series, make_series

GOOD = 6
HANGING = {"attempt_seconds": 2.0}
"""Limits where something hangs."""


class Run:
    """A series with bad files among good ones, and a run over it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "series", folder / "native"
        self.record = make_series(self.source, GOOD, size=64)

    def add(self, name: str) -> None:
        """Put a file among the good ones that makes its worker misbehave."""
        shutil.copy(self.source / "CT0001.dcm", self.source / f"{name}.dcm")

    def run(self, module: str = "tests.children", progress: Progress | None = None, **settings: Any) -> Report:
        """Run, with a long limit unless `settings` say otherwise; check that all the good files are right."""
        flags: dict[str, dict[str, Any]] = {
            "work": {"workers": 2},
            "limits": {"attempt_seconds": 60.0},
        }
        for section, table in settings.items():
            flags.setdefault(section, {}).update(table)
        config = load(flags=flags)
        task = Task(os.fsencode(self.source), os.fsencode(self.target))
        report = Supervisor(task, config, progress or Progress(Mode.OFF), worker_module=module).run()
        if module == "tests.children":
            assert check_series(self.record, self.target) == []
        return report


@pytest.fixture
def series(tmp_path: Path) -> Run:
    """A small series of good files."""
    return Run(tmp_path)


FAILING = {
    "segfault": FailureKind.CRASHED,
    "abort": FailureKind.CRASHED,
    "exit_quietly": FailureKind.CRASHED,
    "exit_with_code": FailureKind.CRASHED,
    "half_a_file": FailureKind.CRASHED,
    "grandchild_and_crash": FailureKind.CRASHED,
    "hang_in_c": FailureKind.TIMEOUT,
    "spin_in_c": FailureKind.TIMEOUT,
    "ignore_sigterm": FailureKind.TIMEOUT,
    "stop_itself": FailureKind.TIMEOUT,
    "half_a_frame": FailureKind.TIMEOUT,
    "garbage": FailureKind.PROTOCOL,
    "huge_message": FailureKind.PROTOCOL,
    "wrong_id": FailureKind.PROTOCOL,
    "ready_again": FailureKind.PROTOCOL,
    "wants_everything": FailureKind.PROTOCOL,
    "close_channel": FailureKind.PROTOCOL,
    "lie": FailureKind.WRITE,
    "kill_itself": FailureKind.CRASHED,
    "kill_parent": FailureKind.CRASHED,
}


@pytest.mark.parametrize(("behaviour", "kind"), FAILING.items())
def test_a_bad_child_fails_its_own_file_alone(series: Run, behaviour: str, kind: FailureKind) -> None:
    """The file is listed with what its children did; every other file comes out right."""
    series.add(behaviour)
    report = series.run(limits=HANGING if kind is FailureKind.TIMEOUT else {})
    assert report.exit_code == 1
    (ending,) = report.failed
    assert ending.path == f"{behaviour}.dcm".encode()
    assert {attempt.kind for attempt in ending.attempts} == {kind}, ending
    assert not (series.target / f"{behaviour}.dcm").exists()
    assert report.counts[Outcome.DECOMPRESSED] == GOOD


def test_a_child_that_dies_between_two_files_is_held_against_neither(series: Run) -> None:
    """The first is done, the other was given ahead and not begun: no attempt, no evidence, no retry."""
    shutil.copytree(series.source, series.source / "later")  # folders come after files
    series.add("last_gasp")
    report = series.run(work={"workers": 1})
    assert (report.exit_code, report.counts[Outcome.DECOMPRESSED], report.retries) == (0, 2 * GOOD + 1, 0)
    assert not (series.target / ".dcmpool" / "evidence").exists()


class Curious(Progress):
    """Wants to see the run after each event."""

    def is_due(self, now: float) -> bool:
        """Return that it wants to, always."""
        return True


def test_a_run_can_be_looked_at_at_any_moment(series: Run) -> None:
    """Also between a child's death and the end of all that is known of it."""
    bad = ("segfault", "garbage", "hang_in_c", "eat_memory", "kill_itself")
    for behaviour in bad:
        series.add(behaviour)
    report = series.run(progress=Curious(Mode.OFF), limits={**HANGING, "memory_mib": 1024})
    assert {ending.path.decode().removesuffix(".dcm") for ending in report.failed} == set(bad)


@pytest.mark.parametrize("behaviour", ["flood", "grandchild"])
def test_what_does_no_harm_is_done(series: Run, behaviour: str) -> None:
    """Output that nobody reads stops nobody, and a grandchild that left its session does not outlive the run."""
    series.add(behaviour)
    report = series.run()
    assert report.exit_code == 0
    assert report.counts[Outcome.DECOMPRESSED] == GOOD + 1


def test_memory_is_limited_per_worker(series: Run) -> None:
    """An engine that takes all the memory it can fails its own file, with that reason."""
    series.add("eat_memory")
    report = series.run(limits={"memory_mib": 1024, "attempt_seconds": 20.0})
    (ending,) = report.failed
    assert {attempt.kind for attempt in ending.attempts} == {FailureKind.MEMORY}


def test_all_bad_children_in_one_run(series: Run) -> None:
    """All of them at once, and the good files still come out right."""
    for behaviour in FAILING:
        series.add(behaviour)
    report = series.run(limits=HANGING)
    assert {ending.path.decode().removesuffix(".dcm") for ending in report.failed} == set(FAILING)
    assert report.counts[Outcome.DECOMPRESSED] == GOOD


def test_a_slow_writer_keeps_nobody_else_from_writing(series: Run) -> None:
    """While one child sits in its fsync, the others go on; it is not killed while its limit lasts."""
    series.add("slow_write")
    os.mkfifo(series.source / "released")
    last = series.target / "CT0006.dcm"

    def release() -> None:
        while not last.exists():
            pass
        (series.source / "released").write_bytes(b"")

    thread = threading.Thread(target=release)
    thread.start()
    report = series.run(limits={"attempt_seconds": 60.0})
    thread.join()
    assert report.exit_code == 0
    assert report.counts[Outcome.DECOMPRESSED] == GOOD + 1


def test_children_that_never_say_they_are_ready(series: Run) -> None:
    """Three in a row end the run with exit code 70; nothing hangs."""
    report = series.run(module="tests.silent_child", limits={"start_seconds": 0.5})
    assert report.exit_code == LaunchError.exit_code
    assert "workers cannot start" in report.stopped


def test_a_fork_server_that_cannot_start(series: Run) -> None:
    """A module that does not exist stands for any broken installation: exit code 70, with the reason."""
    report = series.run(module="tests.no_such_module")
    assert report.exit_code == LaunchError.exit_code
    assert "no_such_module" in report.stopped


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_engine_confirms_every_result(series: Run, workers: int) -> None:
    """With `--verify second` each result is judged by another engine in another child, even if there is but one."""
    report = series.run(work={"verify": "second", "workers": workers})
    assert report.exit_code == 0
    assert (report.confirmed, report.counts[Outcome.DECOMPRESSED]) == (GOOD, GOOD)
    assert report.notes == []


def test_a_wrong_picture_that_an_engine_swears_to_is_found_by_the_second(series: Run) -> None:
    """Nothing but a second opinion can see it; then it is a failure, and no file of that name appears."""
    series.add("wrong_picture")
    report = series.run(work={"verify": "second"})
    (ending,) = report.failed
    assert (ending.path, ending.kind) == (b"wrong_picture.dcm", FailureKind.VERIFY)
    assert not (series.target / "wrong_picture.dcm").exists()
    assert report.confirmed == GOOD


def test_a_second_opinion_that_cannot_be_had_is_no_confirmation(series: Run) -> None:
    """Its children die, each other engine is asked, and in the end the result is not called done."""
    series.add("crash_at_check")
    report = series.run(work={"verify": "second"})
    (ending,) = report.failed
    assert (ending.path, ending.kind) == (b"crash_at_check.dcm", FailureKind.VERIFY)
    assert FailureKind.CRASHED in {attempt.kind for attempt in ending.attempts}
    assert not (series.target / "crash_at_check.dcm").exists()


@pytest.mark.parametrize(("share", "confirmed"), [("sample=0%", 0), ("sample=100%", GOOD)])
def test_a_sample_is_confirmed(series: Run, share: str, confirmed: int) -> None:
    """The share says how many results get a second opinion."""
    report = series.run(work={"verify": share})
    assert report.exit_code == 0
    assert report.confirmed == confirmed


def test_a_dead_fork_server_that_is_not_replaced_is_asked_for_nothing() -> None:
    """It died in the wait that had a child launched and the run ended: the run ends well, as without that child."""
    config = load(flags={})
    pool = Pool(config, "run", in_place=False)
    pool.drain()
    notices: list[Any] = []
    with selectors.DefaultSelector() as selector:
        maker = ForkLink(
            selector, pool, "tests.children", nice=0,
            launched=lambda *_: None, exited=lambda _: None, happened=notices.append,
        )  # fmt: skip
        maker.start()
        server = maker.present
        maker.kill()
        while not server.is_closed:
            wakeup.heed(selector, selector.select(30))
        child = Child(server, 0)
        maker.ask(Launch(1, 0, b"", ()), child)
        assert not maker.is_behind
        maker.forget(child)
        child.close()
    assert notices == []
