"""In place: the only original there is. What a result keeps of it, what is refused, where originals are kept."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests import accesslist, reference
from tests.accesslist import access_list
from tests.command import Command, Record, own_command, tree
from tests.reference import encoded, real_slice, shipped, write
from tests.series import check_series, make_series

command = pytest.fixture(own_command)

NAME = "CT0002.dcm"


@pytest.fixture
def source(command: Command, record: Record) -> Path:
    return command.path / "series"


@pytest.fixture
def record(command: Command) -> Record:
    """A small series in `series`."""
    return make_series(command.path / "series", slices=6, size=64)


@pytest.fixture
def labelled(source: Path) -> Path:
    """The series; one file of it has attributes, an access list, and a time that is long past."""
    path = source / NAME
    try:
        os.setxattr(path, "user.checked-by", b"somebody")
        os.setxattr(path, accesslist.NAME, access_list(0))
    except OSError as error:
        pytest.skip(f"this file system has no access lists: {error.strerror}")
    os.utime(path, ns=(1_000_000_007, 981_173_106_000_000_009))
    return path


def test_in_place_a_result_keeps_all_that_a_file_has_beside_its_bytes(
    command: Command, record: Record, labelled: Path
) -> None:
    (labelled.parent / "CT0001.dcm").chmod(0o640)
    if os.geteuid() == 0:
        os.chown(labelled, 4712, 4713)
    before = labelled.stat()
    ended = command.run("run", "series", "--in-place", "--json")
    assert ended.code == 0, ended
    after = labelled.stat()
    assert after.st_ino != before.st_ino
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        assert getattr(after, name) == getattr(before, name), name
    assert os.getxattr(labelled, "user.checked-by") == b"somebody"
    assert os.getxattr(labelled, accesslist.NAME) == access_list(0)
    assert (labelled.parent / "CT0001.dcm").stat().st_mode & 0o777 == 0o640
    assert ended.summary["notes"] == []
    assert check_series(record, labelled.parent) == []


def test_a_result_elsewhere_gives_nobody_rights_that_its_source_did_not_give(command: Command, labelled: Path) -> None:
    """Where there is an access list, the mode's group bits are its mask: without the list they would be the group's."""
    assert command.run("run", "series", "-o", "native").code == 0
    result = command.path / "native" / NAME
    assert os.getxattr(result, accesslist.NAME) == access_list(0)
    assert os.getxattr(result, "user.checked-by") == b"somebody"


def test_in_place_a_result_has_no_access_list_that_its_original_did_not_have(command: Command, labelled: Path) -> None:
    """What is made in a folder with a default list gets one, also the folder in which results are made."""
    labelled.unlink()
    os.setxattr(labelled.parent, accesslist.DEFAULT, access_list(6))
    assert command.run("run", "series", "--in-place").code == 0
    assert accesslist.NAME not in os.listxattr(labelled.parent / "CT0001.dcm")


def test_in_place_every_result_is_confirmed_by_a_second_engine(command: Command, record: Record) -> None:
    ended = command.run("run", "series", "--in-place", "--json")
    assert ended.summary["confirmed"] == ended.summary["counts"]["decompressed"] == len(record)


def lossy_and_alone(source: Path) -> dict[str, bytes]:
    """Add a colour picture in lossy JPEG, and one whose decoders are all one library; return both."""
    shutil.copy(shipped("SC_rgb_small_odd_jpeg.dcm"), source / "colour.dcm")
    write(source, encoded(reference.HTJ2K, real_slice()[None]), "alone.dcm")
    return {name: (source / name).read_bytes() for name in ("colour.dcm", "alone.dcm")}


def test_in_place_what_cannot_stand_for_its_original_is_refused(command: Command, source: Path, record: Record) -> None:
    """Nobody can confirm it, or its colour was rounded; the reason says what to do."""
    before = lossy_and_alone(source)
    ended = command.run("run", "series", "--in-place", "--json")
    assert ended.code == 1
    assert {name: ended.failed[name]["kind"] for name in ended.failed} == dict.fromkeys(before, "IRREPLACEABLE")
    assert all("--backup DIR keeps the original" in failed["reason"] for failed in ended.failed.values())
    assert "--verify structure" in ended.failed["alone.dcm"]["reason"]
    assert "--yes-lossy" in ended.failed["colour.dcm"]["reason"]
    assert {name: (source / name).read_bytes() for name in before} == before
    assert check_series(record, source) == []
    ended = command.run("run", "series", "--in-place", "--json", "--verify", "structure", "--yes-lossy")
    assert (ended.code, ended.summary["counts"]["decompressed"]) == (0, 2)


def test_in_place_what_no_codec_has_made_needs_no_second_one(command: Command, source: Path) -> None:
    """Its bytes are the source's, in another order."""
    shutil.copy(shipped("MR_small_bigendian.dcm"), source / "big.dcm")
    deflated = pydicom.dcmread(shipped("CT_small.dcm"))
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated.save_as(source / "deflated.dcm")
    ended = command.run("run", "series", "--in-place", "--json")
    assert (ended.code, ended.failed) == (0, {})


def test_in_place_a_damaged_file_is_called_so(command: Command, source: Path) -> None:
    """Whatever else speaks against replacing it."""
    lossy_and_alone(source)
    os.truncate(source / "colour.dcm", (source / "colour.dcm").stat().st_size - 2)
    assert command.run("run", "series", "--in-place", "--json").failed["colour.dcm"]["kind"] == "CORRUPT"


def test_in_place_an_original_that_was_put_there_again_is_not_called_a_wrong_result(
    command: Command, source: Path
) -> None:
    """The journal knows of a result of this name; the last run did not replace this file."""
    before = lossy_and_alone(source)
    assert command.run("run", "series", "--in-place", "--verify", "structure", "--yes-lossy").code == 0
    for name, data in before.items():
        (source / name).write_bytes(data)
    assert command.run("run", "series", "--in-place").code == 1
    ended = command.run("verify", "series", "--json")
    assert (ended.code, ended.failed) == (0, {})
    with (source / NAME).open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"damage")
    assert "has to come from a backup (exit code 1)" in command.run("verify", "series").out


def test_what_cannot_stand_for_its_original_may_stand_beside_it(command: Command, source: Path) -> None:
    """The original is kept, or never touched."""
    before = lossy_and_alone(source)
    assert command.run("run", "series", "--verify", "second").code == 0
    ended = command.run("run", "series", "--in-place", "--backup", "kept", "--json")
    assert (ended.code, ended.failed) == (0, {})
    assert {name: (command.path / "kept" / name).read_bytes() for name in before} == before


# Hard links


def test_in_place_a_file_with_several_names_is_refused(command: Command, source: Path, record: Record) -> None:
    """Nothing of it changes, all else is done; a file that needs nothing may have as many names as it likes."""
    os.link(source / NAME, command.path / "elsewhere.dcm")
    (source / "notes.txt").write_text("not DICOM")
    os.link(source / "notes.txt", source / "same.txt")
    before = (source / NAME).read_bytes()
    ended = command.run("run", "series", "--in-place", "--json")
    assert ended.code == 1, ended
    assert set(ended.failed) == {NAME}
    assert ended.failed[NAME]["kind"] == "LINKED"
    assert ended.failed[NAME]["attempts"][0]["stage"] == "inspect", "it was decompressed first, in vain"
    assert "2 names" in ended.failed[NAME]["reason"]
    assert "--hard-links split" in ended.failed[NAME]["reason"]
    assert (source / NAME).read_bytes() == before
    assert (source / NAME).samefile(command.path / "elsewhere.dcm")
    assert (source / "notes.txt").samefile(source / "same.txt")
    del record[NAME]
    assert check_series(record, source) == []
    (command.path / "elsewhere.dcm").unlink()
    assert command.run("run", "series", "--in-place").code == 0, "one name is left, and the next run does it"


def test_in_place_names_can_be_split(command: Command, source: Path, record: Record) -> None:
    """Each name in the tree gets its result, the one outside keeps what it had."""
    before = (source / NAME).read_bytes()
    os.link(source / NAME, command.path / "elsewhere.dcm")
    os.link(source / NAME, source / "again.dcm")
    ended = command.run("run", "series", "--in-place", "--hard-links", "split")
    assert ended.code == 0, ended
    assert check_series(record | {"again.dcm": record[NAME]}, source) == []
    assert (command.path / "elsewhere.dcm").read_bytes() == before


# Backup


def test_originals_are_kept(command: Command, source: Path, record: Record) -> None:
    """In the tree's shape, as the very files that they were; of what was not replaced there is no backup."""
    (source / "deep" / "er").mkdir(parents=True)
    (source / NAME).rename(source / "deep" / "er" / NAME)
    (source / "notes.txt").write_text("not DICOM")
    (source / "broken.dcm").write_bytes((source / "CT0001.dcm").read_bytes()[:-900])
    before = tree(source)
    inode = (source / "deep" / "er" / NAME).stat().st_ino
    ended = command.run("run", "series", "--in-place", "--backup", "kept/originals", "--json")
    assert set(ended.failed) == {"broken.dcm"}
    kept = command.path / "kept" / "originals"
    assert tree(kept) == {name: data for name, data in before.items() if name not in (b"notes.txt", b"broken.dcm")}
    assert (kept / "deep" / "er" / NAME).stat().st_ino == inode
    assert [path.stat().st_mode & 0o777 for path in (kept, kept / "deep" / "er")] == [0o700, 0o700]
    again = command.run("run", "series", "--in-place", "--backup", "kept/originals", "--json")
    assert set(again.failed) == {"broken.dcm"}
    assert len(tree(kept)) == len(record)


@pytest.fixture
def elsewhere(command: Command) -> Iterator[Path]:
    """A folder of another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == command.path.stat().st_dev:
        pytest.skip("no second file system at hand")
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_originals_are_kept_on_another_file_system(command: Command, labelled: Path, elsewhere: Path) -> None:
    """As copies with all that they have."""
    before, status = tree(labelled.parent), labelled.stat()
    ended = command.run("run", "series", "--in-place", "--backup", elsewhere / "kept")
    assert ended.code == 0, ended
    assert tree(elsewhere / "kept") == before
    kept = (elsewhere / "kept" / NAME).stat()
    assert (kept.st_mode, kept.st_mtime_ns) == (status.st_mode, status.st_mtime_ns)
    assert os.getxattr(elsewhere / "kept" / NAME, accesslist.NAME) == access_list(0)


def test_another_backup_is_never_replaced(command: Command, source: Path, record: Record) -> None:
    """The file stays as it is then; a backup with the same content is as good as a new one."""
    kept = command.path / "kept"
    kept.mkdir()
    (kept / NAME).write_text("of another archive")
    (kept / "CT0003.dcm").symlink_to(source / "CT0003.dcm")
    shutil.copy(source / "CT0001.dcm", kept)
    before = tree(source)
    ended = command.run("run", "series", "--in-place", "--backup", "kept", "--json")
    assert ended.code == 1
    assert {name: item["kind"] for name, item in ended.failed.items()} == {NAME: "EXISTS", "CT0003.dcm": "EXISTS"}
    assert "backup" in ended.failed[NAME]["reason"]
    assert (kept / NAME).read_text() == "of another archive"
    assert {name: before[name.encode()] for name in (NAME, "CT0003.dcm")} == {
        name: (source / name).read_bytes() for name in (NAME, "CT0003.dcm")
    }
    assert (kept / "CT0001.dcm").read_bytes() == before[b"CT0001.dcm"]
    assert check_series({n: d for n, d in record.items() if n not in (NAME, "CT0003.dcm")}, source) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--in-place", "--backup", "series/kept"], "lie in one another"),
        (["--in-place", "--backup", "series"], "lie in one another"),
        (["--in-place", "--backup", "link/kept"], "lie in one another"),
        (["--in-place", "--backup", "."], "lie in one another"),
        (["--in-place", "--backup", "notes.txt"], "cannot be written"),
        (["--in-place", "--backup", "kept", "--quarantine", "kept"], "lie in one another"),
        (["--in-place", "--backup", "kept", "--quarantine", "kept/bad"], "lie in one another"),
        (["--in-place", "--backup", "bad/kept", "--quarantine", "bad"], "lie in one another"),
        (["--in-place", "--backup", ""], "a path is empty"),
        (["--backup", "kept"], "are for --in-place"),
        (["--hard-links", "split"], "are for --in-place"),
        (["--yes-lossy"], "are for --in-place"),
    ],
)
def test_a_backup_that_cannot_be_is_one_line(command: Command, source: Path, arguments: list[str], words: str) -> None:
    """And nothing was written."""
    (command.path / "notes.txt").write_text("not a folder")
    (command.path / "link").symlink_to("series")
    before = tree(command.path, own=True)
    ended = command.run("run", "series", *arguments)
    assert ended.code == 2
    (line,) = ended.lines()
    assert words in line
    assert tree(command.path, own=True) == before
    assert not (source / ".dcmpool").exists()


# Room, and power cuts


@pytest.fixture
def small_disk(command: Command) -> Iterator[Path]:
    """A tmpfs of 12 MiB."""
    folder = command.path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "small", folder], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_with_room_for_as_many_files_as_there_are_workers_is_enough(command: Command, small_disk: Path) -> None:
    """Beside the results and the journal: 15 files of 512 KiB each, of which never more than two stand twice."""
    workers, native = 2, 512 * 512 * 2
    record = make_series(small_disk / "series", slices=15, size=512)
    results = len(record) * (native + (16 << 10))
    journal = 2 << 20
    ballast = (12 << 20) - results - journal - workers * native
    assert ballast > 0
    (small_disk / "ballast").write_bytes(bytes(ballast))
    ended = command.run("run", small_disk / "series", "--in-place", "--workers", str(workers))
    assert ended.code == 0, ended
    assert check_series(record, small_disk / "series") == []


CALL = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)")


def calls_of(log: Path) -> list[tuple[str, str]]:
    """Return the name and the arguments of each system call that succeeded, in the order of their ends (strace(1))."""
    calls, begun = [], {}
    for line in log.read_text().splitlines():
        if not (match := CALL.match(line)):
            continue
        pid, name, rest = match.groups()
        if rest.endswith("<unfinished ...>"):
            begun[pid] = rest
        elif rest.endswith("= 0"):
            calls.append((name, begun.pop(pid, "") + rest))
    return calls


def test_nothing_takes_an_originals_name_before_all_before_it_is_on_disk(
    command: Command, source: Path, record: Record
) -> None:
    """What the kernel is asked for, in its order: a power cut between any two leaves the old file or the new, whole.

    The result is synced; the intent; the original is in the backup, and that name synced; then the rename, and its
    directory is synced before the journal says that it is done.
    """
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    log = command.path / "calls"
    wanted = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat"
    traced = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "4096", "-e", "signal=none", "-o", str(log), "-e", wanted]
    ended = command.run("run", "series", "--in-place", "--backup", "kept", "--workers", "2", under=traced)
    assert ended.code == 0, ended
    calls = calls_of(log)

    def after(start: int, names: tuple[str, ...], *words: str) -> int:
        """Return where the next such call is; fails if there is none."""
        return next(
            number
            for number, (name, arguments) in enumerate(calls)
            if number > start and name.startswith(names) and all(word in arguments for word in words)
        )

    sync, top = ("fsync", "fdatasync"), str(source)
    for name in record:
        renamed = after(-1, ("rename",), "/tmp/", f"/{name}")
        (temp,) = re.findall(rf"{re.escape(top)}/\.dcmpool/tmp/[\w-]+", calls[renamed][1])
        written = after(-1, sync, f"<{temp}>")
        intended = after(written, sync, "journal.sqlite-wal")
        kept = after(intended, ("link",), f"{top}/{name}", f"kept/{name}")
        kept_for_good = after(kept, sync, f"<{command.path / 'kept'}>")
        named = after(renamed, sync, f"<{source}>")
        done = after(named, sync, "journal.sqlite-wal")
        assert written < intended < kept < kept_for_good < renamed < named < done
