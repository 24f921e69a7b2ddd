"""What a journal tells, added up in one pass whose memory does not grow with the number of files."""

import heapq
import os
from collections import Counter, defaultdict
from itertools import count
from typing import Any

import msgspec

from dcmpool.history import History, Remark, Run
from dcmpool.journal import Row
from dcmpool.model import FailureKind, Outcome
from dcmpool.protocol import Attempt
from dcmpool.timeline import Timeline

MAX_LISTED = 200
"""The most entries of a list; the CSV has all."""
_SLOWEST = 25
_MAX_EVIDENCE = 2000
_MAX_EVIDENCE_BYTES = 1 << 20
DEATHS = (FailureKind.TIMEOUT, FailureKind.CRASHED, FailureKind.MEMORY, FailureKind.PROTOCOL, FailureKind.LOST)
"""How an attempt ends that costs its child."""


class Listed(msgspec.Struct):
    """The first entries of a list, and how many there are."""

    entries: list[Any] = msgspec.field(default_factory=list)
    count: int = 0

    def add(self, entry: Any) -> None:
        """Count an entry, and keep it if there is room."""
        self.count += 1
        if len(self.entries) < MAX_LISTED:
            self.entries.append(entry)

    @property
    def more(self) -> int:
        """How many are not in the list."""
        return self.count - len(self.entries)


class Process(msgspec.Struct, frozen=True):
    """A child at the last look, as `evidence.py` has it."""

    state: str = ""
    system_call: str = ""
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


class Diagnosis(msgspec.Struct, frozen=True):
    """What is kept of a death; `folder` is where."""

    file: str = ""
    engine: str = ""
    kind: str = ""
    cause: str = ""
    repeat: str = ""
    process: Process | None = None
    folder: bytes = b""


class Kill(msgspec.Struct, frozen=True):
    """A file over which children died, or had to be killed: each such attempt, and what was kept of it."""

    row: Row
    deaths: list[tuple[Attempt, Diagnosis | None]]


class Folder(msgspec.Struct):
    """A folder with failures."""

    path: bytes
    failed: int
    files: int
    kinds: Counter[FailureKind]


class Review:
    """All that a report says. `evidence` is the folder where runs keep it, or does not exist."""

    def __init__(self, history: History, evidence: bytes) -> None:
        self.runs: list[Run] = history.runs()
        self.timeline = Timeline(history.spans(), {run.run: run.begun for run in self.runs if run.begun is not None})
        self.interrupted = history.interrupted()
        self.outcomes: Counter[Outcome] = Counter()
        self.by_syntax: dict[str, Counter[Outcome]] = defaultdict(Counter)
        self.source_bytes = self.result_bytes = self.damaged = self.confirmed = self.deaths = 0
        self.kills, self.remarks, self.left_out, self.gone = (Listed() for _ in range(4))
        self.failures: dict[FailureKind, Listed] = defaultdict(Listed)
        self._folders: dict[bytes, Counter[FailureKind]] = defaultdict(Counter)
        self._slowest: list[tuple[float, int, Row]] = []
        self._order = count()
        self._evidence = _evidence(evidence)
        for row, is_gone in history.files():
            self._take(row, is_gone=is_gone)
        for note in history.notes():
            self._take_note(note)
        self.folders = self._worst(history)

    @property
    def files(self) -> int:
        """How many files the journal knows, and notes that count as failures."""
        return sum(self.outcomes.values())

    @property
    def kinds(self) -> list[FailureKind]:
        """The kinds of failures that there are, the most frequent first."""
        return sorted(self.failures, key=lambda kind: -self.failures[kind].count)

    @property
    def slowest(self) -> list[Row]:
        """The files that took the longest, the longest first."""
        return [row for _, _, row in sorted(self._slowest, key=lambda entry: -entry[0])]

    def _take(self, row: Row | None, *, is_gone: bool) -> None:
        if row is None:
            self.damaged += 1
            return
        self.outcomes[row.outcome] += 1
        self.by_syntax[row.transfer_syntax_uid][row.outcome] += 1
        self.source_bytes += row.size
        self.confirmed += bool(row.confirmed_by)
        self.timeline.add(row)
        (heapq.heappushpop if len(self._slowest) == _SLOWEST else heapq.heappush)(
            self._slowest, (row.seconds, next(self._order), row)
        )
        if is_gone:
            self.gone.add(row)
        if row.attempts != "[]":
            self._take_attempts(row)
        if row.kind is not None:
            self._take_failure(row)
            return
        if row.outcome is Outcome.SKIPPED:
            self.left_out.add(Remark(row.path, None, row.reason))
            return
        self.result_bytes += row.result_size or 0
        if row.reason:
            self.remarks.add(row)

    def _take_attempts(self, row: Row) -> None:
        name = row.path.decode("utf-8", "backslashreplace")
        deaths = [
            (attempt, self._evidence.get((name, attempt.engine, attempt.kind)))
            for attempt in row.ending().attempts
            if attempt.kind in DEATHS
        ]
        if deaths:
            self.deaths += len(deaths)
            self.kills.add(Kill(row, deaths))

    def _take_failure(self, row: Row) -> None:
        assert row.kind is not None  # noqa: S101 - the caller has looked
        self._folders[os.path.dirname(row.path)][row.kind] += 1
        self.failures[row.kind].add(row)

    def _take_note(self, note: Remark) -> None:
        if note.kind not in FailureKind.__members__:
            self.outcomes[Outcome.SKIPPED] += 1
            self.left_out.add(note)
            return
        kind = FailureKind(str(note.kind))
        self.outcomes[Outcome.FAILED] += 1
        self._take_failure(
            Row(note.path, 0, 0, Outcome.FAILED, kind, note.reason, "", "", "[]", None, None, 0, "", 0.0, "", "")
        )

    def _worst(self, history: History) -> Listed:
        """Return the folders with failures, those with the most first."""
        worst = sorted(self._folders.items(), key=lambda item: (-item[1].total(), item[0]))
        listed = Listed(count=len(worst))
        for path, kinds in worst[:MAX_LISTED]:
            listed.entries.append(Folder(path, kinds.total(), history.count_in(path), kinds))
        return listed


def _evidence(folder: bytes) -> dict[tuple[str, str, str], Diagnosis]:
    """Return what is kept of deaths, by file, engine and kind: the newest ones."""
    found: dict[tuple[str, str, str], Diagnosis] = {}
    try:
        names = sorted(os.scandir(folder), key=lambda entry: entry.stat().st_mtime_ns)[-_MAX_EVIDENCE:]
    except OSError:
        return found
    for entry in names:
        try:
            facts = msgspec.json.decode(_start_of(entry.path, b"diagnosis.json"), type=Diagnosis)
        except (OSError, msgspec.DecodeError):
            continue
        found[facts.file, facts.engine, facts.kind] = msgspec.structs.replace(facts, folder=entry.path)
    return found


def stack(evidence: Diagnosis) -> str:
    """Return the Python stack of a child that was killed; "" if none was kept."""
    try:
        return _start_of(evidence.folder, b"stack.txt").decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def _start_of(folder: bytes, name: bytes) -> bytes:
    with open(os.path.join(folder, name), "rb") as file:
        return file.read(_MAX_EVIDENCE_BYTES)
