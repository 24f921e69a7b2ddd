"""What a worker may not do, tried for real; and what it must still be able to read."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from dcmpool import sandbox
from dcmpool.model import Outcome
from tests.test_children import Run

needs_landlock = pytest.mark.skipif(sandbox.abi() < 6, reason=f"Landlock ABI {sandbox.abi()}: 6 is needed")
GUARDED = {
    "read /etc/shadow", "write beside", "write to target", "overwrite source", "remove source", "connect",
    "signal the supervisor",
}  # fmt: skip


@pytest.fixture
def series(tmp_path: Path) -> Run:
    """A small series of good files, and beside it what a child needs for its tries."""
    (tmp_path / "supervisor").write_text(str(os.getpid()))
    return Run(tmp_path)


def outcomes(series: Run, mode: str) -> dict[str, str]:
    """Run with children that try it all, and return how each try ended in the first of them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        (series.source.parent / "port").write_text(str(server.getsockname()[1]))
        series.run("tests.confined_children", sandbox={"mode": mode}, work={"workers": 1})
    first = min((series.target / ".dcmpool" / "evidence").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    return dict(line.split(": ") for line in (first / "output.txt").read_text().splitlines() if ": " in line)


@needs_landlock
def test_all_that_is_forbidden_is_refused(series: Run) -> None:
    """Secrets, writing anywhere but the temp folder, the network, and signals."""
    found = outcomes(series, "require")
    assert {what for what, how in found.items() if how == "PermissionError"} == GUARDED, found


def test_without_the_sandbox_nothing_is_refused(series: Run) -> None:
    """The tries are real."""
    found = outcomes(series, "off")
    assert "PermissionError" not in {how for what, how in found.items() if what != "read /etc/shadow"}, found


@needs_landlock
@pytest.mark.parametrize("where", ["", "/dev/shm"])
def test_sources_behind_links_are_read(series: Run, where: str, request: pytest.FixtureRequest) -> None:
    """Files and directories that links of SOURCE lead to, outside of it; also what lies in memory."""
    if where and not os.access(where, os.W_OK):
        pytest.skip(f"there is no {where} here")
    elsewhere = Path(tempfile.mkdtemp(dir=where or series.source.parent))
    request.addfinalizer(lambda: shutil.rmtree(elsewhere))
    shutil.move(series.source / "CT0001.dcm", elsewhere)
    (series.source / "CT0001.dcm").symlink_to(elsewhere / "CT0001.dcm")
    (series.source / "more").symlink_to(elsewhere)
    report = series.run(sandbox={"mode": "require"})
    assert report.exit_code == 0
    assert report.counts[Outcome.DECOMPRESSED] == len(series.record) + 1
