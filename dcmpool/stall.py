"""Storage that does not answer: since when, whose it is, and what is said of it. Pure: the clock is an argument."""

import msgspec

from dcmpool.config import Storage
from dcmpool.model import Side

_WORDS = {
    Side.SOURCE: "the source's storage has not answered",
    Side.TARGET: "the target's storage has not completed a write",
    None: "the storage of source or target has not answered",
}


class Wait(msgspec.Struct, frozen=True):
    """Something that only storage can bring on: since when, on whose storage (None: on either), for how many files."""

    since: float
    side: Side | None
    files: int = 0


class StorageWatch:
    """Judges all waits together: storage has stalled while one of them is older than `stall_seconds`."""

    def __init__(self, settings: Storage) -> None:
        self._settings = settings
        self._worst: Wait | None = None
        self._waits: list[Wait] = []
        self._say_at: float | None = None

    @property
    def is_stalled(self) -> bool:
        """Whether storage does not answer, as of the last look."""
        return self._worst is not None

    def look(self, waits: list[Wait], now: float) -> str:
        """Take all that waits now; return a line for the user, or "" if there is nothing new to say.

        While storage stalls it is said again each time that the wait has doubled.
        """
        self._waits = waits
        old = [wait for wait in waits if now >= wait.since + self._settings.stall_seconds]
        was_stalled, self._worst = self.is_stalled, min(old, key=lambda wait: wait.since, default=None)
        if self._worst is None:
            self._say_at = None
            return "storage answers again" if was_stalled else ""
        if self._say_at is not None and now < self._say_at:
            return ""
        self._say_at = now + max(1.0, now - self._worst.since)
        files = sum(wait.files for wait in waits)
        waiting = f" ({files} file{'s' * (files != 1)} waiting)" if files else ""
        return f"{self.text(now)}{waiting}: no new file is begun"

    @property
    def side(self) -> Side | None:
        """Whose storage it is; None if it answers, or nobody can tell."""
        return self._worst.side if self._worst else None

    def text(self, now: float) -> str:
        """Say whose storage has not answered, and for how long."""
        assert self._worst is not None  # noqa: S101 - asked only while it stalls
        return f"{_WORDS[self._worst.side]} for {now - self._worst.since:.0f} s"

    def is_hopeless(self, now: float) -> bool:
        """Whether it has been silent for `give_up_seconds`."""
        return self._worst is not None and now >= self._worst.since + self._settings.give_up_seconds

    def next_deadline(self) -> float | None:
        """Return when to look again, if nothing happens; None if only an event can change anything."""
        if self._worst is None:
            return min((wait.since + self._settings.stall_seconds for wait in self._waits), default=None)
        give_up = self._worst.since + self._settings.give_up_seconds
        return give_up if self._say_at is None else min(give_up, self._say_at)
