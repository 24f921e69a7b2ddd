"""All children: launching, killing, and what is due from each. Pure: the clock is an argument, effects are actions.

Invariants: a child's tokens come back when it rests or is proved dead, and not before; one that is being killed waits
for none; each busy child has a deadline; from deadline to SIGKILL it is the grace and one wait.
"""

import signal
from collections.abc import Callable, Iterator

from dcmpool.actions import Action, CloseChild, Examine, LaunchChild, Look, SignalChild
from dcmpool.config import Config
from dcmpool.gate import WriteGate
from dcmpool.jobs import Job
from dcmpool.lifecycle import Phase, Worker
from dcmpool.model import FailureKind, Side
from dcmpool.opinions import Unchecked
from dcmpool.protocol import Begun
from dcmpool.stall import Wait

_FORKSERVER_STARTS = 3
"""How many times `start_seconds` the fork server has to make a child: it may have to load the codecs first."""
_MAX_FAILED_STARTS = 3
"""Children in a row that end before they were given a job."""


class Crew:
    """All children not proved dead."""

    def __init__(self, config: Config, gate: WriteGate, emit: Callable[[Action], None]) -> None:
        self._limits = config.limits
        self._stall_seconds = config.storage.stall_seconds
        self.gate = gate
        self._emit = emit
        self._workers: dict[int, Worker] = {}
        self._next_id = 1
        self._failed_starts = 0
        self._shut_since: float | None = None
        self.kills = 0

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def __getitem__(self, number: int) -> Worker:
        return self._workers[number]

    def count(self, *phases: Phase) -> int:
        """How many children are in one of these phases."""
        return sum(worker.phase in phases for worker in self._workers.values())

    @property
    def living(self) -> int:
        """How many children there are that can still be counted on, or killed."""
        return len(self._workers) - self.count(Phase.LOST)

    @property
    def made(self) -> int:
        """How many of these the fork server has made already."""
        return sum(worker.pid > 0 for worker in self) - self.count(Phase.LOST)

    # --- beginning

    def launch(self, now: float) -> None:
        """Begin a child's life."""
        worker = Worker(self._next_id, deadline=now + _FORKSERVER_STARTS * self._limits.start_seconds)
        self._next_id += 1
        self._workers[worker.id] = worker
        self._emit(LaunchChild(worker.id))

    def launched(self, number: int, pid: int, now: float) -> None:
        """Take note that the child exists; it has to be ready soon."""
        worker = self._workers[number]
        worker.pid = pid
        if worker.phase is Phase.STARTING:
            worker.deadline = now + self._limits.start_seconds

    def not_launched(self, number: int) -> None:
        """Forget a child that cannot even be asked for."""
        self._workers.pop(number, None)

    def forget_unborn(self) -> None:
        """Forget the children that the fork server has not made: it is dead."""
        for worker in self:
            if not worker.pid:
                self.bury(worker.id)

    def cannot_start(self, worker: Worker, code: int | None) -> bool:
        """Count a child that ended without a job: three that were given none, and there is no point in a fourth."""
        if worker.jobs_begun or worker.is_retired or code is None:
            return False
        self._failed_starts += 1
        return self._failed_starts >= _MAX_FAILED_STARTS

    # --- working

    def engage(
        self,
        worker: Worker,
        job: Job,
        limit_seconds: float,
        now: float,
        *,
        temp: bytes = b"",
        unchecked: Unchecked | None = None,
    ) -> None:
        """Give a child something to do: make a result of a job in the file `temp`, or check what another made of it."""
        self._failed_starts = 0
        worker.take(job, limit_seconds, now, temp=temp, unchecked=unchecked)

    def rest(self, worker: Worker, now: float) -> Job:
        """Take the job out of a child's hands and return it: its tokens come back, and it is idle.

        Where it was given an order ahead it is at that already, with the same tokens.
        """
        job, ahead = worker.job, worker.ahead
        assert job is not None  # noqa: S101 - `Worker.is_legal` holds it
        if ahead is None:
            self.gate.release(worker.id)
            worker.rest()
        else:
            worker.ahead = None
            worker.take(ahead.job, ahead.limit_seconds, now, temp=ahead.temp, was_ahead=True)
        return job

    def take_back(self, worker: Worker) -> list[Job]:
        """Take back the order that a child was given ahead, if there is one: it has not begun, and will not."""
        ahead, worker.ahead = worker.ahead, None
        if ahead is None:
            return []
        worker.stale_temp = ahead.temp
        return [ahead.job]

    def long_attempt(self, worker: Worker) -> tuple[Begun, ...]:
        """Return, once, an attempt that has taken so long that the kernel was asked about it; not an audit's."""
        if worker.phase is not Phase.BUSY or worker.remembered or worker.job is None or worker.job.recorded is not None:
            return ()
        worker.remembered = True
        return (Begun(worker.job.path, worker.engine),)

    def waits(self, now: float) -> list[Wait]:
        """Return the children that wait for storage: themselves, or at a gate that lost ones alone keep shut."""
        found = [Wait(w.stalled_since, w.side, 1) for w in self._workers.values() if w.stalled_since is not None]
        is_shut = self.gate.waiting > 0 and self.gate.next_deadline() is None
        self._shut_since = (self._shut_since or now) if is_shut and not self.count(Phase.BUSY, Phase.KILLING) else None
        return found if self._shut_since is None else [*found, Wait(self._shut_since, Side.TARGET, self.gate.waiting)]

    def examined(self, worker: Worker, look: Look, now: float) -> bool:
        """Take what the kernel says of a child that takes long: wait for storage with it, or kill it at its limit.

        Returns whether it has begun to wait for storage, or ceased to.
        """
        if worker.phase is not Phase.BUSY or worker.hung_up:
            return False
        worker.stage = look.stage
        worker.look(look.side, look.mark, now)
        expired = worker.deadline is not None and now >= worker.deadline
        stuck = worker.stuck_since is not None and now >= worker.stuck_since + self._stall_seconds
        if look.side and (expired or stuck):
            worker.stall(now)
        elif worker.stalled_since is not None:
            worker.recover(now)
        else:
            if expired:
                worker.from_outside = look.is_stopped
                self.kill(worker, FailureKind.TIMEOUT, look.reason, now)
            return False
        return True

    # --- deadlines

    def next_deadline(self) -> float | None:
        """Return when `expire` is due at the latest; None if nothing is due from anybody."""
        workers = self._workers.values()
        moments = (moment for w in workers for moment in (w.deadline, w.look_at))
        return min((moment for moment in moments if moment is not None), default=None)

    def expire(self, now: float) -> list[Worker]:
        """Do what the time has come for, child by child; return those that are lost from now on."""
        lost = []
        for worker in self:
            if worker.deadline is not None and now >= worker.deadline:
                if worker.phase is Phase.KILLING and worker.killed:
                    worker.lose()
                    lost.append(worker)
                else:
                    self._expire(worker, now)
            elif worker.look_at is not None and now >= worker.look_at:
                self._emit(Examine(worker.id))
        return lost

    def _expire(self, worker: Worker, now: float) -> None:
        if worker.phase is Phase.KILLING:
            self._finish_off(worker, now)
        elif worker.hung_up:
            self.break_off(worker, "it closed its channel and lives on", now)
        elif worker.phase is Phase.STARTING:
            self.kill(worker, FailureKind.TIMEOUT, "not ready in time", now)
        else:
            self._emit(Examine(worker.id))

    # --- ending

    def hang_up(self, worker: Worker, now: float) -> None:
        """Take note that a child closed its channel: no grant could reach it."""
        if not worker.is_ending:
            self.gate.withdraw(worker.id)
            worker.hang_up(now)

    def break_off(self, worker: Worker, reason: str, now: float) -> None:
        """End a child that broke the protocol."""
        self.kill(worker, FailureKind.PROTOCOL, f"the worker broke the protocol: {reason}", now)

    def kill(self, worker: Worker, cause: FailureKind, reason: str, now: float) -> None:
        """End a child for what it did: SIGTERM makes it write its stack, SIGKILL follows after the grace."""
        if worker.is_ending:
            return
        self.kills += 1
        self.gate.withdraw(worker.id)
        worker.cause, worker.reason = cause, reason
        worker.end_by(now + self._limits.grace_seconds)
        self._emit(SignalChild(worker.id, signal.SIGTERM))

    def retire(self, worker: Worker, now: float) -> None:
        """End a child that did nothing wrong; it owns nothing, so SIGKILL is the whole ceremony."""
        if not worker.is_ending:
            self.gate.withdraw(worker.id)
            self._finish_off(worker, now)

    def dismiss_surplus(self, wanted: int, now: float) -> None:
        """End free children that are more than are wanted; those that are busy come later."""
        surplus = self.living - self.count(Phase.KILLING) - wanted
        for worker in [worker for worker in self if worker.is_free][: max(0, surplus)]:
            self.retire(worker, now)

    def bury(self, number: int) -> Worker:
        """Forget a child that is proved dead, or never came to be, and return it: its tokens come back."""
        worker = self._workers.pop(number)
        self.gate.release(number)
        self._emit(CloseChild(number))
        return worker

    def _finish_off(self, worker: Worker, now: float) -> None:
        worker.killed = True
        worker.end_by(now + self._limits.lost_seconds)
        self._emit(SignalChild(worker.id, signal.SIGKILL))
