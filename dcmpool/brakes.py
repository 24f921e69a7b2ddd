"""What keeps a run from beginning files, for a while: storage that does not answer, the user, the hours. Pure."""

from collections.abc import Callable
from datetime import datetime

from dcmpool.actions import Action, Happened, Notice
from dcmpool.config import Config
from dcmpool.events import Noticed, StorageChanged
from dcmpool.stall import StorageWatch, Wait
from dcmpool.terms import Terms


class Brakes:
    """All of them together; each is released by itself."""

    def __init__(self, config: Config, emit: Callable[[Action], None]) -> None:
        self._emit = emit
        self._storage = StorageWatch(config.storage)
        self.terms = Terms(config.schedule)
        self.is_paused = False
        """Whether the user has said so."""

    @property
    def state(self) -> str:
        """Which of them is on, in a word; "running" if none is."""
        if self._storage.is_stalled:
            return "stalled"
        return "paused" if self.is_paused else "closed" if self.terms.is_closed else "running"

    def next_deadline(self, *, ends: bool, hopes: bool) -> float | None:
        """Return when to look again; a run that `ends` heeds no terms, one that does not hope waits for no storage."""
        moments = (None if ends else self.terms.next_deadline(), self._storage.next_deadline() if hopes else None)
        return min((moment for moment in moments if moment is not None), default=None)

    def look(self, waits: list[Wait], now: float, wall: datetime | None) -> None:
        """Take all that waits for storage now, and what the clock on the wall shows, if there are hours."""
        if text := self._storage.look(waits, now):
            self._emit(Notice(text))
            event = StorageChanged(stalled=self._storage.is_stalled, side=self._storage.side, text=text)
            self._emit(Happened(event))
        if wall is not None and (text := self.terms.look(now, wall)):
            self.say(text)

    def say(self, text: str) -> None:
        """Tell the user, and whoever follows the run."""
        self._emit(Notice(text))
        self._emit(Happened(Noticed(text=text)))

    def stall_text(self, now: float) -> str:
        """Say whose storage has not answered, and for how long; "" if it does."""
        return self._storage.text(now) if self._storage.is_stalled else ""

    def is_hopeless(self, now: float) -> bool:
        """Whether storage has been silent for too long."""
        return self._storage.is_hopeless(now)
