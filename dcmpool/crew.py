"""The children's lives: phases, deadlines, killing. Pure: the clock is an argument, effects are actions.

STARTING -Ready-> IDLE -(Assign)-> BUSY <-> WAITING (at the gate)
    any -> KILLING (SIGTERM, grace, SIGKILL) -> dead, or LOST if the kernel does not let go of it
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from dcmpool.actions import Action, LaunchChild, SignalChild
from dcmpool.config import Limits
from dcmpool.jobs import Job, Unchecked
from dcmpool.model import FailureKind, Side
from dcmpool.protocol import Checked, Failed, Inspected, Left, Message, Ready, Wants, Written

_LOOK_SECONDS = 1.0
"""How often the kernel is asked about a child that takes long."""


class Phase(StrEnum):
    """Where a child is in its life."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    WAITING = "waiting"
    KILLING = "killing"
    LOST = "lost"


_FORKSERVER_STARTS = 3
"""How many times `start_seconds` the fork server has to make a child: it may have to load the codecs first."""

LEGAL: dict[Phase, tuple[type[Message], ...]] = {
    Phase.STARTING: (Ready,),
    Phase.IDLE: (),
    Phase.BUSY: (Inspected, Wants, Written, Left, Checked, Failed),
    Phase.WAITING: (),
}
"""Which messages a child may send in which phase. In KILLING and LOST nobody listens any more."""


@dataclass(slots=True, eq=False)
class Worker:
    """One child, as far as the policy knows it. Times are of the monotonic clock, in seconds."""

    id: int
    phase: Phase = Phase.STARTING
    deadline: float | None = None
    pid: int = 0
    jobs_begun: int = 0
    job: Job | None = None
    unchecked: Unchecked | None = None
    """What it is to check; then it makes no result."""
    temp: bytes = b""
    engine: str = ""
    stage: str = ""
    begun: float = 0.0
    limit_seconds: float = 0.0
    left_seconds: float = 0.0
    """What was left of the limit when the child began to wait at the gate."""
    asked_bytes: bool = False
    asked_writer: bool = False
    remembered: bool = False
    look_at: float | None = None
    """When the kernel is to be asked what a child that takes long is doing."""
    mark: str = ""
    """What the kernel said last; the same twice means that nothing has moved."""
    stuck_since: float | None = None
    """Since when it has sat in one and the same call on storage, as far as was looked."""
    stalled_since: float | None = None
    side: Side | None = None
    hung_up: bool = False
    killed: bool = False
    from_outside: bool = False
    """Whether what it is killed for was done to it, not by it."""
    cause: FailureKind | None = None
    reason: str = ""

    @property
    def is_free(self) -> bool:
        """Whether it can be given a job: it waits for one, is known to exist, and its channel is open."""
        return self.phase is Phase.IDLE and bool(self.pid) and not self.hung_up

    def is_legal(self, message: Message) -> bool:
        """Whether this child may say this now, about the job that it has; and ask but once, bytes before the writer."""
        if not isinstance(message, LEGAL[self.phase]):
            return False
        if isinstance(message, Wants) and (self.asked_writer or (self.asked_bytes and not message.writer)):
            return False
        if self.unchecked is None and isinstance(message, Checked):
            return False
        if self.unchecked is not None and (isinstance(message, Written | Left) or getattr(message, "writer", False)):
            return False
        job = getattr(message, "job", None)
        return job is None or (self.job is not None and job == self.job.id)

    def take(self, job: Job, temp: bytes, limit_seconds: float, now: float) -> None:
        """Become busy with a job."""
        self.phase = Phase.BUSY
        self.job = job
        self.unchecked = None
        self.temp = temp
        self.engine = self.stage = ""
        self.jobs_begun += 1
        self.begun = now
        self.limit_seconds = limit_seconds
        self.deadline = now + limit_seconds
        self.remembered = self.asked_bytes = self.asked_writer = False
        self.look_at = now + _LOOK_SECONDS
        self.mark, self.stuck_since = "", None

    def pause(self, wants: Wants, now: float) -> None:
        """Begin to wait at the gate: the limit stands still."""
        self.phase = Phase.WAITING
        self.look_at = None
        self.asked_bytes = True
        self.asked_writer = wants.writer
        self.left_seconds = (self.deadline or now) - now
        self.deadline = None

    def resume(self, now: float) -> None:
        """Go on after the gate."""
        self.phase = Phase.BUSY
        self.look_at = now + _LOOK_SECONDS
        self.deadline = now + max(0.0, self.left_seconds)

    def set_limit(self, limit_seconds: float) -> None:
        """Set the limit of the job under way, now that its size is known."""
        self.deadline = (self.deadline or self.begun) + limit_seconds - self.limit_seconds
        self.limit_seconds = limit_seconds

    def look(self, side: Side | None, mark: str, now: float) -> None:
        """Take what the kernel says: on whose storage the child waits (None: it does not), and a mark of the call."""
        if side is None or mark != self.mark:
            self.stuck_since = now if side else None
        self.side, self.mark = side, mark
        self.look_at = now + _LOOK_SECONDS

    def stall(self, now: float) -> None:
        """Wait for storage without limit."""
        self.stalled_since = self.stalled_since or self.stuck_since or now
        self.deadline = now + _LOOK_SECONDS
        self.look_at = None

    def recover(self, now: float) -> None:
        """Go on after a stall of storage, with the whole limit."""
        self.stalled_since = self.stuck_since = None
        self.look_at = now + _LOOK_SECONDS
        self.deadline = now + self.limit_seconds

    def rest(self) -> None:
        """Become idle: the job is out of this child's hands."""
        self.phase = Phase.IDLE
        self.job = self.unchecked = None
        self.temp = b""
        self.deadline = self.look_at = self.stalled_since = None


class Crew:
    """All children not proved dead."""

    def __init__(self, limits: Limits, emit: Callable[[Action], None]) -> None:
        self._limits = limits
        self._emit = emit
        self._workers: dict[int, Worker] = {}
        self._next_id = 1
        self.kills = 0

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def __getitem__(self, number: int) -> Worker:
        return self._workers[number]

    def __contains__(self, number: int) -> bool:
        return number in self._workers

    def count(self, *phases: Phase) -> int:
        """How many children are in one of these phases."""
        return sum(worker.phase in phases for worker in self._workers.values())

    @property
    def living(self) -> int:
        """How many children there are that can still be counted on, or killed."""
        return len(self._workers) - self.count(Phase.LOST)

    def launch(self, now: float) -> None:
        """Begin a child's life."""
        worker = Worker(self._next_id, deadline=now + _FORKSERVER_STARTS * self._limits.start_seconds)
        self._next_id += 1
        self._workers[worker.id] = worker
        self._emit(LaunchChild(worker.id))

    def launched(self, worker: Worker, pid: int, now: float) -> None:
        """Take note that the child exists; it has to be ready soon."""
        worker.pid = pid
        if worker.phase is Phase.STARTING:
            worker.deadline = now + self._limits.start_seconds

    def kill(self, worker: Worker, cause: FailureKind, reason: str, now: float) -> None:
        """End a child for what it did: SIGTERM makes it write its stack, SIGKILL follows after the grace."""
        if worker.phase in (Phase.KILLING, Phase.LOST):
            return
        self.kills += 1
        worker.cause, worker.reason = cause, reason
        worker.phase = Phase.KILLING
        worker.look_at = None
        worker.deadline = now + self._limits.grace_seconds
        self._emit(SignalChild(worker.id, signal.SIGTERM))

    def retire(self, worker: Worker, now: float) -> None:
        """End a child that did nothing wrong; it owns nothing, so SIGKILL is the whole ceremony."""
        if worker.phase not in (Phase.KILLING, Phase.LOST):
            worker.phase = Phase.KILLING
            worker.look_at = None
            self._finish_off(worker, now)

    def press(self, worker: Worker, now: float) -> bool:
        """Go on with a killing whose deadline has come; return whether the child counts as lost from now on."""
        if not worker.killed:
            self._finish_off(worker, now)
            return False
        worker.phase = Phase.LOST
        worker.deadline = None
        return True

    def bury(self, worker: Worker) -> None:
        """Forget a child that is proved dead, or never came to be."""
        del self._workers[worker.id]

    def _finish_off(self, worker: Worker, now: float) -> None:
        worker.killed = True
        worker.deadline = now + self._limits.lost_seconds
        self._emit(SignalChild(worker.id, signal.SIGKILL))
