"""The run's own time: it stands still while this process does, so that no child suffers for it."""

import time
from collections.abc import Callable

_OVERRUN_SECONDS = 1.0
"""A wait that takes that much longer than it should was one in which the process was stopped."""


class RunClock:
    """Seconds, from no particular moment on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stood_still = 0.0
        self._begun = clock()

    def now(self) -> float:
        """Return the run's own time."""
        return self._clock() - self._stood_still

    @property
    def seconds(self) -> float:
        """How long the run has taken, as the user sees it."""
        return self._clock() - self._begun

    def discount(self, before: float, timeout: float | None) -> None:
        """Notice after a wait whether this process was stopped in it (Ctrl-Z, a frozen machine).

        Such a wait may end without a look at what has come meanwhile. So the run's own time is again as it was before
        it, all deadlines are as far away, and the next wait shows what has come.
        """
        waited = self.now() - before
        if timeout is not None and waited > timeout + _OVERRUN_SECONDS:
            self._stood_still += waited
