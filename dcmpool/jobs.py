"""The jobs of a run that are not over: which is next, and what follows when an attempt ends. Pure.

Invariants: a path is here once, from `add` to `over`; a job ends once, by the commit of its result or by an `Ending`;
it has at most `MAX_ATTEMPTS` attempts.
"""

from collections import deque

import msgspec

from dcmpool.engines import spared
from dcmpool.model import RETRY, FailureKind, Outcome, Stage, Then
from dcmpool.protocol import Attempt, Ending, Item, Left, Recorded

MAX_ATTEMPTS = 8
"""More than any Transfer Syntax has engines."""
SMALL_BYTES = 1 << 20
"""A source up to this size is done in a moment, so that nothing waits long behind it, Ctrl-C neither."""
_MAX_INTERRUPTIONS = 2
"""How often a job may die with its run or by a signal from outside before it is run last and alone."""


class Job(msgspec.Struct, eq=False):
    """One file of SOURCE in this run."""

    id: int
    path: bytes
    size: int
    mtime_ns: int
    interruptions: int = 0
    dispatched: int = 0
    alone: bool = False
    put_off: bool = False
    transfer_syntax_uid: str = ""
    attempts: list[Attempt] = msgspec.field(default_factory=list)
    recorded: Recorded | None = None
    """In an audit: the result to be checked again. An attempt is then a look at it by another engine."""

    @property
    def tried(self) -> tuple[str, ...]:
        """The engines that must not be used again: those that failed, and those that cannot do better."""
        tried: dict[str, None] = {}
        for attempt in self.attempts:
            if attempt.engine and RETRY[attempt.kind].then is Then.NEXT_ENGINE:
                tried[attempt.engine] = None
                tried |= dict.fromkeys(spared(attempt.engine, attempt.kind, self.transfer_syntax_uid))
        return tuple(tried)


class Jobs:
    """The queue and all that is under way."""

    def __init__(self) -> None:
        self._ready: deque[Job] = deque()
        self._fresh: deque[Job] = deque()
        self._later: deque[Job] = deque()
        self._alone: deque[Job] = deque()
        self._active: dict[bytes, Job] = {}
        self._over: set[bytes] | None = None
        """Paths that ended since a clerk was restarted; None before that."""
        self._next_id = 1
        self.walked = False
        self.credit_owed = 0
        """Jobs that are over, or put off to the end of the run, since the clerk was last told."""

    def __len__(self) -> int:
        """How many jobs are not over."""
        return len(self._active)

    @property
    def holding_credit(self) -> int:
        """How many jobs count against what the walk may be ahead."""
        return sum(not job.put_off for job in self._active.values())

    @property
    def wants_fresh_child(self) -> bool:
        """Whether a job waits for a child that has done nothing yet."""
        return bool(self._fresh)

    @property
    def is_over(self) -> bool:
        """Whether all of SOURCE has been walked and nothing is left to do or to acknowledge."""
        return self.walked and not self._active

    def add(self, item: Item) -> Ending | None:
        """Take a file that the clerk found; one that must not be done ends at once.

        A clerk that was restarted finds files again; those that are here already are dropped, and those that
        ended after it had looked them up.
        """
        if item.path in self._active or (self._over and item.path in self._over):
            self.credit_owed += 1
            return None
        job = Job(self._next_id, item.path, item.size, item.mtime_ns, item.interrupted, recorded=item.recorded)
        self._next_id += 1
        self._active[item.path] = job
        if item.exists:
            job.attempts.append(Attempt("", FailureKind.EXISTS, item.exists, "", 0.0))
            return self._end(job)
        if job.interruptions >= _MAX_INTERRUPTIONS:
            self._put_off(self._alone, job)
        else:
            self._ready.append(job)
        return None

    def walk_again(self) -> None:
        """Get ready for a clerk that walks from the beginning."""
        self.walked = False
        self.credit_owed = 0
        if self._next_id > 1 and self._over is None:
            self._over = set()

    def next(self, *, fresh_child: bool, others_busy: bool) -> Job | None:
        """Return the job for a child that is free; `fresh_child` if it has done none yet."""
        job = None
        if self._fresh and fresh_child:
            job = self._fresh.popleft()
        elif self._ready:
            job = self._ready.popleft()
        elif self.walked and not self._fresh:
            if self._later:
                job = self._later.popleft()
            elif self._alone and not others_busy:
                job = self._alone.popleft()
                job.alone = True
        if job:
            job.dispatched += 1
        return job

    def ahead(self, leave: int) -> Job | None:
        """Return a job for a child that is not free yet, a small one of which nothing is known; `leave` so many."""
        if len(self._ready) <= leave or self._fresh:
            return None
        job = self._ready[0]
        if job.dispatched or job.interruptions or job.recorded or job.size > SMALL_BYTES:
            return None
        job.dispatched += 1
        return self._ready.popleft()

    def give_back(self, jobs: list[Job]) -> None:
        """Queue jobs again that no child has begun: they are the next ones."""
        self._ready.extendleft(reversed(jobs))

    def interrupted(self, job: Job, attempt: Attempt) -> Ending | None:
        """Take note that something from outside ended an attempt: no blame, unless it happens to this job alone."""
        job.interruptions += 1
        if job.alone:
            return self.failed(job, attempt)
        if job.interruptions >= _MAX_INTERRUPTIONS:
            self._put_off(self._alone, job)
        else:
            self._ready.appendleft(job)
        return None

    def failed(self, job: Job, attempt: Attempt, *, exhausted: bool = False) -> Ending | None:
        """Take note of an attempt without a result: queue the job again by the RETRY table, or end it."""
        if not exhausted or not job.attempts:
            job.attempts.append(attempt)
        rule = RETRY[attempt.kind]
        repeated = sum(earlier.kind is attempt.kind for earlier in job.attempts) > 1
        refuted = job.recorded is not None and attempt.kind is FailureKind.VERIFY
        if exhausted or refuted or rule.then is Then.NEVER or len(job.attempts) >= MAX_ATTEMPTS:
            return self._end(job)
        if rule.then is Then.NEXT_ENGINE and attempt.engine:
            (self._fresh if rule.retire else self._ready).appendleft(job)
            return None
        if _is_final(attempt) or repeated:
            return self._end(job)
        if rule.then is Then.LATER:
            self._put_off(self._later, job)
        else:
            (self._fresh if rule.retire else self._ready).appendleft(job)
        return None

    def left(self, job: Job, left: Left) -> Ending:
        """End a job for which there is nothing to write."""
        job.transfer_syntax_uid = left.transfer_syntax_uid
        return Ending(
            job.id, job.path, left.source_size, left.source_mtime_ns, left.outcome, left.transfer_syntax_uid, None,
            left.reason, (),
        )  # fmt: skip

    def stands(self, job: Job, outcome: Outcome, note: str) -> Ending:
        """End a job of an audit: its result is what it should be."""
        return Ending(
            job.id, job.path, job.size, job.mtime_ns, outcome, job.transfer_syntax_uid, None, note, tuple(job.attempts)
        )

    def refuted(self, job: Job, opinions: list[Attempt]) -> Ending:
        """End a job whose result was not confirmed."""
        job.attempts += opinions
        return self._end(job)

    def over(self, path: bytes) -> None:
        """Forget a job: its outcome is durable, or it is left undone for another run."""
        job = self._active.pop(path)
        if self._over is not None:
            self._over.add(path)
        if not job.put_off:
            self.credit_owed += 1

    def _end(self, job: Job) -> Ending:
        # That an engine cannot do it at all says nothing of the file, if another could and failed.
        last = next((a for a in reversed(job.attempts) if a.kind is not FailureKind.UNSUPPORTED), job.attempts[-1])
        return Ending(
            job.id, job.path, job.size, job.mtime_ns, Outcome.FAILED, job.transfer_syntax_uid, last.kind,
            _reason(job.attempts), tuple(job.attempts),
        )  # fmt: skip

    def _put_off(self, queue: deque[Job], job: Job) -> None:
        # The walk must not wait for a job that itself waits for the end of the walk.
        if not job.put_off:
            self.credit_owed += 1
        job.put_off = True
        queue.append(job)


def _is_final(attempt: Attempt) -> bool:
    """Whether repeating the attempt cannot end otherwise: our own reading of the header refused the content."""
    return attempt.stage == Stage.INSPECT and attempt.kind in (FailureKind.CORRUPT, FailureKind.UNSUPPORTED)


def _reason(attempts: list[Attempt]) -> str:
    if len(attempts) == 1:
        return attempts[0].reason
    return "; ".join(f"{a.engine or a.stage}: {a.kind}: {a.reason}" for a in attempts)
