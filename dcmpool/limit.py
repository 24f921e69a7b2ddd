"""How long an attempt may take: from the larger of its source and its native Pixel Data, then from the run's own speed.
Pure."""

from collections import defaultdict, deque
from statistics import median

from dcmpool.config import MIB, Limits

_SAMPLES = 64
_ENOUGH = 50
_TIMES_MEDIAN = 20
_MOST_SECONDS = 1_000_000.0
"""As in the configuration. epoll_wait(2) takes its timeout as 2^31 ms at most, and raises over that."""


class Limit:
    """The limit of an attempt, in seconds, by Transfer Syntax, engine and size; never under the floor.

    Engines differ in speed by ten and more, so one engine's pace says nothing of another's.
    """

    def __init__(self, settings: Limits) -> None:
        self._settings = settings
        self._seconds_per_mib: dict[tuple[str, str], deque[float]] = defaultdict(lambda: deque(maxlen=_SAMPLES))

    def seconds(self, transfer_syntax_uid: str, engine: str, size: int) -> float:
        """Return the limit for an instance whose header has been read; `size`: bytes, native or of its source."""
        if self._settings.attempt_seconds:
            return self._settings.attempt_seconds
        samples = self._seconds_per_mib.get((transfer_syntax_uid, engine), ())
        known = len(samples) >= _ENOUGH
        pace = _TIMES_MEDIAN * median(samples) if known else 1 / self._settings.slowest_mib_per_second
        return max(self._settings.floor_seconds, min(pace * size / MIB, _MOST_SECONDS))

    def at_most(self, size: int) -> float:
        """Return the limit of the slowest instance of this size: what a child's own backstop may rely on."""
        known = [self.seconds(uid, engine, size) for uid, engine in self._seconds_per_mib]
        return max([self.seconds("", "", size), *known])

    def learn(self, transfer_syntax_uid: str, engine: str, native_bytes: int, seconds: float) -> None:
        """Take note of an attempt that ended well."""
        if native_bytes:
            self._seconds_per_mib[transfer_syntax_uid, engine].append(seconds * MIB / native_bytes)
