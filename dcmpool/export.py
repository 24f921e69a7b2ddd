"""The journal as CSV and as JSON: one row a file, written as they come."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from dcmpool.history import History
from dcmpool.journal import Row
from dcmpool.model import WITHOUT_RESULT, Outcome
from dcmpool.review import Review
from dcmpool.syntaxes import syntax_name

COLUMNS = (
    "path", "source_size", "transfer_syntax_uid", "transfer_syntax", "outcome", "kind", "reason", "engine",
    "confirmed_by", "attempts", "seconds", "write_seconds", "result_size", "pixel_digest", "ended", "run", "in_source",
)  # fmt: skip
CSV_START = ",".join(COLUMNS[:3])
JSON_START = '{"dcmpool_report": 1, '


def write_csv(history: History, file: TextIO) -> None:
    """Write one row a file, the names first."""
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(history))


def write_json(history: History, review: Review, target: bytes, file: TextIO) -> None:
    """Write one object: totals, runs, and all files in the end, one a line."""
    totals = {
        "target": os.fsdecode(target),
        "files": review.files,
        "counts": {outcome.value: review.outcomes[outcome] for outcome in Outcome if outcome is not Outcome.SETTLED},
        "failures": {kind.value: review.failures[kind].count for kind in review.kinds},
        "by_transfer_syntax": {uid: dict(sorted(counts.items())) for uid, counts in sorted(review.by_syntax.items())},
        "source_bytes": review.source_bytes,
        "result_bytes": review.result_bytes,
        "kills": review.deaths,
        "confirmed": review.confirmed,
        "gone": review.gone.count,
        "interrupted": review.interrupted,
        "damaged": review.damaged,
    }
    runs = [
        msgspec.to_builtins(msgspec.structs.replace(run, source=b"", target=b""))
        | {"source": os.fsdecode(run.source), "target": os.fsdecode(run.target)}
        for run in review.runs
    ]
    file.write(f'{JSON_START}"totals": {json.dumps(totals)},\n"runs": {json.dumps(runs)},\n"file_list": [')
    for number, row in enumerate(_rows(history)):
        file.write((",\n" if number else "\n") + json.dumps(row))
    file.write("\n]}\n")


def _rows(history: History) -> Iterator[dict[str, Any]]:
    for row, is_gone in history.files():
        if row is not None:
            yield _columns(row, is_gone=is_gone)
    for note in history.notes():
        outcome = Outcome.FAILED if note.kind else Outcome.SKIPPED
        yield dict.fromkeys(COLUMNS, "") | {
            "path": os.fsdecode(note.path), "outcome": outcome.value, "kind": note.kind or "", "reason": note.reason,
            "attempts": 0, "in_source": "yes",
        }  # fmt: skip


def _columns(row: Row, *, is_gone: bool) -> dict[str, Any]:
    has_result = row.outcome not in WITHOUT_RESULT and row.result_size is not None
    values: Iterable[Any] = (
        os.fsdecode(row.path), row.size, row.transfer_syntax_uid,
        syntax_name(row.transfer_syntax_uid) if row.transfer_syntax_uid else "", row.outcome.value, row.kind or "",
        row.reason, row.engine, row.confirmed_by, len(row.ending().attempts) + has_result, round(row.seconds, 3),
        "" if row.write_seconds is None else round(row.write_seconds, 4), row.result_size if has_result else "",
        row.digest, _time(row.ended), row.run, "no" if is_gone else "yes",
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
