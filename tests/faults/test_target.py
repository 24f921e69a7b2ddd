"""Targets on other file systems: one that FUSE calls sshfs, and one that does not tell upper from lower case."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import CARELESS
from tests.faults.conftest import Disk, Run, why_no_fuse
from tests.series import check_series


@pytest.fixture
def onto_network(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    if reason := why_no_fuse():
        pytest.skip(f"no FUSE: {reason}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    disk = Disk(tmp_path, "disk", kind="sshfs")
    run.target, run.real_target = disk.path / "target", disk.real / "target"
    yield run
    run.close()
    disk.close()


def test_the_journal_is_kept_on_this_machine_which_is_said(onto_network: Run, tmp_path: Path) -> None:
    onto_network.finish()
    assert "on a network (fuse.sshfs): its journal" in onto_network.errors
    assert "network-share" in onto_network.errors
    (folder,) = (tmp_path / "state" / "dcmpool").iterdir()
    assert os.listdir(folder) == ["journal.sqlite"]
    assert str(folder) in onto_network.errors
    assert os.listdir(onto_network.real_target / ".dcmpool") == ["lock"]
    onto_network.finish()
    assert onto_network.report["counts"]["settled"] == len(onto_network.record)


@pytest.fixture
def onto_careless(tmp_path: Path, run: Run) -> Iterator[Run]:
    """A run of eight slices; of six, the names differ in case alone, by pairs."""
    if reason := why_no_fuse():
        pytest.skip(f"no FUSE: {reason}")
    names = ["CT0001.dcm", "ct0001.dcm", "A/x.dcm", "a/x.dcm", "B/d/y.dcm", "B/D/y.dcm", "B/d/z.dcm", "CT0002.dcm"]
    slices, digests = run.source.with_name("slices"), run.record
    run.source.rename(slices)
    run.record = {}
    for name, original in zip(names, digests, strict=False):
        (run.source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(slices / original, run.source / name)
        run.record[name] = digests[original]
    disk = Disk(tmp_path, "disk", kind=CARELESS)
    run.target, run.real_target = disk.path / "target", disk.real / "target"
    yield run
    run.close()
    disk.close()


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_names_that_differ_in_case_alone_one_is_done_and_one_is_told(
    onto_careless: Run, *, overwrite: bool
) -> None:
    """Also if both come in one commit; no result is ever another source's."""
    run = onto_careless
    run.start(work={"overwrite": overwrite})
    assert run.wait() == 1, run.errors
    assert "ignores case" in run.errors
    failed = {item["path"] for item in run.report["failed"]}
    for pair in (("CT0001.dcm", "ct0001.dcm"), ("A/x.dcm", "a/x.dcm"), ("B/d/y.dcm", "B/D/y.dcm")):
        assert len(failed & set(pair)) == 1, failed
    assert {item["kind"] for item in run.report["failed"]} == {"EXISTS"}
    done = {name: digest for name, digest in run.record.items() if name not in failed}
    assert check_series(done, run.real_target) == []
    run.start(work={"overwrite": overwrite})
    assert run.wait() == 1, run.errors
    assert {item["path"] for item in run.report["failed"]} == failed
    assert run.report["counts"]["settled"] == len(done)
