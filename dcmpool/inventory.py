"""The tally of a survey: what lies in SOURCE, what will become of it, and how long that may take. Pure.

Promises: memory does not grow with the number of files. Classes are counted up to `_MOST_CLASSES` of each kind, the
rest together; of failed and noted paths the first `_MOST_NAMED` are named, all are counted.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

import msgspec

from dcmpool.actions import Action
from dcmpool.distinct import Distinct
from dcmpool.model import Outcome
from dcmpool.protocol import Ending, Noted, Surveyed, Trial
from dcmpool.report import Line, Tally

_MOST_CLASSES: Final = 256
_MOST_NAMED: Final = 10_000
_MOST_TRIALS: Final = 24
"""Of each Transfer Syntax: its 1st, 2nd, 4th, 8th, ... file, so that all of an archive is sampled."""
OTHERS: Final = "others"


class Class(msgspec.Struct):
    """Files that have something in common."""

    files: int = 0
    bytes: int = 0
    result_bytes: int = 0
    native_bytes: int = 0
    """What decompression has to make."""

    def add(self, size: int, result_bytes: int, native_bytes: int) -> None:
        """Count one more file."""
        self.files += 1
        self.bytes += size
        self.result_bytes += result_bytes
        self.native_bytes += native_bytes


class Span(msgspec.Struct, frozen=True):
    """Seconds to expect: all files at the pace of all trials together, and at the paces between which the middle half
    of the bytes tried was done."""

    expected: float
    low: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.expected + other.expected, self.low + other.low, self.high + other.high)


class Inventory(Tally):
    """Counts what lies in SOURCE."""

    def __init__(self, emit: Callable[[Action], None]) -> None:
        super().__init__(emit)
        self.groups: dict[str, dict[str, Class]] = {
            "outcome": defaultdict(Class),
            "transfer_syntax": defaultdict(Class),
            "modality": defaultdict(Class),
            "sop_class": defaultdict(Class),
        }
        self.studies, self.series = Distinct(), Distinct()
        self.trials: dict[str, list[tuple[int, Trial]]] = defaultdict(list)
        """By Transfer Syntax UID: native bytes, and what it took."""
        self._tried: Counter[str] = Counter()
        self.result_bytes = 0

    @property
    def files(self) -> int:
        """How many files were looked at."""
        return sum(counted.files for counted in self.groups["outcome"].values())

    @property
    def results(self) -> int:
        """How many files a run is expected to make."""
        none = (Outcome.FAILED, Outcome.SKIPPED)
        return sum(counted.files for outcome, counted in self.groups["outcome"].items() if outcome not in none)

    def enough(self) -> tuple[str, ...]:
        """Return the Transfer Syntaxes of which no trial is wanted for now."""
        return tuple(
            uid
            for uid, tried in self._tried.items()
            if tried >= _MOST_TRIALS or self._of_syntax(uid).files + 1 < 1 << tried
        )

    def surveyed(self, path: bytes, size: int, found: Surveyed, note: str = "") -> None:
        """Count a file whose header was read; `note` tells of a trial that failed."""
        self.counts[found.outcome] += 1
        self.source_bytes += size
        self._classify("outcome", found.outcome, size, found)
        self.result_bytes += found.result_bytes
        if found.outcome not in (Outcome.OTHER, Outcome.SKIPPED):
            self._classify("transfer_syntax", found.transfer_syntax_uid, size, found)
            self._classify("modality", found.modality, size, found)
            self._classify("sop_class", found.sop_class_uid, size, found)
        for counter, digest in ((self.studies, found.study), (self.series, found.series)):
            if digest:
                counter.add(digest)
        if found.trial is not None and found.native_bytes:
            self.trials[found.transfer_syntax_uid].append((found.native_bytes, found.trial))
        if found.trial is not None or note:
            self._tried[found.transfer_syntax_uid] += 1
        if note and len(self.notes) < _MOST_NAMED:
            self.notes.append(Line(path, note))

    def ending(self, ending: Ending, *, confirmed: bool = False, earlier: bool = False) -> None:
        """Count a file that cannot be read, or would be refused."""
        if len(self.failed) < _MOST_NAMED:
            super().ending(ending, confirmed=confirmed, earlier=earlier)
        else:
            self.counts[ending.outcome] += 1
        self.groups["outcome"][Outcome.FAILED].add(ending.size, 0, 0)

    def noted(self, note: Noted) -> None:
        """Count a path that is no job."""
        if note.kind is not None or len(self.lines[Outcome.SKIPPED]) < _MOST_NAMED:
            super().noted(note)
        else:
            self.counts[Outcome.SKIPPED] += 1

    def time_to_expect(self, workers: int, cpus: int) -> Span | None:
        """Return how long all decompression will take so many workers on so many CPUs; None without a trial.

        Neither reading what is copied nor writing is in it.
        """
        if not self.trials:
            return None
        nothing = Span(0.0, 0.0, 0.0)
        wall = sum((_span(self._of_syntax(uid), made, "seconds") for uid, made in self.trials.items()), nothing)
        cpu = sum((_span(self._of_syntax(uid), made, "cpu_seconds") for uid, made in self.trials.items()), nothing)
        return Span(
            max(wall.expected / workers, cpu.expected / cpus),
            max(wall.low / workers, cpu.low / cpus),
            max(wall.high / workers, cpu.high / cpus),
        )

    def untried(self) -> int:
        """Return how many native bytes are to be made of Transfer Syntaxes of which no trial succeeded."""
        classes = self.groups["transfer_syntax"].items()
        return sum(counted.native_bytes for uid, counted in classes if uid not in self.trials)

    def _of_syntax(self, uid: str) -> Class:
        return self.groups["transfer_syntax"].get(uid, Class())

    def _classify(self, group: str, value: str, size: int, found: Surveyed) -> None:
        classes = self.groups[group]
        name = value if value in classes or len(classes) < _MOST_CLASSES else OTHERS
        classes[name].add(size, found.result_bytes, found.native_bytes)


def _span(total: Class, trials: list[tuple[int, Trial]], what: str) -> Span:
    """Return the seconds for all files of one Transfer Syntax, from those of its trials."""
    taken = [(size, float(getattr(trial, what))) for size, trial in trials]
    tried = sum(size for size, _ in taken)
    overall = sum(seconds for _, seconds in taken) / tried
    paces = sorted((seconds / size, size) for size, seconds in taken)
    low, high = _pace_at(paces, tried / 4), _pace_at(paces, tried * 3 / 4)
    size = total.native_bytes
    return Span(overall * size, min(low, overall) * size, max(high, overall) * size)


def _pace_at(paces: list[tuple[float, int]], share: float) -> float:
    """Return the pace at which so many of the bytes were done, or faster: a tiny file's is mostly overhead."""
    for pace, size in paces:
        share -= size
        if share <= 0:
            return pace
    return paces[-1][0]
