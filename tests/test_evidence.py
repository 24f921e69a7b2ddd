"""Each way to get stuck, provoked for real, is read back from the evidence; and an attempt can be repeated."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dcmpool import diagnose
from dcmpool.model import FailureKind
from tests.test_children import HANGING, Run

CAUSES = {
    "spin": "spinning in the decoder",
    "stop": "stopped",
    "wait": "waiting",
    "full_pipe": "blocked on a full pipe",
    "lock": "waiting for a lock",
    "program": "waiting for a program of its own, which is spinning in the decoder",
}


@pytest.fixture
def series(tmp_path: Path) -> Run:
    """A small series of good files."""
    return Run(tmp_path)


def kept(series: Run) -> list[tuple[dict[str, Any], Path]]:
    """Return the diagnoses that are kept, with their folders."""
    folders = sorted((series.target / ".dcmpool" / "evidence").iterdir())
    return [(json.loads((folder / "diagnosis.json").read_text()), folder) for folder in folders]


@pytest.mark.parametrize(("how", "cause"), CAUSES.items())
def test_the_cause_of_a_kill(series: Run, how: str, cause: str) -> None:
    """The report and the evidence name cause, stage and seconds; the stack is there though the GIL was held."""
    series.add(how)
    report = series.run("tests.stuck_children", limits={"attempt_seconds": 1.5})
    (ending,) = report.failed
    assert cause in ending.attempts[0].reason
    assert "decode with" in ending.attempts[0].reason
    diagnosis, folder = kept(series)[0]
    assert (diagnosis["file"], diagnosis["cause"], diagnosis["stage"]) == (f"{how}.dcm", cause, "decode")
    assert diagnosis["seconds"] > 1.4
    assert diagnosis["versions"]["python-gdcm"]
    if how != "stop":  # who is stopped writes nothing any more
        assert "stuck_children" in (folder / "stack.txt").read_text()
    assert not (folder / "source").exists()


def test_a_crash_names_the_engine_and_what_it_read(series: Run) -> None:
    """The child shows both before it decodes, and sends nothing: what it shows outlives it."""
    series.add("refused_memory")
    report = series.run("tests.stuck_children")
    (ending,) = report.failed
    assert [attempt.engine for attempt in ending.attempts][:2] == ["turbo", "gdcm"]
    assert ending.transfer_syntax_uid == "1.2.840.10008.1.2.4.70"
    assert [diagnosis["engine"] for diagnosis, _ in kept(series)][:2] == ["turbo", "gdcm"]


def test_a_header_that_takes_for_ever_is_no_decoders_fault(series: Run) -> None:
    series.add("spin_in_the_header")
    series.run("tests.stuck_children", limits={"attempt_seconds": 1.5})
    diagnosis, _ = kept(series)[0]
    assert (diagnosis["cause"], diagnosis["stage"]) == ("computing (inspect)", "inspect")


@pytest.mark.parametrize(
    ("module", "how", "words"),
    [
        ("tests.children", "eat_memory", "more memory is needed than a worker may use (limits.memory_mib)"),
        ("tests.stuck_children", "refused_memory", 'it said "std::bad_alloc"'),
    ],
)
def test_out_of_memory_is_a_cause(series: Run, module: str, how: str, words: str) -> None:
    """By the limit of a worker: told by Python, or by a library that ends the process."""
    series.add(how)
    report = series.run(module, limits={"attempt_seconds": 20.0, "memory_mib": 1024})
    (ending,) = report.failed
    assert ending.kind is FailureKind.MEMORY
    assert all(words in attempt.reason for attempt in ending.attempts)
    diagnosis, _ = kept(series)[0]
    assert (diagnosis["kind"], diagnosis["cause"]) == ("MEMORY", "out of memory")
    assert words in diagnosis["reason"]
    if how == "eat_memory":
        assert diagnosis["process"]["peak_bytes"] > 500 << 20


def test_a_kill_by_nobody_we_know_is_not_called_out_of_memory(series: Run) -> None:
    series.add("kill_itself")
    report = series.run()
    (ending,) = report.failed
    assert ending.attempts[0].reason == "the worker was killed by SIGKILL, not by dcmpool"
    diagnosis, _ = kept(series)[0]
    assert (diagnosis["kind"], diagnosis["cause"]) == ("CRASHED", "")


def test_the_source_is_copied_only_where_that_is_wanted(series: Run) -> None:
    """Evidence holds no patient data otherwise."""
    series.add("segfault")
    series.run(work={"evidence_copy": True})
    _, folder = kept(series)[0]
    assert (folder / "source").read_bytes() == (series.source / "segfault.dcm").read_bytes()
    assert "segfault" in (folder / "stack.txt").read_text().casefold()


def test_an_attempt_can_be_repeated(series: Run) -> None:
    """The command of the evidence runs, here on a file that is well again, and is bounded by its limit."""
    series.add("hang_in_c")
    series.run(limits=HANGING)
    diagnosis, _ = kept(series)[0]
    shutil.copy(series.source / "CT0001.dcm", series.source / "hang_in_c.dcm")
    words = diagnosis["repeat"].split()
    assert words[:4] == ["python", "-m", "dcmpool", "attempt"]
    done = subprocess.run([sys.executable, *words[1:], "--limit", "20"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "decompressed" in done.stdout


def test_looking_takes_no_time() -> None:
    """Far below the 100 ms that a supervisor may spend on it; of CPU, since a busy machine may let it wait."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        begun = time.thread_time()
        for _ in range(20):
            diagnose.examine(process.pid)
        seconds = (time.thread_time() - begun) / 20
        process.kill()
    assert seconds < 0.05
