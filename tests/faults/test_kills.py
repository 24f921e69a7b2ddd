"""Processes that are stopped or killed, at any moment: nothing is lost, nothing half written, the run ends."""

import functools
import random
import signal
import time
from typing import Any

import psutil
import pytest

from tests.faults.conftest import Run, is_gone, wait_for


def part(run: Run, name: str) -> list[psutil.Process]:
    """Return the processes of a part: "clerk", "forkserver" or "worker"."""
    supervisor = run.process
    helpers = supervisor.children()
    clerks = [process for process in helpers if "dcmpool.clerk" in process.cmdline()]
    servers = [process for process in helpers if "dcmpool.forkserver" in process.cmdline()]
    if name == "clerk":
        return clerks
    return servers if name == "forkserver" else [worker for server in servers for worker in server.children()]


def pick(run: Run, name: str, dice: random.Random) -> psutil.Process | None:
    """Return one process of a part, if there is one just now."""
    try:
        found = part(run, name)
    except psutil.Error:
        return None
    return dice.choice(found) if found else None


@pytest.mark.faults
@pytest.mark.parametrize("name", ["clerk", "forkserver", "worker"])
def test_stopped_for_a_while(run: Run, name: str) -> None:
    """SIGSTOP for longer than any limit: the run ends whether or not the process goes on."""
    run.start(limits={"attempt_seconds": 1.0, "start_seconds": 3.0})
    (victim, *_) = wait_for(lambda: part(run, name), name)
    victim.suspend()
    time.sleep(4)
    if not is_gone(victim.pid):
        victim.resume()
    assert run.wait() == 0, run.errors
    run.check()


@pytest.mark.faults
@pytest.mark.parametrize("name", ["forkserver", "worker"])
def test_stopped_for_ever(run: Run, name: str) -> None:
    """A process that stands still for good is killed and replaced."""
    run.start(limits={"attempt_seconds": 1.0, "start_seconds": 2.0})
    (victim, *_) = wait_for(lambda: part(run, name), name)
    victim.suspend()
    assert run.wait() == 0, run.errors
    run.check()
    wait_for(lambda: is_gone(victim.pid), "the end of what was stopped")


@pytest.mark.faults
def test_a_clerk_that_is_stopped_for_ever(run: Run) -> None:
    """It looks like storage that never answers: the run gives up, and can be resumed."""
    run.start(storage={"give_up_seconds": 3.0})
    (victim,) = wait_for(lambda: part(run, "clerk"), "the clerk")
    victim.suspend()
    assert run.wait(20) == 75, run.errors
    wait_for(lambda: is_gone(victim.pid), "the end of what was stopped")
    run.finish()


@pytest.mark.parametrize("name", ["clerk", "forkserver", "worker"])
def test_killed_once(run: Run, name: str) -> None:
    """SIGKILL of any one process in the middle: all files come out right, in this very run."""
    run.start(gate={"bytes_per_second": 200_000})  # for three seconds
    wait_for(lambda: list(run.real_target.glob("*.dcm")), "the first result")
    (victim, *_) = wait_for(lambda: part(run, name), name)
    victim.kill()
    assert run.wait() == 0, run.errors
    run.check()


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random(run: Run, seed: int) -> None:
    """SIGKILL of anything but the supervisor, three times at random moments; the next run makes all good."""
    dice = random.Random(seed)
    run.start()
    wait_for(lambda: run.is_over or part(run, "worker"), "workers")
    for _ in range(3):
        time.sleep(dice.uniform(0, 0.15))
        name = dice.choice(["clerk", "forkserver", "worker", "worker"])
        if not run.is_over and (victim := pick(run, name, dice)):
            victim.kill()
    assert run.wait() in {0, 1, 70, 75}, run.errors
    assert "Traceback" not in run.errors
    run.check_whole()
    run.finish()


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(12))
def test_the_supervisor_killed_at_random(run: Run, seed: int) -> None:
    """Nobody outlives it, each final name is a whole result, and the next run finishes."""
    dice = random.Random(seed)
    for _ in range(4):
        run.start()
        wait_for(lambda: run.is_over or part(run, "clerk"), "the clerk")
        time.sleep(dice.uniform(0, 0.8))
        family: list[Any] = [] if run.is_over else run.process.children(recursive=True)
        run.signal(signal.SIGKILL)
        run.wait()
        for process in family:
            wait_for(functools.partial(is_gone, process.pid), "the end of its children")
        run.check_whole()
    run.finish()
