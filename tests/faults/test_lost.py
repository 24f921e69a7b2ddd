"""Children that SIGKILL does not end, more of them than are allowed; and a target that turns read-only for good."""

import shutil

import pytest

from tests.faults.conftest import Disk, Run

WRITING = ["create", "write", "truncate", "rename", "mkdir", "unlink", "utimens", "fsync", "fsyncdir", "chmod"]


@pytest.mark.faults
@pytest.mark.parametrize(("files", "code"), [(2, 1), (4, 75)])
def test_children_that_cannot_be_killed(from_disk: Run, disk: Disk, files: int, code: int) -> None:
    """Up to `max_lost` are replaced, and their files fail as LOST; one more stops the run. Nothing is waited for."""
    names = [f"lost{number}.dcm" for number in range(files)]
    for name in names:
        shutil.copy(disk.real / "series" / "CT0001.dcm", disk.real / "series" / name)
    disk.rules({"op": "read", "path": "/series/lost*", "do": "stall"})
    from_disk.start("tests.faults.lost_children", limits={"lost_seconds": 0.5, "max_lost": 2})
    assert from_disk.wait(40) == code, from_disk.errors
    lost = {failed["path"]: failed["kind"] for failed in from_disk.report["failed"]}
    assert set(lost.values()) == {"LOST"}
    assert lost.keys() <= set(names)
    if code == 75:
        assert len(lost) > 2
        assert "workers hang in the kernel and cannot be killed" in from_disk.report["stopped"]
    else:
        assert from_disk.report["counts"]["decompressed"] == len(from_disk.record)
    from_disk.check_whole()
    disk.rules()
    from_disk.record |= dict.fromkeys(names, from_disk.record["CT0001.dcm"])
    from_disk.finish()


@pytest.mark.faults
@pytest.mark.parametrize("after", [15, 60, 150])
def test_a_target_that_turns_read_only_for_good(onto_disk: Run, disk: Disk, after: int) -> None:
    """As ext4 does after an error: every change is refused from then on. Nothing half written, and resumable."""
    disk.rules({"op": WRITING, "path": "/target*", "do": "EROFS", "after": after})
    onto_disk.start()
    assert onto_disk.wait(60) in {1, 2, 75}, onto_disk.errors  # 2: before anything was begun
    assert "Traceback" not in onto_disk.errors
    onto_disk.check_whole()
    disk.rules()
    onto_disk.finish()
