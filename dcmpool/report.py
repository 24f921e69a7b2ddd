"""What came of a run: the tally while it goes on, which tells of each file; the report at its end, also as JSON."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from dcmpool.actions import Action, Happened
from dcmpool.events import FileEnded, FileRetried, Tried
from dcmpool.model import FailureKind, Outcome
from dcmpool.protocol import Attempt, Ending, Noted, Result, Scanned


class Line(msgspec.Struct, frozen=True):
    """A path of SOURCE (relative) and what is to be said of it."""

    path: bytes
    reason: str


class Report(msgspec.Struct, frozen=True):
    """The end of a run."""

    source: bytes
    target: bytes
    counts: dict[str, int]
    by_transfer_syntax: dict[str, dict[str, int]]
    failed: list[Ending]
    kept: list[Line]
    skipped: list[Line]
    notes: list[Line]
    native_bytes: int
    kills: int
    retries: int
    confirmed: int
    """Results whose picture a second engine confirmed."""
    seconds: float
    exit_code: int
    stopped: str = ""
    """Why the run ended before its work did; "" if it did not."""
    gone: int = 0
    """Files of earlier runs that are no longer in SOURCE."""

    def to_json(self) -> str:
        """Return one JSON object; what is not UTF-8 in a file name comes as lone surrogates, as Python has them."""
        value: dict[str, Any] = {
            "source": os.fsdecode(self.source),
            "target": os.fsdecode(self.target),
            "counts": self.counts,
            "by_transfer_syntax": self.by_transfer_syntax,
            "failed": [_failed(ending) for ending in self.failed],
            "kept": [_line(line) for line in self.kept],
            "skipped": [_line(line) for line in self.skipped],
            "notes": [_line(line) for line in self.notes],
            "native_bytes": self.native_bytes,
            "kills": self.kills,
            "retries": self.retries,
            "confirmed": self.confirmed,
            "gone": self.gone,
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "stopped": self.stopped,
        }
        return json.dumps(value)


class Tally:
    """Counts what ends, as it ends, and tells of each file once."""

    def __init__(self, emit: Callable[[Action], None]) -> None:
        self._emit = emit
        self.counts: Counter[Outcome] = Counter()
        self.by_transfer_syntax: dict[str, Counter[Outcome]] = defaultdict(Counter)
        self.failed: dict[bytes, Ending] = {}
        self.lines: dict[Outcome, dict[bytes, str]] = {Outcome.KEPT: {}, Outcome.SKIPPED: {}}
        self.notes: list[Line] = []
        self.native_bytes = self.source_bytes = self.settled_bytes = 0
        self.retries = self.confirmed = self.failed_earlier = 0
        self.files_walked = self.bytes_walked = 0
        self.gone = 0
        """Files of earlier runs that are no longer in SOURCE."""

    @property
    def ended(self) -> int:
        """How many files have ended, in this run or an earlier one."""
        return sum(self.counts.values())

    @property
    def failed_now(self) -> int:
        """How many files have failed in this run."""
        return len(self.failed) - self.failed_earlier

    def walked(self, totals: Scanned) -> None:
        """Take the walk's totals so far; a restarted clerk begins again at nothing."""
        self.gone = totals.gone
        self.files_walked = max(self.files_walked, totals.files)
        self.bytes_walked = max(self.bytes_walked, totals.bytes)
        self.counts[Outcome.SETTLED] = max(self.counts[Outcome.SETTLED], totals.settled)
        self.settled_bytes = max(self.settled_bytes, totals.settled_bytes)

    def result(self, result: Result) -> None:
        """Count a file whose result is durable."""
        written = result.written
        self._emit(Happened(_file(result)))
        self._count(written.outcome, written.transfer_syntax_uid)
        self.confirmed += bool(result.confirmed_by)
        self.native_bytes += written.native_bytes
        self.source_bytes += written.source_size
        if written.outcome is Outcome.KEPT:
            self.lines[Outcome.KEPT][result.path] = "; ".join(written.notes) or "no native form"
        else:
            self.notes += [Line(result.path, note) for note in written.notes]

    def ending(self, ending: Ending, *, confirmed: bool = False, earlier: bool = False) -> None:
        """Count a file that ended without a result of its own; `earlier`, in another run."""
        if ending.path in self.failed:
            return
        self._emit(Happened(_ended(ending, confirmed=confirmed, earlier=earlier)))
        self._count(ending.outcome, ending.transfer_syntax_uid)
        self.source_bytes += ending.size
        if ending.outcome is Outcome.FAILED:
            self.failed[ending.path] = ending
            self.failed_earlier += earlier
        elif ending.outcome in self.lines:
            self.lines[ending.outcome][ending.path] = ending.reason

    def stands(self, ending: Ending, *, confirmed: bool) -> None:
        """Count a result that an audit found to be what it should be; what could not be looked at is noted."""
        self.ending(ending, confirmed=confirmed)
        self.confirmed += confirmed
        if ending.reason:
            self.notes.append(Line(ending.path, ending.reason))

    def retried(self, path: bytes, attempt: Attempt) -> None:
        """Count an attempt after which the file is tried again."""
        self.retries += 1
        self._emit(Happened(FileRetried(path=os.fsdecode(path), attempt=_tried(attempt))))

    def noted(self, note: Noted) -> None:
        """Count a path that is no job. A restarted clerk says it again."""
        if note.kind is not None:
            self.ending(_unreadable(note, note.kind))
        elif note.path not in self.lines[Outcome.SKIPPED]:
            self._emit(Happened(FileEnded(path=os.fsdecode(note.path), outcome=Outcome.SKIPPED, reason=note.reason)))
            self.counts[Outcome.SKIPPED] += 1
            self.lines[Outcome.SKIPPED][note.path] = note.reason

    def report(
        self, *, source: bytes, target: bytes, kills: int, seconds: float, exit_code: int, stopped: str
    ) -> Report:
        """Return the report of the run."""
        return Report(
            source=source,
            target=target,
            counts={outcome.value: self.counts[outcome] for outcome in Outcome},
            by_transfer_syntax={
                uid: {outcome.value: count for outcome, count in sorted(counts.items())}
                for uid, counts in sorted(self.by_transfer_syntax.items())
            },
            failed=sorted(self.failed.values(), key=lambda ending: ending.path),
            kept=_lines(self.lines[Outcome.KEPT]),
            skipped=_lines(self.lines[Outcome.SKIPPED]),
            notes=self.notes,
            native_bytes=self.native_bytes,
            kills=kills,
            retries=self.retries,
            confirmed=self.confirmed,
            gone=self.gone,
            seconds=seconds,
            exit_code=exit_code,
            stopped=stopped,
        )

    def _count(self, outcome: Outcome, transfer_syntax_uid: str) -> None:
        self.counts[outcome] += 1
        if transfer_syntax_uid:
            self.by_transfer_syntax[transfer_syntax_uid][outcome] += 1


def _unreadable(note: Noted, kind: FailureKind) -> Ending:
    return Ending(0, note.path, 0, 0, Outcome.FAILED, "", kind, note.reason, ())


def _tried(attempt: Attempt) -> Tried:
    return Tried(
        engine=attempt.engine,
        kind=attempt.kind,
        stage=attempt.stage,
        reason=attempt.reason,
        seconds=round(attempt.seconds, 4),
    )


def _file(result: Result) -> FileEnded:
    written = result.written
    return FileEnded(
        path=os.fsdecode(result.path),
        outcome=written.outcome,
        transfer_syntax_uid=written.transfer_syntax_uid,
        engine=written.engine,
        source_bytes=written.source_size,
        bytes=written.size,
        native_bytes=written.native_bytes,
        digest=written.digest,
        seconds=round(written.seconds, 4),
        write_seconds=round(written.write_seconds, 4),
        confirmed=bool(result.confirmed_by),
        notes=written.notes,
        attempts=tuple(_tried(attempt) for attempt in result.attempts),
    )


def _ended(ending: Ending, *, confirmed: bool, earlier: bool) -> FileEnded:
    return FileEnded(
        path=os.fsdecode(ending.path),
        outcome=ending.outcome,
        kind=ending.kind,
        reason=ending.reason,
        transfer_syntax_uid=ending.transfer_syntax_uid,
        source_bytes=ending.size,
        confirmed=confirmed,
        earlier=earlier,
        attempts=tuple(_tried(attempt) for attempt in ending.attempts),
    )


def _lines(lines: dict[bytes, str]) -> list[Line]:
    return [Line(path, reason) for path, reason in sorted(lines.items())]


def _line(line: Line) -> dict[str, str]:
    return {"path": os.fsdecode(line.path), "reason": line.reason}


def _failed(ending: Ending) -> dict[str, Any]:
    attempts = [
        {"engine": a.engine, "kind": a.kind, "stage": a.stage, "reason": a.reason, "seconds": round(a.seconds, 3)}
        for a in ending.attempts
    ]
    return {
        "path": os.fsdecode(ending.path),
        "kind": ending.kind,
        "reason": ending.reason,
        "transfer_syntax_uid": ending.transfer_syntax_uid,
        "attempts": attempts,
    }
