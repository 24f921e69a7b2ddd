"""`dcmpool verify TARGET`: what was done is looked at again, and nothing is changed."""

import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import xxhash

from tests import reference
from tests.command import Command, Ended, own_command, tree
from tests.reference import encoded, real_slice, shipped, write
from tests.test_icon import with_icon

command = pytest.fixture(own_command)

TWELVE_BITS = "JPEG-lossy.dcm"
"""Of the second engines, gdcmconv alone can confirm it."""
UIDS = [reference.LOSSLESS_SV1, reference.JPEG_LS, reference.RLE, reference.JPEG_2000, reference.HTJ2K]


@pytest.fixture
def done(command: Command) -> Path:
    """A folder with a source of several kinds and its target, `native`."""
    source = command.path / "source"
    source.mkdir()
    for number, uid in enumerate(UIDS):
        write(source, encoded(uid, real_slice()[None]), f"{number}.dcm")
    write(
        source, with_icon(reference.JPEG_LS, real_slice(), real_slice()[:9, :9], item=True, sequence=False), "icon.dcm"
    )
    shutil.copy(shipped("CT_small.dcm"), source / "native.dcm")
    (source / "read.me").write_text("not DICOM")
    assert command.run("run", "source", "-o", "native").code == 0
    return command.path


def verify(command: Command) -> Ended:
    return command.run("verify", "native", "--json")


def change(path: Path, offset: int, data: bytes) -> None:
    """Change bytes as a disk does that fails: size and time stay what they were."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def wrong_from_the_start(folder: Path, name: str) -> None:
    """Change the picture and have the journal agree, as if the first decoder had been wrong."""
    path = folder / "native" / name
    change(path, -1000, b"\x55")
    digest = xxhash.xxh3_128_hexdigest(path.read_bytes()[-real_slice().nbytes :])
    with sqlite3.connect(folder / "native/.dcmpool/journal.sqlite") as database:
        database.execute("UPDATE files SET digest = ? WHERE path = ?", (digest, os.fsencode(name)))
    database.close()


def test_what_is_right_is_confirmed_and_nothing_is_changed(command: Command, done: Path) -> None:
    before = tree(done, own=True)
    ended = verify(command)
    assert ended.code == 0
    assert ended.summary["counts"]["decompressed"] == len(UIDS) + 1
    assert ended.summary["counts"]["copied"] == ended.summary["counts"]["other"] == 1
    assert ended.summary["confirmed"] == len(UIDS)
    assert [note["path"] for note in ended.summary["notes"]] == ["4.dcm"]  # HTJ2K: all engines are one library
    after = tree(done, own=True)
    assert {path: data for path, data in after.items() if b"journal" not in path} == {
        path: data for path, data in before.items() if b"journal" not in path
    }
    assert command.run("run", "source", "-o", "native", "--json").summary["counts"]["settled"] == len(UIDS) + 3


DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a bit of the pixels": (lambda f: change(f / "native/1.dcm", -1000, b"\x55"), "1.dcm", "digest"),
    "a byte of the header": (lambda f: change(f / "native/2.dcm", 20, b"\x55"), "2.dcm", "preamble differs"),
    "the icon": (lambda f: change(f / "native/icon.dcm", 1100, b"\x55\xaa"), "icon.dcm", ""),
    "a byte of a copy": (lambda f: change(f / "native/native.dcm", 2000, b"\x55"), "native.dcm", "digest"),
    "the end": (lambda f: os.truncate(f / "native/3.dcm", 20000), "3.dcm", "20000 bytes lie in the file"),
    "all of it": (lambda f: os.unlink(f / "native/read.me"), "read.me", "the result is missing"),
    "the picture, and its digest": (
        lambda f: wrong_from_the_start(f, "0.dcm"),
        "0.dcm",
        "a second decoder gives other pixels",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found(kind: str, command: Command, done: Path) -> None:
    damage, name, words = DAMAGE[kind]
    damage(done)
    ended = verify(command)
    assert ended.code == 1
    assert list(ended.failed) == [name]
    assert ended.failed[name]["kind"] == "VERIFY"
    assert words in ended.failed[name]["reason"]


def test_without_its_source_a_result_is_held_against_the_journal(command: Command, done: Path) -> None:
    os.unlink(done / "source/0.dcm")
    os.utime(done / "source/1.dcm")
    shutil.rmtree(done / "native/nothing", ignore_errors=True)
    ended = verify(command)
    assert ended.code == 0
    assert {note["path"]: note["reason"] for note in ended.summary["notes"]} == {
        "0.dcm": "held against the journal alone: the source cannot be opened: No such file or directory",
        "1.dcm": "held against the journal alone: the source has changed since",
        "4.dcm": "not confirmed: there is no second engine for this Transfer Syntax",
    }
    shutil.rmtree(done / "source")
    change(done / "native/1.dcm", -1000, b"\x55")
    ended = verify(command)
    assert list(ended.failed) == ["1.dcm"]
    assert len(ended.summary["notes"]) == len(UIDS) + 2


@pytest.mark.parametrize("failure", ["EXISTS", "CORRUPT"])
def test_a_result_over_which_a_later_run_failed_is_looked_at(failure: str, command: Command, done: Path) -> None:
    """It still stands in the target, where whoever reads it takes it for a picture."""
    source, result = done / "source/1.dcm", done / "native/1.dcm"
    if failure == "EXISTS":
        change(result, -1000, b"\x55")
        os.utime(result)
        os.utime(source)
    else:
        os.truncate(source, source.stat().st_size - 2000)
    assert command.run("run", "source", "-o", "native", "--json").failed["1.dcm"]["kind"] == failure
    if failure == "CORRUPT":
        ended = verify(command)
        assert ended.code == 0
        notes = {note["path"]: note["reason"] for note in ended.summary["notes"]}
        assert notes["1.dcm"] == "held against the journal alone: the source has changed since"
        change(result, -1000, b"\x55")
    ended = verify(command)
    assert (ended.code, list(ended.failed), ended.failed["1.dcm"]["kind"]) == (1, ["1.dcm"], "VERIFY")
    os.unlink(result)
    assert verify(command).code == 0, "a result that was taken away is none"


def test_the_journal_of_another_target_is_refused_and_left_as_it_is(command: Command, done: Path) -> None:
    """An audit puts nothing right that a killed run left: the next run does, and knows of all of it."""
    run = ("run", "source", "-o", "first", "--journal", "kept.sqlite")
    assert command.run(*run).code == 0
    with sqlite3.connect(done / "kept.sqlite") as database:
        row = database.execute("SELECT * FROM files WHERE path = ?", (b"1.dcm",))
        known = dict(zip([column[0] for column in row.description], row.fetchone(), strict=True))
        database.execute("DELETE FROM files WHERE path = ?", (b"1.dcm",))
        packed = msgspec.msgpack.encode(known)
        pending = (b"1.dcm", os.fsencode(done / "first/.dcmpool/tmp/gone"), 1, 1, packed, b"")
        database.execute("INSERT INTO intents VALUES (?, ?, ?, ?, ?, ?)", pending)
    database.close()
    ended = command.run("verify", "native", "--journal", "kept.sqlite")
    words = f"dcmpool: the journal {done / 'kept.sqlite'} is of the target {done / 'first'}: "
    assert (ended.code, ended.lines()) == (2, [words + "name that target, or the journal of this one"])
    ended = command.run("verify", "first", "--journal", "kept.sqlite", "--json")
    assert (ended.code, list(ended.failed)) == (1, ["1.dcm"])
    assert "run it again first" in ended.failed["1.dcm"]["reason"]
    (done / "mine.toml").write_text("[work]\noverwrite = true\n")
    assert command.run("verify", "native", "--journal", "kept.sqlite", "--config", "mine.toml").code == 2
    os.rename(done / "first", done / "moved")
    assert list(command.run("verify", "moved", "--journal", "kept.sqlite", "--json").failed) == ["1.dcm"]
    os.rename(done / "moved", done / "first")
    assert command.run(*run, "--json").summary["counts"]["settled"] == len(UIDS) + 3
    assert command.run("verify", "first", "--journal", "kept.sqlite").code == 0


def test_the_journal_of_an_older_program_is_read_as_one_of_today(command: Command, done: Path) -> None:
    """In memory: what a look changes for good is no look."""
    journal = done / "native/.dcmpool/journal.sqlite"
    with sqlite3.connect(journal) as database:
        database.executescript(
            "DROP TABLE standing; ALTER TABLE intents DROP COLUMN backup; PRAGMA user_version = 2;"
            "PRAGMA wal_checkpoint;"
        )
    database.close()
    before = journal.read_bytes()
    change(done / "native/1.dcm", -1000, b"\x55")
    assert list(verify(command).failed) == ["1.dcm"]
    assert "settled 1.dcm" in command.run("run", "source", "-o", "native", "--dry-run").out
    assert journal.read_bytes() == before


def test_a_target_that_cannot_be_written_is_only_read(command: Command, done: Path) -> None:
    """A read-only mount, or another user's archive; by the engines that need no place to write to."""
    shutil.copy(shipped(TWELVE_BITS), done / "source")
    assert command.run("run", "source", "-o", "native").code == 0
    assert f"{len(UIDS) + 1}  of them confirmed by a second engine" in command.run("verify", "native").out
    change(done / "native/1.dcm", -1000, b"\x55")
    before = tree(done, own=True)
    os.chmod(done / "native/.dcmpool", 0o555)
    for path in (done / "native/.dcmpool").iterdir():
        os.chmod(path, 0o444)
    ended = command.run("verify", "native", powerless=True)
    assert (ended.code, "digest of the Pixel Data" in ended.out) == (1, True)
    notice = f"the target cannot be written: {done / 'native'}: Permission denied: it is only read"
    assert notice in ended.err
    assert f"{len(UIDS) - 1}  of them confirmed by a second engine" in ended.out
    assert "1  of them not confirmed: gdcmconv needs a place to write to" in ended.out
    assert "\n         1  are not\n" in ended.out
    assert tree(done, own=True) == before
    with (done / "native/.dcmpool/lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command.run("verify", "native", powerless=True).code == 3
    os.chmod(done / "native/.dcmpool", 0o755)


def test_in_place_there_is_the_journal_alone(command: Command, done: Path) -> None:
    assert command.run("run", "source", "--in-place", "--backup", "kept").code == 0
    ended = command.run("verify", "source")
    assert ended.code == 0
    assert f"{len(UIDS) + 1}  of them held against the journal alone: its source was replaced in place" in ended.out
    change(done / "source/1.dcm", -1000, b"\x55")
    assert "digest" in command.run("verify", "source").out


def test_what_was_found_wrong_is_made_anew_once_it_is_removed(command: Command, done: Path) -> None:
    right = hashlib.sha256((done / "native/1.dcm").read_bytes()).digest()
    change(done / "native/1.dcm", -1000, b"\x55")
    ended = command.run("verify", "native")
    assert "remove the failed files from the target and run again" in ended.out
    os.unlink(done / "native/1.dcm")
    assert command.run("run", "source", "-o", "native").code == 0
    assert hashlib.sha256((done / "native/1.dcm").read_bytes()).digest() == right


@pytest.mark.parametrize("name", ["nowhere", "source"])
def test_what_no_run_has_written_is_refused_in_one_line(name: str, command: Command, done: Path) -> None:
    before = tree(done, own=True)
    ended = command.run("verify", name)
    assert ended.code == 2
    journal = done / name / ".dcmpool/journal.sqlite"
    words = {
        "nowhere": f"no such directory: {done / name}",
        "source": f"no run has written to {done / name}: there is no journal {journal}",
    }
    assert ended.lines() == [f"dcmpool: {words[name]}"]
    if name == "nowhere":
        assert command.run("verify", name, "--journal", "native/.dcmpool/journal.sqlite").code == 2
    assert tree(done, own=True) == before
