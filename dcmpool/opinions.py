"""Second opinions: which results need one, who may judge, and what becomes of a result that nobody confirms. Pure.

    Written -doubt-> waits -next_for-> a child that checks -confirmed-> commit
                       ^                                   -not_had---> refused, or
                       '--------------------------------------- another engine is asked

Invariants: a result is judged by another child than its maker; one that is doubted is committed when it was
confirmed, or when the first to be asked knows no second engine for its Transfer Syntax (it says so in a note) and the
original stays, and dropped otherwise: nobody can tell which of two pictures is right.
"""

from collections import deque
from collections.abc import Iterator
from os.path import basename
from zlib import crc32

import msgspec

from dcmpool.engines import WITHOUT_CODEC
from dcmpool.jobs import Job, Jobs
from dcmpool.ledger import Ledger
from dcmpool.model import FailureKind, Outcome
from dcmpool.protocol import Attempt, Written

MAX_OPINIONS = 4
"""Second engines that may fail to give an opinion on one result."""
_NOT_THE_PICTURES = (FailureKind.READ, FailureKind.CHANGED, FailureKind.WRITE, FailureKind.LOST)
"""What keeps a second engine from judging, and no other engine would change: storage, not the picture."""


class Unchecked(msgspec.Struct, eq=False):
    """A result that waits for a second opinion, from another child than its maker and by another engine."""

    job: Job
    temp: bytes
    written: Written
    maker: int
    attempts: list[Attempt] = msgspec.field(default_factory=list)
    """Opinions that could not be had."""

    @property
    def asked(self) -> tuple[str, ...]:
        """The engines that need not be asked again."""
        return tuple(attempt.engine for attempt in self.attempts)


class Opinions:
    """The results that wait for an opinion, and what follows from one.

    `share`: of results, 0 to 1, that need one. `keeps_originals`: whether one that nobody can confirm may stand, since
    its original is there to make another one.
    """

    def __init__(self, share: float, jobs: Jobs, ledger: Ledger, *, keeps_originals: bool) -> None:
        self._share = share
        self.keeps_originals = keeps_originals
        self._jobs = jobs
        self._ledger = ledger
        self._waiting: deque[Unchecked] = deque()

    def __iter__(self) -> Iterator[Unchecked]:
        return iter(self._waiting)

    def __len__(self) -> int:
        """How many results wait for somebody to judge them."""
        return len(self._waiting)

    def doubts(self, job: Job, written: Written) -> bool:
        """Whether this result needs an opinion; the same file does in each run."""
        return written.outcome is Outcome.DECOMPRESSED and crc32(job.path) < self._share * 2**32

    def add(self, unchecked: Unchecked) -> None:
        """Have a result wait for an opinion."""
        self._waiting.append(unchecked)

    def next_for(self, worker: int) -> Unchecked | None:
        """Return the oldest result that this child may check."""
        found = next((unchecked for unchecked in self._waiting if unchecked.maker != worker), None)
        if found:
            self._waiting.remove(found)
        return found

    def confirmed(self, unchecked: Unchecked, engine: str, now: float) -> None:
        """A second engine gives the same picture."""
        asked = tuple(unchecked.attempts)
        self._ledger.commit(unchecked.job, unchecked.temp, unchecked.written, now, confirmed_by=engine, asked=asked)

    def not_had(self, unchecked: Unchecked, attempt: Attempt, now: float, *, exhausted: bool = False) -> None:
        """A second engine differs, or gives no opinion: then another is asked, as long as there is one."""
        nobody_is_left = exhausted and attempt.kind is FailureKind.UNSUPPORTED
        may_stand = self.keeps_originals or unchecked.written.engine in WITHOUT_CODEC
        if nobody_is_left and not unchecked.attempts and not may_stand:
            reason = "no second engine can confirm it: --backup DIR keeps the original, --verify structure does without"
            self._refuse(unchecked, Attempt("", FailureKind.IRREPLACEABLE, reason, attempt.stage, 0.0), now)
        elif nobody_is_left and not unchecked.attempts:
            note = "not confirmed: there is no second engine for this Transfer Syntax"
            written = msgspec.structs.replace(unchecked.written, notes=(*unchecked.written.notes[:15], note))
            self._ledger.commit(unchecked.job, unchecked.temp, written, now)
        elif attempt.kind in _NOT_THE_PICTURES:
            self._discard(unchecked)
            self._ledger.follow(unchecked.job, attempt, self._jobs.failed(unchecked.job, attempt), now)
        elif attempt.kind is FailureKind.VERIFY:
            self._refuse(unchecked, attempt, now)
        elif nobody_is_left or len(unchecked.attempts) >= MAX_OPINIONS:
            if not nobody_is_left:
                unchecked.attempts.append(attempt)
            lacked = any(earlier.kind is FailureKind.MEMORY for earlier in unchecked.attempts)
            kind = FailureKind.MEMORY if lacked else FailureKind.VERIFY  # with more memory it may be confirmed
            nobody = Attempt("", kind, "no second engine can confirm it", attempt.stage, 0.0)
            self._refuse(unchecked, nobody, now)
        else:
            unchecked.attempts.append(attempt)
            self._waiting.append(unchecked)

    def make_anew(self, unchecked: Unchecked, attempt: Attempt, now: float) -> None:
        """Something from outside ended the attempt to judge: no opinion, and no verdict on the engine."""
        self._discard(unchecked)
        self._ledger.follow(unchecked.job, attempt, self._jobs.interrupted(unchecked.job, attempt), now)

    def drop(self, unchecked: Unchecked) -> None:
        """Leave a job undone for the next run, with its result."""
        self._discard(unchecked)
        self._jobs.over(unchecked.job.path)

    def drop_all(self) -> None:
        """Ask nobody any more."""
        while self._waiting:
            self.drop(self._waiting.popleft())

    def _refuse(self, unchecked: Unchecked, attempt: Attempt, now: float) -> None:
        self._discard(unchecked)
        self._ledger.end(self._jobs.refuted(unchecked.job, [*unchecked.attempts, attempt]), now)

    def _discard(self, unchecked: Unchecked) -> None:
        self._ledger.discard(basename(unchecked.temp))
