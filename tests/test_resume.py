"""A second run on the same target: what is settled stays, what is missing or changed is done."""

import hashlib
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from tests.command import SLOWLY, Command, Ended, Record, long_series, own_command, tree
from tests.encoders import compressed
from tests.series import check_series, make_series, native_series

command = pytest.fixture(own_command)

RUN = ["run", "series", "-o", "native", "--json"]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A folder with a series in `series` and the results of a run in `native`."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "tmp").mkdir()
    record = make_series(folder / "series", slices=6, size=64)
    assert Command(folder, f"first-{os.getpid()}", folder / "tmp").run(*RUN).code == 0
    return folder, record


@pytest.fixture
def record(command: Command, first_run: tuple[Path, Record]) -> Record:
    """A series in `series` and the results of its first run in `native`: copies, with the times of the files."""
    folder, record = first_run
    for name in ("series", "native"):
        shutil.copytree(folder / name, command.path / name)
    return dict(record)


def counts(ended: Ended) -> dict[str, int]:
    return {name: count for name, count in ended.summary["counts"].items() if count}


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of change of each result: both stay where nothing was done."""
    found = {path.name: path.stat() for path in folder.glob("*.dcm")}
    return {name: (state.st_ino, state.st_ctime_ns) for name, state in found.items()}


def test_what_is_settled_is_not_touched(command: Command, record: Record) -> None:
    before = states(command.path / "native")
    again = command.run(*RUN)
    assert again.code == 0
    assert counts(again) == {"settled": 6}
    assert states(command.path / "native") == before


def test_the_same_folders_by_other_names_are_the_same(command: Command, record: Record) -> None:
    again = command.run("run", command.path / "series", "-o", "../work/native/", "--json")
    assert counts(again) == {"settled": 6}


def test_a_deleted_result_is_made_again_and_no_other(command: Command, record: Record) -> None:
    before = states(command.path / "native")
    (command.path / "native" / "CT0003.dcm").unlink()
    again = command.run(*RUN)
    assert again.code == 0
    assert counts(again) == {"settled": 5, "decompressed": 1}
    assert check_series(record, command.path / "native") == []
    after = states(command.path / "native")
    assert {name for name in before if before[name] != after[name]} == {"CT0003.dcm"}


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_result_that_was_changed_is_not_settled(command: Command, record: Record, damage: str) -> None:
    result = command.path / "native" / "CT0003.dcm"
    content = result.read_bytes()
    result.write_bytes(content[:-100] if damage == "cut" else b"x" * len(content))
    again = command.run(*RUN)
    assert counts(again)["settled"] == 5
    if again.code == 1:  # somebody's work, perhaps: refused as what dcmpool did not write
        assert again.failed["CT0003.dcm"]["kind"] == "EXISTS"
        again = command.run(*RUN, "--overwrite")
    assert again.code == 0
    assert check_series(record, command.path / "native") == []


def test_a_new_file_in_the_source_is_done_and_no_other(command: Command, record: Record) -> None:
    before = states(command.path / "native")
    (command.path / "series" / "new.dcm").write_bytes((command.path / "series" / "CT0001.dcm").read_bytes())
    again = command.run(*RUN)
    assert counts(again) == {"settled": 6, "decompressed": 1}
    assert before.items() <= states(command.path / "native").items()


def test_a_source_that_changed_is_done_again(command: Command, record: Record) -> None:
    """Same name, other pixels."""
    source = command.path / "series"
    first, fourth = source / "CT0001.dcm", source / "CT0004.dcm"  # the same Transfer Syntax
    first.write_bytes(fourth.read_bytes())
    again = command.run(*RUN)
    assert again.code == 0, again
    assert counts(again) == {"settled": 5, "decompressed": 1}
    assert check_series({**record, "CT0001.dcm": record["CT0004.dcm"]}, command.path / "native") == []


def test_a_source_that_changed_within_its_size_is_done_again(command: Command, record: Record) -> None:
    first = command.path / "series" / "CT0001.dcm"
    content = first.read_bytes()
    first.write_bytes(content.replace(b"CompressedSamples^CT1", b"CompressedSamples^CT2"))
    os.utime(first, ns=(time.time_ns(), time.time_ns() + 10**9))
    again = command.run(*RUN)
    assert again.code == 0, again
    assert counts(again) == {"settled": 5, "decompressed": 1}
    assert b"CompressedSamples^CT2" in (command.path / "native" / "CT0001.dcm").read_bytes()


def test_a_file_that_left_the_source_leaves_its_result(command: Command, record: Record) -> None:
    (command.path / "series" / "CT0001.dcm").unlink()
    again = command.run(*RUN)
    assert again.code == 0
    assert counts(again) == {"settled": 5}
    assert check_series(record, command.path / "native") == []


def gone(command: Command) -> set[bytes]:
    """Return what the journal says is no longer in SOURCE."""
    with closing(sqlite3.connect(command.path / "native" / ".dcmpool" / "journal.sqlite")) as database:
        return {path for (path,) in database.execute("SELECT path FROM gone")}


def test_what_left_the_source_is_counted_and_named_until_it_is_back(command: Command, record: Record) -> None:
    source = command.path / "series"
    (source / "sub").mkdir()
    for name in ("CT0001.dcm", "CT0002.dcm"):
        shutil.copy2(source / name, source / "sub" / name)
    assert command.run(*RUN).summary["gone"] == 0
    shutil.move(source / "sub", command.path / "sub")
    (source / "CT0003.dcm").unlink()
    (source / "CT0004.dcm").unlink()
    (source / "CT0004.dcm").symlink_to("nowhere")  # it is left out and named, and not gone
    again = command.run(*RUN)
    assert again.code == 0
    assert again.summary["gone"] == 3
    assert gone(command) == {b"sub/CT0001.dcm", b"sub/CT0002.dcm", b"CT0003.dcm"}
    assert len(list((command.path / "native").rglob("*.dcm"))) == 8
    said = "3 files of earlier runs are no longer in SOURCE; their results are kept"
    assert said in " ".join(command.run(*(word for word in RUN if word != "--json")).out.split())
    shutil.move(command.path / "sub", source / "sub")
    assert command.run(*RUN).summary["gone"] == 1
    assert gone(command) == {b"CT0003.dcm"}


def test_only_a_walk_over_all_of_the_source_says_what_is_gone(command: Command, record: Record) -> None:
    (command.path / "list").write_text("CT0001.dcm\n")
    (command.path / "series" / "CT0002.dcm").unlink()
    assert command.run(*RUN, "--files-from", "list").summary["gone"] == 0
    locked = command.path / "series" / "locked"
    locked.mkdir()
    shutil.copy2(command.path / "series" / "CT0001.dcm", locked / "CT.dcm")
    assert command.run(*RUN, powerless=True).summary["gone"] == 1
    locked.chmod(0)  # nobody knows what lies in it now
    assert command.run(*RUN, powerless=True).summary["gone"] == 1
    assert gone(command) == {b"CT0002.dcm"}


def test_failures_are_done_again_when_asked_for(command: Command, record: Record) -> None:
    """Of one kind, or all; else what the content decided stays as it is."""
    (command.path / "series" / "broken.dcm").write_bytes((command.path / "series" / "CT0001.dcm").read_bytes()[:-900])
    assert command.run(*RUN).code == 1
    ended = []
    for options in ((), ("--retry-failed", "timeout"), ("--retry-failed", "Corrupt"), ("--retry-failed", "all")):
        again = command.run(*RUN, *options)
        assert again.failed["broken.dcm"]["kind"] == "CORRUPT"
        assert counts(again) == {"settled": 6, "failed": 1}
        with closing(sqlite3.connect(command.path / "native" / ".dcmpool" / "journal.sqlite")) as database:
            ended += database.execute("SELECT ended FROM files WHERE path = ?", (b"broken.dcm",)).fetchone()
    assert ended[0] == ended[1] < ended[2] < ended[3]


def test_a_kind_that_is_none_is_refused(command: Command, record: Record) -> None:
    refused = command.run(*RUN, "--retry-failed", "BROKEN")
    assert refused.code == 2
    assert refused.lines() == [
        "dcmpool: --retry-failed BROKEN: choose all or one of CORRUPT, UNSUPPORTED, VERIFY, CRASHED, TIMEOUT, MEMORY, "
        "PROTOCOL, READ, CHANGED, WRITE, EXISTS, LINKED, IRREPLACEABLE, NO_SPACE, LOST"
    ]


def test_a_source_that_changed_failed_and_was_repaired_is_done(command: Command, record: Record) -> None:
    """The result of the first run stands meanwhile, and is still one that dcmpool may replace."""
    first = command.path / "series" / "CT0001.dcm"
    whole = first.read_bytes()
    before = (command.path / "native" / "CT0001.dcm").read_bytes()
    first.write_bytes(whole[:-900])
    assert command.run(*RUN).failed["CT0001.dcm"]["kind"] == "CORRUPT"
    assert (command.path / "native" / "CT0001.dcm").read_bytes() == before
    first.write_bytes(whole)
    again = command.run(*RUN)
    assert again.code == 0, again
    assert counts(again) == {"settled": 5, "decompressed": 1}


def test_an_interrupted_walk_leaves_nothing_beside_the_journal(command: Command) -> None:
    """It waits for work to be done, far from its end; its connection to the journal is closed all the same."""
    long_series(command.path / "series")
    (command.path / "own.toml").write_text("[work]\nscan_ahead = 2\n")
    running = command.start(*RUN, *SLOWLY, "--config", "own.toml")
    running.wait_for(lambda: list((command.path / "native").glob("*.dcm")))
    running.send(signal.SIGINT)
    ended = running.end()
    assert ended.code == 130
    assert ended.summary["counts"]["decompressed"] < 40
    assert {path.name for path in (command.path / "native" / ".dcmpool").iterdir()} == {"journal.sqlite", "lock"}


def test_old_temp_files_are_swept(command: Command, record: Record) -> None:
    temporary = command.path / "native" / ".dcmpool" / "tmp"
    (temporary / "0badc0de-w1").mkdir(parents=True)
    (temporary / "0badc0de-1-1-99").write_bytes(b"half a file")
    (temporary / "0badc0de-w1" / "out.dcm").write_bytes(b"patient")
    assert command.run(*RUN).code == 0
    assert not temporary.exists() or list(temporary.iterdir()) == []


def test_failed_files_are_listed_again_with_the_reason(command: Command, record: Record) -> None:
    broken = command.path / "series" / "broken.dcm"
    broken.write_bytes((command.path / "series" / "CT0001.dcm").read_bytes()[:-900])
    first, second = command.run(*RUN), command.run(*RUN)
    assert first.code == second.code == 1
    assert first.failed.keys() == second.failed.keys() == {"broken.dcm"}
    assert second.failed["broken.dcm"]["kind"] == first.failed["broken.dcm"]["kind"]
    assert second.failed["broken.dcm"]["reason"] == first.failed["broken.dcm"]["reason"]
    assert second.failed["broken.dcm"]["attempts"]
    assert second.summary["exit_code"] == 1


def test_a_failed_file_that_is_repaired_is_done(command: Command, record: Record) -> None:
    broken = command.path / "series" / "broken.dcm"
    whole = (command.path / "series" / "CT0001.dcm").read_bytes()
    broken.write_bytes(whole[:-900])
    assert command.run(*RUN).code == 1
    broken.write_bytes(whole)
    assert command.run(*RUN).code == 0
    assert check_series({**record, "broken.dcm": record["CT0001.dcm"]}, command.path / "native") == []


def test_what_was_refused_is_done_once_the_way_is_free(command: Command) -> None:
    record = make_series(command.path / "series", slices=2, size=64)
    (command.path / "native").mkdir()
    (command.path / "native" / "CT0001.dcm").write_text("mine")
    assert command.run(*RUN).code == 1
    assert command.run(*RUN).code == 1
    (command.path / "native" / "CT0001.dcm").unlink()
    assert command.run(*RUN).code == 0
    assert check_series(record, command.path / "native") == []


def test_a_file_that_could_not_be_read_is_tried_again(command: Command) -> None:
    record = make_series(command.path / "series", slices=2, size=64)
    locked = command.path / "series" / "CT0001.dcm"
    locked.chmod(0)
    assert command.run(*RUN, powerless=True).code == 1
    locked.chmod(0o600)
    assert command.run(*RUN, powerless=True).code == 0
    assert check_series(record, command.path / "native") == []


def test_a_limit_that_was_too_short_is_not_the_last_word(command: Command) -> None:
    """A good file that ran into `--limit` is tried again where the limit is longer."""
    (instance,) = native_series(slices=1, size=1024)
    noise = np.random.default_rng(1).integers(-2000, 2000, (1024, 1024), dtype="<i2")
    (command.path / "series").mkdir()
    slow = compressed(instance, JPEG2000Lossless, 12 * [noise])
    slow.save_as(command.path / "series" / "slow.dcm", enforce_file_format=True)
    # The shortest limit that there is, a twentieth of what the decoder needs: no machine is fast enough.
    first = command.run(*RUN, "--limit", "0.1")
    assert first.code == 1, first
    assert first.failed["slow.dcm"]["kind"] == "TIMEOUT"
    second = command.run(*RUN, "--limit", "600")
    assert second.code == 0, second
    wanted = hashlib.sha256(12 * noise.tobytes()).hexdigest()
    assert check_series({"slow.dcm": wanted}, command.path / "native") == []


def test_skipped_others_are_copied_when_asked_for(command: Command) -> None:
    make_series(command.path / "series", slices=1, size=64)
    (command.path / "series" / "notes.txt").write_text("not DICOM")
    assert command.run(*RUN, "--others", "skip").code == 0
    assert command.run(*RUN).code == 0
    assert (command.path / "native" / "notes.txt").read_text() == "not DICOM"


def test_without_its_journal_the_results_count_as_foreign(command: Command, record: Record) -> None:
    private = command.path / "native" / ".dcmpool"
    for path in private.iterdir():
        path.unlink()
    private.rmdir()
    before = states(command.path / "native")
    again = command.run(*RUN)
    assert again.code == 1
    assert {item["kind"] for item in again.summary["failed"]} == {"EXISTS"}
    assert states(command.path / "native") == before
    assert command.run(*RUN, "--overwrite").code == 0
    assert check_series(record, command.path / "native") == []


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut", "folder", "unwritable"])
def test_a_journal_that_cannot_be_used_harms_no_result(command: Command, record: Record, damage: str) -> None:
    """Either one clear line and exit code 2, or the run copes; the results stay, and no traceback is shown."""
    journal = command.path / "native" / ".dcmpool" / "journal.sqlite"
    before = tree(command.path / "native")
    content = journal.read_bytes()
    if damage == "folder":
        journal.unlink()
        journal.mkdir()
    elif damage == "unwritable":
        journal.chmod(0o400)
    else:
        journal.write_bytes({"garbage": b"garbage" * 999, "empty": b"", "cut": content[: len(content) // 2]}[damage])
    ended = command.run("run", "series", "-o", "native", powerless=True)
    assert tree(command.path / "native") == before
    assert "Traceback" not in ended.err
    assert ended.code in (0, 1, 2), ended
    if ended.code == 2:
        assert len(ended.lines()) == 1, ended
    if damage == "empty":
        assert ended.code == 1, ended  # a journal without rows knows no result


@pytest.mark.parametrize("change", ["outcome = 'nonsense'", "attempts = '[{'", "size = NULL"])
def test_rows_of_the_journal_that_cannot_be_understood_stop_nothing(
    command: Command, record: Record, change: str
) -> None:
    """Their results count as foreign, and failures are tried again; the run ends by itself and says so."""
    (command.path / "series" / "broken.dcm").write_bytes((command.path / "series" / "CT0001.dcm").read_bytes()[:-900])
    assert command.run(*RUN).code == 1
    with closing(sqlite3.connect(command.path / "native" / ".dcmpool" / "journal.sqlite")) as database:
        names = (b"CT0003.dcm", b"broken.dcm")
        assert database.execute(f"UPDATE files SET {change} WHERE path IN (?, ?)", names).rowcount == 2
        database.commit()
    again = command.run(*RUN)
    assert again.code == 1, again
    assert {path: item["kind"] for path, item in again.failed.items()} == {
        "CT0003.dcm": "EXISTS",
        "broken.dcm": "CORRUPT",
    }
    assert counts(again)["settled"] == 5
    assert command.run(*RUN, "--overwrite").code == 1
    assert check_series(record, command.path / "native") == []


def test_another_source_into_the_same_target(command: Command, record: Record) -> None:
    """Other names come beside the first ones; a name that is there already is not taken for the other source's."""
    other = make_series(command.path / "other", slices=7, size=32)
    ended = command.run("run", "other", "-o", "native", "--json")
    assert ended.code in (1, 2), ended
    assert check_series(record, command.path / "native") == []
    if ended.code == 1:
        assert check_series({"CT0007.dcm": other["CT0007.dcm"]}, command.path / "native") == []
        assert {item["kind"] for item in ended.summary["failed"]} == {"EXISTS"}
