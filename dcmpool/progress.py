"""What the user sees while a run goes on: a live view on a terminal, plain lines elsewhere.

A thread of its own writes, because a terminal may be stopped (Ctrl-S) and a pipe may have no reader: the run
must not wait for either. The loop only leaves the latest snapshot here and never calls into the terminal.
"""

import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from dcmpool.text import duration, shown, size

if TYPE_CHECKING:
    from rich.console import RenderableType

_LIVE_SECONDS = 0.2
_PLAIN_SECONDS = 10.0
_JOIN_SECONDS = 1.0
_MAX_ACTIVITIES = 16
_SLOW_SECONDS = 2.0
"""An attempt that takes longer is shown in another colour."""


class Mode(StrEnum):
    """How progress is shown."""

    LIVE = "live"
    PLAIN = "plain"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Activity:
    """What one worker is on."""

    path: bytes
    stage: str
    phase: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment."""

    ended: int
    walked: int
    walk_complete: bool
    source_bytes: int
    walked_bytes: int
    native_bytes: int
    failed: int
    kills: int
    retries: int
    seconds: float
    activities: tuple[Activity, ...]

    @property
    def remaining_seconds(self) -> float | None:
        """How long the rest will take at the pace so far; None while that cannot be known."""
        if not self.walk_complete or not self.source_bytes or self.seconds < 1:
            return None
        return self.seconds * max(0, self.walked_bytes - self.source_bytes) / self.source_bytes

    def line(self) -> str:
        """Return the run in one line."""
        walk = "" if self.walk_complete else " found so far"
        pace = max(self.seconds, 0.001)
        parts = [
            f"{self.ended:,} of {self.walked:,} files{walk}",
            f"{size(self.native_bytes)} native",
            f"{self.ended / pace:,.0f} files/s",
            f"{size(self.source_bytes / pace)}/s read",
        ]
        if self.remaining_seconds is not None:
            parts.append(f"{duration(self.remaining_seconds)} left")
        for count, noun in ((self.failed, "failed"), (self.kills, "killed"), (self.retries, "retried")):
            if count:
                parts.append(f"{count:,} {noun}")
        return ", ".join(parts)


@dataclass(slots=True)
class Progress:
    """The view of a run; `close` ends it. Everything else returns at once."""

    mode: Mode
    _latest: Snapshot | None = None
    _notices: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _due: float = 0.0
    _thread: threading.Thread | None = None

    @property
    def _interval(self) -> float:
        return _LIVE_SECONDS if self.mode is Mode.LIVE else _PLAIN_SECONDS

    def is_due(self, now: float) -> bool:
        """Whether a new snapshot is wanted. The first one waits its turn: a short run needs no progress."""
        return self.mode is not Mode.OFF and now >= self._due > 0

    def next_due(self, now: float) -> float | None:
        """Return when a new snapshot will be wanted."""
        if self.mode is Mode.OFF:
            return None
        self._due = self._due or now + self._interval
        return self._due

    def show(self, snapshot: Snapshot, now: float) -> None:
        """Show the run as it is."""
        self._due = now + self._interval
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
                    print(snapshot.line(), file=sys.stderr, flush=True)
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
                        live.update(_view(snapshot, console.width), refresh=True)
        except (OSError, ValueError):
            return  # the terminal is gone: the run goes on


def _view(snapshot: Snapshot, width: int) -> "RenderableType":
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table.grid()
    grid.add_row(
        ProgressBar(
            total=max(1, snapshot.walked),
            completed=snapshot.ended,
            width=min(width, 80),
            pulse=not snapshot.walk_complete,
        )
    )
    grid.add_row(Text(snapshot.line(), overflow="ellipsis", no_wrap=True))
    for activity in snapshot.activities[:_MAX_ACTIVITIES]:
        stage = activity.stage if activity.phase == "busy" else activity.phase
        label = f"  {stage:8} {activity.seconds:6.1f} s  {shown(activity.path)}"
        style = "yellow" if activity.seconds > _SLOW_SECONDS else ""
        grid.add_row(Text(label, style=style, overflow="ellipsis", no_wrap=True))
    if len(snapshot.activities) > _MAX_ACTIVITIES:
        grid.add_row(Text(f"  and {len(snapshot.activities) - _MAX_ACTIVITIES} more workers"))
    return grid
