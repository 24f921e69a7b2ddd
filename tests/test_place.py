"""Where the journal lies: the rule, and what a user sees of it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dcmpool.place import journal_of
from tests.command import Command, own_command, tree
from tests.series import check_series, make_series
from tests.test_usage import everything, refused

command = pytest.fixture(own_command)

OWN = b"/data/native/.dcmpool/journal.sqlite"


@pytest.mark.parametrize(
    ("chosen", "is_there", "file_system", "expected"),
    [
        (b"", False, "ext4", OWN),
        (b"", False, "fuse.mergerfs", OWN),
        (b"", True, "nfs4", OWN),
        (b"/j", True, "nfs4", b"/j"),
        (b"/j", False, "xfs", b"/j"),
    ],
)
def test_the_rule(chosen: bytes, is_there: bool, file_system: str, expected: bytes) -> None:
    found = journal_of(
        b"/data/native", chosen=chosen, is_there=is_there, file_system=file_system, state_home=b"/home/me/state"
    )
    assert found == expected


def test_each_target_on_a_network_has_a_journal_of_its_own_on_this_machine() -> None:
    places = {
        journal_of(target, chosen=b"", is_there=False, file_system=kind, state_home=b"/home/me/state")
        for target in (b"/data/native", b"/data/native2")
        for kind in ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs")
    }
    assert len(places) == 2
    assert all(place.startswith(b"/home/me/state/dcmpool/") for place in places)
    assert all(place.endswith(b"/journal.sqlite") for place in places)


def test_a_journal_elsewhere_serves_runs_and_verify(command: Command) -> None:
    record = make_series(command.path / "series", slices=3, size=32)
    place = ("--journal", "state/of/native.sqlite")
    assert command.run("run", "series", "-o", "native", *place).code == 0
    assert check_series(record, command.path / "native") == []
    assert tree(command.path / "native", own=True).keys() == {*map(os.fsencode, record), b".dcmpool/lock"}
    assert [path.name for path in (command.path / "state/of").iterdir()] == ["native.sqlite"]
    assert command.run("run", "series", "-o", "native", *place, "--json").summary["counts"]["settled"] == 3
    assert command.run("verify", "native", *place, "--json").summary["confirmed"] == 3
    assert "no journal" in command.run("verify", "native").err


def test_a_journal_elsewhere_in_place(command: Command) -> None:
    record = make_series(command.path / "series", slices=2, size=32)
    place = ("--journal", "journal.sqlite")
    assert command.run("run", "series", "--in-place", *place).code == 0
    assert check_series(record, command.path / "series") == []
    assert not (command.path / "series/.dcmpool/journal.sqlite").exists()
    assert command.run("run", "series", "--in-place", *place, "--json").summary["counts"]["settled"] == 2


@pytest.fixture
def source(command: Command) -> Path:
    make_series(command.path / "series", slices=1, size=16)
    return command.path / "series"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("", "empty"),
        ("series", "inside the source"),
        ("series/CT0001.dcm", "inside the source"),
        ("series/sub/journal", "inside the source"),
        ("link/journal", "inside the source"),
        ("native/journal", "inside the target"),
        ("native/.dcmpool/lock", "inside the target"),
        ("folder", "not a file"),
        ("text", "not a journal"),
        ("text/journal", "text"),
        ("other.sqlite", "other database"),
        ("/proc/new/journal", "/proc/new"),
    ],
)
def test_places_that_cannot_be(command: Command, source: Path, place: str, says: str) -> None:
    (command.path / "folder").mkdir()
    (command.path / "text").write_text("my thesis, all of it")
    (command.path / "link").symlink_to("series")
    with closing(sqlite3.connect(command.path / "other.sqlite")) as database:
        database.execute("CREATE TABLE patients (name)")
    refused(command, "series", "-o", "native", "--journal", place, says=says)


def test_a_journal_that_may_not_be_written(command: Command, source: Path) -> None:
    (command.path / "locked").mkdir(mode=0o555)
    for place in ("locked/journal", "locked/new/journal"):
        refused(command, "series", "-o", "native", "--journal", place, says="locked", powerless=True)


def test_the_journal_of_another_target(command: Command, source: Path) -> None:
    place = ("--journal", "journal.sqlite")
    assert command.run("run", "series", "-o", "native", *place).code == 0
    refused(command, "series", "-o", "second", *place, says="native")
    assert command.run("run", "series", "-o", "second", *place, "--overwrite").code == 0


def test_a_target_that_is_refused_leaves_no_directory_for_its_journal(command: Command, source: Path) -> None:
    (command.path / "file").write_text("mine")
    before = everything(command.path)
    assert command.run("run", "series", "-o", "file", "--journal", "new/deep/journal").code == 2
    assert everything(command.path) == before
