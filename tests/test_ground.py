"""What a run says of the place where its results are to go, before it begins."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.command import Command, Record, own_command
from tests.series import check_series, make_series
from tests.test_usage import everything, refused

command = pytest.fixture(own_command)

Mount = Callable[[str], Path]


@pytest.fixture
def record(command: Command) -> Record:
    """A series of three in `series`."""
    return make_series(command.path / "series", slices=3, size=32)


@pytest.fixture
def small(command: Command) -> Iterator[Mount]:
    """Make a tmpfs with these options, tmpfs(5), in `small`."""
    folder = command.path / "small"
    folder.mkdir()

    def mount(options: str) -> Path:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", folder], check=False).returncode:
            pytest.skip("a tmpfs cannot be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


@pytest.mark.parametrize(("options", "says"), [("size=3m", "3.1 MB free"), ("size=64m,nr_inodes=50", "inodes free")])
def test_a_target_without_room(command: Command, record: Record, small: Mount, options: str, says: str) -> None:
    small(options)
    refused(command, "series", "-o", "small/native", says=says)
    refused(command, "series", "-o", "small/native", "--dry-run", says=says)


def test_little_room_is_said(command: Command, record: Record, small: Mount) -> None:
    target = small("size=64m,nr_inodes=2000") / "native"
    for flags in ((), ("--dry-run",)):
        ended = command.run("run", "series", "-o", "small/native", *flags)
        assert ended.code == 0, ended
        assert "little room: 67" in ended.err
    assert check_series(record, target) == []


def fill(disk: Path, leave: int) -> None:
    """Leave so many bytes free, at most."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "fill").open("ab") as file, suppress(OSError):
        file.write(bytes(max(0, free - leave)))


@pytest.mark.parametrize(
    ("way", "journal"),
    [("few bytes", ()), ("no byte", ()), ("no inode", ()), ("few inodes", ("--journal", "journal.sqlite"))],
)
def test_a_full_target_where_all_is_settled_is_well(
    command: Command, record: Record, small: Mount, way: str, journal: tuple[str, ...]
) -> None:
    """Failures are told, as ever; what is left to do ends the run, resumable. TARGET stays as it is."""
    disk = small("size=16m,nr_inodes=150")
    cut = (command.path / "series/CT0001.dcm").read_bytes()[:-500]
    (command.path / "series/broken.dcm").write_bytes(cut)
    run = ("run", "series", "-o", "small/native", *journal, "--json")
    assert command.run(*run).code == 1
    if "inode" in way:
        for number in range(os.statvfs(disk).f_favail - (10 if "few" in way else 0)):
            (disk / str(number)).touch()
    else:
        fill(disk, 400_000 if "few" in way else 0)
    before = everything(disk)
    ended = command.run(*run)
    assert ended.code == 1, ended
    assert (ended.summary["counts"]["settled"], ended.summary["counts"]["failed"]) == (3, 1)
    assert "little room" in ended.err
    (command.path / "series/broken.dcm").unlink()
    ended = command.run(*run)
    assert (ended.code, ended.summary["counts"]["settled"]) == (0, 3), ended
    dry = command.run("run", "series", "-o", "small/native", *journal, "--dry-run")
    assert (dry.code, "little room" in dry.err, "3 settled" in dry.err) == (0, True, True), dry
    for name in ("the last.dcm", "A first.dcm"):
        shutil.copy(command.path / "series/CT0001.dcm", command.path / "series" / name)
        ended = command.run(*run)
        assert ended.code == 75, ended
        assert "no room for what is left to do" in ended.summary["stopped"]
    assert everything(disk) == before
    for path in [path for path in disk.iterdir() if path.name != "native"]:
        path.unlink()
    ended = command.run(*run)
    assert (ended.code, ended.summary["counts"]["decompressed"]) == (0, 2), ended


def test_a_run_goes_on_as_it_has_begun_whatever_room_there_is(command: Command, small: Mount) -> None:
    """A clerk that takes the place of another one does not take back what was begun."""
    make_series(command.path / "series", slices=40, size=64)
    disk = small("size=32m")
    running = command.start("run", "series", "-o", "small/native", "--json", "--workers", "1", "--bandwidth", "100K")
    running.wait_for(lambda: list(disk.glob("native/*.dcm")))
    fill(disk, 3_000_000)
    os.kill(running.processes("dcmpool.clerk")[0], signal.SIGKILL)
    ended = running.end()
    assert (ended.code, ended.summary["failed"]) == (0, [])


def test_in_place_begins_on_a_disk_that_is_all_but_full(command: Command, small: Mount) -> None:
    folder = small("size=3m") / "series"
    record = make_series(folder, slices=3, size=32)
    ended = command.run("run", "small/series", "--in-place")
    assert ended.code == 0, ended
    assert "little room" in ended.err
    assert check_series(record, folder) == []


def test_temp_files_on_another_file_system(command: Command, record: Record) -> None:
    with TemporaryDirectory(dir="/dev/shm") as aside:
        if os.stat(aside).st_dev == command.path.stat().st_dev:
            pytest.skip("there is no other file system here")
        (command.path / "native").mkdir()
        (command.path / "native/.dcmpool").symlink_to(aside)
        ended = command.run("run", "series", "-o", "native")
    assert ended.code == 0, ended
    assert "another file system" in ended.err
    assert check_series(record, command.path / "native") == []


def test_nothing_is_said_of_a_place_that_is_as_it_should_be(command: Command, record: Record) -> None:
    if os.statvfs(command.path).f_bavail * os.statvfs(command.path).f_frsize < 2 << 30:
        pytest.skip("there is little room here")
    assert command.run("run", "series", "-o", "native").err == ""
