"""In place, with a clerk that is killed on entering each call by which it changes a name or syncs the journal."""

import itertools
import shutil

import pytest

from tests.command import Command, Record, own_command, tree
from tests.series import check_series, make_series

command = pytest.fixture(own_command)


@pytest.fixture
def record(command: Command) -> Record:
    return make_series(command.path / "series", slices=4, size=64)


@pytest.mark.faults
@pytest.mark.parametrize("call", ["linkat", "rename", "fdatasync"])
def test_a_clerk_that_is_killed_at_each_call_loses_nothing(command: Command, record: Record, call: str) -> None:
    """Each name has its original, or the whole result and a backup of the original; the next run finishes.

    The calls are the clerk's alone: workers use fsync, and a file over which they die is one that has failed.
    """
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    shutil.copytree(command.path / "series", command.path / "pristine")
    before = tree(command.path / "pristine")
    source, kept = command.path / "series", command.path / "kept"
    log = command.path / "calls"
    for number in itertools.count(1):
        for folder in (source, kept):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(command.path / "pristine", source)
        # A clerk that takes the place of a dead one may die too; after three of them the run ends.
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        traced = ["strace", "-f", "-o", str(log), "-e", f"trace={call}", "-e", inject]
        ended = command.run("run", "series", "--in-place", "--backup", "kept", "--workers", "2", under=traced)
        assert ended.code in (0, 70), ended
        found, originals = tree(source), tree(kept)
        done = {name for name, data in found.items() if data != before[name]}
        assert found.keys() == before.keys()
        assert check_series({name: digest for name, digest in record.items() if name.encode() in done}, source) == []
        assert {name: originals.get(name) for name in done} == {name: before[name] for name in done}
        ended = command.run("run", "series", "--in-place", "--backup", "kept")
        assert ended.code == 0, (number, ended)
        assert check_series(record, source) == []
        assert tree(kept) == before
        if " = ?" not in log.read_text():
            break
    assert number > 1, "the calls of a run were not met"
