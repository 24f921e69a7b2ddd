"""`run --quarantine DIR`: originals that failed, copied aside with the reason, and a list to feed back."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from dcmpool import quarantine
from dcmpool.config import load
from dcmpool.model import FailureKind, Outcome
from dcmpool.progress import Mode, Progress
from dcmpool.protocol import Ending
from dcmpool.report import Report
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task
from tests.command import Command, own_command, tree
from tests.results import Place
from tests.series import make_series
from tests.test_usage import everything, refused

command = pytest.fixture(own_command)

FLAGS = ("series", "-o", "native", "--quarantine", "aside", "--json")


@pytest.fixture
def source(command: Command) -> Path:
    """A series of six in `series`; two of it, one of them deeper, are cut short."""
    make_series(command.path / "series", slices=6, size=64)
    source = command.path / "series"
    (source / "deep/er").mkdir(parents=True)
    (source / "CT0005.dcm").rename(source / "deep/er/CT0005.dcm")
    for name in ("CT0002.dcm", "deep/er/CT0005.dcm"):
        cut(source / name)
    return source


def cut(path: Path, by: int = 500) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def about(command: Command, name: str) -> dict[str, object]:
    words: dict[str, object] = json.loads((command.path / "aside" / f"{name}.dcmpool.json").read_text())
    return words


def test_what_failed_is_copied_with_the_reason_and_can_be_fed_back(command: Command, source: Path) -> None:
    ended = command.run("run", *FLAGS)
    assert ended.code == 1, ended
    names = sorted(ended.failed)
    assert names == ["CT0002.dcm", "deep/er/CT0005.dcm"]
    copies = tree(command.path / "aside")
    assert {os.fsdecode(name) for name in copies} == {*names, *(f"{name}.dcmpool.json" for name in names), "files.txt"}
    for name in names:
        assert copies[os.fsencode(name)] == (source / name).read_bytes()
        words, failed = about(command, name), ended.failed[name]
        assert (words["kind"], words["reason"]) == (failed["kind"], failed["reason"])
        assert words["attempts"]
    assert sorted(copies[b"files.txt"].decode().splitlines()) == names
    again = command.run("run", "series", "-o", "native", "--files-from", "aside/files.txt", "--json")
    assert sorted(again.failed) == names
    assert sum(again.summary["counts"].values()) == 2


def test_another_run_adds_nothing_twice_and_replaces_its_own_copies_alone(command: Command, source: Path) -> None:
    command.run("run", *FLAGS)
    before = tree(command.path / "aside")
    command.run("run", *FLAGS)
    assert tree(command.path / "aside").keys() == before.keys()
    assert tree(command.path / "aside")[b"files.txt"] == before[b"files.txt"]
    cut(source / "CT0002.dcm")
    cut(source / "CT0003.dcm")
    (command.path / "aside/CT0003.dcm").write_text("mine")
    ended = command.run("run", *FLAGS)
    assert sorted(ended.failed) == ["CT0002.dcm", "CT0003.dcm", "deep/er/CT0005.dcm"]
    assert (command.path / "aside/CT0002.dcm").read_bytes() == (source / "CT0002.dcm").read_bytes()
    assert (command.path / "aside/CT0003.dcm").read_text() == "mine"
    assert "not in quarantine: CT0003.dcm: another file" in ended.err


def test_failures_of_a_run_without_it_come_too(command: Command, source: Path) -> None:
    assert command.run("run", "series", "-o", "native").code == 1
    assert command.run("run", *FLAGS).code == 1
    assert sorted((command.path / "aside/files.txt").read_text().splitlines()) == ["CT0002.dcm", "deep/er/CT0005.dcm"]


def test_a_worker_that_was_killed_leaves_its_diagnosis_for_good(tmp_path: Path) -> None:
    """A resume has seen nothing of it: it neither writes nor copies again; and what is copied anew keeps its words."""
    make_series(tmp_path / "series", slices=1, size=64)
    (tmp_path / "series/CT0001.dcm").rename(tmp_path / "series/spin.dcm")
    task = Task(
        os.fsencode(tmp_path / "series"), os.fsencode(tmp_path / "native"), quarantine=os.fsencode(tmp_path / "aside")
    )
    config = load(flags={"limits": {"attempt_seconds": 5.0}})

    def run() -> Report:
        return Supervisor(task, config, Progress(Mode.OFF), worker_module="tests.stuck_children").run()

    run()
    copy, about = tmp_path / "aside/spin.dcm", tmp_path / "aside/spin.dcm.dcmpool.json"
    text = about.read_bytes()
    words = json.loads(text)
    assert words["kind"] == "TIMEOUT"
    assert len(words["diagnoses"]) == len(words["attempts"]) > 0
    assert "spinning" in words["diagnoses"][0]["cause"]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (copy, about)]
    (tmp_path / "aside/files.txt").unlink()
    assert run().kills == 0
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (copy, about)] == before
    assert (tmp_path / "aside/files.txt").read_text() == "spin.dcm\n"
    copy.unlink()
    assert run().kills == 0
    assert copy.read_bytes() == (tmp_path / "series/spin.dcm").read_bytes()
    assert about.read_bytes() == text


@pytest.mark.parametrize("rename", [1, 2])
@pytest.mark.parametrize("is_known", [True, False])
def test_wherever_a_run_is_killed_the_next_one_goes_on(
    command: Command, source: Path, *, rename: int, is_known: bool
) -> None:
    """At the first rename words get their name, at the second the copy; before, an earlier version may stand there."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    assert command.run("run", *FLAGS).code == 1
    name = "CT0002.dcm" if is_known else "CT0003.dcm"
    cut(source / name)
    inject = f"inject=rename:signal=SIGKILL:when={rename}"
    traced = ["strace", "-f", "-o", "/dev/null", "-e", "trace=rename", "-e", inject]
    ended = command.run("run", *FLAGS, under=traced)
    assert name in ended.failed, ended
    copy = command.path / "aside" / name
    assert not copy.exists() or copy.read_bytes() != (source / name).read_bytes(), "nothing was killed"
    assert list(command.path.glob("aside/.dcmpool-*"))
    ended = command.run("run", *FLAGS)
    assert "quarantine" not in ended.err
    assert copy.read_bytes() == (source / name).read_bytes()
    assert about(command, name)["size"] == copy.stat().st_size
    assert list(command.path.glob("aside/.dcmpool-*")) == []


def test_what_another_run_is_writing_is_left_to_it(command: Command, source: Path) -> None:
    aside = command.path / "aside"
    aside.mkdir()
    (source / "CT0002.dcm").rename(source / ".dcmpool-0123abcd")
    names = (".dcmpool-00000001", ".dcmpool-00000002", ".dcmpool-mine")
    for name in names:
        (aside / name).write_text("half of it")
    with (aside / names[0]).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert command.run("run", *FLAGS).code == 1
    cut(source / "CT0001.dcm")
    with (aside / names[0]).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert command.run("run", *FLAGS).code == 1
    assert sorted(path.name for path in aside.glob(".dcmpool-*")) == [
        names[0],
        ".dcmpool-0123abcd",
        ".dcmpool-0123abcd.dcmpool.json",
        names[2],
    ]


def test_that_it_gets_on_is_told_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run would take it for storage that does not answer."""
    monkeypatch.setattr(quarantine, "_TELL_SECONDS", 0.0)
    source, target = tmp_path / "source", Place(tmp_path / "native").target
    source.mkdir()
    kept = quarantine.Quarantine(os.fsencode(tmp_path / "kept"), os.fsencode(source), target, "0" * 8, print)
    for number in range(20):
        (source / str(number)).write_bytes(bytes(1 << 20))
        kept.add(Ending(1, b"%d" % number, 1 << 20, 0, Outcome.FAILED, "", FailureKind.CORRUPT, "no", ()))
    told: list[bool] = []
    kept.end(lambda: told.append(True))
    assert told
    assert len(list((tmp_path / "kept").glob("*.json"))) == 20


def test_a_name_with_a_line_break_is_copied_and_not_listed(command: Command, source: Path) -> None:
    (source / "CT0002.dcm").rename(source / "two\nlines.dcm")
    ended = command.run("run", *FLAGS)
    assert (command.path / "aside/two\nlines.dcm").exists()
    assert "line break" in ended.err
    assert (command.path / "aside/files.txt").read_text() == "deep/er/CT0005.dcm\n"


def test_a_folder_that_cannot_be_written_any_more_stops_nothing(command: Command, source: Path) -> None:
    (command.path / "aside").mkdir()
    (command.path / "aside/deep").write_text("no folder")
    ended = command.run("run", *FLAGS)
    assert ended.code == 1
    assert ended.summary["counts"]["decompressed"] == 4
    assert "not in quarantine: deep/er/CT0005.dcm: File exists" in ended.err
    assert (command.path / "aside/CT0002.dcm").exists()


def test_places_that_cannot_be(command: Command, source: Path) -> None:
    (command.path / "file").write_text("mine")
    (command.path / "locked").mkdir(mode=0o555)
    (command.path / "link").symlink_to("series/deep")
    for place in ("series", "series/x", "link", "link/x", "native", "native/x", ".", "", "file", "file/x"):
        refused(command, "series", "-o", "native", "--quarantine", place)
    refused(command, "series", "--in-place", "--quarantine", "series/.dcmpool/aside", says="quarantine")
    refused(command, "series", "-o", "native", "--quarantine", "locked/x", says="locked", powerless=True)
    before = everything(command.path)
    assert command.run("run", *FLAGS, "--dry-run").code == 0
    assert everything(command.path) == before
