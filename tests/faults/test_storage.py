"""Storage that is slow, stalls, fails or never answers: the run says so, loses nothing, blames no file, goes on."""

import signal
import time
from typing import Any

import psutil
import pytest

from tests.faults.conftest import Disk, Run, is_gone, wait_for

READING = ["getattr", "readdir", "open", "read"]
WRITING = ["mkdir", "create", "write", "fsync", "rename", "fsyncdir", "utimens", "getattr"]
TEMP = "/target/.dcmpool/tmp/*"
JOURNAL = "/target/.dcmpool/journal*"


@pytest.mark.faults
@pytest.mark.parametrize("op", READING)
def test_a_source_that_stalls_and_answers_again(from_disk: Run, disk: Disk, op: str) -> None:
    """The run waits, and goes on by itself; no file is blamed, none is tried twice."""
    disk.rules({"op": op, "path": "/series*", "do": "stall", "after": 10})
    if op == "readdir":
        disk.rules({"op": op, "path": "/series*", "do": "stall"})
    from_disk.start()
    disk.await_hit()
    time.sleep(5)
    assert not from_disk.is_over
    assert "the source's storage has not answered for" in from_disk.errors
    disk.rules()
    assert from_disk.wait() == 0, from_disk.errors
    from_disk.check()
    assert from_disk.report["retries"] == 0, from_disk.errors
    assert from_disk.report["kills"] == 0


@pytest.mark.faults
@pytest.mark.parametrize("op", WRITING)
def test_a_target_that_stalls_and_answers_again(onto_disk: Run, disk: Disk, op: str) -> None:
    # Directories are made at the start, and synced once for many files.
    disk.rules({"op": op, "path": "/target*", "do": "stall", "after": {"mkdir": 0, "fsyncdir": 1}.get(op, 12)})
    onto_disk.start()
    disk.await_hit()
    time.sleep(5)
    assert not onto_disk.is_over
    assert "has not" in onto_disk.errors
    disk.rules()
    assert onto_disk.wait() == 0, onto_disk.errors
    assert "storage answers again" in onto_disk.errors
    onto_disk.check()
    assert onto_disk.report["retries"] == 0
    assert onto_disk.report["kills"] == 0


ERRORS = [
    ("read", "/series/CT0003.dcm", "EIO", "READ"),
    ("open", "/series/CT0003.dcm", "EIO", "READ"),
    ("open", "/series/CT0003.dcm", "EACCES", "READ"),
    ("getattr", "/series/CT0003.dcm", "EIO", "READ"),
]


@pytest.mark.faults
@pytest.mark.parametrize(("op", "path", "do", "kind"), ERRORS)
def test_a_source_file_that_cannot_be_read(from_disk: Run, disk: Disk, op: str, path: str, do: str, kind: str) -> None:
    """It fails alone, with its reason; the next run, when storage is well, finishes it."""
    disk.rules({"op": op, "path": path, "do": do})
    from_disk.start()
    assert from_disk.wait() == 1
    (failed,) = from_disk.report["failed"]
    assert (failed["path"], failed["kind"]) == ("CT0003.dcm", kind)
    assert from_disk.report["counts"]["decompressed"] == len(from_disk.record) - 1
    from_disk.check_whole()
    disk.rules()
    from_disk.finish()


@pytest.mark.faults
@pytest.mark.parametrize("op", ["create", "write", "fsync", "rename", "fsyncdir", "utimens", "flush"])
@pytest.mark.parametrize("do", ["EIO", "ENOSPC", "EDQUOT", "EROFS"])
def test_a_target_that_fails_for_a_while(onto_disk: Run, disk: Disk, op: str, do: str) -> None:
    """The run ends; nothing is wrong or half there; the next run finishes."""
    path = TEMP if op in {"create", "write", "fsync", "utimens", "flush"} else "/target*"
    # Directories are synced once for many files.
    disk.rules({"op": op, "path": path, "do": do, "after": 4 if op == "fsyncdir" else 9, "times": 6})
    onto_disk.start()
    code = onto_disk.wait()
    assert code in {0, 1, 75}, onto_disk.errors
    assert len(disk.hits) > 0
    onto_disk.check_whole()
    assert "Traceback" not in onto_disk.errors
    disk.rules()
    onto_disk.finish()


@pytest.mark.faults
@pytest.mark.parametrize("op", ["write", "fsync", "truncate", "open"])
@pytest.mark.parametrize("do", ["EIO", "ENOSPC"])
def test_a_journal_that_cannot_be_written(onto_disk: Run, disk: Disk, op: str, do: str) -> None:
    """Exit code 75 and no traceback; the next run finishes."""
    disk.rules({"op": op, "path": JOURNAL, "do": do, "after": 6})
    onto_disk.start()
    assert onto_disk.wait() in {0, 2, 75}, onto_disk.errors  # 2: before anything else was written
    onto_disk.check_whole()
    assert "Traceback" not in onto_disk.errors
    disk.rules()
    onto_disk.finish()


NEVER: list[dict[str, Any]] = [
    {"op": "write", "path": TEMP, "do": "stall"},
    {"op": "fsync", "path": TEMP, "do": "stall"},
    {"op": "rename", "path": "/target*", "do": "stall"},
    {"op": ["write", "fsync"], "path": JOURNAL, "do": "stall", "after": 30},
]


@pytest.mark.faults
@pytest.mark.parametrize("rule", NEVER, ids=lambda rule: str(rule["op"]))
def test_a_target_that_never_answers(onto_disk: Run, disk: Disk, rule: dict[str, Any]) -> None:
    """Exit code 75 after `give_up_seconds`; what hangs in the kernel is left behind; the next run finishes."""
    disk.rules(rule)
    onto_disk.start(storage={"give_up_seconds": 4.0})
    assert onto_disk.wait(30) == 75, onto_disk.errors
    assert "has not" in onto_disk.errors
    # A journal may fall silent while it is opened, when nobody knows yet whose storage it is.
    words = (
        "the target's storage has not completed a write for",
        "the storage of source or target has not answered for",
    )
    assert onto_disk.report["stopped"].startswith(words)
    onto_disk.check_whole()
    disk.rules()
    onto_disk.finish()


@pytest.mark.faults
@pytest.mark.parametrize("op", ["getattr", "readdir", "open", "read"])
def test_a_source_that_never_answers(from_disk: Run, disk: Disk, op: str) -> None:
    disk.rules({"op": op, "path": "/series*", "do": "stall", "after": 0 if op == "readdir" else 10})
    from_disk.start(storage={"give_up_seconds": 4.0})
    assert from_disk.wait(30) == 75, from_disk.errors
    assert "the source's storage has not answered for" in from_disk.report["stopped"]
    from_disk.check_whole()
    disk.rules()
    from_disk.finish()


NOBODY_ANSWERS: dict[str, list[dict[str, Any]]] = {
    "target": [{"op": ["write", "fsync"], "path": TEMP, "do": "stall"}],
    "source": [{"op": "open", "path": "/series/*.dcm", "do": "stall"}],
    "both": [
        {"op": "open", "path": "/series/CT000[2-9].dcm", "do": "stall"},
        {"op": ["write", "fsync"], "path": TEMP, "do": "stall"},
    ],
}
"""Rules by whose storage never answers."""


@pytest.mark.parametrize("whose", NOBODY_ANSWERS)
def test_interrupted_twice_while_every_worker_hangs(from_disk: Run, onto_disk: Run, disk: Disk, whose: str) -> None:
    """The prompt is back soon, with every worker beyond the reach of SIGKILL; the next run finishes."""
    assert from_disk is onto_disk
    disk.rules(*NOBODY_ANSWERS[whose])
    onto_disk.start(storage={"give_up_seconds": 1000.0})
    wait_for(lambda: len(disk.hits) >= 2, "both workers")
    family = onto_disk.process.children(recursive=True)
    onto_disk.signal(signal.SIGINT)
    onto_disk.await_notice("once more stops at once")
    onto_disk.signal(signal.SIGINT)
    assert onto_disk.wait(20) == 130
    hanging = [process for process in family if not is_gone(process.pid)]
    assert len(hanging) >= 2, "the test has not made anything hang"
    wait_for(
        lambda: {process.status() for process in hanging} == {psutil.STATUS_DISK_SLEEP}, "all to be beyond SIGKILL"
    )
    onto_disk.check_whole()
    disk.rules()
    wait_for(lambda: all(is_gone(process.pid) for process in hanging), "the hanging ones to end")
    onto_disk.finish()
