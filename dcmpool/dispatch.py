"""Who does what next: jobs and checks for free children, with their limits and what the gate grants. Pure.

free child + next job -> Assign | Check | Survey, with bytes and a writer's place if the gate has room
busy child + small job -> Assign ahead, with what was granted to the job before
Inspected (on the board) -> its limit          Wants -> the gate -> Grant
"""

from collections.abc import Callable
from os.path import join

from dcmpool.actions import Action, SendTo
from dcmpool.config import MIB, Config
from dcmpool.crew import Crew
from dcmpool.inventory import Inventory
from dcmpool.jobs import SMALL_BYTES, Job, Jobs
from dcmpool.lifecycle import Ahead, Phase, Worker
from dcmpool.limit import Limit
from dcmpool.model import Outcome
from dcmpool.opinions import Opinions, Unchecked
from dcmpool.protocol import Assign, Check, Grant, Inspected, Left, Message, Recorded, Survey, Surveyed, Wants, Written

_NOTHING_TO_DECOMPRESS = (Outcome.COPIED, Outcome.OTHER, Outcome.KEPT)
"""Outcomes that come with a file, but in place the source is that file."""


class Dispatcher:
    """Gives out the work of a run. Results go to files of the directory `temp`, named for `run`, job and child."""

    def __init__(
        self,
        config: Config,
        run: str,
        crew: Crew,
        jobs: Jobs,
        opinions: Opinions,
        emit: Callable[[Action], None],
        *,
        in_place: bool,
    ) -> None:
        self._config = config
        self._run = run
        self._crew = crew
        self._gate = crew.gate
        self._jobs = jobs
        self._opinions = opinions
        self._emit = emit
        self._in_place = in_place
        self._inventory: Inventory | None = None
        self._limit = Limit(config.limits)
        self._grant_bytes = config.gate.grant_mib * MIB
        self._base = self._temp = self._target = b""

    def open(self, base: bytes, target: bytes, temp: bytes, inventory: Inventory | None) -> None:
        """Take the directory to which all paths are relative, TARGET, and the one for temp files, TARGET/.dcmpool/tmp.

        With an `inventory` files are surveyed for it, and no results are made.
        """
        self._base, self._target, self._temp, self._inventory = base, target, temp, inventory

    def dispatch(self, now: float, most: int) -> None:
        """Give each free child something to do, as far as there is anything for it.

        `most`: results that may be made, and judged, at a time; in place alone, where each stands beside its original
        and the disk may have room for no more.
        """
        for worker in (worker for worker in self._crew if worker.is_free):
            if unchecked := self._opinions.next_for(worker.id):
                self._assign_check(worker, unchecked, now)
                continue
            if self._opinions and self._crew.living == 1:
                self._crew.retire(worker, now)  # the only child cannot judge its own work
                continue
            if self._in_place and self._results_under_way() >= most:
                continue
            busy = self._crew.count(Phase.BUSY, Phase.WAITING) > 0 or len(self._opinions) > 0
            job = self._jobs.next(fresh_child=worker.jobs_begun == 0, others_busy=busy)
            if job and job.recorded:
                self._assign_audit(worker, job, job.recorded, now)
            elif job and self._inventory:
                self._assign_survey(worker, job, self._inventory, now)
            elif job:
                self._assign(worker, job, now)
            elif self._jobs.wants_fresh_child and worker.jobs_begun:
                self._crew.retire(worker, now)

    def send_ahead(self, workers: int) -> None:
        """Give children that are at work their next order, so that none waits for it. In place each result counts.

        Not where the gate has narrowed or somebody waits at it, nor where a child has to become free for something else
        or is about to come; nor the last jobs, as many as there are `workers`: whoever is free first shall have them.
        """
        is_settled = self._crew.living <= workers and not self._crew.count(Phase.STARTING, Phase.KILLING)
        is_open = not self._gate.waiting and self._gate.writers_held <= self._gate.open_to
        if not (is_settled and is_open) or self._in_place or self._inventory or self._opinions:
            return
        for worker in self._crew:
            if not (worker.takes_ahead and worker.job and worker.job.size <= SMALL_BYTES):
                continue
            job = self._jobs.ahead(leave=workers)
            if job is None:
                return
            temp = self._temp_name(worker, job)
            worker.ahead = Ahead(job, temp, self._limit.seconds("", "", job.size))
            self._emit(SendTo(worker.id, self._order(job, temp, self._grant_bytes, granted_writer=True, ahead=True)))

    def inspected(self, worker: Worker, message: Inspected) -> None:
        """Set the limit of a job, now that it is known what it is."""
        assert worker.job is not None  # noqa: S101 - `Worker.is_legal` holds it
        worker.shown, worker.engine = message, message.engine
        worker.job.transfer_syntax_uid = message.transfer_syntax_uid
        most = max(message.native_bytes, worker.job.size)  # a copy decodes nothing and may still be large
        worker.result_bytes = most
        worker.set_limit(self._limit.seconds(message.transfer_syntax_uid, message.engine, most))

    def wants(self, worker: Worker, message: Wants, now: float) -> None:
        """Have a child wait at the gate, if only for a moment."""
        self._jobs.give_back(self._crew.take_back(worker))
        worker.pause(message, now)
        if message.writer:
            self._gate.request_writer(worker.id, worker.result_bytes)
        else:
            self._gate.request_bytes(worker.id, message.bytes)
        self.grant(now)

    def grant(self, now: float) -> None:
        """Let through the gate whom there is room for."""
        for number in self._gate.grant(now):
            worker = self._crew[number]
            if worker.phase is Phase.WAITING and worker.job:
                worker.resume(now)
                self._emit(SendTo(number, Grant(worker.job.id, self._alarm_seconds(worker.limit_seconds))))

    def may_end_so(self, message: Message) -> bool:
        """Whether an order of this run can have such an outcome: nothing may be called done that has no result."""
        if self._inventory:
            return not isinstance(message, Written | Left) and not getattr(message, "writer", False)
        match message:
            case Surveyed():
                return False
            case Written(outcome=outcome):
                return outcome is Outcome.DECOMPRESSED or (outcome in _NOTHING_TO_DECOMPRESS and not self._in_place)
            case Left(outcome=Outcome.SKIPPED):
                return self._config.work.others == "skip"
            case Left(outcome=outcome):
                return outcome in _NOTHING_TO_DECOMPRESS and self._in_place
        return True

    def learn(self, written: Written) -> None:
        """Take note of how long a result took, for limits and gate."""
        self._limit.learn(written.transfer_syntax_uid, written.engine, written.native_bytes, written.seconds)
        self._gate.learn(written.size, written.write_seconds)

    def _results_under_way(self) -> int:
        return len(self._opinions) + sum(worker.job is not None for worker in self._crew)

    def _assign(self, worker: Worker, job: Job, now: float) -> None:
        temp = self._temp_name(worker, job)
        granted_bytes, granted_writer = self._gate.offer(worker.id, self._grant_bytes)
        self._crew.engage(worker, job, self._limit.seconds("", "", job.size), now, temp=temp)
        worker.has_grants = granted_writer
        self._emit(SendTo(worker.id, self._order(job, temp, granted_bytes, granted_writer=granted_writer)))

    def _temp_name(self, worker: Worker, job: Job) -> bytes:
        return join(self._temp, f"{self._run}-{job.id}-{job.dispatched}-{worker.pid}".encode())

    def _order(self, job: Job, temp: bytes, granted_bytes: int, *, granted_writer: bool, ahead: bool = False) -> Assign:
        return Assign(
            job=job.id,
            attempt=job.dispatched,
            source=join(self._base, job.path),
            temp=temp,
            engine=self._config.work.engine,
            tried=job.tried,
            skip_others=self._config.work.others == "skip",
            in_place=self._in_place,
            durable=self._config.storage.durable,
            alarm_seconds=self._first_alarm(job),
            granted_bytes=granted_bytes,
            granted_writer=granted_writer,
            split_links=self._config.work.hard_links == "split",
            may_round=self._opinions.keeps_originals or self._config.work.yes_lossy,
            ahead=ahead,
        )

    def _assign_check(self, worker: Worker, unchecked: Unchecked, now: float) -> None:
        """Have a second engine look at a result; it gets the limit of an attempt."""
        job = unchecked.job
        granted_bytes, _ = self._gate.offer(worker.id, self._grant_bytes, writes=False)
        self._crew.engage(worker, job, self._limit.seconds("", "", job.size), now, unchecked=unchecked)
        order = Check(
            job=job.id,
            source=join(self._base, job.path),
            result=unchecked.temp,
            first=unchecked.written.engine,
            asked=unchecked.asked,
            alarm_seconds=self._first_alarm(job),
            granted_bytes=granted_bytes,
        )
        self._emit(SendTo(worker.id, order))

    def _assign_audit(self, worker: Worker, job: Job, recorded: Recorded, now: float) -> None:
        """Have a result of an earlier run looked at, where it has its final name."""
        granted_bytes, _ = self._gate.offer(worker.id, self._grant_bytes, writes=False)
        self._crew.engage(worker, job, self._limit.seconds("", "", recorded.size), now)
        order = Check(
            job=job.id,
            source=join(self._base, job.path),
            result=join(self._target, job.path),
            first=recorded.engine,
            asked=job.tried,
            alarm_seconds=self._first_alarm(job),
            granted_bytes=granted_bytes,
            recorded=recorded,
        )
        self._emit(SendTo(worker.id, order))

    def _assign_survey(self, worker: Worker, job: Job, inventory: Inventory, now: float) -> None:
        """Have a header read; a decompression is tried but once for a file, since it may be what ended an attempt."""
        granted_bytes, _ = self._gate.offer(worker.id, self._grant_bytes, writes=False)
        self._crew.engage(worker, job, self._limit.seconds("", "", 0), now)
        order = Survey(
            job=job.id,
            source=join(self._base, job.path),
            trial=not job.attempts,
            enough=inventory.enough(),
            skip_others=self._config.work.others == "skip",
            alarm_seconds=self._first_alarm(job),
            granted_bytes=granted_bytes,
        )
        self._emit(SendTo(worker.id, order))

    def _first_alarm(self, job: Job) -> float:
        """Return a child's backstop until it asks for a grant: for all that it may do without one."""
        return self._alarm_seconds(self._limit.at_most(max(self._grant_bytes, job.size)))

    def _alarm_seconds(self, limit_seconds: float) -> float:
        """Return when a child's own backstop is due: not before storage that stalls has had its time to answer."""
        return 2 * limit_seconds + self._config.storage.give_up_seconds


def scratch_name(run: str, worker: int) -> bytes:
    """Return the name of a child's private folder in TARGET/.dcmpool/tmp."""
    return f"{run}-w{worker}".encode()
