"""Signals and sudden deaths: no child survives, no file is harmed, and a second run ends as an undisturbed one."""

import os
import random
import shutil
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.command import (
    SLOWLY,
    TOP,
    Command,
    Record,
    Running,
    all_dead,
    long_series,
    of_process,
    own_command,
    tree,
    until,
)
from tests.series import check_series

command = pytest.fixture(own_command)

KILLS = int(os.environ.get("DCMPOOL_KILLS", "5"))
"""How often the supervisor is killed at a random moment; 20 in issue 3, fewer in the daily suite."""

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def record(command: Command) -> Record:
    """A series in `series`."""
    return long_series(command.path / "series")


@pytest.fixture
def running(command: Command, record: Record) -> Running:
    """A run from `series` to `native` whose first result is there."""
    return first_result(command, "--workers", "1")


def first_result(command: Command, *options: str) -> Running:
    """Start a run that takes a while and wait for the first result."""
    running = command.start("run", "series", "-o", "native", "--json", *SLOWLY, *options, process_group=0)
    running.wait_for(lambda: any((command.path / "native").glob("*.dcm")))
    return running


def results(command: Command) -> set[str]:
    return {path.name for path in (command.path / "native").glob("*.dcm")}


def assert_all_whole(command: Command, record: Record) -> None:
    """Every file with a final name has the pixels before compression."""
    assert check_series({name: record[name] for name in results(command)}, command.path / "native") == []


def assert_a_second_run_completes(command: Command, record: Record) -> None:
    there = results(command)
    again = command.run("run", "series", "-o", "native", "--json")
    assert again.code == 0, again
    assert check_series(record, command.path / "native") == []
    counts = again.summary["counts"]
    assert counts["settled"] + counts["decompressed"] == len(record)
    assert counts["settled"] <= len(there)


# Interrupted


@pytest.mark.parametrize("number", ENDING)
def test_once_ends_cleanly_and_can_be_resumed(
    command: Command, record: Record, running: Running, number: signal.Signals
) -> None:
    before = results(command)
    children = running.children()
    running.send(number)
    ended = running.end()
    assert ended.code == 130, ended
    assert ended.summary["exit_code"] == 130
    assert "Traceback" not in ended.err
    assert all_dead(children) == []
    assert before <= results(command) < record.keys()
    assert_all_whole(command, record)
    there = len(results(command))
    again = command.run("run", "series", "-o", "native", "--json")
    assert again.code == 0, again
    assert again.summary["counts"]["settled"] == there
    assert check_series(record, command.path / "native") == []


def test_ctrl_c_reaches_the_whole_process_group_and_files_under_way_still_end(
    command: Command, record: Record, running: Running
) -> None:
    os.killpg(running.process.pid, signal.SIGINT)
    ended = running.end()
    assert ended.code == 130, ended
    assert ended.summary["failed"] == []
    assert ended.summary["kills"] == 0
    assert_a_second_run_completes(command, record)


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGHUP")])
def test_twice_kills_at_once(command: Command, record: Record, first: str, second: str) -> None:
    """A worker that stands still, as in a decoder that hangs, holds the run up to its limit, but no second signal."""
    running = first_result(command, "--workers", "1", "--limit", "100000")
    (worker,) = running.wait_for(running.workers)
    os.kill(worker, signal.SIGSTOP)
    children = running.children()
    running.send(signal.Signals[first])
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(1)
    running.send(signal.Signals[second])
    ended = running.end()
    assert ended.code == 130, ended
    assert "Traceback" not in ended.err
    assert all_dead(children) == []
    assert_all_whole(command, record)
    assert_a_second_run_completes(command, record)


def test_quiet_says_why_it_ended_early(command: Command, record: Record) -> None:
    run = command.start("run", "series", "-o", "native", "--quiet", *SLOWLY)
    run.wait_for(run.workers)
    run.send(signal.SIGINT)
    ended = run.end()
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.endswith("dcmpool: interrupted (exit code 130)\n")


def test_once_waits_for_a_hanging_file_no_longer_than_its_limit(command: Command, record: Record) -> None:
    running = first_result(command, "--workers", "1", "--limit", "2")
    (worker,) = running.wait_for(running.workers)
    os.kill(worker, signal.SIGSTOP)
    running.send(signal.SIGINT)
    assert running.end().code == 130
    assert_a_second_run_completes(command, record)


@pytest.mark.parametrize("milliseconds", [50, 300])
def test_interrupted_while_it_starts(command: Command, record: Record, milliseconds: int) -> None:
    running = command.start("run", "series", "-o", "native", "--workers", "1", *SLOWLY)
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(milliseconds / 1000)
    running.send(signal.SIGTERM)
    ended = running.end()
    assert ended.code in (130, -signal.SIGTERM), ended
    assert "Traceback" not in ended.err
    assert until(lambda: not running.processes())
    assert_a_second_run_completes(command, record)


def test_many_signals_are_as_two(command: Command, record: Record, running: Running) -> None:
    for number in ENDING * 5:
        running.send(number)
    ended = running.end()
    assert ended.code in (130, *(-number for number in ENDING)), ended
    assert "Traceback" not in ended.err
    assert_a_second_run_completes(command, record)


# Stopped and continued


def test_ctrl_z_and_fg(command: Command, record: Record) -> None:
    """Longer than the limit of one attempt; no attempt may be lost to it."""
    running = first_result(command, "--workers", "1", "--limit", "5")
    os.killpg(running.process.pid, signal.SIGTSTP)
    until(lambda: of_process(running.process.pid, "stat").rpartition(b") ")[2].startswith(b"T"))
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(7)
    os.killpg(running.process.pid, signal.SIGCONT)
    ended = running.end()
    assert ended.code == 0, ended
    assert (ended.summary["kills"], ended.summary["retries"], ended.summary["failed"]) == (0, 0, [])
    assert check_series(record, command.path / "native") == []


def test_a_worker_that_stands_still_costs_its_limit_and_no_file(command: Command, record: Record) -> None:
    running = first_result(command, "--workers", "2", "--limit", "2")
    os.kill(running.wait_for(running.workers)[0], signal.SIGSTOP)
    ended = running.end()
    assert ended.code == 0, ended
    assert ended.summary["kills"] == 1
    assert check_series(record, command.path / "native") == []


def test_a_clerk_that_stands_still_for_a_while_costs_no_file(command: Command, record: Record) -> None:
    (command.path / "my.toml").write_text("[storage]\nstall_seconds = 1.0\ngive_up_seconds = 60.0\n")
    running = first_result(command, "--workers", "1", "--config", "my.toml")
    (clerk,) = running.processes("dcmpool.clerk")
    os.kill(clerk, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(4)
    os.kill(clerk, signal.SIGCONT)
    ended = running.end()
    assert ended.code == 0, ended
    assert ended.summary["failed"] == []
    assert check_series(record, command.path / "native") == []


# Killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    """A series, and the tree that an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tmp").mkdir()
    long_series(folder / "series")
    command = Command(folder, f"undisturbed-{os.getpid()}", folder / "tmp")
    assert command.run("run", "series", "-o", "native").code == 0
    return folder / "series", tree(folder / "native")


@pytest.mark.parametrize("turn", range(KILLS))
def test_the_supervisor_killed_at_a_random_moment(
    command: Command, undisturbed: tuple[Path, dict[bytes, bytes]], turn: int
) -> None:
    source, wanted = undisturbed
    moment = random.uniform(0.05, 1.4)
    running = command.start("run", source, "-o", "native", "--workers", str(turn % 2 + 1))
    ended_before = kill_after(running, moment)
    assert until(lambda: not running.processes()), f"killed after {moment} s"
    there = tree(command.path / "native")
    assert {name for name in there if there[name] != wanted[name]} == set(), f"killed after {moment} s"
    again = command.run("run", source, "-o", "native", "--json")
    assert again.code == 0, (moment, again)
    assert tree(command.path / "native") == wanted, f"killed after {moment} s"
    assert again.summary["counts"]["settled"] >= len(there) - 64 or ended_before


@pytest.mark.parametrize("turn", range(max(2, KILLS // 3)))
def test_the_supervisor_killed_at_a_random_moment_in_place(
    command: Command, undisturbed: tuple[Path, dict[bytes, bytes]], turn: int
) -> None:
    """In place the sources are the only copies: each is whole at any time, old or new."""
    source, wanted = undisturbed
    shutil.copytree(source, command.path / "series")
    old = tree(source)
    moment = random.uniform(0.3, 1.4)
    running = command.start("run", "series", "--in-place", "--workers", str(turn % 2 + 1))
    kill_after(running, moment)
    assert until(lambda: not running.processes()), f"killed after {moment} s"
    there = tree(command.path / "series")
    assert there.keys() == old.keys()
    assert {name for name in there if there[name] not in (old[name], wanted[name])} == set(), f"after {moment} s"
    assert command.run("run", "series", "--in-place").code == 0, f"killed after {moment} s"
    assert tree(command.path / "series") == wanted, f"killed after {moment} s"


def kill_after(running: Running, seconds: float) -> bool:
    """SIGKILL the supervisor after `seconds`; returns whether the run had ended before."""
    try:
        running.process.wait(seconds)
        ended = True
    except subprocess.TimeoutExpired:
        ended = False
    running.process.kill()
    running.process.wait()
    for stream in (running.process.stdout, running.process.stderr):
        assert stream is not None
        stream.close()
    return ended


def test_the_supervisor_killed_while_a_worker_hangs(command: Command, record: Record, running: Running) -> None:
    (worker,) = running.wait_for(running.workers)
    os.kill(worker, signal.SIGSTOP)
    kill_after(running, 0.05)
    assert until(lambda: not running.processes())
    assert_a_second_run_completes(command, record)


@pytest.mark.parametrize("engine", ["gdcm", "gdcmconv"])
def test_the_supervisor_killed_while_an_engine_works(command: Command, record: Record, engine: str) -> None:
    """gdcmconv is a grandchild."""
    running = first_result(command, "--workers", "1", "--engine", engine)
    if engine == "gdcmconv":
        running.wait_for(lambda: running.processes("gdcmconv"))
    kill_after(running, 0)
    assert until(lambda: not running.processes())
    assert_a_second_run_completes(command, record)


@pytest.mark.parametrize("who", ["fork server", "clerk", "worker", "fork server and worker", "gdcmconv"])
def test_a_child_killed_changes_nothing(
    command: Command, undisturbed: tuple[Path, dict[bytes, bytes]], who: str
) -> None:
    source, wanted = undisturbed
    shutil.copytree(source, command.path / "series")
    options = ["--engine", "gdcmconv"] if who == "gdcmconv" else []
    running = first_result(command, "--workers", "1", *options)
    victims = []
    if "fork server" in who:
        victims += running.wait_for(running.fork_server)
    if "worker" in who:
        victims += running.wait_for(running.workers)
    if who == "clerk":
        victims += running.wait_for(lambda: running.processes("dcmpool.clerk"))
    if who == "gdcmconv":
        victims += running.wait_for(lambda: running.processes("_gdcm/gdcmconv"))[:1]
    for victim in victims:
        with suppress(ProcessLookupError):  # a worker dies with its fork server
            os.kill(victim, signal.SIGKILL)
    assert all_dead(victims) == []
    ended = running.end()
    assert ended.code == 0, ended
    assert ended.summary["failed"] == []
    assert ended.summary["counts"]["decompressed"] + ended.summary["counts"]["settled"] == len(wanted)
    assert tree(command.path / "native") == wanted


@pytest.mark.parametrize("clerks", [1, 99])
def test_a_clerk_that_talks_nonsense_is_replaced_but_not_for_ever(
    command: Command, record: Record, tmp_path: Path, clerks: int
) -> None:
    """One that does is as one that died; when all do, the run ends with one line."""
    count = tmp_path / "count"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'dcmpool.clerk' in sys.orig_argv:\n"
        "    from dcmpool import clerk\n"
        "    def send(self, message, right=clerk.Clerk._send):\n"
        f"        with open({os.fspath(count)!r}, 'a+') as file:\n"
        "            lines = file.seek(0, 2)\n"
        f"            nonsense = type(message).__name__ == 'Scanned' and lines < {clerks}\n"
        "            file.write('x' * nonsense)\n"
        "        if nonsense:\n"
        "            self._channel.sendall(bytes([0, 0, 0, 4]) * 9)\n"
        "        else:\n"
        "            right(self, message)\n"
        "    clerk.Clerk._send = send\n"
    )
    path = os.pathsep.join((os.fspath(tmp_path), os.fspath(TOP)))
    ended = command.run("run", "series", "-o", "native", environment={"PYTHONPATH": path})
    assert "Traceback" not in ended.err
    if clerks == 1:
        assert ended.code == 0, ended
        assert check_series(record, command.path / "native") == []
    else:
        assert ended.code == 70, ended
        assert "the clerk dies again and again" in ended.out + ended.err
        assert len(count.read_text()) < clerks  # each says it a few times before it is killed
        assert_a_second_run_completes(command, record)


def test_ctrl_c_while_modules_are_loaded_is_no_accident(command: Command, record: Record, tmp_path: Path) -> None:
    """The first half second of a run: it ends at once, and says nothing."""
    (tmp_path / "typer.py").write_text("import sys, time\nprint(flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join((os.fspath(tmp_path), os.fspath(TOP)))
    running = command.start("run", "series", "-o", "native", environment={"PYTHONPATH": path})
    assert running.process.stdout is not None
    assert running.process.stdout.read(1) == b"\n"
    running.send(signal.SIGINT)
    ended = running.end()
    assert (ended.code, ended.lines()) == (130, [])


def test_the_clerk_killed_twice_while_it_commits_changes_nothing(
    command: Command, undisturbed: tuple[Path, dict[bytes, bytes]]
) -> None:
    """Each time right after a result got its final name, when the journal may not know of it yet."""
    source, wanted = undisturbed
    running = command.start("run", source, "-o", "native", "--json", *SLOWLY, process_group=0)
    for results_before in (0, 15):

        def more(enough: int = results_before) -> bool:
            return len(results(command)) > enough

        running.wait_for(more)
        for clerk in running.processes("dcmpool.clerk"):
            os.kill(clerk, signal.SIGKILL)
    ended = running.end()
    assert ended.code == 0, ended
    assert ended.summary["failed"] == []
    assert sum(ended.summary["counts"].values()) == len(wanted)
    assert tree(command.path / "native") == wanted


@pytest.mark.parametrize("who", ["fork server", "clerk"])
def test_a_child_killed_before_the_first_result_changes_nothing(command: Command, record: Record, who: str) -> None:
    running = command.start("run", "series", "-o", "native", "--json", "--workers", "1")
    find = running.fork_server if who == "fork server" else lambda: running.processes("dcmpool.clerk")
    victims = running.wait_for(find)
    os.kill(victims[0], signal.SIGKILL)
    ended = running.end()
    assert ended.code == 0, ended
    assert ended.summary["failed"] == []
    assert check_series(record, command.path / "native") == []


@pytest.mark.parametrize("who", ["forkserver", "clerk"])
def test_a_helper_that_cannot_be_started_again_ends_the_run_in_order(
    command: Command, record: Record, tmp_path: Path, who: str
) -> None:
    """With its report; nothing that is done is lost."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'run' in sys.orig_argv:\n"
        "    from dcmpool import helper\n"
        "    taken = set()\n"
        "    def take(command, right=helper.take, **named):\n"
        "        if command in taken and command[0] == 'dcmpool." + who + "':\n"
        "            raise OSError(11, 'Resource temporarily unavailable')\n"
        "        taken.add(command)\n"
        "        return right(command, **named)\n"
        "    helper.take = take\n"
    )
    path = os.pathsep.join((os.fspath(tmp_path), os.fspath(TOP)))
    running = command.start("run", "series", "-o", "native", "--json", *SLOWLY, environment={"PYTHONPATH": path})
    running.wait_for(lambda: len(results(command)) > 2)
    find = running.fork_server if who == "forkserver" else lambda: running.processes("dcmpool.clerk")
    os.kill(running.wait_for(find)[0], signal.SIGKILL)
    ended = running.end()
    assert ended.code == 70, ended
    assert "cannot be started again: Resource temporarily unavailable" in ended.summary["stopped"]
    assert command.run("run", "series", "-o", "native", "--json").code == 0
    assert check_series(record, command.path / "native") == []


def test_workers_killed_again_and_again_cost_no_file(command: Command, record: Record) -> None:
    """Each worker dies after it gave some results, so that no file meets two deaths."""
    running = first_result(command, "--workers", "2")

    def more_than(enough: int) -> bool:
        return len(results(command)) > enough or running.process.poll() is not None

    killed = 0
    while killed < 5 and running.process.poll() is None:
        for worker in running.workers()[:1]:
            os.kill(worker, signal.SIGKILL)
            killed += 1
        until(partial(more_than, len(results(command)) + 3))
    ended = running.end()
    assert killed >= 2
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []


# Two at a time


def test_a_second_run_on_the_target_is_turned_away(command: Command, record: Record, running: Running) -> None:
    """The only worker of the first stands still meanwhile, so that the first cannot be over too early."""
    (worker,) = running.wait_for(running.workers)
    os.kill(worker, signal.SIGSTOP)
    second = command.run("run", "series", "-o", "native")
    os.kill(worker, signal.SIGCONT)
    ended = running.end()
    assert second.code == 3, second
    assert len(second.lines()) == 1, second
    assert ended.code == 0, ended
    assert ended.summary["counts"]["decompressed"] == len(record)
    assert check_series(record, command.path / "native") == []


def test_of_many_started_together_one_works(command: Command, record: Record) -> None:
    """The one that does is slow, and so does not end before all have come."""
    options = ("-o", "native", "--workers", "1", "--bandwidth", "40K")
    runs = [command.start("run", "series", *options) for _ in range(4)]
    until(lambda: sum(running.process.poll() is not None for running in runs) == 3)
    for running in runs:
        if running.process.poll() is None:
            running.send(signal.SIGTERM)
    assert sorted(running.end().code for running in runs) == [3, 3, 3, 130]
    assert command.run("run", "series", "-o", "native").code == 0
    assert check_series(record, command.path / "native") == []


def test_the_lock_dies_with_its_run(command: Command, record: Record, running: Running) -> None:
    """Right after SIGKILL, without waiting for the orphans: the second run starts, it is not turned away for ever."""
    kill_after(running, 0)
    again = command.run("run", "series", "-o", "native", "--json")
    if again.code == 3:  # the last child of the first was still dying
        until(lambda: not running.processes())
        again = command.run("run", "series", "-o", "native", "--json")
    assert again.code == 0, again
    assert check_series(record, command.path / "native") == []


def test_a_target_in_use_may_have_any_name(command: Command, record: Record) -> None:
    name = os.fsdecode(b"not-utf8-\xff")
    first = command.start("run", "series", "-o", name, *SLOWLY)
    first.wait_for(first.workers)
    first.send(signal.SIGSTOP)  # it holds TARGET, and does not come to its end
    ended = command.run("run", "series", "-o", name)
    first.send(signal.SIGCONT)
    assert ended.code == 3, ended
    assert len(ended.lines()) == 1
    assert first.end().code == 0
