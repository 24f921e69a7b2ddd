"""How fast a run goes, now and over all, and how long the rest will take. Pure: the clock is an argument.

Only time in which the run works counts: a pause is not a slow run.
"""

from collections import deque
from statistics import stdev

from dcmpool.events import Rate, Remaining

_NOW_SECONDS = 30.0
_MOST_SLICES = 60
_LEAST_SLICES = 5
"""Fewer say nothing of the spread."""
_TWO_SIGMA = 2.0
_MOST_TIMES = 4.0
"""The rest is never said to take more than this many times what is likely: that would be no estimate."""


class Pace:
    """Takes how much is done, about once a second; answers in rates.

    For the spread, the run is seen as up to 60 slices of equal length, which grow with it.
    """

    def __init__(self, begun: float) -> None:
        self._last = begun
        self._worked = 0.0
        self._recent: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)])
        self._slice_seconds = 1.0
        self._marks: list[tuple[float, int]] = [(0.0, 0)]
        """The bytes that were done at the end of each slice."""

    def sample(self, now: float, files: int, size: int, *, works: bool) -> None:
        """Take how many files and bytes are done; `works` says whether the run has worked since the last sample."""
        if works:
            self._worked += now - self._last
        self._last = now
        self._recent.append((self._worked, files, size))
        while len(self._recent) > 2 and self._recent[1][0] <= self._worked - _NOW_SECONDS:
            self._recent.popleft()
        if self._worked >= self._marks[-1][0] + self._slice_seconds:
            self._marks.append((self._worked, size))
        if len(self._marks) > _MOST_SLICES + 1:
            self._marks = self._marks[::2]
            self._slice_seconds *= 2

    @property
    def now(self) -> Rate:
        """The rate of the last half minute."""
        return _rate(self._recent[0], self._recent[-1])

    @property
    def overall(self) -> Rate:
        """The rate of the whole run."""
        return _rate((0.0, 0, 0), self._recent[-1])

    def remaining(self, size: int) -> Remaining | None:
        """Return how long `size` more bytes will take; None while that cannot be known.

        The spread is two standard errors of the mean over the slices.
        """
        rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(self._marks, self._marks[1:], strict=False)]
        mean = self.overall.bytes_per_second
        if len(rates) < _LEAST_SLICES or not mean:
            return None
        spread = _TWO_SIGMA * stdev(rates) / len(rates) ** 0.5
        likely = size / mean
        return Remaining(
            seconds=likely,
            low_seconds=size / (mean + spread),
            high_seconds=size / max(mean - spread, mean / _MOST_TIMES),
        )


def _rate(a: tuple[float, int, int], b: tuple[float, int, int]) -> Rate:
    seconds = b[0] - a[0]
    if seconds <= 0:
        return Rate(files_per_second=0.0, bytes_per_second=0.0)
    return Rate(files_per_second=(b[1] - a[1]) / seconds, bytes_per_second=(b[2] - a[2]) / seconds)
