"""What a run of hours looks like: nothing that matters is cut off on a terminal of 80 columns, or of 140."""

from typing import Any

import pytest
from rich.console import Console

from dcmpool import view
from dcmpool.events import Doing, GateState, Rate, Refused, Remaining, Snapshot
from dcmpool.model import FailureKind, Outcome

BAD_NAME = "patient\x1b[31m/a\nb.dcm"


def doing(number: int, **changes: Any) -> Doing:
    values: dict[str, Any] = {
        "pid": 40000 + number,
        "path": f"patient-{number:04}/study-20200101/{'series' * 30}/IM{number:05}.dcm",
        "phase": "busy",
        "stage": "decode",
        "engine": "turbo",
        "seconds": 0.1,
        "limit_seconds": 20.0,
    }
    return Doing(**values | changes)


def snapshot(**changes: Any) -> Snapshot:
    """Return a run in its second hour."""
    counts = {Outcome.DECOMPRESSED: 58_123, Outcome.COPIED: 3_003, Outcome.OTHER: 12, Outcome.SETTLED: 1_200}
    values: dict[str, Any] = {
        "at_seconds": 5025.3,
        "state": "running",
        "counts": counts | {Outcome.FAILED: 4},
        "files": 62_342,
        "files_found": 100_000,
        "walk_complete": True,
        "source_bytes": 61 * 10**10,
        "settled_bytes": 10**10,
        "bytes_found": 10**12,
        "native_bytes": 2 * 10**12,
        "confirmed": 0,
        "kills": 3,
        "retries": 5,
        "now": Rate(files_per_second=312.4, bytes_per_second=3.1e8),
        "overall": Rate(files_per_second=288.2, bytes_per_second=2.9e8),
        "remaining": Remaining(seconds=3723, low_seconds=3400, high_seconds=4100),
        "gate": GateState(
            writers=3, window=4, max_writers=8, bytes=120 << 20, max_bytes=512 << 20, waiting=2, write_seconds=0.0123
        ),
        "workers": tuple(doing(number) for number in range(6)),
        "refused": (),
        "storage": "",
    }
    return Snapshot(**values | changes)


def screen(shown: Snapshot, width: int) -> list[str]:
    """Return the lines of the terminal, as they are without colours."""
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(view.screen(shown, width))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 140])
def test_what_matters_is_there_at_any_width(width: int) -> None:
    """How far, how fast, how long yet, how bad, who is on what."""
    lines = screen(snapshot(), width)
    text = "\n".join(lines)
    assert max(len(line) for line in lines) <= width
    for words in ("62 %", "1:23:45", "1:02:03 left (56:40 to 1:08:20)", "62,342 of 100,000 files", "4 failed",
                  "58,123 decompressed", "1,200 done before", "312 files/s 310 MB/s", "288 files/s 290 MB/s",
                  "3 killed", "5 retried", "3 of 4 writing"):  # fmt: skip
        assert words in text, (words, text)
    for number in range(6):
        (line,) = [line for line in lines if f"IM{number:05}.dcm" in line]
        assert f"{40000 + number}" in line
        assert "decode" in line


def test_the_longest_is_the_first_of_the_workers_and_not_all_are_shown() -> None:
    many = [doing(number, seconds=float(number)) for number in range(40)]
    lines = screen(snapshot(workers=tuple(many)), 80)
    shown = [line for line in lines if ".dcm" in line]
    assert len(shown) == 16
    assert "39.0 s" in shown[0]
    assert "and 24 more workers" in "\n".join(lines)
    assert len(lines) < 24


@pytest.mark.parametrize("state", sorted(set(view.STATES) - {"running"}))
def test_a_run_that_does_not_run_says_so(state: str) -> None:
    assert view.STATES[state] in "\n".join(screen(snapshot(state=state), 140))
    assert view.STATES[state] in view.line(snapshot(state=state))


def test_stalled_storage_and_failures_are_said() -> None:
    refused = (Refused(path=BAD_NAME, kind=FailureKind.CORRUPT, reason="cut short"),)
    text = "\n".join(screen(snapshot(storage="the target's storage hangs", refused=refused), 80))
    assert "the target's storage hangs: no new file is begun" in text
    assert r"failed: patient\x1b[31m/a\nb.dcm: CORRUPT: cut short" in text


def test_names_cannot_move_the_cursor() -> None:
    """Neither on the screen nor in the log."""
    odd = snapshot(workers=(doing(1, path=BAD_NAME, seconds=3.0), doing(2, path="odd\udcff.dcm")))
    text = "\n".join(screen(odd, 140)) + view.line(odd)
    assert "\x1b[31m" not in text
    assert r"patient\x1b[31m/a\nb.dcm" in text
    assert r"odd\xff.dcm" in text


def test_the_line_of_a_log() -> None:
    assert view.line(snapshot(workers=(doing(1, seconds=12.0, path="a.dcm"), doing(2)))) == (
        "1:23:45: 62,342 of 100,000 files, 4 failed, now 312 files/s 310 MB/s, over all 288 files/s 290 MB/s, "
        "1:02:03 left (56:40 to 1:08:20), 3 killed, 5 retried, decode (turbo) for 12.0 s on a.dcm"
    )
    assert view.line(snapshot(walk_complete=False, remaining=None, workers=(), kills=0, retries=0)) == (
        "1:23:45: 62,342 of 100,000 files found so far, 4 failed, now 312 files/s 310 MB/s, "
        "over all 288 files/s 290 MB/s"
    )
