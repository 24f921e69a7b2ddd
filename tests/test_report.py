"""The tally counts each file once; the report is one valid JSON object whatever the files are called."""

import json
import os
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dcmpool.model import FailureKind, Outcome
from dcmpool.protocol import Attempt, Ending, Noted, Result, Scanned
from dcmpool.report import Report, Tally
from tests.world import JPEG_LOSSLESS, written

PATHS = st.binary(min_size=1, max_size=30)


def result(path: bytes, outcome: Outcome = Outcome.DECOMPRESSED, notes: tuple[str, ...] = ()) -> Result:
    """Return a committed result."""
    message = written(1, outcome)
    return Result(1, path, b"temp", type(message)(**{**_fields(message), "notes": notes}))


def _fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def ending(path: bytes, outcome: Outcome = Outcome.FAILED, kind: FailureKind | None = FailureKind.CORRUPT) -> Ending:
    """Return a job that ended without a result."""
    attempts = (Attempt("gdcm", kind, "why", "decode", 1.23456),) if kind else ()
    return Ending(1, path, 100, 1, outcome, JPEG_LOSSLESS, kind, "because", attempts)


def report(tally: Tally, source: bytes = b"/s", target: bytes = b"/t") -> Report:
    """Return the report of a tally."""
    return tally.report(source=source, target=target, kills=3, seconds=1.23456, exit_code=1, stopped="")


def parsed(text: str) -> Any:
    """Return strict JSON, without Python's NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_the_report_says_all_that_came_of_the_run() -> None:
    """Every key that scripts rely on, with its shape."""
    tally = Tally(lambda _: None)
    tally.walked(Scanned(7, 1000, 2, complete=True, gone=5))
    tally.result(result(b"good", notes=("a remark",)))
    tally.result(result(b"film", Outcome.KEPT, ("MPEG-4",)))
    tally.ending(ending(b"bad"))
    tally.noted(Noted(b"pipe", None, "a FIFO, not a file"))
    tally.retries = 4
    assert parsed(report(tally).to_json()) == {
        "source": "/s",
        "target": "/t",
        "counts": {
            "decompressed": 1,
            "copied": 0,
            "other": 0,
            "kept": 1,
            "skipped": 1,
            "settled": 2,
            "failed": 1,
        },
        "by_transfer_syntax": {JPEG_LOSSLESS: {"decompressed": 1, "failed": 1, "kept": 1}},
        "failed": [
            {
                "path": "bad",
                "kind": "CORRUPT",
                "reason": "because",
                "transfer_syntax_uid": JPEG_LOSSLESS,
                "attempts": [
                    {"engine": "gdcm", "kind": "CORRUPT", "stage": "decode", "reason": "why", "seconds": 1.235}
                ],
            }
        ],
        "kept": [{"path": "film", "reason": "MPEG-4"}],
        "skipped": [{"path": "pipe", "reason": "a FIFO, not a file"}],
        "notes": [{"path": "good", "reason": "a remark"}],
        "native_bytes": 2 * 2 * 1024 * 1024,
        "kills": 3,
        "retries": 4,
        "confirmed": 0,
        "gone": 5,
        "seconds": 1.235,
        "exit_code": 1,
        "stopped": "",
    }


@given(good=PATHS, bad=PATHS, left=PATHS, source=PATHS)
def test_the_report_is_one_line_of_json_whatever_the_files_are_called(
    good: bytes, bad: bytes, left: bytes, source: bytes
) -> None:
    """And gives each name back, byte by byte, to whoever decodes it as Python does."""
    assume(bad != left)
    tally = Tally(lambda _: None)
    tally.result(result(good, notes=("a remark",)))
    tally.ending(ending(bad))
    tally.ending(ending(left, Outcome.SKIPPED, None))
    text = report(tally, source, source).to_json()
    assert text.isascii()
    assert "\n" not in text
    value = parsed(text)
    names = (value["notes"], value["failed"], value["skipped"])
    assert [os.fsencode(entries[0]["path"]) for entries in names] == [good, bad, left]
    assert os.fsencode(value["source"]) == source


def test_lists_are_sorted_by_path() -> None:
    """Two runs over the same files are easy to compare."""
    tally = Tally(lambda _: None)
    for path in (b"c", b"a", b"b"):
        tally.ending(ending(path))
        tally.ending(ending(path + b"!", Outcome.SKIPPED, None))
    made = report(tally)
    assert [e.path for e in made.failed] == [b"a", b"b", b"c"]
    assert [line.path for line in made.skipped] == [b"a!", b"b!", b"c!"]


@pytest.mark.parametrize("kind", [None, FailureKind.READ])
def test_what_a_restarted_clerk_says_again_counts_once(kind: FailureKind | None) -> None:
    """It walks from the beginning, and names special files and old failures again."""
    tally = Tally(lambda _: None)
    for _ in range(2):
        tally.noted(Noted(b"odd", kind, "cannot be a job"))
        tally.ending(ending(b"bad"))
    assert tally.ended == 2
    assert tally.counts[Outcome.FAILED] == 1 + (kind is not None)


def test_the_walks_totals_are_taken_not_added() -> None:
    """Each `Scanned` holds all so far, and a restarted clerk counts from nothing."""
    tally = Tally(lambda _: None)
    tally.walked(Scanned(5, 100, 1, complete=False))
    tally.walked(Scanned(9, 200, 3, complete=False))
    tally.walked(Scanned(2, 40, 0, complete=False))
    assert (tally.files_walked, tally.bytes_walked, tally.ended) == (9, 200, 3)


def test_what_ended_is_the_sum_of_all_outcomes() -> None:
    """So that nothing that was walked can be missing unnoticed."""
    tally = Tally(lambda _: None)
    for number, outcome in enumerate((Outcome.DECOMPRESSED, Outcome.COPIED, Outcome.OTHER, Outcome.KEPT)):
        tally.result(result(b"%d" % number, outcome))
    tally.ending(ending(b"x"))
    tally.ending(ending(b"y", Outcome.SKIPPED, None))
    assert tally.ended == sum(report(tally).counts.values()) == 6
    assert sum(sum(counts.values()) for counts in report(tally).by_transfer_syntax.values()) == 6
