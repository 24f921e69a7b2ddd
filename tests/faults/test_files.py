"""Files that change, vanish, grow or are nonsense; disks that fill or turn read-only; children that eat or flood."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import accesslist
from tests.faults.conftest import Disk, Run, detach, wait_for
from tests.series import check_series

NAME, OTHER = "CT0004.dcm", "CT0007.dcm"


def change(path: Path) -> None:
    """Write another file's bytes over it, in place; it is never empty meanwhile, which would be a file of its own."""
    content = path.with_name(OTHER).read_bytes()
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(5000))


def shrink(path: Path) -> None:
    os.truncate(path, 3000)


def replace(path: Path) -> None:
    """Put another file there, as a writer does that finishes with a rename."""
    fresh = path.with_suffix(".new")
    shutil.copy(path.with_name(OTHER), fresh)
    fresh.rename(path)


@pytest.mark.faults
@pytest.mark.parametrize("what", [change, grow, shrink, replace, os.unlink])
def test_a_file_that_changes_while_it_is_read(from_disk: Run, disk: Disk, what: Callable[[Path], None]) -> None:
    """What comes out is the old file, the new one, or a named failure; never a mixture."""
    disk.rules({"op": "read", "path": f"/series/{NAME}", "do": 1.0, "times": 1})
    from_disk.start(limits={"attempt_seconds": 10.0})
    disk.await_hit()
    what(from_disk.source / NAME)
    code = from_disk.wait()
    result = from_disk.real_target / NAME
    assert code == (0 if result.exists() else 1), from_disk.errors
    if result.exists() and check_series({NAME: from_disk.record[OTHER]}, from_disk.real_target) == []:
        from_disk.record[NAME] = from_disk.record[OTHER]
    from_disk.check_whole()
    found = {path.name for path in from_disk.real_target.glob("*.dcm")}
    assert found | {NAME} == set(from_disk.record)


@pytest.mark.faults
def test_nothing_but_nonsense(run: Run) -> None:
    """Every file is truncated somewhere in its Pixel Data: all fail, each with its reason; the run ends."""
    for number, path in enumerate(sorted(run.source.iterdir())):
        os.truncate(path, path.stat().st_size * (number + 1) // 26)
    run.start()
    assert run.wait(120) in {0, 1}, run.errors
    report = run.report
    assert report["counts"]["decompressed"] == 0
    assert all(failed["reason"] for failed in report["failed"])
    assert not report["stopped"]


def test_a_target_without_access_lists_gives_nobody_more_rights(onto_disk: Run) -> None:
    """The group bits of a file with an access list are its mask (acl(5)), and as a mode the rights of the group."""
    try:
        os.setxattr(onto_disk.source / NAME, accesslist.NAME, accesslist.access_list(0))
    except OSError as error:
        pytest.skip(f"this file system has no access lists: {error.strerror}")
    (onto_disk.source / OTHER).chmod(0o660)
    onto_disk.start()
    assert onto_disk.wait() == 0, onto_disk.errors
    assert [(onto_disk.real_target / name).stat().st_mode & 0o777 for name in (NAME, OTHER)] == [0o600, 0o660]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", folder], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    detach(folder)


def test_a_disk_that_fills(run: Run, small_disk: Path) -> None:
    """Exit code 75; nothing half written; with room again the next run finishes."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(15900 << 10))
    run.target = run.real_target = small_disk / "target"
    run.start()
    assert run.wait() == 75, run.errors
    assert "full" in run.report["stopped"] or "space" in run.report["stopped"]
    run.check_whole()
    ballast.unlink()
    run.finish()
    shutil.rmtree(run.real_target)


@pytest.mark.faults
def test_a_target_that_turns_read_only(run: Run, small_disk: Path) -> None:
    """As after an I/O error of ext4 with errors=remount-ro: the run ends; writable again, the next one finishes."""
    run.target = run.real_target = small_disk / "target"
    run.start()
    wait_for(lambda: list(run.real_target.glob("*.dcm")), "a result")
    subprocess.run(["mount", "-o", "bind", small_disk, small_disk], check=True)
    done = subprocess.run(["mount", "-o", "remount,ro", small_disk], check=False, capture_output=True, text=True)
    busy = done.returncode != 0
    code = run.wait()
    detach(small_disk)
    if busy:
        assert code == 0, run.errors
    else:
        assert code in {0, 1, 75}, run.errors
    run.check_whole()
    run.finish()
    shutil.rmtree(run.real_target)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["flood", "eat_memory", "hang_in_c", "spin_in_c", "grandchild", "kill_parent"])
def test_a_bad_child_by_the_command(run: Run, name: str) -> None:
    """As `tests/test_children.py`, but as a user starts it, and with its neighbours' results compared."""
    shutil.copy(run.source / NAME, run.source / f"{name}.dcm")
    run.record[f"{name}.dcm"] = run.record[NAME]
    run.start("tests.children", limits={"memory_mib": 1024})
    code = run.wait(90)
    assert code == (0 if name in {"flood", "grandchild"} else 1), run.errors
    run.check_whole()
    assert len(list(run.real_target.glob("*.dcm"))) == len(run.record) - code
