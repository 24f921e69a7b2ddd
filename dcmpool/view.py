"""A run at one moment, as people read it: a few lines for a log, a screen for a terminal."""

import os
from typing import TYPE_CHECKING

from dcmpool.events import Doing, Rate, Remaining, Snapshot
from dcmpool.model import Outcome
from dcmpool.text import duration, shown, size

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

_MAX_WORKERS = 16
_MAX_BAR = 60
_SLOW_SECONDS = 2.0
"""An attempt that takes longer is shown in another colour; one that has used half of its limit in a third."""
STATES = {
    "running": "",
    "paused": "paused",
    "closed": "outside of the window",
    "stalled": "storage does not answer",
    "draining": "finishing what is under way",
}
"""What is said of each state."""
_WORDS = {
    Outcome.FAILED: "failed",
    Outcome.DECOMPRESSED: "decompressed",
    Outcome.COPIED: "copied",
    Outcome.OTHER: "not DICOM",
    Outcome.KEPT: "kept",
    Outcome.SKIPPED: "left out",
    Outcome.SETTLED: "done before",
}
_PHASES = {"waiting": "at gate", "killing": "killing"}


def line(snapshot: Snapshot) -> str:
    """Return the run in one line, for a log."""
    parts = [f"{duration(snapshot.at_seconds)}: {_files(snapshot)}"]
    if snapshot.failed:
        parts.append(f"{snapshot.failed:,} failed")
    parts.append(f"now {_rate(snapshot.now)}")
    parts.append(f"over all {_rate(snapshot.overall)}")
    if snapshot.remaining is not None:
        parts.append(_left(snapshot.remaining))
    parts += [*_troubles(snapshot), *([STATES[snapshot.state]] if STATES[snapshot.state] else [])]
    slow = [doing for doing in snapshot.workers if doing.seconds > _SLOW_SECONDS]
    if slow:
        slowest = max(slow, key=lambda doing: doing.seconds)
        parts.append(f"{_what(slowest)} for {duration(slowest.seconds)} on {_name(slowest.path)}")
    return ", ".join(parts)


def screen(snapshot: Snapshot, width: int) -> "Group":
    """Return the run for a terminal of that many columns."""
    from rich.console import Group  # noqa: PLC0415 - slow to import, and needed on a terminal alone
    from rich.text import Text  # noqa: PLC0415

    rows: list[RenderableType] = [_head(snapshot, width)]
    rows.append(Text(f"{_files(snapshot)}: {_counts(snapshot)}".removesuffix(": ")))
    for text in (
        f"now {_rate(snapshot.now)}; over all {_rate(snapshot.overall)}; {size(snapshot.native_bytes)} native",
        ", ".join([*_troubles(snapshot), _gate(snapshot)]),
    ):
        rows.append(_row(text))
    if snapshot.storage:
        rows.append(_row(f"{snapshot.storage}: no new file is begun", "bold red"))
    rows.append(_workers(snapshot.workers, width))
    rows += [_row(f"failed: {_name(r.path)}: {r.kind}: {r.reason}", "red") for r in snapshot.refused]
    return Group(*rows)


def _head(snapshot: Snapshot, width: int) -> "Table":
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    done, found = snapshot.source_bytes + snapshot.settled_bytes, snapshot.bytes_found
    words = [duration(snapshot.at_seconds)]
    if snapshot.walk_complete and found:
        words.insert(0, f"{100 * min(done, found) // found} %")
    if snapshot.remaining is not None:
        words.append(_left(snapshot.remaining))
    elif not snapshot.walk_complete:
        words.append("still looking for files")
    if STATES[snapshot.state]:
        words.append(STATES[snapshot.state])
    text = Text(", ".join(words), style="bold", overflow="ellipsis", no_wrap=True)
    bar = ProgressBar(
        total=max(1, found), completed=min(done, found), width=max(10, min(_MAX_BAR, width - text.cell_len - 2)),
        pulse=not snapshot.walk_complete,
    )  # fmt: skip
    head = Table.grid(padding=(0, 1))
    head.add_row(bar, text)
    return head


def _workers(workers: tuple[Doing, ...], width: int) -> "Table":
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right")
    for doing in sorted(workers, key=lambda doing: -doing.seconds)[:_MAX_WORKERS]:
        left = f"{doing.seconds:7.1f} s", str(doing.pid), _PHASES.get(doing.phase, doing.stage), doing.engine
        room = max(10, width - 41)
        style = "red" if 2 * doing.seconds > doing.limit_seconds else "yellow" if doing.seconds > _SLOW_SECONDS else ""
        grid.add_row(*(Text(f"{text:{least}}", style=style) for text, least in zip(left, (9, 7, 7, 9), strict=True)),
                     Text(_end_of(_name(doing.path), room), style=style, no_wrap=True))  # fmt: skip
    if len(workers) > _MAX_WORKERS:
        grid.add_row("", "", "", "", Text(f"and {len(workers) - _MAX_WORKERS} more workers"))
    return grid


def _row(text: str, style: str = "") -> "Text":
    from rich.text import Text  # noqa: PLC0415

    return Text(text, style=style, overflow="ellipsis", no_wrap=True)


def _files(snapshot: Snapshot) -> str:
    walk = "" if snapshot.walk_complete else " found so far"
    return f"{snapshot.files:,} of {snapshot.files_found:,} files{walk}"


def _counts(snapshot: Snapshot) -> str:
    return ", ".join(f"{count:,} {words}" for o, words in _WORDS.items() if (count := snapshot.counts.get(o, 0)))


def _rate(rate: Rate) -> str:
    files = rate.files_per_second
    digits = 0 if files >= 10 else 1
    return f"{files:,.{digits}f} files/s {size(rate.bytes_per_second)}/s"


def _left(remaining: Remaining) -> str:
    low, likely, high = (duration(s) for s in (remaining.low_seconds, remaining.seconds, remaining.high_seconds))
    return f"{likely} left" if low == high else f"{likely} left ({low} to {high})"


def _gate(snapshot: Snapshot) -> str:
    gate = snapshot.gate
    parts = [f"{gate.writers} of {gate.window} writing"]
    if gate.window < gate.max_writers:
        parts[0] += f" (narrowed from {gate.max_writers})"
    parts.append(f"{size(gate.bytes)} of {size(gate.max_bytes)} under way")
    if gate.waiting:
        parts.append(f"{gate.waiting} at the gate")
    if gate.write_seconds is not None:
        parts.append(f"a write takes {1000 * gate.write_seconds:,.0f} ms")
    return ", ".join(parts)


def _troubles(snapshot: Snapshot) -> list[str]:
    counts = ((snapshot.kills, "killed"), (snapshot.retries, "retried"))
    return [f"{count:,} {words}" for count, words in counts if count]


def _what(doing: Doing) -> str:
    stage = _PHASES.get(doing.phase, doing.stage)
    return f"{stage} ({doing.engine})" if doing.engine else stage


def _name(path: str) -> str:
    return shown(os.fsencode(path))


def _end_of(text: str, room: int) -> str:
    return text if len(text) <= room else "…" + text[1 - room :]
