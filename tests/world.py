"""A simulated world around `Pool`: children, clerk, fork server, storage and clock, and the promises checked in it.

`World` does what `supervisor._loop` does: events, `tick`, actions; it wakes at an event or at the pool's next
deadline, never in between. What children and clerk do is decided by the test. After every step `check` holds the
invariants of the design; what an action breaks is an AssertionError where it is performed.
"""

import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta

from dcmpool.actions import Action, CloseChild, Examine, Happened, LaunchChild, Look, Notice, SendTo, SignalChild, Tell
from dcmpool.config import MIB, Config, Gate, Limits, Schedule, Storage, Work
from dcmpool.control import Answer, Command, Request, obey
from dcmpool.events import Event, FileEnded, StorageChanged
from dcmpool.jobs import MAX_ATTEMPTS
from dcmpool.lifecycle import Phase
from dcmpool.model import FailureKind, Outcome, Side, Stage
from dcmpool.opinions import MAX_OPINIONS
from dcmpool.pool import Pool
from dcmpool.protocol import (
    Assign,
    Check,
    Checked,
    Commit,
    CommitFailure,
    Committed,
    Discard,
    Failed,
    Finish,
    Finished,
    Found,
    Grant,
    Inspected,
    Item,
    Left,
    Message,
    More,
    Ready,
    Result,
    Scanned,
    Settle,
    Wants,
    Written,
)

STATUS_SECONDS = 1.0
"""How long the supervisor waits for the exit status of a child that is proved dead."""
MAX_DISPATCHES = MAX_ATTEMPTS + 3
"""Attempts, and two interruptions that do not count."""
MAX_REASONS = MAX_ATTEMPTS + MAX_OPINIONS + 1
"""What an ending may list: attempts, of which the last had a result, opinions not had, and that it is not confirmed."""
MIDNIGHT = datetime(2026, 11, 25, 19, 43, 30)
"""So that the world begins at 20:00:10."""
WINDOW = "20:02-20:01"
CLOSED = (time(20, 1), time(20, 2))
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"


def config(
    *,
    workers: int = 2,
    max_writers: int = 2,
    max_lost: int = 1,
    others: str = "copy",
    verify: str = "structure",
    rate: int = 0,
    scan_ahead: int = 4,
    inflight: int = 4,
    schedule: Schedule = Schedule(),  # noqa: B008 - it is frozen
) -> Config:
    """Return settings in binary fractions of seconds, so that the simulated clock meets deadlines exactly."""
    return Config(
        work=Work(workers=workers, scan_ahead=scan_ahead, others="skip" if others == "skip" else "copy", verify=verify),
        limits=Limits(
            floor_seconds=8.0,
            slowest_mib_per_second=1.0,
            memory_mib=1024,
            start_seconds=16.0,
            grace_seconds=0.25,
            lost_seconds=4.0,
            max_lost=max_lost,
        ),
        gate=Gate(max_writers=max_writers, max_inflight_mib=inflight, grant_mib=2, bytes_per_second=rate),
        schedule=schedule,
        storage=Storage(stall_seconds=8.0, give_up_seconds=64.0),
    )


@dataclass(eq=False)
class SimChild:
    """A child as it really is, which the pool can only guess."""

    id: int
    pid: int = 0
    alive: bool = True
    listening: bool = True
    """Whether the supervisor still reads its channel."""
    ready: bool = False
    ignores_term: bool = False
    unkillable: bool = False
    order: Assign | Check | None = None
    ahead: Assign | None = None
    """What it has to do afterwards."""
    wants: Wants | None = None
    asked: set[bool] = field(default_factory=set)
    """What it asked for since its order: bytes (False), the writer's place (True)."""
    bytes: int = 0
    writer: bool = False
    """Its tokens, by the messages sent to it."""
    term_at: float | None = None
    kill_at: float | None = None

    @property
    def doomed(self) -> bool:
        """Whether the pool has begun to kill it, and so listens no more."""
        return self.term_at is not None or self.kill_at is not None

    def drop_tokens(self) -> None:
        self.bytes, self.writer = 0, False


@dataclass(eq=False)
class SimClerk:
    """A clerk that walks a list and keeps a journal, each step when it is told to."""

    journal: dict[bytes, int] = field(default_factory=dict)
    """Settled path to job: survives the clerk's death."""
    welcomed: bool = False
    credit: int = 0
    position: int = 0
    looked: deque[Item] = field(default_factory=deque)
    """Looked up in the journal and not yet sent."""
    inbox: deque[Message] = field(default_factory=deque)
    told_finish: bool = False
    finished: bool = False
    complete: bool = False


class World:
    """See the module."""

    def __init__(
        self, files: Iterable[Item], settings: Config, *, in_place: bool = False, keeps_originals: bool = True
    ) -> None:
        self.now = 1000.0
        self.midnight = MIDNIGHT
        """When the clock of the run's own time showed 0."""
        self.settings = settings
        self.in_place = in_place
        self.keeps_originals = keeps_originals
        self.files = list(files)
        self.pool = Pool(settings, "run", in_place=in_place, keeps_originals=keeps_originals)
        self.tally = self.pool.tally
        self.told: Counter[str] = Counter()
        """How often the event stream was told of a file's end."""
        self.employed = self.most_employed = settings.work.workers
        self.storage: list[StorageChanged] = []
        """What it was told of storage."""
        self.children: dict[int, SimChild] = {}
        self.clerk = SimClerk()
        self.stalled = False
        self.notices: list[str] = []
        self.temps: set[bytes] = set()
        """Complete temp files that wait for their final name."""
        self.written: dict[bytes, int] = {}
        """Every temp file that was ever said to be complete, and its job."""
        self.makers: dict[bytes, int] = {}
        """Who said so."""
        self.doubted: set[bytes] = set()
        """Those that must not get their final name on their maker's word alone."""
        self.droppable: set[bytes] = set()
        """Those that may be among them, for all that can be seen from outside before a child is to judge."""
        self.judged: set[bytes] = set()
        """Those that another child confirmed, or knew no second engine for when it was the first to be asked and the
        original stays."""
        self.opinions: Counter[bytes] = Counter()
        """How many opinions on a temp file have ended without one."""
        self.promised: set[bytes] = set()
        """Those that the clerk was told to commit."""
        self.discarded: set[bytes] = set()
        self.endings: Counter[bytes] = Counter()
        self.settled_jobs: set[int] = set()
        self.broken = False
        """Whether a promise was broken already, so that what follows means nothing."""
        self._most_credit = settings.work.scan_ahead
        self._deaths: dict[int, tuple[float, int | None]] = {}
        self._pids = iter(range(100, 1_000_000))
        self._forkserver_is_dying = False
        self._wrote = 0
        self.pool.begin(self.now)
        self.step(lambda: self.pool.opened(b"/source", b"/target", b"/target/tmp", self.now))
        self.welcome()

    @property
    def wall(self) -> datetime:
        """What the clock on the wall shows."""
        return self.midnight + timedelta(seconds=self.now)

    # --- driving

    def step(self, *events: Callable[[], None]) -> None:
        """Let events happen, then do what the loop does after each wait."""
        self.broken = True
        for event in events:
            event()
        self._tick()

    def advance(self, seconds: float) -> None:
        """Let time pass; the loop wakes at each deadline and at no other time."""
        end = self.now + seconds
        wakes = 0
        while (due := self._next_wake()) is not None and due <= end:
            assert (wakes := wakes + 1) < 10_000, "the loop spins"
            self.now = max(self.now, due)
            self._tick()
        self.now = end

    def _next_wake(self) -> float | None:
        dues = [due for due, _ in self._deaths.values()]
        deadline = self.pool.next_deadline()
        return min([*dues, deadline] if deadline is not None else dues, default=None)

    def _tick(self) -> None:
        self.broken = True
        for _ in range(9):
            self._report_deaths()
            self.pool.tick(self.now, self.wall)
            self._perform()
            if self._forkserver_is_dying:
                self._forkserver_dies()
                continue
            wake = self._next_wake()
            if wake is None or wake > self.now:
                break
        else:
            raise AssertionError("the loop spins: the next deadline is not in the future")
        self.check()
        self.broken = False

    def _report_deaths(self) -> None:
        for number in [n for n, (due, _) in self._deaths.items() if due <= self.now]:
            _, code = self._deaths.pop(number)
            child = self.children[number]
            child.drop_tokens()
            if isinstance(child.order, Check):
                self.opinions[child.order.result] += 1
            self.pool.died(number, code, self.now)

    def _perform(self) -> None:
        while actions := self.pool.take_actions():
            for action in actions:
                self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case LaunchChild():
                assert not self.clerk.told_finish, "a child is launched after the end"
                self.children[action.worker] = SimChild(action.worker)
            case SendTo():
                self._deliver(self.children[action.worker], action.message)
            case SignalChild():
                self._signal(self.children[action.worker], action.number)
            case Examine():
                side = Side.TARGET if self.stalled else None
                look = Look(side, "", Stage.DECODE, is_stopped=False, reason="slow")
                self.pool.examined(action.worker, look, self.now)
            case CloseChild():
                child = self.children.pop(action.worker)
                assert not child.alive or not child.pid, "closed while it lives"
            case Tell():
                self._told(action.message)
            case Notice():
                self.notices.append(action.text)
            case Happened():
                self._hear(action.event)

    def _hear(self, event: Event) -> None:
        if isinstance(event, FileEnded):
            self.told[event.path] += 1
            assert self.told[event.path] == 1, "told twice of a file's end"
        elif isinstance(event, StorageChanged):
            self.storage.append(event)

    def control(self, command: Command, value: int | None = None) -> Answer:
        """Tell the run to do something, as `dcmpool control` does."""
        answers: list[Answer] = []
        if command is Command.WORKERS:
            self.employed = value or 0
            self.most_employed = max(self.most_employed, self.employed)
        self.step(lambda: answers.append(obey(Request(command, value), self.pool)))
        return answers[0]

    # --- children

    def launch_all(self) -> None:
        """Let the fork server answer."""
        for child in list(self.children.values()):
            self.launched(child)

    def launched(self, child: SimChild) -> None:
        """Let the fork server say that it made this child."""
        if not child.pid:
            child.pid = next(self._pids)
            self.step(lambda: self.pool.launched(child.id, child.pid, self.now))

    def say(self, child: SimChild, message: Message) -> None:
        """Let a child send a message, legal or not."""
        if not (child.alive and child.listening):
            return
        if isinstance(message, Inspected):  # which is shown, and means nothing where it does not belong
            self.step(lambda: self.pool.inspected(child.id, message))
            return
        doomed, legal, job = child.doomed, self._is_legal(child, message), child.order
        if legal and not doomed:
            self._account(child, message)
        self.step(lambda: self.pool.message(child.id, message, self.now))
        if not legal:
            assert child.doomed, f"{message} of a child in {job} was taken"

    def garble(self, child: SimChild) -> None:
        """Let a child send what is no message; the supervisor stops reading."""
        if child.alive and child.listening:
            child.listening = False
            self.step(lambda: self.pool.garbled(child.id, "a frame that does not decode", self.now))
            assert child.doomed

    def hang_up(self, child: SimChild) -> None:
        """Let a child close its channel and live on."""
        if child.listening:
            child.listening = False
            self.step(lambda: self.pool.hung_up(child.id, self.now))

    def die(self, child: SimChild, code: int | None, *, status_after: float = 0.0) -> None:
        """Let a child die; its channel closes at once, its exit status may come later."""
        if not child.alive or not child.pid:
            return
        child.alive = False
        self._deaths[child.id] = (self.now + status_after, code)
        if status_after:
            self.hang_up(child)
        else:
            self._tick()

    def kill_forkserver(self) -> None:
        """SIGKILL it: its children die by the kernel, and nobody can tell their exit status."""
        self.step(self._forkserver_dies)

    def _forkserver_dies(self) -> None:
        self._forkserver_is_dying = False
        for child in self.children.values():
            if not child.pid:
                child.alive = False
                child.drop_tokens()
            elif child.alive and not child.unkillable:
                child.alive = False
                self._deaths[child.id] = (self.now + STATUS_SECONDS, None)
                if child.listening:
                    child.listening = False
                    self.pool.hung_up(child.id, self.now)
        self.pool.forkserver_died()
        self._perform()
        assert all(child.pid for child in self.children.values())

    def _deliver(self, child: SimChild, message: Message) -> None:
        assert not child.doomed, f"{message} to a child that is being killed"
        match message:
            case Assign(ahead=True):
                assert isinstance(child.order, Assign), "an order ahead of nothing"
                assert child.ahead is None, "two orders ahead"
                assert not child.asked, "an order ahead, which the child passes over"
                assert (child.bytes, child.writer) == (message.granted_bytes, message.granted_writer), "other tokens"
                assert not any(c.wants and c.listening and not c.doomed for c in self.children.values()), "overtaken"
                assert not self.pool.opinions, "a result waits for a child that is free"
                assert not self.in_place, "more results than children beside the originals"
                self._check_order(child, message)
                child.ahead = message
            case Assign() | Check():
                assert child.order is None, "two jobs at once"
                self._check_order(child, message)
                child.order = message
                child.asked.clear()
                child.bytes = message.granted_bytes
                child.writer = isinstance(message, Assign) and message.granted_writer
            case Grant():
                assert child.order is not None
                assert child.wants is not None, "a grant that was not asked for"
                assert message.job == child.order.job
                if child.wants.writer:
                    child.writer = True
                else:
                    child.bytes = child.wants.bytes
                child.wants = None
            case _:
                raise AssertionError(message)

    def _check_order(self, child: SimChild, order: Assign | Check) -> None:
        assert child.ready
        assert child.listening, "a job for a child that closed its channel"
        assert child.pid, "a job for a child that is not known to exist"
        assert not self.pool.draining, "a new job while draining"
        assert not self.pool.brakes.is_paused, "a new job while paused"
        if self.settings.schedule.window:
            assert not CLOSED[0] <= self.wall.time() < CLOSED[1], "a new job outside of the window"
        assert not (self.notices and "no new file is begun" in self.notices[-1]), "a new job while storage stalls"
        held = [(c, o) for c in self.children.values() for o in (c.order, c.ahead) if o and not self._is_lost(c)]
        holders = [c for c, held_order in held if held_order.job == order.job]
        assert not holders, "one job, two children"
        assert order.job not in self.settled_jobs, "a job after its end"
        if isinstance(order, Check):
            self._check_opinion(child, order)
        else:
            assert order.attempt <= MAX_DISPATCHES
            assert order.temp not in self.written, "a temp name used twice"

    def _check_opinion(self, child: SimChild, order: Check) -> None:
        assert self.settings.work.verify != "structure", "an opinion that nobody asked for"
        assert self.written.get(order.result) == order.job, "an opinion on what was not written"
        assert child.id != self.makers[order.result], "a child is to judge its own work"
        assert order.result not in self.promised | self.discarded, "an opinion that comes too late"
        assert len(order.asked) <= MAX_OPINIONS
        self.doubted.add(order.result)

    def _is_lost(self, child: SimChild) -> bool:
        return self.pool.crew[child.id].phase is Phase.LOST

    def _is_legal(self, child: SimChild, message: Message) -> bool:
        """The protocol in our own words."""
        if isinstance(message, Ready):
            return not child.ready
        if child.order is None or child.wants is not None or getattr(message, "job", None) != child.order.job:
            return False
        if isinstance(message, Wants):
            may_write = isinstance(child.order, Assign)
            return True not in child.asked and message.writer not in child.asked and (may_write or not message.writer)
        if isinstance(child.order, Check):
            if isinstance(message, Checked):
                return message.engine not in ("", "gdcm", "gdcmconv")  # all results are of the first
            return isinstance(message, Failed)
        return isinstance(message, Failed) or self._is_known_outcome(message)

    def _is_known_outcome(self, message: Message) -> bool:
        if isinstance(message, Written):
            with_file = {Outcome.DECOMPRESSED, Outcome.COPIED, Outcome.OTHER, Outcome.KEPT}
            return message.outcome in ({Outcome.DECOMPRESSED} if self.in_place else with_file)
        if isinstance(message, Left):
            without = {Outcome.COPIED, Outcome.OTHER, Outcome.KEPT} if self.in_place else set()
            if self.settings.work.others == "skip":
                without.add(Outcome.SKIPPED)
            return message.outcome in without
        return False

    def _account(self, child: SimChild, message: Message) -> None:
        match message:
            case Ready():
                child.ready = True
            case Wants():
                child.wants = message
                child.ahead = None
                child.asked.add(message.writer)
                if message.writer:
                    child.writer = False
                else:
                    child.drop_tokens()
            case Written() | Left() | Checked() | Failed():
                if isinstance(child.order, Check):
                    self._opinion(child.order.result, message)
                elif isinstance(child.order, Assign) and isinstance(message, Written):
                    self._made(child, child.order, message)
                child.order, child.ahead = None if isinstance(message, Failed) else child.ahead, None
                child.asked.clear()
                if child.order is None:
                    child.drop_tokens()
            case _:
                pass

    def _made(self, child: SimChild, order: Assign, message: Written) -> None:
        self.temps.add(order.temp)
        self.written[order.temp] = order.job
        self.makers[order.temp] = child.id
        if message.outcome is Outcome.DECOMPRESSED and self.settings.work.verify != "structure":
            self.droppable.add(order.temp)
            if self.settings.work.verify == "second":
                self.doubted.add(order.temp)

    def _opinion(self, temp: bytes, message: Message) -> None:
        nobody = isinstance(message, Failed) and message.exhausted and message.kind is FailureKind.UNSUPPORTED
        if isinstance(message, Checked) or (nobody and not self.opinions[temp] and self.keeps_originals):
            self.judged.add(temp)
        else:
            self.opinions[temp] += 1

    def _signal(self, child: SimChild, number: int) -> None:
        if number == signal.SIGKILL:
            assert child.kill_at is None, "killed twice"
            if child.term_at is not None:
                assert self.now - child.term_at <= self.settings.limits.grace_seconds, "the grace was overdrawn"
            child.kill_at = self.now
        else:
            child.term_at = self.now
        if not child.pid:
            self._forkserver_is_dying = True
        elif child.alive and not child.unkillable and not (number == signal.SIGTERM and child.ignores_term):
            child.alive = False
            child.listening = False
            self._deaths[child.id] = (self.now, -number)

    # --- clerk

    def welcome(self) -> None:
        """Let a (new) clerk open the run."""
        if not self.clerk.welcomed:
            self.clerk.welcomed = True
            # What was told while the clerk opened the run comes on top.
            self._most_credit = self.settings.work.scan_ahead + self._credit_under_way()
            self.step(lambda: self.pool.welcome_clerk(self.now))

    def _credit_under_way(self) -> int:
        return sum(message.jobs for message in self.clerk.inbox if isinstance(message, More))

    def restart_clerk(self) -> None:
        """Let the clerk die with all that it had not done, and another one start."""
        if not self.clerk.finished:
            self.clerk = SimClerk(journal=self.clerk.journal)

    def look(self, count: int) -> None:
        """Let the clerk walk on, as far as its credit goes."""
        for _ in range(count):
            if self.clerk.position == len(self.files):
                break
            item = self.files[self.clerk.position]
            if item.path not in self.clerk.journal:
                if not self.clerk.credit:
                    break
                self.clerk.credit -= 1
                self.clerk.looked.append(item)
            self.clerk.position += 1

    def find(self) -> None:
        """Let the clerk send what it has looked up."""
        items = tuple(self.clerk.looked)
        self.clerk.looked.clear()
        complete = self.clerk.welcomed and self.clerk.position == len(self.files)
        totals = Scanned(self.clerk.position, 0, 0, complete)
        self.clerk.complete = complete
        self.step(
            *([lambda: self.pool.from_clerk(Found(items), self.now)] if items else []),
            lambda: self.pool.from_clerk(totals, self.now),
        )

    def handle(self, count: int, failure: FailureKind | None = None, *, answer: bool = True) -> None:
        """Let the clerk do what it was told; its answer may be lost with it."""
        for _ in range(count):
            if not self.clerk.inbox or not self.clerk.welcomed:
                return
            message = self.clerk.inbox.popleft()
            committed = self._handle(message, failure)
            if committed and answer:
                for number in committed.jobs:
                    self._acknowledged(number)
                self.step(lambda committed=committed: self.pool.from_clerk(committed, self.now))  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def _handle(self, message: Message, failure: FailureKind | None) -> Committed | None:
        match message:
            case More():
                self.clerk.credit += message.jobs
            case Settle():
                self.clerk.journal |= {ending.path: ending.job for ending in message.endings}
                return Committed(tuple(ending.job for ending in message.endings))
            case Commit():
                failures = [self._commit(result, failure) for result in message.results]
                done = tuple(r.job for r, failed in zip(message.results, failures, strict=True) if failed is None)
                return Committed(done, tuple(failed for failed in failures if failed))
            case Discard():
                for name in message.names:
                    assert not any(os.path.basename(temp) == name for temp in self.temps), "a result is thrown away"
            case Finish():
                self.clerk.finished = True
                self.step(lambda: self.pool.from_clerk(Finished(), self.now))
        return None

    def _commit(self, result: Result, failure: FailureKind | None) -> CommitFailure | None:
        if result.temp in self.temps and failure is None:
            self.temps.discard(result.temp)
            self.clerk.journal[result.path] = result.job
        elif self.clerk.journal.get(result.path) != result.job:
            self.temps.discard(result.temp)
            kind = failure or FailureKind.WRITE
            return CommitFailure(result.job, kind, "no")
        return None

    def _acknowledged(self, number: int) -> None:
        if number not in self.settled_jobs and number in self.pool.ledger.committing:
            self.settled_jobs.add(number)
            self.endings[self.pool.ledger.committing[number][0].path] += 1

    def _told(self, message: Message) -> None:
        match message:
            case Commit():
                assert not self.clerk.told_finish, "a commit after the end"
                for result in message.results:
                    assert result.temp not in self.doubted - self.judged, "a commit of what nobody confirmed"
                    assert result.temp not in self.discarded, "a commit of what was thrown away"
                    self.promised.add(result.temp)
                    assert self.written.get(result.temp) == result.job, "a commit of what was not written"
                    assert result.job not in self.settled_jobs, "a commit of a job that has ended"
            case Settle():
                assert not self.clerk.told_finish, "an ending after the end"
                for ending in message.endings:
                    assert len(ending.attempts) <= MAX_REASONS
                    if ending.job not in self.settled_jobs:
                        self.settled_jobs.add(ending.job)
                        self.endings[ending.path] += 1
            case Discard():
                for temp in [t for t in self.written if os.path.basename(t) in message.names]:
                    assert temp in self.droppable - self.judged - self.promised, "a result is thrown away"
                    assert temp not in self.discarded, "a result is thrown away twice"
                    self.discarded.add(temp)
                    self.temps.discard(temp)
            case Finish():
                self.clerk.told_finish = True
            case _:
                pass
        self.clerk.inbox.append(message)

    # --- promises

    def check(self) -> None:
        """What holds after every step."""
        assert {worker.id for worker in self.pool.crew} == set(self.children)
        for worker in self.pool.crew:
            if worker.phase in (Phase.STARTING, Phase.BUSY, Phase.KILLING):
                assert worker.deadline is not None, f"{worker.phase} without a deadline"
        assert all(count == 1 for count in self.endings.values()), "a file that ended twice"
        if self.clerk.welcomed and self.clerk.inbox:
            ahead = self._credit_under_way() + self.clerk.credit + len(self.clerk.looked)
            assert ahead + self.pool.jobs.holding_credit <= self._most_credit, "the walk may run too far ahead"
        self._check_crew()
        self._check_tokens()
        self._check_results()
        if self.in_place:
            working = [child for child in self.children.values() if child.order and not self._is_lost(child)]
            unconfirmed = len(self.pool.opinions) + len(self.temps & (self.promised | self._held()))
            assert len(working) + unconfirmed <= self.most_employed, "more beside the originals than workers"

    def _check_crew(self) -> None:
        crew = self.pool.crew
        if self.pool.state == "running" and crew.living - crew.count(Phase.KILLING) > self.employed:
            assert not any(worker.is_free for worker in crew), "a child that nobody wants"

    def _check_results(self) -> None:
        waiting = [unchecked.temp for unchecked in self.pool.opinions]
        waiting += [worker.unchecked.temp for worker in self.pool.crew if worker.unchecked]
        committed = self.promised | self._held()
        fates = sorted([*committed, *self.discarded, *waiting])
        assert fates == sorted(self.written), "a result that is lost, or has two fates"
        assert self.judged <= committed, "a result that was confirmed and is not committed"
        assert not (self.pool.draining and self.pool.opinions), "a result waits for an opinion while draining"

    def _held(self) -> set[bytes]:
        return {result.temp for result in self.pool.ledger.held}

    def _check_tokens(self) -> None:
        gate = self.pool.gate
        sizes = [child.bytes for child in self.children.values() if child.bytes]
        assert gate.bytes_held == sum(sizes), "bytes that nobody holds, or that are held twice"
        assert gate.writers_held == sum(child.writer for child in self.children.values())
        assert sum(sizes) <= gate.max_bytes or len(sizes) == 1
        assert gate.writers_held <= max(gate.max_writers, self._wrote), "more write than may"
        self._wrote = gate.writers_held
        waiting = sum(c.wants is not None and c.listening and not c.doomed for c in self.children.values())
        assert gate.waiting == waiting, "a request that nobody waits for"

    def behave(self, rounds: int = 400) -> None:
        """From now on all is well: let the run come to its end, and check what is promised of it."""
        self.stalled = False
        self.control(Command.RESUME)
        for _ in range(rounds):
            if self.pool.is_over:
                return self._check_end()
            self.behave_once()
        raise AssertionError(f"no end: {[(w.id, w.phase, w.deadline) for w in self.pool.crew]}")

    def behave_once(self, *, opinions: bool = True) -> None:
        """Let everyone do the next thing that they should; time passes only when there is none.

        Without `opinions`, children that are to give one take their time.
        """
        self.welcome()
        self.handle(len(self.clerk.inbox))
        before = (self.clerk.position, self.clerk.complete)
        self.look(len(self.files))
        if self.clerk.looked or (self.clerk.position, len(self.files)) != (before[0], before[0]) or not before[1]:
            self.find()
        self.launch_all()
        spoke = False
        for child in list(self.children.values()):
            if opinions or not isinstance(child.order, Check):
                spoke |= self._work(child)
        if opinions and not spoke and not self.clerk.inbox:
            due = self._next_wake()
            if due is not None:
                self.advance(due - self.now)

    def _work(self, child: SimChild) -> bool:
        """Let a good child do its next step; return whether it had one to do."""
        if not (child.alive and child.listening) or child.doomed or child.wants:
            return False
        if not child.ready:
            self.say(child, Ready())
        elif child.order:
            self.say(child, good(child.order))
        else:
            return False
        return True

    def _check_end(self) -> None:
        for child in self.children.values():
            assert self._is_lost(child), "a child is left that is not lost"
        if not self.pool.draining:
            assert dict(self.endings) == {item.path: 1 for item in self.files}
            assert self.tally.ended == len(self.files)
            assert not self.temps
            assert self.pool.gate.waiting == 0
        assert self.tally.ended <= len(self.files)
        assert self.told.total() == self.tally.ended, "the event stream was not told of each file"
        assert self.promised | self.discarded == set(self.written), "a result that nobody cared for"
        assert not self.promised & self.discarded


def good(order: Assign | Check) -> Message:
    """Return what a good child says at the end of an order."""
    return written(order.job) if isinstance(order, Assign) else Checked(order.job, "pylibjpeg")


def written(job: int, outcome: Outcome = Outcome.DECOMPRESSED, seconds: float = 1.0) -> Written:
    """Return a result of 2 MiB native Pixel Data."""
    return Written(job, outcome, "gdcm", JPEG_LOSSLESS, 5, 6, 7, 8, 2 * MIB, "ab", seconds, 0.5)


def items(count: int) -> list[Item]:
    """Return files of SOURCE."""
    return [Item(b"CT%04d" % number, 100, 1) for number in range(1, count + 1)]
