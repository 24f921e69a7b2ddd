"""The life of one child, as far as the policy knows it: its phase, what it may say, its deadline. Pure.

STARTING -Ready-> IDLE -(Assign, Check)-> BUSY <-> WAITING (at the gate)
    any -> KILLING (SIGTERM, grace, SIGKILL) -> dead, or LOST if the kernel does not let go of it
"""

from enum import StrEnum

import msgspec

from dcmpool.engines import kin
from dcmpool.jobs import Job
from dcmpool.model import FailureKind, Side
from dcmpool.opinions import Unchecked
from dcmpool.protocol import Checked, Failed, Inspected, Left, Message, Ready, Surveyed, Wants, Written

_LOOK_SECONDS = 1.0
"""How often the kernel is asked about a child that takes long."""
_HANG_UP_SECONDS = 2.0
"""How long a child may live whose channel is closed: longer than the loop waits for the exit status of a dead one."""


class Phase(StrEnum):
    """Where a child is in its life."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    WAITING = "waiting"
    KILLING = "killing"
    LOST = "lost"


LEGAL: dict[Phase, tuple[type[Message], ...]] = {
    Phase.STARTING: (Ready,),
    Phase.IDLE: (),
    Phase.BUSY: (Wants, Written, Left, Checked, Surveyed, Failed),
    Phase.WAITING: (),
}
"""Which messages a child may send in which phase. In KILLING and LOST nobody listens any more."""


class Ahead(msgspec.Struct, frozen=True):
    """An order that a child has while it is at another: it begins when that has ended well."""

    job: Job
    temp: bytes
    limit_seconds: float


class Worker(msgspec.Struct, eq=False):
    """One child. Times are of the run's clock, in seconds."""

    id: int
    phase: Phase = Phase.STARTING
    deadline: float | None = None
    pid: int = 0
    jobs_begun: int = 0
    job: Job | None = None
    unchecked: Unchecked | None = None
    """What it is to check; then it makes no result."""
    temp: bytes = b""
    has_grants: bool = False
    """Whether bytes and a writer's place came with the order: then they pass to the one that follows."""
    ahead: Ahead | None = None
    was_ahead: bool = False
    """Whether the job under way was given ahead: nobody knows when it has begun that."""
    stale_temp: bytes = b""
    """The temp file of an order that was taken back: begun all the same by a child that was no longer heard."""
    engine: str = ""
    shown: Inspected | None = None
    """What is known of the job under way."""
    result_bytes: int = 0
    """About how many it will write; 0 while that is not known."""
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

    @property
    def takes_ahead(self) -> bool:
        """Whether it can be given an order for afterwards: it makes a result, and need not ask for anything."""
        return self.phase is Phase.BUSY and self.has_grants and self.ahead is None and not self.hung_up

    @property
    def is_ending(self) -> bool:
        """Whether it is being killed, so that nobody listens to it any more."""
        return self.phase in (Phase.KILLING, Phase.LOST)

    @property
    def is_retired(self) -> bool:
        """Whether it was killed for nothing that it did."""
        return self.killed and self.cause is None

    @property
    def is_judging(self) -> bool:
        """Whether it looks at a result, instead of making one."""
        return self.unchecked is not None or (self.job is not None and self.job.recorded is not None)

    def is_legal(self, message: Message) -> bool:
        """Whether this child may say this now, about the job that it has; and ask but once, bytes before the writer."""
        if not isinstance(message, LEGAL[self.phase]):
            return False
        if isinstance(message, Wants) and (self.asked_writer or (self.asked_bytes and not message.writer)):
            return False
        if isinstance(message, Checked) and not self._may_judge_with(message.engine):
            return False
        if self.is_judging and (isinstance(message, Written | Left) or getattr(message, "writer", False)):
            return False
        job = getattr(message, "job", None)
        return job is None or (self.job is not None and job == self.job.id)

    def _may_judge_with(self, engine: str) -> bool:
        """Whether it is to judge, and not by the library that made the result: the same eyes see nothing new."""
        if self.unchecked is not None:
            return engine not in ("", *kin(self.unchecked.written.engine))
        if self.job is None or self.job.recorded is None:
            return False
        return not engine or engine not in kin(self.job.recorded.engine)

    def take(
        self,
        job: Job,
        limit_seconds: float,
        now: float,
        *,
        temp: bytes = b"",
        unchecked: Unchecked | None = None,
        was_ahead: bool = False,
    ) -> None:
        """Become busy: make a result of a job in the file `temp`, or check what another made of it."""
        self.phase = Phase.BUSY
        self.was_ahead = was_ahead
        self.job, self.temp, self.unchecked = job, temp, unchecked
        self.engine = self.stage = ""
        self.shown = None
        self.result_bytes = job.size
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
        self.has_grants = False
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

    def hang_up(self, now: float) -> None:
        """Have its channel closed: it is dying, which its pidfd will prove, or it lies."""
        self.hung_up = True
        self.look_at = None
        self.deadline = now + _HANG_UP_SECONDS

    def rest(self) -> None:
        """Become idle: the job is out of this child's hands."""
        self.phase = Phase.IDLE
        self.job = self.unchecked = None
        self.temp = b""
        self.has_grants = False
        self.deadline = self.look_at = self.stalled_since = None

    def end_by(self, deadline: float) -> None:
        """Begin to be killed, and be dead by then."""
        self.phase = Phase.KILLING
        self.look_at = None
        self.deadline = deadline

    def lose(self) -> None:
        """Have survived SIGKILL: it sits in the kernel, and nobody knows for how long."""
        self.phase = Phase.LOST
        self.deadline = None
