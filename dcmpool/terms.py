"""On what terms a run works: how many files may fail, how long it takes, at what hours. Pure: clocks are arguments."""

from datetime import datetime, time, timedelta

from dcmpool.config import Schedule
from dcmpool.model import Outcome
from dcmpool.report import Tally
from dcmpool.text import duration

ENOUGH_FILES = 100
"""Of fewer, no share that has failed says anything."""
_LOOK_SECONDS = 60.0
"""How often the wall clock is looked at, at the least: it may be set, and the machine may sleep."""


class Terms:
    """The user's terms, and whether they are kept."""

    def __init__(self, settings: Schedule) -> None:
        self._settings = settings
        self._hours = Hours(settings.window) if settings.window else None
        self._begun: float | None = None
        self._look_at: float | None = None
        self.is_closed = False
        """Whether it is outside of the hours, as of the last look."""

    def begin(self, now: float) -> None:
        """Begin the time of the run."""
        self._begun = now
        self._look_at = now if self._hours else None

    def next_deadline(self) -> float | None:
        """Return when to look again; None if no term depends on the time."""
        moments = (self._ends_at, self._look_at)
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def _ends_at(self) -> float | None:
        seconds = self._settings.max_duration_seconds
        return self._begun + seconds if seconds and self._begun is not None else None

    def breach(self, tally: Tally) -> str:
        """Say that too many files have failed; "" if they have not."""
        most, failed = self._settings.max_failures, tally.failed_now
        if not most or not failed:
            return ""
        if not most.endswith("%"):
            return f"{failed:,} failed, --max-failures {most} is passed" if failed > int(most) else ""
        ended = tally.ended - tally.counts[Outcome.SETTLED] - tally.failed_earlier
        if ended < ENOUGH_FILES or 100 * failed <= float(most[:-1]) * ended:
            return ""
        return f"{failed:,} of {ended:,} failed, --max-failures {most} is passed"

    def is_over(self, now: float) -> bool:
        """Whether the run has taken the time that it may take."""
        return self._ends_at is not None and now >= self._ends_at

    def over_text(self) -> str:
        """Say so."""
        return f"--max-duration is over: {duration(self._settings.max_duration_seconds)}"

    def look(self, now: float, wall: datetime) -> str:
        """See whether the hours have begun or ended; return a line for the user, or "" if neither."""
        if self._hours is None:
            return ""
        was_closed, self.is_closed = self.is_closed, not self._hours.hold(wall)
        self._look_at = now + min(_LOOK_SECONDS, self._hours.seconds_to_change(wall))
        if self.is_closed and not was_closed:
            return f"outside of the window {self._settings.window}: no file is begun until {self._settings.window[:5]}"
        return f"the window {self._settings.window} has begun" if was_closed and not self.is_closed else ""


class Hours:
    """A part of the day, in local time, perhaps over midnight: `20:00-06:00`; its end is not part of it."""

    def __init__(self, text: str) -> None:
        begin, _, end = text.partition("-")
        self._begin, self._end = time.fromisoformat(begin), time.fromisoformat(end)

    def hold(self, wall: datetime) -> bool:
        """Whether this moment is part of it."""
        now = wall.time()
        if self._begin < self._end:
            return self._begin <= now < self._end
        return now >= self._begin or now < self._end

    def seconds_to_change(self, wall: datetime) -> float:
        """Return how long it is until it begins or ends, whichever is next, as a clock on the wall shows it."""
        changes = [datetime.combine(wall.date(), moment) for moment in (self._begin, self._end)]
        local = wall.replace(tzinfo=None)
        return min((c + timedelta(days=c <= local) - local).total_seconds() for c in changes)
