"""How a run went over time: files, bytes and the time of a write, in intervals. Pure.

The axis is working time: the runs one after the other, without the days between them. Memory is constant: an interval
has counts, and the times of its writes as a histogram.
"""

import math
from collections import Counter

import msgspec

from dcmpool.history import Span
from dcmpool.journal import Row

INTERVALS = 120
_STEPS = 8
"""Classes of the histogram for each doubling: a quantile is known to 9 %."""


class Interval(msgspec.Struct):
    """What ended in a part of the working time."""

    files: int = 0
    bytes: int = 0
    """Written."""
    writes: Counter[int] = msgspec.field(default_factory=Counter)

    def quantile(self, share: float) -> float | None:
        """Return the seconds of a write that this share of them does not pass; None if nothing was written."""
        wanted = share * self.writes.total()
        passed = 0
        for step in sorted(self.writes):
            passed += self.writes[step]
            if passed >= wanted:
                return float(2 ** ((step + 0.5) / _STEPS))
        return None


class Stretch(msgspec.Struct, frozen=True):
    """A run's part of the axis: from `at`, seconds of working time."""

    run: str
    begun: float
    at: float
    seconds: float


class Timeline:
    """Working time, cut into intervals. `spans` are the runs, in the order of time; `begun` their starts, by run."""

    def __init__(self, spans: list[Span], begun: dict[str, float]) -> None:
        self.stretches: list[Stretch] = []
        at = 0.0
        for span in spans:
            start = min(begun.get(span.run, span.first), span.first)
            seconds = max(span.last - start, 0.001)
            self.stretches.append(Stretch(span.run, start, at, seconds))
            at += seconds
        self.seconds = at
        self.intervals = [Interval() for _ in range(INTERVALS)]
        self._by_run = {stretch.run: stretch for stretch in self.stretches}

    @property
    def interval_seconds(self) -> float:
        """How long an interval is."""
        return max(self.seconds / INTERVALS, 1e-9)

    def add(self, row: Row) -> None:
        """Count a file where it ended."""
        stretch = self._by_run.get(row.run)
        if stretch is None or row.ended is None:
            return
        at = stretch.at + row.ended - stretch.begun
        interval = self.intervals[max(0, min(int(at / self.interval_seconds), INTERVALS - 1))]
        interval.files += 1
        if row.kind is None and row.write_seconds is not None:
            interval.bytes += row.result_size or 0
            interval.writes[math.floor(math.log2(max(row.write_seconds, 1e-6)) * _STEPS)] += 1
