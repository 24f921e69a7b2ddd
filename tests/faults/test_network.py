"""A target on a network: a disk that FUSE calls sshfs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Disk, Run, why_no_fuse


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
    assert "on a network (fuse.sshfs)" in onto_network.errors
    (folder,) = (tmp_path / "state" / "dcmpool").iterdir()
    assert os.listdir(folder) == ["journal.sqlite"]
    assert str(folder) in onto_network.errors
    assert os.listdir(onto_network.real_target / ".dcmpool") == ["lock"]
    onto_network.finish()
    assert onto_network.report["counts"]["settled"] == len(onto_network.record)
