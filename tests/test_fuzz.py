"""The fuzzer finds what it should; what it once found in dcmpool stays found; and a short run of it."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz.mutants import mutant, originals, write_mutants
from tests.fuzz.protocol import try_mutant

PAST = Path(__file__).parent / "fuzz" / "findings"


@pytest.fixture
def batch(tmp_path: Path) -> fuzz.Batch:
    return fuzz.Batch(tmp_path)


def test_a_short_run_finds_nothing(batch: fuzz.Batch) -> None:
    """Sixty mutants through the whole command, and some thousand through the protocol."""
    write_mutants(batch.source, seed=0, indices=range(60))
    assert batch.run() == []
    assert sum(batch.outcomes.values()) == 60
    assert [problem for index in range(2000) if (problem := try_mutant(0, index))] == []


def test_past_findings_are_refused(batch: fuzz.Batch) -> None:
    """Each file here was once called done: by one old decoder's word, with a header that cannot be, or with one of
    its pictures alone."""
    batch.source.mkdir()
    files = sorted(PAST.glob("*.dcm"))
    for path in files:
        (batch.source / path.name).write_bytes(path.read_bytes())
    assert batch.run() == []
    assert sum(count for name, count in batch.outcomes.items() if name.startswith("failed")) == len(files) > 0


def test_the_same_seed_gives_the_same_mutants() -> None:
    assert [mutant(7, index) for index in range(50)] == [mutant(7, index) for index in range(50)]
    assert mutant(7, 0) != mutant(8, 0)


def honest(batch: fuzz.Batch) -> Path:
    """Write one undamaged file, run the command over it, and return its result."""
    batch.source.mkdir()
    (batch.source / "a.dcm").write_bytes(originals()["1.2.840.10008.1.2.4.90 signed 16"])
    assert batch.run() == []
    return batch.target / "a.dcm"


def test_a_wrong_pixel_is_a_finding(batch: fuzz.Batch) -> None:
    result = honest(batch)
    instance = pydicom.dcmread(result)
    pixels = np.frombuffer(instance.PixelData, "<i2").copy()
    pixels[100] += 1
    instance.PixelData = pixels.tobytes()
    instance.save_as(result)
    (finding,) = batch.judge_results(["a.dcm"])
    assert "unlike every reference" in finding.what


def test_a_wrong_header_is_a_finding(batch: fuzz.Batch) -> None:
    result = honest(batch)
    instance = pydicom.dcmread(result)
    instance.PatientName = "Somebody^Else"
    instance.save_as(result)
    (finding,) = batch.judge_results(["a.dcm"])
    assert "00100010" in finding.what


def test_a_result_of_a_wrong_length_is_a_finding(batch: fuzz.Batch) -> None:
    result = honest(batch)
    instance = pydicom.dcmread(result)
    instance.PixelData += b"\0\0"
    instance.save_as(result)
    assert any("are due" in finding.what for finding in batch.judge_results(["a.dcm"]))
