"""What follows when an attempt ends: with a result, with words, by a death, or by a child that is lost. Pure.

Written -> doubted? a second opinion : commit
Failed, death -> RETRY: again, by another engine, or over          from outside -> nobody's fault, at first
"""

import signal
from collections.abc import Callable

from dcmpool.crew import Crew
from dcmpool.errors import DcmpoolError, StoppedError
from dcmpool.inventory import Inventory
from dcmpool.jobs import Job, Jobs
from dcmpool.ledger import Ledger
from dcmpool.lifecycle import Worker
from dcmpool.model import RETRY, FailureKind, Outcome, Then
from dcmpool.opinions import Opinions, Unchecked
from dcmpool.protocol import Attempt, Checked, Failed, Left, Surveyed, Written

_FROM_OUTSIDE = (None, -signal.SIGKILL, -signal.SIGTERM)
"""Ends that nothing in the child brings about: an operator, the out-of-memory killer, the fork server's death."""


class Endings:
    """Ends attempts. `stop` ends the run early."""

    def __init__(
        self, crew: Crew, jobs: Jobs, ledger: Ledger, opinions: Opinions, stop: Callable[[DcmpoolError], None]
    ) -> None:
        self._crew = crew
        self._jobs = jobs
        self._ledger = ledger
        self._opinions = opinions
        self._stop = stop

    # --- with a message

    def written(self, worker: Worker, message: Written, now: float) -> None:
        """A result is complete: commit it, or have it judged first."""
        temp = worker.temp
        job = self._crew.rest(worker, now)
        job.transfer_syntax_uid = message.transfer_syntax_uid
        if self._opinions.doubts(job, message):
            self._opinions.add(Unchecked(job, temp, message, worker.id))
        else:
            self._ledger.commit(job, temp, message, now)

    def left(self, worker: Worker, message: Left, now: float) -> None:
        """There was nothing to write."""
        self._ledger.end(self._jobs.left(self._crew.rest(worker, now), message), now)

    def checked(self, worker: Worker, message: Checked, now: float) -> None:
        """A result is confirmed: by a second engine, or in an audit by what there is to hold it against."""
        unchecked = worker.unchecked
        job = self._crew.rest(worker, now)
        if unchecked is not None:
            self._opinions.confirmed(unchecked, message.engine, now)
        else:
            self._stands(job, message.note, now, confirmed=bool(message.engine))

    def surveyed(self, worker: Worker, message: Surveyed, inventory: Inventory, now: float) -> None:
        """A header was read: that is all there is to be done."""
        job = self._crew.rest(worker, now)
        tried = next((f"{a.engine or a.stage}: {a.kind}: {a.reason}" for a in job.attempts), "")
        note = f"a trial failed; a run makes further attempts: {tried}" if tried else ""
        inventory.surveyed(job.path, job.size, message, note)
        self._jobs.over(job.path)

    def failed(self, worker: Worker, message: Failed, now: float) -> None:
        """An attempt ended with words; where foreign code ran on the content, its child is not used again."""
        self._jobs.give_back(self._crew.take_back(worker))
        worker.engine, worker.stage = message.engine, message.stage
        self._conclude(worker, message.kind, message.reason, now, exhausted=message.exhausted)
        self._crew.rest(worker, now)
        if RETRY[message.kind].retire and not message.exhausted:
            self._crew.retire(worker, now)

    # --- without one

    def died(self, worker: Worker, code: int | None, now: float, out_of_memory: str = "") -> None:
        """A child died over a job: `code` as `subprocess.Popen.returncode`, None if nobody can know it.

        `out_of_memory` says how that is known, if it is what the child died of.
        """
        self._jobs.give_back(self._crew.take_back(worker))
        if worker.from_outside:
            self._interrupted(worker, FailureKind.TIMEOUT, worker.reason, now)
        elif worker.cause is not None:
            self._conclude(worker, worker.cause, worker.reason, now)
        elif worker.is_retired:
            self._abandon(worker)  # killed because the run gave up
        elif out_of_memory:
            reason = f"out of memory: the worker {how_it_died(code)}; {out_of_memory}"
            end = self._interrupted if code in _FROM_OUTSIDE else self._conclude
            end(worker, FailureKind.MEMORY, reason, now)
        elif code in _FROM_OUTSIDE:
            self._interrupted(worker, FailureKind.CRASHED, f"the worker {how_it_died(code)}, not by dcmpool", now)
        elif code == -signal.SIGALRM:
            self._conclude(worker, FailureKind.TIMEOUT, "the worker's own alarm ended it, long after its limit", now)
        else:
            self._conclude(worker, FailureKind.CRASHED, f"the worker {how_it_died(code)}", now)

    def lost(self, worker: Worker, now: float) -> None:
        """A child survives SIGKILL: it sits in the kernel, keeps its tokens, and its job is out of reach."""
        self._jobs.give_back(self._crew.take_back(worker))
        if worker.job is not None and worker.cause is not None:
            reason = f"{worker.reason}; the worker cannot be killed: it hangs in the kernel"
            self._conclude(worker, FailureKind.LOST, reason, now)
        elif worker.job is not None:
            self._abandon(worker)
        worker.job = worker.unchecked = None

    # --- what follows

    def _conclude(self, worker: Worker, kind: FailureKind, reason: str, now: float, *, exhausted: bool = False) -> None:
        """The attempt says something of the file, or of the engine, or of the storage: `RETRY` knows what follows."""
        attempt = _attempt(worker, kind, reason, now)
        if RETRY[kind].then is Then.STOP:
            self._abandon(worker)
            self._stop(StoppedError(f"{reason}: make room"))
        elif worker.unchecked is not None:
            self._opinions.not_had(worker.unchecked, attempt, now, exhausted=exhausted)
        elif exhausted and kind is FailureKind.UNSUPPORTED and _job(worker).recorded and not _job(worker).attempts:
            self._stands(_job(worker), _unjudged(_job(worker)), now, confirmed=False)  # all else was looked at
        else:
            job = _job(worker)
            self._ledger.follow(job, attempt, self._jobs.failed(job, attempt, exhausted=exhausted), now)

    def _stands(self, job: Job, note: str, now: float, *, confirmed: bool) -> None:
        assert job.recorded is not None  # noqa: S101 - `Worker.is_legal` holds it
        self._ledger.stands(self._jobs.stands(job, job.recorded.outcome, note), now, confirmed=confirmed)

    def _interrupted(self, worker: Worker, kind: FailureKind, reason: str, now: float) -> None:
        """Something from outside ended a child: no verdict on its file, nor on the engine that was to judge it."""
        attempt = _attempt(worker, kind, reason, now)
        if worker.unchecked is None:
            self._ledger.follow(_job(worker), attempt, self._jobs.interrupted(_job(worker), attempt), now)
        elif _job(worker).alone:
            self._opinions.not_had(worker.unchecked, attempt, now)
        else:
            self._opinions.make_anew(worker.unchecked, attempt, now)  # alone, if it happens again

    def _abandon(self, worker: Worker) -> None:
        """Leave a job undone for the next run, and drop a result that nobody confirmed."""
        if worker.unchecked is not None:
            self._opinions.drop(worker.unchecked)
        else:
            self._jobs.over(_job(worker).path)


def how_it_died(code: int | None) -> str:
    """Say in words how a process ended."""
    if code is None:
        return "vanished with the fork server"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _attempt(worker: Worker, kind: FailureKind, reason: str, now: float) -> Attempt:
    stage = "second opinion" if worker.unchecked is not None else worker.stage
    return Attempt(worker.engine, kind, reason, stage, now - worker.begun)


def _unjudged(job: Job) -> str:
    """Say that no engine could judge a result; "" for one that needs none."""
    decoded = job.recorded is not None and job.recorded.outcome is Outcome.DECOMPRESSED
    return "not confirmed: there is no second engine for this Transfer Syntax" if decoded else ""


def _job(worker: Worker) -> Job:
    assert worker.job is not None  # noqa: S101 - an attempt ends that was under way
    return worker.job
