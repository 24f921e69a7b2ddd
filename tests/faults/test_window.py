"""Storage whose latency rises and falls: the gate narrows and opens again, and every file comes out right."""

import os
import threading
from pathlib import Path

import pytest

from dcmpool.config import load
from dcmpool.progress import Mode, Progress
from dcmpool.report import Report
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task
from tests.faults.conftest import Disk, wait_for
from tests.series import check_series

TEMP = "/target/.dcmpool/tmp/*"
FILES = 600
WRITERS = 8


class Watched(Supervisor):
    """A supervisor that shows how many may write."""

    @property
    def open_to(self) -> int:
        return self._pool.gate.open_to


@pytest.fixture
def record(tmp_path: Path, series: tuple[Path, dict[str, str]]) -> dict[str, str]:
    """Make a long series of hard links to a short one; return the digests of its pixels."""
    folder = tmp_path / "long"
    folder.mkdir()
    names = sorted(series[1])
    found = {}
    for index in range(FILES):
        name = names[index % len(names)]
        os.link(series[0] / name, folder / f"{index:04}.dcm")
        found[f"{index:04}.dcm"] = series[1][name]
    return found


@pytest.mark.faults
def test_the_gate_follows_the_latency_of_the_disk(tmp_path: Path, disk: Disk, record: dict[str, str]) -> None:
    config = load(
        flags={
            "work": {"workers": WRITERS},
            "gate": {"max_writers": WRITERS},
            "limits": {"attempt_seconds": 30.0},
        }
    )
    task = Task(os.fsencode(tmp_path / "long"), os.fsencode(disk.path / "target"))
    run = Watched(task, config, Progress(Mode.OFF))
    seen: list[int] = []

    def weather() -> None:
        """Let the disk be slow for a while, once it has been seen fast."""
        wait_for(lambda: len(list((disk.real / "target").glob("*.dcm"))) > 30, "results")
        seen.append(run.open_to)
        disk.rules({"op": "fsync", "path": TEMP, "do": 1.0})
        wait_for(lambda: run.open_to <= WRITERS // 4, "a narrow gate")
        seen.append(run.open_to)
        disk.rules()
        wait_for(lambda: run.open_to == WRITERS, "a gate that is open again")
        seen.append(run.open_to)

    thread = threading.Thread(target=weather)
    thread.start()
    report: Report = run.run()
    thread.join()
    assert (report.exit_code, report.retries, report.kills) == (0, 0, 0)
    assert len(seen) == 3, "the weather ended before its time"
    assert seen[1] <= WRITERS // 4 < seen[2] == WRITERS
    assert check_series(record, disk.real / "target") == []
