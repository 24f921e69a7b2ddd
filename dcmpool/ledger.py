"""What the clerk is told, and what it owes: results to commit, endings to journal, the walk itself. Pure.

    commit, end -> Tell -> clerk -> Committed -> `committed` -> the job is over, or tried again

Invariants: what the clerk has not acknowledged is kept, and told again to the next one should it die; a job that is
told of is over when the clerk says so, and not before.
"""

from collections.abc import Callable

from dcmpool.actions import Action, Tell
from dcmpool.jobs import Job, Jobs
from dcmpool.model import RETRY, Side, Then
from dcmpool.protocol import (
    BATCH,
    Attempt,
    Begin,
    Begun,
    Commit,
    CommitFailure,
    Committed,
    Discard,
    Ending,
    Finish,
    Message,
    More,
    Result,
    Settle,
    Totals,
    Written,
)
from dcmpool.report import Tally
from dcmpool.stall import Wait

_HOLD_SECONDS = 0.1
"""How long a result waits for others: each commit costs three syncs, which workers wait for with theirs."""


class Ledger:
    """The clerk's side of the policy. `scan_ahead`: how many jobs the walk may be ahead."""

    def __init__(self, jobs: Jobs, tally: Tally, scan_ahead: int, emit: Callable[[Action], None]) -> None:
        self._jobs = jobs
        self._tally = tally
        self._scan_ahead = scan_ahead
        self._emit = emit
        self._owes_since: float | None = None
        """Since when the clerk owes an answer."""
        self._walks_since: float | None = None
        """Since when nothing can be done but wait for the walk."""
        self.held: list[Result] = []
        self._held_since: float | None = None
        self.committing: dict[int, tuple[Job, Result]] = {}
        """By job: its result."""
        self.settling: dict[int, Ending] = {}

    @property
    def is_settled(self) -> bool:
        """Whether the clerk has acknowledged all that it was told."""
        return not (self.committing or self.settling)

    # --- telling

    def commit(
        self,
        job: Job,
        temp: bytes,
        written: Written,
        now: float,
        *,
        confirmed_by: str = "",
        asked: tuple[Attempt, ...] = (),
    ) -> None:
        """Have a result get its final name.

        `confirmed_by` is the engine of a second opinion, `asked` are the attempts to get one that failed.
        """
        result = Result(job.id, job.path, temp, written, (*job.attempts, *asked), confirmed_by)
        self.committing[job.id] = (job, result)
        self.held.append(result)
        self._held_since = self._held_since or now

    def follow(self, job: Job, attempt: Attempt, ending: Ending | None, now: float) -> None:
        """Take what follows an attempt without a result: an ending, or None if the job is tried again."""
        if ending is None:
            self._tally.retried(job.path, attempt)
        else:
            self.end(ending, now)

    def end(self, ending: Ending, now: float) -> None:
        """Count and journal an ending."""
        self._tally.ending(ending)
        self._settle(ending, now)

    def stands(self, ending: Ending, now: float, *, confirmed: bool) -> None:
        """Count a result that an audit found to be right; `confirmed` by a second engine."""
        self._tally.stands(ending, confirmed=confirmed)
        self._settle(ending, now)

    def send_held(self, now: float, *, at_once: bool) -> None:
        """Tell of results: together, so that one transaction and one sync of a directory serve many; but not late."""
        nothing_else_comes = at_once or (self._jobs.walked and len(self._jobs) == len(self.committing))
        if self.held and (len(self.held) >= BATCH or nothing_else_comes or now >= self._due()):
            self._tell(Commit(tuple(self.held)))
            self._owes_since = self._owes_since or now
            self._drop_held()

    def next_deadline(self) -> float | None:
        """Return when `send_held` is due at the latest; None if nothing is held."""
        return self._due() if self.held else None

    def discard(self, *names: bytes) -> None:
        """Have files of TARGET/.dcmpool/tmp removed."""
        self._tell(Discard(names))

    def remember(self, attempts: tuple[Begun, ...]) -> None:
        """Have attempts journalled that take long."""
        if attempts:
            self._tell(Begin(attempts))

    def pay_credit(self) -> None:
        """Let the walk go on by as many jobs as are over, a share of what it may be ahead at a time."""
        if 8 * self._jobs.credit_owed >= self._scan_ahead:
            self._tell(More(self._jobs.credit_owed))
            self._jobs.credit_owed = 0

    def finish(self, exit_code: int, now: float, *, complete: bool, totals: Totals) -> None:
        """Have the clerk sweep up and end."""
        self._tell(Finish(exit_code, complete, totals))
        self._owes_since = now

    # --- hearing

    def begin(self, now: float) -> None:
        """Wait for a clerk, which looks at SOURCE and TARGET."""
        self._owes_since = now

    def opened(self) -> None:
        """SOURCE and TARGET can be used."""
        self._owes_since = None

    def welcome(self, now: float) -> None:
        """Tell a clerk what it may send, and what an earlier one has not acknowledged."""
        self._jobs.walk_again()
        self._tell(More(max(0, self._scan_ahead - self._jobs.holding_credit)))
        self._drop_held()
        for _, result in self.committing.values():
            self._tell(Commit((result,)))
        for ending in self.settling.values():
            self._tell(Settle((ending,)))
        if self._owes_since is not None:
            self._owes_since = now

    def walked_on(self) -> None:
        """The walk has said something; whether anything still waits for it is seen at the next look."""
        self._walks_since = None

    def gets_on(self, now: float) -> None:
        """The clerk is at it, and needs time for its end."""
        self._owes_since = now

    def committed(self, message: Committed, now: float) -> list[str]:
        """Take what is durable; what failed to be is tried again. Return why the run has to stop, if it has to."""
        for number in message.jobs:
            self._acknowledged(number)
        stops = [reason for failure in message.failures if (reason := self._commit_failed(failure, now))]
        self._owes_since = None if self.is_settled else now
        return stops

    def _acknowledged(self, number: int) -> None:
        if ending := self.settling.pop(number, None):
            self._jobs.over(ending.path)
        elif entry := self.committing.pop(number, None):
            job, result = entry
            self._jobs.over(job.path)
            self._tally.result(result)

    def _commit_failed(self, failure: CommitFailure, now: float) -> str:
        entry = self.committing.pop(failure.job, None)
        if entry is None:
            return ""
        job, result = entry
        if RETRY[failure.kind].then is Then.STOP:
            self._jobs.over(job.path)
            return failure.reason
        attempt = Attempt(result.written.engine, failure.kind, failure.reason, "commit", result.written.seconds)
        self.follow(job, attempt, self._jobs.failed(job, attempt), now)
        return ""

    # --- waiting

    def look_at_walk(self, now: float, *, starving: bool) -> None:
        """Take note whether nothing can be done but wait for the walk."""
        self._walks_since = (self._walks_since or now) if starving else None

    def waits(self, *, is_open: bool) -> list[Wait]:
        """Return what the clerk owes; before the run is open, nobody knows on whose storage it waits."""
        found = []
        if self._owes_since is not None:
            found.append(Wait(self._owes_since, Side.TARGET if is_open else None, len(self.committing)))
        if self._walks_since is not None:
            found.append(Wait(self._walks_since, Side.SOURCE))
        return found

    def _due(self) -> float:
        return (self._held_since or 0.0) + _HOLD_SECONDS

    def _drop_held(self) -> None:
        self.held.clear()
        self._held_since = None

    def _settle(self, ending: Ending, now: float) -> None:
        self.settling[ending.job] = ending
        self._tell(Settle((ending,)))
        self._owes_since = self._owes_since or now

    def _tell(self, message: Message) -> None:
        self._emit(Tell(message))
