"""The run's own time: it stands still while this process does, so that no child suffers for it."""

import math
import time
from collections.abc import Callable

_OVERRUN_SECONDS = 1.0
"""What takes that much longer than it should took place while the process was stopped."""


class RunClock:
    """Seconds, from no particular moment on. Whoever works looks at it all the time; whoever waits says so before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stood_still = 0.0
        self._begun = self._last = clock()
        self._wait_seconds = 0.0

    def now(self) -> float:
        """Return the run's own time.

        Where more has passed since the last look than can have, this process was stopped (Ctrl-Z, a frozen machine).
        It may not have looked yet at what has come meanwhile. So the run's own time is again as it was, all deadlines
        are as far away, and the next wait shows what has come.
        """
        moment = self._clock()
        passed = moment - self._last
        if passed > self._wait_seconds + _OVERRUN_SECONDS:
            self._stood_still += passed
        self._last = moment
        self._wait_seconds = 0.0
        return moment - self._stood_still

    def expect_wait(self, seconds: float | None) -> None:
        """Say that until the next look there may be a wait of so many seconds; None: without an end."""
        self._wait_seconds = math.inf if seconds is None else seconds

    @property
    def seconds(self) -> float:
        """How long the run has taken, as the user sees it."""
        return self._clock() - self._begun
