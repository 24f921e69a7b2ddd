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
    """The limit of an attempt, in seconds, by Transfer Syntax and size; never under the floor."""

    def __init__(self, settings: Limits) -> None:
        self._settings = settings
        self._seconds_per_mib: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_SAMPLES))

    def seconds(self, transfer_syntax_uid: str, native_bytes: int) -> float:
        """Return the limit for an instance whose header has been read."""
        if self._settings.attempt_seconds:
            return self._settings.attempt_seconds
        samples = self._seconds_per_mib.get(transfer_syntax_uid, ())
        known = len(samples) >= _ENOUGH
        pace = _TIMES_MEDIAN * median(samples) if known else 1 / self._settings.slowest_mib_per_second
        return max(self._settings.floor_seconds, min(pace * native_bytes / MIB, _MOST_SECONDS))

    def at_most(self, native_bytes: int) -> float:
        """Return the limit of the slowest instance of this size: what a child's own backstop may rely on."""
        known = [self.seconds(uid, native_bytes) for uid in self._seconds_per_mib]
        return max([self.seconds("", native_bytes), *known])

    def learn(self, transfer_syntax_uid: str, native_bytes: int, seconds: float) -> None:
        """Take note of an attempt that ended well."""
        if native_bytes:
            self._seconds_per_mib[transfer_syntax_uid].append(seconds * MIB / native_bytes)
