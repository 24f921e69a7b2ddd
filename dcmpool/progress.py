"""What the user sees while a run goes on: a live view on a terminal, plain lines elsewhere.

A thread of its own writes, because a terminal may be stopped (Ctrl-S) and a pipe may have no reader: the run
must not wait for either. The loop only leaves the latest snapshot here and never calls into the terminal.
"""

import sys
import threading
from collections import deque
from enum import StrEnum

import msgspec

from dcmpool import view
from dcmpool.events import Snapshot

_LIVE_SECONDS = 0.2
_PLAIN_SECONDS = 10.0
_MANY_SECONDS = 60.0
"""How often a run of hours gets a line."""
_SHORT_SECONDS = 120.0
_JOIN_SECONDS = 1.0


class Mode(StrEnum):
    """How progress is shown."""

    LIVE = "live"
    PLAIN = "plain"
    OFF = "off"


class Progress(msgspec.Struct):
    """The view of a run; `close` ends it. Everything else returns at once."""

    mode: Mode
    _latest: Snapshot | None = None
    _notices: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=1000))
    _changed: threading.Condition = msgspec.field(default_factory=threading.Condition)
    _closed: bool = False
    _due: float = 0.0
    _thread: threading.Thread | None = None

    def _interval(self, seconds: float) -> float:
        """Return how long a snapshot is good for, of a run that has gone on for that long."""
        if self.mode is Mode.LIVE:
            return _LIVE_SECONDS
        return _PLAIN_SECONDS if seconds < _SHORT_SECONDS else _MANY_SECONDS

    def is_due(self, now: float) -> bool:
        """Whether a new snapshot is wanted. The first one waits its turn: a short run needs no progress."""
        return self.mode is not Mode.OFF and now >= self._due > 0

    def next_due(self, now: float) -> float | None:
        """Return when a new snapshot will be wanted."""
        if self.mode is Mode.OFF:
            return None
        self._due = self._due or now + self._interval(0.0)
        return self._due

    def show(self, snapshot: Snapshot, now: float) -> None:
        """Show the run as it is."""
        self._due = now + self._interval(snapshot.at_seconds)
        with self._changed:
            self._latest = snapshot
            self._changed.notify()
        self._start()

    def notice(self, text: str) -> None:
        """Tell the user something in one line."""
        with self._changed:
            self._notices.append(text)
            self._changed.notify()
        self._start()

    def close(self) -> None:
        """Show what is left and end; a terminal that does not take it is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            self._thread.join(_JOIN_SECONDS)

    def _start(self) -> None:
        if self._thread is None:
            target = self._run_live if self.mode is Mode.LIVE else self._run_plain
            self._thread = threading.Thread(target=target, name="progress", daemon=True)
            self._thread.start()

    def _next(self) -> tuple[list[str], Snapshot | None, bool]:
        """Wait for something to show."""
        with self._changed:
            while not (self._closed or self._notices or self._latest):
                self._changed.wait()
            notices = list(self._notices)
            self._notices.clear()
            snapshot, self._latest = self._latest, None
            return notices, snapshot, self._closed

    def _run_plain(self) -> None:
        closed = False
        while not closed:
            notices, snapshot, closed = self._next()
            try:
                for notice in notices:
                    print(f"dcmpool: {notice}", file=sys.stderr, flush=True)
                if snapshot and not closed:
                    print(view.line(snapshot), file=sys.stderr, flush=True)
            except (OSError, ValueError):
                return  # nobody reads any more: the run goes on

    def _run_live(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - slow to import, and needed on a terminal alone
        from rich.live import Live  # noqa: PLC0415

        console = Console(stderr=True)
        closed = False
        try:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                while not closed:
                    notices, snapshot, closed = self._next()
                    for notice in notices:
                        live.console.print(f"dcmpool: {notice}", markup=False, highlight=False)
                    if snapshot:
                        live.update(view.screen(snapshot, console.width), refresh=True)
        except (OSError, ValueError):
            return  # the terminal is gone: the run goes on
