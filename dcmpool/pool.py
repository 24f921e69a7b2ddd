"""The policy of a run: which child does what, until when, and what follows. Pure: no I/O, every event says the time.

    events (launched, message, garbled, hung_up, died, examined; the clerk's answers; tick) -> actions

Invariants, each held by a property test: a job ends exactly once; tokens are held by children not proved dead
alone; a result is committed only after `Written` of that very attempt; every busy child has a deadline; from
deadline to SIGKILL it is the grace and one wait; at the end no child is left that is not LOST.
"""

import signal
from os.path import basename, join
from zlib import crc32

import msgspec

from dcmpool.actions import Action, CloseChild, Examine, Look, Notice, SendTo, Tell
from dcmpool.config import MIB, Config
from dcmpool.crew import Crew, Phase, Worker
from dcmpool.errors import DcmpoolError, LaunchError, StoppedError
from dcmpool.gate import WriteGate
from dcmpool.jobs import Job, Jobs, Unchecked
from dcmpool.limit import Limit
from dcmpool.model import RETRY, FailureKind, Outcome, Side, Then
from dcmpool.protocol import (
    Assign,
    Attempt,
    Begin,
    Begun,
    Check,
    Checked,
    Commit,
    Committed,
    Discard,
    Earlier,
    Ending,
    Failed,
    Finish,
    Found,
    Grant,
    Inspected,
    Left,
    Message,
    More,
    Noted,
    Ready,
    Scanned,
    Settle,
    Stopped,
    Wants,
    Written,
)
from dcmpool.report import Tally
from dcmpool.stall import StorageWatch, Wait

MAX_OPINIONS = 4
"""Second engines that may fail to give an opinion on one result."""
_NOT_THE_PICTURES = (FailureKind.READ, FailureKind.CHANGED, FailureKind.WRITE, FailureKind.LOST)
"""What keeps a second engine from judging, and no other engine would change: storage, not the picture."""
MAX_FAILED_STARTS = 3
"""Children in a row that end before they were given a job."""
_REMEMBER_SECONDS = 1.0
"""Attempts that take longer are journalled, should everything die with them."""
_HANG_UP_SECONDS = 2.0
"""How long a child may live whose channel is closed: longer than the loop waits for the exit status of a dead one."""
_NOTHING_TO_DECOMPRESS = (Outcome.COPIED, Outcome.OTHER, Outcome.KEPT)
"""Outcomes that come with a file, but in place the source is that file."""
_FROM_OUTSIDE = (None, -signal.SIGKILL, -signal.SIGTERM)
"""Ends that nothing in the child brings about: an operator, the out-of-memory killer, the fork server's death."""


class Pool:
    """All children, jobs, tokens and deadlines of a run."""

    def __init__(self, config: Config, run: str, *, in_place: bool, tally: Tally) -> None:
        self._config = config
        self._run = run
        self._in_place = in_place
        self._base = self._temp = b""
        self._actions: list[Action] = []
        self._failed_starts = 0
        self._commit_waits_since: float | None = None
        self._shut_since: float | None = None
        self._walk_waits_since: float | None = None
        self.storage = StorageWatch(config.storage)
        self.is_open = False
        self._due: float | None = None
        """When `tick` is due because something changed outside it."""
        self.clerk_gave_up = False
        self._grant_bytes = config.gate.grant_mib * MIB
        self._limit = Limit(config.limits)
        self._second_share = config.second_share(in_place=in_place)
        self.tally = tally
        self.jobs = Jobs()
        gate = config.gate
        self.gate = WriteGate(gate.max_inflight_mib * MIB, gate.max_writers, adaptive=gate.adaptive)
        self.crew = Crew(config.limits, self._actions.append)
        self.error: DcmpoolError | None = None
        self.draining = False
        self.finishing = False

    # --- what the loop asks

    def take_actions(self) -> list[Action]:
        """Return what is to be done, once."""
        actions = self._actions.copy()
        self._actions.clear()
        return actions

    def next_deadline(self) -> float | None:
        """Return when `tick` is due at the latest; None if only an event can bring anything on."""
        deadlines = [worker.deadline for worker in self.crew if worker.deadline is not None]
        if self._due is not None:
            deadlines.append(self._due)
        deadlines += [w.begun + _REMEMBER_SECONDS for w in self.crew if w.phase is Phase.BUSY and not w.remembered]
        deadlines += [worker.look_at for worker in self.crew if worker.look_at is not None]
        if not self.clerk_gave_up and (due := self.storage.next_deadline()) is not None:
            deadlines.append(due)
        return min(deadlines, default=None)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left but to say goodbye: no child is left that is not LOST, and `Finish` is told."""
        return self.finishing

    @property
    def exit_code(self) -> int:
        """The exit code, as things stand."""
        if self.error:
            return self.error.exit_code
        if self.draining:
            return 130
        return 1 if self.tally.counts[Outcome.FAILED] else 0

    # --- events of the run

    def begin(self, now: float) -> None:
        """Wait for the clerk, which looks at SOURCE and TARGET."""
        self._commit_waits_since = now

    def opened(self, base: bytes, temp: bytes, now: float) -> None:
        """Begin: paths are relative to the directory `base`, results go to the directory `temp` first."""
        self._base, self._temp = base, temp
        self.is_open = True
        self._commit_waits_since = None
        self._launch_missing(now)

    def welcome_clerk(self, now: float) -> None:
        """Tell a clerk what it may send, and what an earlier one has not acknowledged."""
        if self.finishing:
            self._tell(Finish(self.exit_code, not self.draining))
            return
        self.jobs.walk_again()
        self._tell(More(max(0, self._config.work.scan_ahead - self.jobs.holding_credit)))
        for _, result in self.jobs.committing.values():
            self._tell(Commit((result,)))
        for ending in self.jobs.settling.values():
            self._tell(Settle((ending,)))
        if self._commit_waits_since is not None:
            self._commit_waits_since = now

    def from_clerk(self, message: Message, now: float) -> None:
        """Take what the clerk says; after the end, a new one's walk is of no interest."""
        if self.finishing and not isinstance(message, Stopped):
            return
        if not isinstance(message, Committed):
            self._walk_waits_since = None  # it walks on; whether it owes anything is seen at the next look
        self._from_clerk(message, now)

    def _from_clerk(self, message: Message, now: float) -> None:
        match message:
            case Found():
                self._found(message, now)
            case Noted():
                self.tally.noted(message)
            case Earlier():
                self.tally.ending(message.ending)
            case Scanned():
                self.tally.walked(message.files, message.bytes, message.settled)
                self.jobs.walked = message.complete
            case Committed():
                self._committed(message, now)
            case Stopped():
                self.stop(StoppedError(message.reason))
                if message.fatal:
                    self.give_up(now)
            case _:
                raise AssertionError(f"unexpected from the clerk: {message}")

    def drain(self) -> None:
        """Begin no new job; let those under way end."""
        self.draining = True

    def stop(self, error: DcmpoolError) -> None:
        """End the run early, resumable, for a reason of its own."""
        self.error = self.error or error
        self.draining = True

    def give_up(self, now: float) -> None:
        """Wait for nothing more: no child, no acknowledgement."""
        self.clerk_gave_up = True
        for worker in self.crew:
            self.gate.withdraw(worker.id)
            self.crew.retire(worker, now)

    def tick(self, now: float) -> None:
        """Do what the time has come for, and give out work."""
        self._due = None
        for worker in self.crew:
            if worker.deadline is not None and now >= worker.deadline:
                self._expire(worker, now)
            elif worker.look_at is not None and now >= worker.look_at:
                self._actions.append(Examine(worker.id))
        self._remember(now)
        self._grant(now)
        self._watch_storage(now)
        if self.is_open and not self.draining and not self.storage.is_stalled:
            self._launch_missing(now)
        if not self.draining and not self.storage.is_stalled:
            self._dispatch(now)
        self._pay_credit()
        self._finish(now)

    # --- events of a child

    def launched(self, number: int, pid: int, now: float) -> None:
        """The fork server has made the child."""
        self.crew.launched(self.crew[number], pid, now)

    def not_launched(self, number: int) -> None:
        """The child cannot even be asked for."""
        self.crew.bury(self.crew[number])

    def message(self, number: int, message: Message, now: float) -> None:
        """Take what a child says; what it may not say now ends it."""
        worker = self.crew[number]
        if worker.phase in (Phase.KILLING, Phase.LOST):
            return
        if not worker.is_legal(message) or not self._is_allowed(message):
            self.garbled(number, f"{type(message).__name__} while {worker.phase}", now)
            return
        if worker.stalled_since is not None:
            worker.recover(now)
        self._take_message(worker, message, now)

    def _take_message(self, worker: Worker, message: Message, now: float) -> None:
        match message:
            case Ready():
                worker.rest()
            case Inspected():
                self._inspected(worker, message)
            case Wants():
                self._wants(worker, message, now)
            case Written():
                self._written(worker, message, now)
            case Left():
                job = self._take_job(worker)
                self._end(self.jobs.left(job, message), now)
            case Checked():
                self._confirmed(worker, message, now)
            case Failed():
                worker.engine, worker.stage = message.engine, message.stage
                self._failed(worker, message.kind, message.reason, now, exhausted=message.exhausted)

    def garbled(self, number: int, reason: str, now: float) -> None:
        """A child broke the protocol."""
        self.gate.withdraw(number)
        self.crew.kill(self.crew[number], FailureKind.PROTOCOL, f"the worker broke the protocol: {reason}", now)

    def hung_up(self, number: int, now: float) -> None:
        """A child closed its channel. It is dying, which its pidfd will prove, or it lies."""
        worker = self.crew[number]
        if worker.phase not in (Phase.KILLING, Phase.LOST):
            self.gate.withdraw(number)
            worker.hung_up = True
            worker.deadline = now + _HANG_UP_SECONDS

    def examined(self, number: int, look: Look, now: float) -> None:
        """Take what the kernel says of a child that takes long: wait for storage with it, or kill it at its limit."""
        worker = self.crew[number]
        if worker.phase is not Phase.BUSY:
            return
        worker.stage = look.stage
        worker.look(look.side, look.mark, now)
        expired = worker.deadline is not None and now >= worker.deadline
        stuck = worker.stuck_since is not None and now >= worker.stuck_since + self._config.storage.stall_seconds
        if look.side and (expired or stuck):
            worker.stall(now)
            self._due = now
        elif worker.stalled_since is not None:
            worker.recover(now)
            self._due = now
        elif expired:
            worker.from_outside = look.is_stopped
            self.crew.kill(worker, FailureKind.TIMEOUT, look.reason, now)

    def proved_dead(self, number: int) -> None:
        """A child is dead, and how it died is about to be known: nothing can be due from it any more."""
        self.crew[number].deadline = None

    def died(self, number: int, code: int | None, now: float) -> None:
        """A child is proved dead: `code` as `subprocess.Popen.returncode`, None if nobody can know it."""
        worker = self.crew[number]
        self.crew.bury(worker)
        self.gate.release(worker.id)
        self._actions.append(CloseChild(worker.id))
        self._tell(Discard((scratch_name(self._run, worker.id), *([basename(worker.temp)] if worker.temp else []))))
        if worker.job is None:
            self._count_failed_start(worker, code)
        elif worker.from_outside:
            self._interrupted(worker, FailureKind.TIMEOUT, worker.reason, now)
        elif worker.cause is not None:
            self._conclude(worker, worker.cause, worker.reason, now)
        elif worker.killed:
            self._abandon(worker.job, worker.unchecked)  # killed because the run gave up, not for anything that it did
        elif code in _FROM_OUTSIDE:
            reason = f"the worker {how_it_died(code)}, not by dcmpool: the kernel does that when memory runs out"
            self._interrupted(worker, FailureKind.CRASHED, reason, now)
        elif code == -signal.SIGALRM:
            self._conclude(worker, FailureKind.TIMEOUT, "the worker's own alarm ended it, long after its limit", now)
        else:
            self._conclude(worker, FailureKind.CRASHED, f"the worker {how_it_died(code)}", now)

    def forkserver_died(self) -> None:
        """The fork server is gone: what it had not yet forked will never be."""
        for worker in self.crew:
            if not worker.pid:
                self.crew.bury(worker)
                self._actions.append(CloseChild(worker.id))

    # --- inside

    def _is_allowed(self, message: Message) -> bool:
        """Whether this run knows such an outcome: nothing may be called done that has no result."""
        match message:
            case Written(outcome=outcome):
                return outcome is Outcome.DECOMPRESSED or (outcome in _NOTHING_TO_DECOMPRESS and not self._in_place)
            case Left(outcome=Outcome.SKIPPED):
                return self._config.work.others == "skip"
            case Left(outcome=outcome):
                return outcome in _NOTHING_TO_DECOMPRESS and self._in_place
        return True

    def _tell(self, message: Message) -> None:
        self._actions.append(Tell(message))

    def _launch_missing(self, now: float) -> None:
        lost = self.crew.count(Phase.LOST)
        if lost > self._config.limits.max_lost:
            self.stop(StoppedError(f"{lost} workers hang in the kernel and cannot be killed: storage does not answer"))
            return
        wanted = self._config.work.workers
        if self.jobs.walked:
            wanted = min(wanted, len(self.jobs))
        for _ in range(wanted - self.crew.living):
            self.crew.launch(now)

    def _dispatch(self, now: float) -> None:
        for worker in (worker for worker in self.crew if worker.is_free):
            if unchecked := self.jobs.next_unchecked(worker.id):
                self._assign_check(worker, unchecked, now)
                continue
            if self.jobs.unchecked and self.crew.living == 1:
                self.crew.retire(worker, now)  # the only child cannot judge its own work
                continue
            busy = self.crew.count(Phase.BUSY, Phase.WAITING) > 0 or bool(self.jobs.unchecked)
            job = self.jobs.next(fresh_child=worker.jobs_begun == 0, others_busy=busy)
            if job:
                self._assign(worker, job, now)
            elif self.jobs.wants_fresh_child and worker.jobs_begun:
                self.crew.retire(worker, now)

    def _assign(self, worker: Worker, job: Job, now: float) -> None:
        self._failed_starts = 0
        temp = join(self._temp, f"{self._run}-{job.id}-{job.dispatched}-{worker.pid}".encode())
        granted_bytes, granted_writer = self.gate.offer(worker.id, self._grant_bytes)
        worker.take(job, temp, self._limit.seconds("", 0), now)
        order = Assign(
            job=job.id,
            attempt=job.dispatched,
            source=join(self._base, job.path),
            temp=temp,
            engine=self._config.work.engine,
            tried=job.tried,
            skip_others=self._config.work.others == "skip",
            in_place=self._in_place,
            durable=self._config.storage.durable,
            alarm_seconds=self._alarm_seconds(self._limit.at_most(self._grant_bytes)),
            granted_bytes=granted_bytes,
            granted_writer=granted_writer,
        )
        self._actions.append(SendTo(worker.id, order))

    def _alarm_seconds(self, limit_seconds: float) -> float:
        """Return when a child's own backstop is due: not before storage that stalls has had its time to answer."""
        return 2 * limit_seconds + self._config.storage.give_up_seconds

    def _found(self, message: Found, now: float) -> None:
        if self.draining:
            return  # left for the next run; the journal may be closed already
        for item in message.items:
            if ending := self.jobs.add(item):
                self._end(ending, now)

    def _inspected(self, worker: Worker, message: Inspected) -> None:
        assert worker.job is not None  # noqa: S101 - is_legal holds it
        worker.engine = message.engine
        worker.job.transfer_syntax_uid = message.transfer_syntax_uid
        worker.set_limit(self._limit.seconds(message.transfer_syntax_uid, message.native_bytes))

    def _wants(self, worker: Worker, message: Wants, now: float) -> None:
        worker.pause(message, now)
        if message.writer:
            self.gate.request_writer(worker.id)
        else:
            self.gate.request_bytes(worker.id, message.bytes)
        self._grant(now)

    def _grant(self, now: float) -> None:
        for number in self.gate.grant():
            worker = self.crew[number]
            if worker.phase is Phase.WAITING and worker.job:
                worker.resume(now)
                self._actions.append(SendTo(number, Grant(worker.job.id, self._alarm_seconds(worker.limit_seconds))))

    def _written(self, worker: Worker, message: Written, now: float) -> None:
        temp = worker.temp
        job = self._take_job(worker)
        self._limit.learn(message.transfer_syntax_uid, message.native_bytes, message.seconds)
        self.gate.learn(message.size, message.write_seconds)
        if message.outcome is Outcome.DECOMPRESSED and crc32(job.path) < self._second_share * 2**32:
            self.jobs.unchecked.append(Unchecked(job, temp, message, worker.id))
        else:
            self._commit(job, temp, message, now)

    def _commit(self, job: Job, temp: bytes, written: Written, now: float) -> None:
        self._tell(Commit((self.jobs.written(job, temp, written),)))
        self._commit_waits_since = self._commit_waits_since or now

    def _take_job(self, worker: Worker) -> Job:
        """Take the job out of a child's hands: its tokens come back, and it is idle."""
        job = worker.job
        assert job is not None  # noqa: S101 - is_legal holds it
        self.gate.release(worker.id)
        worker.rest()
        return job

    def _failed(self, worker: Worker, kind: FailureKind, reason: str, now: float, *, exhausted: bool) -> None:
        """An attempt ended with words; where foreign code ran on the content, its child is not used again."""
        self._conclude(worker, kind, reason, now, exhausted=exhausted)
        self._take_job(worker)
        if RETRY[kind].retire and not exhausted:
            self.crew.retire(worker, now)

    def _conclude(self, worker: Worker, kind: FailureKind, reason: str, now: float, *, exhausted: bool = False) -> None:
        job = worker.job
        assert job is not None  # noqa: S101 - callers hold it
        if RETRY[kind].then is Then.STOP:
            self._abandon(job, worker.unchecked)
            self.stop(StoppedError(f"{reason}: make room"))
            return
        if worker.unchecked is not None:
            self._not_confirmed(worker, worker.unchecked, kind, reason, now, exhausted=exhausted)
            return
        attempt = Attempt(worker.engine, kind, reason, worker.stage, now - worker.begun)
        self._end(self.jobs.failed(job, attempt, exhausted=exhausted), now)

    def _assign_check(self, worker: Worker, unchecked: Unchecked, now: float) -> None:
        """Have a second engine look at a result; it gets the limit of an attempt."""
        self._failed_starts = 0
        job = unchecked.job
        granted_bytes, _ = self.gate.offer(worker.id, self._grant_bytes, writes=False)
        worker.take(job, b"", self._limit.seconds("", 0), now)
        worker.unchecked = unchecked
        order = Check(
            job=job.id,
            source=join(self._base, job.path),
            result=unchecked.temp,
            first=unchecked.written.engine,
            tried=unchecked.tried,
            alarm_seconds=self._alarm_seconds(self._limit.at_most(self._grant_bytes)),
            granted_bytes=granted_bytes,
        )
        self._actions.append(SendTo(worker.id, order))

    def _confirmed(self, worker: Worker, message: Checked, now: float) -> None:
        unchecked = worker.unchecked
        assert unchecked is not None  # noqa: S101 - is_legal holds it
        self._take_job(worker)
        self.tally.confirmed += 1
        self._commit(unchecked.job, unchecked.temp, unchecked.written, now)

    def _not_confirmed(
        self, worker: Worker, unchecked: Unchecked, kind: FailureKind, reason: str, now: float, *, exhausted: bool
    ) -> None:
        """A second engine differs, or gives no opinion: then another is asked, as long as there is one."""
        attempt = Attempt(worker.engine, kind, reason, "second opinion", now - worker.begun)
        nobody_is_left = exhausted and kind is FailureKind.UNSUPPORTED
        if nobody_is_left and not unchecked.attempts:
            note = "not confirmed: there is no second engine for this Transfer Syntax"
            written = msgspec.structs.replace(unchecked.written, notes=(*unchecked.written.notes[:15], note))
            self._commit(unchecked.job, unchecked.temp, written, now)
        elif kind in _NOT_THE_PICTURES:
            self._tell(Discard((basename(unchecked.temp),)))
            self._end(self.jobs.failed(unchecked.job, attempt), now)
        elif kind is FailureKind.VERIFY:
            self._refuse(unchecked, attempt, now)
        elif nobody_is_left or len(unchecked.attempts) >= MAX_OPINIONS:
            if not nobody_is_left:
                unchecked.attempts.append(attempt)
            nobody = Attempt("", FailureKind.VERIFY, "no second engine can confirm it", "second opinion", 0.0)
            self._refuse(unchecked, nobody, now)
        else:
            unchecked.attempts.append(attempt)
            self.jobs.unchecked.append(unchecked)

    def _refuse(self, unchecked: Unchecked, attempt: Attempt, now: float) -> None:
        self._tell(Discard((basename(unchecked.temp),)))
        self._end(self.jobs.refuted(unchecked, attempt), now)

    def _abandon(self, job: Job, unchecked: Unchecked | None) -> None:
        """Leave a job undone for the next run, and drop a result that nobody confirmed."""
        if unchecked is not None:
            self._tell(Discard((basename(unchecked.temp),)))
        self.jobs.abandon(job)

    def _interrupted(self, worker: Worker, kind: FailureKind, reason: str, now: float) -> None:
        """Something from outside ended a child: no verdict on its file, nor on the engine that was to judge it."""
        assert worker.job is not None  # noqa: S101 - the caller holds it
        if worker.unchecked is not None and worker.job.alone:
            self._not_confirmed(worker, worker.unchecked, kind, reason, now, exhausted=False)
            return
        if worker.unchecked is not None:
            self._tell(Discard((basename(worker.unchecked.temp),)))  # made anew, alone if it happens again
        attempt = Attempt(worker.engine, kind, reason, worker.stage, now - worker.begun)
        self._end(self.jobs.interrupted(worker.job, attempt), now)

    def _end(self, ending: Ending | None, now: float) -> None:
        """Count and journal an ending; None is a job that will be tried again."""
        if ending is None:
            self.tally.retries += 1
            return
        self.tally.ending(ending)
        self._tell(Settle((ending,)))
        self._commit_waits_since = self._commit_waits_since or now

    def _committed(self, message: Committed, now: float) -> None:
        for number in message.jobs:
            if entry := self.jobs.acknowledged(number):
                self.tally.result(entry[1])
        for failure in message.failures:
            if entry := self.jobs.commit_failed(failure.job):
                job, result = entry
                if RETRY[failure.kind].then is Then.STOP:
                    self.jobs.abandon(job)
                    self.stop(StoppedError(f"{failure.reason}: make room"))
                    continue
                attempt = Attempt(result.written.engine, failure.kind, failure.reason, "commit", result.written.seconds)
                self._end(self.jobs.failed(job, attempt), now)
        self._commit_waits_since = now if self.jobs.committing or self.jobs.settling else None

    def _expire(self, worker: Worker, now: float) -> None:
        if worker.phase is Phase.KILLING:
            if self.crew.press(worker, now):
                self._lose(worker, now)
        elif worker.hung_up:
            self.garbled(worker.id, "it closed its channel and lives on", now)
        elif worker.phase is Phase.STARTING:
            self.crew.kill(worker, FailureKind.TIMEOUT, "not ready in time", now)
        else:
            self._actions.append(Examine(worker.id))

    def _lose(self, worker: Worker, now: float) -> None:
        """A child survives SIGKILL: it sits in the kernel, keeps its tokens, and its job is out of reach."""
        if worker.job is not None and worker.cause is not None:
            reason = f"{worker.reason}; the worker cannot be killed: it hangs in the kernel"
            self._conclude(worker, FailureKind.LOST, reason, now)
        elif worker.job is not None:
            self._abandon(worker.job, worker.unchecked)
        worker.job = worker.unchecked = None

    def _count_failed_start(self, worker: Worker, code: int | None) -> None:
        """Children that end before they were given anything: three in a row, and there is no point in a fourth."""
        if worker.jobs_begun or (worker.killed and worker.cause is None) or code is None:
            return
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            how = worker.reason or how_it_died(code)
            self.stop(LaunchError(f"workers cannot start; of the last one is known: {how}"))

    def _remember(self, now: float) -> None:
        slow = [
            w for w in self.crew if w.phase is Phase.BUSY and not w.remembered and now >= w.begun + _REMEMBER_SECONDS
        ]
        for worker in slow:
            worker.remembered = True
        if slow:
            self._tell(Begin(tuple(Begun(w.job.path, w.engine) for w in slow if w.job)))

    def _watch_storage(self, now: float) -> None:
        """Notice storage that has stopped answering, and that it answers again."""
        self._shut_since = (self._shut_since or now) if self._gate_is_shut else None
        starving = self.is_open and not (self.jobs.walked or self.draining or len(self.jobs))
        self._walk_waits_since = (self._walk_waits_since or now) if starving else None
        if text := self.storage.look(self._waits(), now):
            self._actions.append(Notice(text))
        if self.storage.is_hopeless(now) and not self.clerk_gave_up:
            self.stop(StoppedError(self.storage.text(now)))
            self.give_up(now)

    def _waits(self) -> list[Wait]:
        """Return all that only storage can bring on: children in its calls, the clerk's answers, a gate shut."""
        waits = [Wait(w.stalled_since, w.side, 1) for w in self.crew if w.stalled_since is not None]
        if self._commit_waits_since is not None:
            side = Side.TARGET if self.is_open else None
            waits.append(Wait(self._commit_waits_since, side, len(self.jobs.committing)))
        if self._walk_waits_since is not None:
            waits.append(Wait(self._walk_waits_since, Side.SOURCE))
        if self._shut_since is not None:
            waits.append(Wait(self._shut_since, Side.TARGET, self.gate.waiting))
        return waits

    @property
    def _gate_is_shut(self) -> bool:
        """Whether children wait at the gate and lost ones alone hold what they wait for."""
        return self.gate.waiting > 0 and self.crew.count(Phase.BUSY, Phase.KILLING) == 0

    def _pay_credit(self) -> None:
        if self.jobs.credit_owed and not self.draining:
            self._tell(More(self.jobs.credit_owed))
            self.jobs.credit_owed = 0

    def _finish(self, now: float) -> None:
        """Notice the end: nothing under way, nothing unacknowledged, and either all done or no more wanted.

        The clerk is told last, since it has to sweep up after the children.
        """
        while self.draining and self.jobs.unchecked:
            unchecked = self.jobs.unchecked.popleft()
            self._abandon(unchecked.job, unchecked)
        unacknowledged = (self.jobs.committing or self.jobs.settling) and not self.clerk_gave_up
        under_way = unacknowledged or any(worker.job is not None for worker in self.crew)
        if self.finishing or under_way or not (self.draining or self.jobs.is_over):
            return
        for worker in self.crew:
            self.crew.retire(worker, now)
        if self.crew.living == 0:
            self.finishing = True
            self._tell(Finish(self.exit_code, complete=not self.draining))
            self._commit_waits_since = now


def scratch_name(run: str, worker: int) -> bytes:
    """Return the name of a child's private folder in TARGET/.dcmpool/tmp."""
    return f"{run}-w{worker}".encode()


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
