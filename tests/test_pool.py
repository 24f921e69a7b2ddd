"""`Pool` in a simulated world: a state machine that does the worst to it, and the main flows as examples."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dcmpool.actions import Look
from dcmpool.config import MIB, Schedule
from dcmpool.control import NUMBERED, Command
from dcmpool.errors import LaunchError, StoppedError
from dcmpool.lifecycle import Phase
from dcmpool.model import FailureKind, Outcome, Side, Stage
from dcmpool.opinions import MAX_OPINIONS
from dcmpool.protocol import (
    Assign,
    Begin,
    Begun,
    Check,
    Checked,
    Commit,
    Discard,
    Failed,
    Inspected,
    Item,
    Left,
    Message,
    More,
    Ready,
    Result,
    Scanned,
    Settle,
    Stopped,
    Wants,
)
from tests.world import JPEG_LOSSLESS, STATUS_SECONDS, WINDOW, SimChild, World, config, good, items, written

CODES = st.sampled_from([0, 1, -signal.SIGSEGV, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGALRM, None])
KINDS = st.sampled_from(list(FailureKind))
OUTCOMES = st.sampled_from(list(Outcome))
ENGINES = st.sampled_from(["gdcm", "gdcmconv", "pylibjpeg", ""])
FILES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["", "", "", "there is a file"])), min_size=0, max_size=14
)
SIZES = st.sampled_from([0, 2 * MIB, 32 * MIB])
HOW = st.sampled_from(["structure", "second", "second", "sample=50%"])
PICK = st.integers(0, 7)


@st.composite
def messages(draw: st.DrawFn, jobs: st.SearchStrategy[int]) -> Message:
    """Draw any message of a worker."""
    job = draw(jobs)
    message: Message = draw(
        st.one_of(
            st.builds(Ready),
            st.builds(
                Inspected, st.just(job), st.just(JPEG_LOSSLESS), st.sampled_from([0, 2 * MIB, 32 * MIB]), ENGINES
            ),
            st.builds(Wants, st.just(job), bytes=st.sampled_from([0, MIB, 3 * MIB, 4 * MIB, 64 * MIB])),
            st.just(Wants(job, writer=True)),
            st.builds(written, st.just(job), OUTCOMES),
            st.builds(Checked, st.just(job), ENGINES),
            st.builds(Left, st.just(job), OUTCOMES, st.just(""), st.just(1), st.just(1), st.just("by design")),
            st.builds(
                Failed, st.just(job), KINDS, st.just("why"), st.sampled_from(list(Stage)), ENGINES, st.booleans()
            ),
        )
    )
    return message


class Machine(RuleBasedStateMachine):
    """Everything that children, clerk, fork server, storage and the user can do, in any order."""

    world: World

    def teardown(self) -> None:
        if hasattr(self, "world") and not self.world.broken:
            self.world.behave()

    def child(self, pick: int) -> SimChild | None:
        children = list(self.world.children.values())
        return children[pick % len(children)] if children else None

    def has_children(self) -> bool:
        return bool(self.world.children)

    # --- everyone does what they should

    @rule(rounds=st.integers(1, 3))
    def all_is_well(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.behave_once()

    @rule()
    @precondition(has_children)
    def launched(self) -> None:
        self.world.launch_all()

    @rule(pick=PICK)
    @precondition(has_children)
    def launched_one(self, pick: int) -> None:
        if child := self.child(pick):
            self.world.launched(child)

    @rule(pick=PICK)
    @precondition(has_children)
    def ready(self, pick: int) -> None:
        child = self.child(pick)
        if child and not child.ready:
            self.world.say(child, Ready())

    @rule()
    @precondition(has_children)
    def all_ready(self) -> None:
        self.world.launch_all()
        for child in list(self.world.children.values()):
            if not child.ready:
                self.world.say(child, Ready())

    @rule(pick=PICK, data=st.data())
    @precondition(has_children)
    def on_its_job(self, pick: int, data: st.DataObject) -> None:
        child = self.child(pick)
        if child and child.order and not child.wants:
            self.world.say(child, data.draw(messages(st.just(child.order.job))))

    @rule(pick=PICK)
    @precondition(has_children)
    def done(self, pick: int) -> None:
        child = self.child(pick)
        if child and child.order and not child.wants:
            self.world.say(child, good(child.order))

    @rule()
    @precondition(has_children)
    def all_done(self) -> None:
        for child in list(self.world.children.values()):
            if child.order and not child.wants:
                self.world.say(child, good(child.order))

    # --- second opinions, to which the run is brought first

    def checking(self, pick: int) -> SimChild | None:
        for _ in range(4):
            children = [c for c in self.world.children.values() if isinstance(c.order, Check) and not c.doomed]
            if children:
                return children[pick % len(children)]
            self.world.behave_once(opinions=False)
        return None

    @rule(pick=PICK)
    def no_second_engine(self, pick: int) -> None:
        child = self.checking(pick)
        if child and child.order and not child.wants:
            failed = Failed(child.order.job, FailureKind.UNSUPPORTED, "none", Stage.INSPECT, "", exhausted=True)
            self.world.say(child, failed)

    @rule(pick=PICK, kind=KINDS, engine=ENGINES, exhausted=st.booleans())
    def no_opinion(self, pick: int, kind: FailureKind, engine: str, exhausted: bool) -> None:
        child = self.checking(pick)
        if child and child.order and not child.wants:
            self.world.say(child, Failed(child.order.job, kind, "why", Stage.VERIFY, engine, exhausted))

    @rule(pick=PICK, data=st.data())
    def anything_at_a_check(self, pick: int, data: st.DataObject) -> None:
        child = self.checking(pick)
        if child and child.order and not child.wants:
            self.world.say(child, data.draw(messages(st.just(child.order.job))))

    @rule(pick=PICK, code=CODES, status_after=st.sampled_from([0.0, 0.125]))
    def die_at_a_check(self, pick: int, code: int | None, status_after: float) -> None:
        if child := self.checking(pick):
            self.world.die(child, code, status_after=status_after)

    @rule(pick=PICK, unkillable=st.booleans(), seconds=st.sampled_from([8.0, 16.0]))
    def hang_at_a_check(self, pick: int, unkillable: bool, seconds: float) -> None:
        if child := self.checking(pick):
            child.unkillable = unkillable and child.alive
            self.world.advance(seconds)

    @rule(pick=PICK, kind=KINDS, engine=ENGINES, exhausted=st.booleans())
    @precondition(has_children)
    def failed(self, pick: int, kind: FailureKind, engine: str, exhausted: bool) -> None:
        child = self.child(pick)
        if child and child.order and not child.wants:
            self.world.say(child, Failed(child.order.job, kind, "why", Stage.DECODE, engine, exhausted))

    # --- children that do not

    @rule(pick=PICK, data=st.data())
    @precondition(has_children)
    def anything(self, pick: int, data: st.DataObject) -> None:
        if child := self.child(pick):
            self.world.say(child, data.draw(messages(st.integers(0, 5))))

    @rule(pick=PICK)
    @precondition(has_children)
    def garbage(self, pick: int) -> None:
        if child := self.child(pick):
            self.world.garble(child)

    @rule(pick=PICK)
    @precondition(has_children)
    def hang_up(self, pick: int) -> None:
        if child := self.child(pick):
            self.world.hang_up(child)

    @rule(pick=PICK, code=CODES, status_after=st.sampled_from([0.0, 0.125, STATUS_SECONDS]))
    @precondition(has_children)
    def die(self, pick: int, code: int | None, status_after: float) -> None:
        if child := self.child(pick):
            self.world.die(child, code, status_after=status_after)

    @rule(pick=PICK)
    @precondition(has_children)
    def become_unkillable(self, pick: int) -> None:
        if child := self.child(pick):
            child.unkillable = child.alive

    @rule(pick=PICK)
    @precondition(has_children)
    def ignore_sigterm(self, pick: int) -> None:
        if child := self.child(pick):
            child.ignores_term = True

    @rule(pick=PICK)
    @precondition(has_children)
    def wake_and_die(self, pick: int) -> None:
        child = self.child(pick)
        if child and child.unkillable and child.kill_at is not None:
            child.unkillable = False
            self.world.die(child, -signal.SIGKILL)

    # --- clerk

    @rule()
    def welcome(self) -> None:
        self.world.welcome()

    @rule(count=st.integers(1, 8))
    def look(self, count: int) -> None:
        self.world.look(count)

    @rule()
    def find(self) -> None:
        if self.world.clerk.welcomed:
            self.world.find()

    @rule(count=st.integers(1, 8), answer=st.booleans())
    def handle(self, count: int, answer: bool) -> None:
        self.world.handle(count)
        if not answer:
            self.world.handle(1, answer=False)
            self.world.restart_clerk()

    @rule(kind=st.sampled_from([FailureKind.WRITE, FailureKind.CHANGED, FailureKind.EXISTS]))
    def fail_to_commit(self, kind: FailureKind) -> None:
        self.world.handle(1, kind)

    @rule()
    def clerk_dies(self) -> None:
        self.world.restart_clerk()

    # --- the world at large

    @rule(seconds=st.sampled_from([0.125, 0.25, 1.0, 4.0, 8.0, 16.0, 64.0]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def storage_stalls(self) -> None:
        self.world.stalled = True

    @rule()
    def storage_recovers(self) -> None:
        self.world.stalled = False

    @rule(command=st.sampled_from([Command.PAUSE, Command.RESUME]))
    def pause_or_resume(self, command: Command) -> None:
        self.world.control(command)

    @rule(command=st.sampled_from(NUMBERED), value=st.integers(1, 4))
    def change_numbers(self, command: Command, value: int) -> None:
        self.world.control(command, value)

    @rule()
    def forkserver_dies(self) -> None:
        self.world.kill_forkserver()


class PoolMachine(Machine):
    """Runs with all kinds of settings, from their beginning on."""

    @initialize(
        files=FILES,
        workers=st.integers(1, 3),
        max_writers=st.integers(1, 2),
        others=st.sampled_from(["copy", "skip"]),
        verify=HOW,
        in_place=st.booleans(),
        keeps_originals=st.booleans(),
        rate=st.sampled_from([0, 0, MIB]),
        window=st.sampled_from(["", WINDOW]),
        duration=st.sampled_from([0.0, 0.0, 0.0, 24.0]),
        rounds=st.integers(0, 4),
    )
    def begin(
        self,
        files: list[tuple[int, str]],
        workers: int,
        max_writers: int,
        others: str,
        verify: str,
        in_place: bool,
        keeps_originals: bool,
        rate: int,
        window: str,
        duration: float,
        rounds: int,
    ) -> None:
        found = [Item(b"CT%d" % n, 100, 1, interrupted, exists) for n, (interrupted, exists) in enumerate(files)]
        limits = config(
            workers=workers,
            max_writers=max_writers,
            others=others,
            verify=verify,
            rate=rate,
            schedule=Schedule(window=window, max_duration_seconds=duration),
        )
        self.world = World(found, limits, in_place=in_place, keeps_originals=keeps_originals or not in_place)
        for _ in range(rounds):
            self.world.behave_once()


class BusyMachine(Machine):
    """Runs that are in full swing, with orders sent ahead."""

    @initialize(
        workers=st.integers(1, 3), verify=st.sampled_from(["structure", "sample=50%"]), rounds=st.integers(0, 2)
    )
    def begin(self, workers: int, verify: str, rounds: int) -> None:
        self.world = in_full_swing(workers=workers, verify=verify)
        for _ in range(rounds):
            self.world.behave_once()


class StoppingMachine(PoolMachine):
    """The same, with what ends a run before its work is done."""

    @rule()
    def interrupt(self) -> None:
        self.world.control(Command.DRAIN)

    @rule()
    def disk_full(self) -> None:
        self.world.handle(1, FailureKind.NO_SPACE)

    @rule()
    def clerk_stops(self) -> None:
        clerk = self.world.clerk
        if clerk.welcomed and not clerk.finished:
            self.world.step(lambda: self.world.pool.from_clerk(Stopped("no", fatal=True), self.world.now))


_SETTINGS = settings(
    max_examples=100,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestPool = PoolMachine.TestCase
TestPool.settings = _SETTINGS
TestBusyPool = BusyMachine.TestCase
TestBusyPool.settings = _SETTINGS
TestStoppedPool = StoppingMachine.TestCase
TestStoppedPool.settings = _SETTINGS


# --- the main flows, one by one


def started(count: int = 2, **settings: Any) -> World:
    """Return a world with `count` files found and all children at work."""
    world = World(items(count), config(**settings))
    world.handle(1)
    world.look(count)
    world.find()
    make_ready(world)
    return world


def make_ready(world: World) -> None:
    """Let the fork server and new children do what they should."""
    world.launch_all()
    for child in list(world.children.values()):
        if not child.ready:
            world.say(child, Ready())


def in_full_swing(**settings: Any) -> World:
    """Return a world in which all children are at work and have their next order, and more files wait."""
    world = started(24, scan_ahead=24, **{"max_writers": 4, "inflight": 8} | settings)
    assert all(child.ahead for child in world.children.values())
    return world


def busy(world: World) -> list[SimChild]:
    """Return the children that have a job."""
    return [child for child in world.children.values() if child.order]


def order(child: SimChild) -> Assign:
    """Return the job of a child."""
    assert isinstance(child.order, Assign)
    return child.order


def ahead(child: SimChild) -> Assign:
    """Return the job that a child has for afterwards."""
    assert child.ahead is not None
    return child.ahead


def check(child: SimChild) -> Check:
    """Return the check of a child."""
    assert isinstance(child.order, Check)
    return child.order


def phase(world: World, child: SimChild) -> Phase:
    """Return how the pool sees a child."""
    return world.pool.crew[child.id].phase


def kinds(world: World) -> list[FailureKind]:
    """Return the attempts of the one file that failed."""
    (ending,) = world.tally.failed.values()
    return [attempt.kind for attempt in ending.attempts]


def test_a_good_run_ends_with_exit_code_0() -> None:
    """Every file is written, committed and acknowledged once, and no child is left."""
    world = started(5)
    world.behave()
    assert world.pool.exit_code == 0
    assert world.tally.counts == {Outcome.DECOMPRESSED: 5, Outcome.SETTLED: 0}
    assert not world.children


def test_a_child_at_its_limit_is_killed_and_its_file_goes_to_the_next_engine_in_a_fresh_child() -> None:
    """SIGTERM at the limit, SIGKILL after the grace, and the engine is not tried again."""
    world = started(1, workers=1)
    (first,) = busy(world)
    first.ignores_term = True
    world.say(first, Inspected(order(first).job, JPEG_LOSSLESS, 2 * MIB, "gdcm"))
    world.advance(7.875)
    assert first.term_at is None
    begun = world.now - 7.875
    world.advance(4.0)
    assert [first.term_at, first.kill_at] == [begun + 8.0, begun + 8.25]
    make_ready(world)
    (second,) = busy(world)
    assert second.id != first.id
    assert order(second).tried == ("gdcm", "gdcmconv")  # the same codecs
    assert order(second).attempt == 2
    world.behave()
    assert world.pool.exit_code == 0


@pytest.mark.parametrize("inspected", [False, True])
def test_a_large_file_that_is_only_copied_has_time_for_its_size(inspected: bool) -> None:
    """It has no native Pixel Data to tell by, and storage may be slow; nor has its header been read at first."""
    world = World([Item(b"video", 64 * MIB, 1)], config(workers=1))
    world.handle(1)
    world.look(1)
    world.find()
    make_ready(world)
    (child,) = busy(world)
    assert order(child).alarm_seconds == 2 * 64.0 + 64.0
    if inspected:
        world.say(child, Inspected(order(child).job, "1.2.840.10008.1.2.1", 0, ""))
    world.advance(63.5)
    assert child.term_at is None
    world.advance(1.0)
    assert child.term_at is not None


def test_a_child_that_sigkill_does_not_end_is_lost_and_its_slot_is_filled_again() -> None:
    """Its file fails, its tokens stay with it until the kernel lets go of it."""
    world = started(3, workers=2)
    stuck = busy(world)[0]
    stuck.unkillable = True
    world.advance(8.25 + 4.0)
    assert phase(world, stuck) is Phase.LOST
    assert world.pool.gate.bytes_held >= stuck.bytes > 0
    assert kinds(world) == [FailureKind.LOST]
    make_ready(world)
    assert len(busy(world)) == 2 + 1
    stuck.unkillable = False
    world.die(stuck, -signal.SIGKILL)
    assert world.pool.gate.bytes_held == sum(child.bytes for child in busy(world))
    world.behave()
    assert world.tally.counts[Outcome.FAILED] == 1


def test_more_lost_children_than_allowed_stop_the_run() -> None:
    """Storage that swallows one child after the other would swallow all."""
    world = started(4, workers=2, max_lost=1)
    for child in busy(world):
        child.unkillable = True
    world.advance(13.0)
    assert isinstance(world.pool.error, StoppedError)
    assert "2 workers hang in the kernel" in str(world.pool.error)
    world.behave()
    assert world.pool.exit_code == 75


@pytest.mark.parametrize("where", ["worker", "commit"])
def test_full_storage_stops_the_run_and_nothing_is_blamed(where: str) -> None:
    """No new file is begun, those under way end, and the run can be resumed."""
    world = started(5)
    first, second = busy(world)
    if where == "worker":
        world.say(first, Failed(order(first).job, FailureKind.NO_SPACE, "full", Stage.WRITE, "gdcm"))
    else:
        world.say(first, written(order(first).job))
        world.advance(0.1)
        world.handle(len(world.clerk.inbox), FailureKind.NO_SPACE)
    assert isinstance(world.pool.error, StoppedError)
    assert "make room" in str(world.pool.error)
    world.say(second, written(order(second).job))
    world.behave()
    assert world.pool.exit_code == 75
    assert not world.tally.failed
    assert world.tally.counts[Outcome.DECOMPRESSED] >= 1


def test_three_children_in_a_row_that_do_not_start_end_the_run() -> None:
    """A fourth would not start either."""
    world = World(items(1), config(workers=1))
    for _ in range(3):
        world.launch_all()
        (child,) = world.children.values()
        world.die(child, 1)
    assert isinstance(world.pool.error, LaunchError)
    assert "exit code 1" in str(world.pool.error)
    world.behave()
    assert world.pool.exit_code == 70


def test_a_start_that_succeeds_makes_up_for_those_that_did_not() -> None:
    """Only failures in a row count."""
    world = World(items(9), config(workers=1))
    world.handle(1)
    world.look(9)
    world.find()
    for _ in range(2):
        world.launch_all()
        (child,) = world.children.values()
        world.die(child, 1)
    make_ready(world)
    for _ in range(2):
        (child,) = world.children.values()
        world.die(child, -signal.SIGKILL)
        world.launch_all()
    assert world.pool.error is None
    world.behave()


def test_a_child_that_never_becomes_ready_is_killed() -> None:
    """STARTING has a deadline like every other phase in which something is awaited."""
    world = World(items(1), config(workers=1))
    world.launch_all()
    (child,) = world.children.values()
    world.advance(16.0)
    assert child.term_at == world.now


def test_a_file_whose_child_is_killed_from_outside_twice_is_done_last_and_alone() -> None:
    """The out-of-memory killer is nobody's verdict, until it strikes a file that has the machine to itself."""
    world = started(4, workers=2)
    path = order(busy(world)[0]).source
    for _ in range(2):
        victim = next(child for child in busy(world) if order(child).source == path)
        world.die(victim, -signal.SIGKILL)
        make_ready(world)
    assert all(order(child).source != path for child in busy(world))
    while not any(order(child).source == path for child in busy(world)):
        for child in busy(world):
            world.say(child, written(order(child).job))
        make_ready(world)
    (alone,) = busy(world)
    world.die(alone, -signal.SIGKILL)
    assert not world.tally.failed
    world.behave()
    assert world.pool.exit_code == 0


def test_stalled_storage_blames_no_file_and_the_run_goes_on_when_it_answers() -> None:
    """A child that waits for storage is not killed; it has its whole limit again afterwards."""
    world = started(3)
    world.stalled = True
    world.advance(30.0)
    assert [notice for notice in world.notices if "no new file is begun" in notice]
    assert world.pool.crew.kills == 0
    world.stalled = False
    world.advance(1.0)
    assert world.notices[-1] == "storage answers again"
    assert [(event.stalled, event.side) for event in world.storage[:1]] == [(True, Side.TARGET)]
    assert [(event.stalled, event.side) for event in world.storage[-1:]] == [(False, None)]
    assert [event.text for event in world.storage] == world.notices
    world.advance(7.0)
    assert world.pool.crew.kills == 0
    world.advance(1.0)
    assert world.pool.crew.kills == 2
    world.behave()


def test_storage_that_never_answers_again_stops_the_run() -> None:
    """After `give_up_seconds` the run ends, resumable, and no file is called failed."""
    world = started(3)
    world.stalled = True
    for child in busy(world):
        child.unkillable = True
    world.advance(8.0 + 64.0 + 4.0)
    assert isinstance(world.pool.error, StoppedError)
    assert world.pool.is_over
    assert not world.tally.failed
    assert world.pool.exit_code == 75


def test_a_clerk_that_does_not_answer_is_stalled_storage() -> None:
    """Its silence is said, and in the end it is given up."""
    world = started(1, workers=1)
    (child,) = busy(world)
    world.say(child, written(order(child).job))
    world.advance(8.1)
    assert "1 file waiting" in world.notices[-1]
    world.advance(56.0 + 8.0)
    assert isinstance(world.pool.error, StoppedError)
    assert world.pool.is_over


def test_attempts_that_take_long_are_remembered_once() -> None:
    """Should everything die with them, the next run knows."""
    world = started(1, workers=1)
    (child,) = busy(world)
    world.say(child, Inspected(order(child).job, JPEG_LOSSLESS, 2 * MIB, "gdcm"))
    world.advance(0.875)
    assert not [m for m in world.clerk.inbox if isinstance(m, Begin)]
    world.advance(6.0)
    (begin,) = [m for m in world.clerk.inbox if isinstance(m, Begin)]
    assert begin.attempts == (Begun(b"CT0001", "gdcm"),)


def test_what_a_child_shows_is_known_of_each_attempt() -> None:
    """The same child may have the same file again, with the same engine, and die of it then."""
    world = started(1, workers=1)
    (child,) = busy(world)
    shown = Inspected(order(child).job, JPEG_LOSSLESS, 2 * MIB, "gdcm")
    world.say(child, shown)
    world.say(child, Failed(order(child).job, FailureKind.WRITE, "why", Stage.WRITE, "gdcm"))
    assert order(child).attempt == 2
    world.say(child, shown)
    world.die(child, -signal.SIGSEGV)
    make_ready(world)
    (other,) = busy(world)
    assert order(other).tried == ("gdcm",)


def test_what_a_dying_child_shows_gives_it_no_time() -> None:
    """Its board outlives it; that its file is large is no reason to wait for it."""
    world = started(1, workers=1)
    (child,) = busy(world)
    world.hang_up(child)
    world.step(lambda: world.pool.inspected(child.id, Inspected(order(child).job, JPEG_LOSSLESS, 64 * MIB, "gdcm")))
    world.advance(2.0)
    assert child.term_at == world.now


def test_what_a_dead_child_left_is_thrown_away() -> None:
    """Its private folder and its temp file, by name."""
    world = started(1, workers=1)
    (child,) = busy(world)
    temp = order(child).temp
    world.die(child, -signal.SIGSEGV)
    (discard,) = [m for m in world.clerk.inbox if isinstance(m, Discard)]
    assert discard.names == (b"run-w1", temp.rpartition(b"/")[2])


def test_time_at_the_gate_is_not_the_jobs_own() -> None:
    """The limit stands still while a child waits, and goes on from there."""
    world = started(2, workers=2, max_writers=1)
    first, second = busy(world)
    assert (first.writer, second.writer) == (True, False)
    world.advance(4.0)
    world.say(second, Wants(order(second).job, writer=True))
    world.advance(3.0)
    world.say(first, written(order(first).job))
    assert second.wants is None
    world.advance(3.875)
    assert second.term_at is None
    world.advance(0.125)
    assert second.term_at == world.now


def in_phase(name: Phase) -> tuple[World, SimChild]:
    """Return a world with a child in this phase; its job, if it has one, is number 2."""
    if name in (Phase.STARTING, Phase.IDLE):
        world = World([], config(workers=1, others="skip"))
        world.launch_all()
        if name is Phase.IDLE:
            make_ready(world)
        (child,) = world.children.values()
    else:
        world = started(2, workers=2, others="skip")
        _, child = busy(world)
        if name is Phase.WAITING:
            world.say(child, Wants(2, bytes=4 * MIB))  # the other child holds some
    assert phase(world, child) is name
    return world, child


@pytest.mark.parametrize("job", [1, 2, 3])
@pytest.mark.parametrize("name", [Phase.STARTING, Phase.IDLE, Phase.BUSY, Phase.WAITING])
def test_what_a_child_may_not_say_now_ends_it(name: Phase, job: int) -> None:
    """Every message out of its phase, or about a job that the child does not have, and nothing comes of it."""
    said: list[Message] = [
        Ready(),
        Wants(job, bytes=MIB),
        written(job),
        Left(job, Outcome.SKIPPED, "", 1, 1, "why"),
        Failed(job, FailureKind.READ, "why", Stage.INSPECT, ""),
    ]
    for message in said:
        is_ready = isinstance(message, Ready)
        if (name is Phase.STARTING and is_ready) or (name is Phase.BUSY and job == 2 and not is_ready):
            continue  # legal
        world, child = in_phase(name)
        world.pool.message(child.id, message, world.now)
        assert phase(world, child) is Phase.KILLING
        assert world.pool.crew[child.id].cause is FailureKind.PROTOCOL
        assert not world.tally.ended
        assert not world.pool.ledger.committing


def test_an_interrupt_lets_files_under_way_end_and_begins_no_other() -> None:
    """SIGINT once: exit code 130, resumable."""
    world = started(5)
    world.step(world.pool.drain)
    for child in busy(world):
        world.say(child, written(order(child).job))
    world.behave()
    assert world.pool.exit_code == 130
    assert world.tally.ended == 2


def test_a_child_has_its_next_file_before_it_ends_this_one() -> None:
    """It begins that at once, with the tokens that it has; and is given another."""
    world = in_full_swing()
    (child, other) = busy(world)
    job, following = order(child).job, ahead(child).job
    world.say(child, written(job))
    assert order(child).job == following
    assert ahead(child).job not in (job, following, order(other).job, ahead(other).job)
    assert world.pool.gate.writers_held == 2
    world.behave()


@pytest.mark.parametrize("how", ["asks for bytes", "asks to write", "fails", "crashes", "hangs", "lies", "is lost"])
def test_a_file_that_was_given_ahead_comes_back_if_the_one_before_does_not_end_well(how: str) -> None:
    """Nothing is held against it: nobody has begun it."""
    world = in_full_swing(workers=1)
    (child,) = busy(world)
    job, number = order(child).job, ahead(child).job
    (given,) = [w.ahead.job for w in world.pool.crew if w.ahead]
    match how:
        case "asks for bytes":
            world.say(child, Wants(job, bytes=3 * MIB))
        case "asks to write":
            world.say(child, Wants(job, writer=True))
        case "fails":
            world.say(child, Failed(job, FailureKind.READ, "no", Stage.INSPECT, ""))
        case "crashes":
            world.die(child, -signal.SIGSEGV)
        case "hangs":
            world.advance(8.5)
        case "lies":
            world.say(child, written(number))
        case _:
            child.unkillable = True
            world.advance(8.5 + 4.0)
    make_ready(world)
    listening = [child for child in world.children.values() if not child.doomed]
    assert not any(child.ahead and child.ahead.job == number for child in listening)
    assert (given.id, given.attempts, given.interruptions) == (number, [], 0)
    held = [child.order.job for child in listening if child.order]
    assert held in ([number], [job])
    world.behave()


def test_no_file_is_given_ahead_to_a_child_that_cannot_begin_it_without_asking() -> None:
    """It has asked for something already, or closed its channel; or another waits for what it would go on to hold."""
    world = in_full_swing()
    (child, other) = busy(world)
    world.say(child, Wants(order(child).job, bytes=3 * MIB))
    world.say(other, written(order(other).job))
    world.say(other, written(order(other).job))
    assert (child.ahead, ahead(other).job) == (None, 5)
    world.control(Command.PAUSE)
    world.say(other, written(order(other).job))
    world.hang_up(other)
    world.control(Command.RESUME)
    assert other.ahead is None
    world.behave()
    world = started(24, scan_ahead=24, max_writers=1, inflight=8)
    (child, other) = busy(world)
    following = ahead(child).job
    world.say(other, Wants(order(other).job, writer=True))
    world.say(child, written(order(child).job))
    assert (order(child).job, child.ahead, other.writer) == (following, None, False)
    world.say(child, written(following))
    assert other.writer
    world.behave()


def test_a_child_that_dies_between_two_files_is_as_one_that_was_idle() -> None:
    """Once: what comes back goes to a child that is free, and an attempt it is then."""
    world = in_full_swing(workers=1)
    (child,) = busy(world)
    world.say(child, written(1))
    (worker,) = world.pool.crew
    held = [worker.job, worker.ahead.job if worker.ahead else None]
    child.alive = False
    child.drop_tokens()
    world.step(lambda: world.pool.died_between(child.id))
    make_ready(world)
    (child,) = busy(world)
    assert [(job.id, job.attempts, job.interruptions) for job in held if job] == [(2, [], 0), (3, [], 0)]
    assert (order(child).job, child.ahead) == (2, None)
    world.die(child, -signal.SIGSEGV)
    assert len(held[0].attempts if held[0] else []) == 1
    world.behave()


def test_a_gate_that_narrows_has_its_way_although_places_pass_on() -> None:
    """Within two files of each child: the one under way and the one that it has for afterwards."""
    world = in_full_swing(workers=3)
    world.control(Command.WRITERS, 1)
    for _ in range(2):
        for child in busy(world):
            if not child.wants:
                world.say(child, good(child.order) if child.order else Ready())
    assert world.pool.gate.writers_held <= 1
    world.behave()


def test_in_place_no_file_is_given_ahead() -> None:
    """Each result stands beside its original, on a disk that may be all but full."""
    world = World(items(24), config(scan_ahead=24, max_writers=4, inflight=8), in_place=True)
    world.handle(1)
    world.look(24)
    world.find()
    make_ready(world)
    assert [child.ahead for child in busy(world)] == [None, None]
    world.behave()


def test_what_was_given_ahead_is_done_when_a_run_is_to_end_or_to_rest() -> None:
    """It counts as under way: it is small. No other is given."""
    for command in (Command.PAUSE, Command.DRAIN):
        world = in_full_swing()
        world.control(command)
        numbers = [(order(child).job, ahead(child).job) for child in busy(world)]
        for child, (job, following) in zip(busy(world), numbers, strict=True):
            world.say(child, written(job))
            assert (order(child).job, child.ahead) == (following, None)
            world.say(child, written(following))
        assert not busy(world)
        world.behave()


@pytest.mark.parametrize(("count", "size", "given"), [(4, 1, 0), (5, 1, 1), (6, 1, 2), (12, 2 * MIB, 0)])
def test_no_file_is_given_ahead_that_another_child_may_be_free_for(count: int, size: int, given: int) -> None:
    """Not the last ones, as many as there are children; nor what may take long."""
    found = [Item(b"CT%d" % number, size, 1) for number in range(count)]
    world = World(found, config(scan_ahead=24, max_writers=4, inflight=8))
    world.handle(1)
    world.look(count)
    world.find()
    make_ready(world)
    assert sum(child.ahead is not None for child in busy(world)) == given
    world.behave()


def test_after_foreign_code_failed_the_file_goes_to_a_fresh_child() -> None:
    """What a codec did to the child's memory must not reach the next file, nor the next engine."""
    world = started(2, workers=1)
    (first,) = busy(world)
    world.say(first, Failed(order(first).job, FailureKind.CORRUPT, "bad", Stage.DECODE, "gdcm"))
    assert first.kill_at is not None
    assert first.order is None
    make_ready(world)
    (second,) = busy(world)
    assert second.id != first.id
    assert order(second).tried[0] == "gdcm"
    world.behave()


def test_where_no_foreign_code_ran_the_child_goes_on() -> None:
    """An engine that refuses by our own table has touched nothing."""
    world = started(2, workers=1)
    (child,) = busy(world)
    world.say(child, Failed(order(child).job, FailureKind.UNSUPPORTED, "no", Stage.DECODE, "gdcm"))
    assert child.kill_at is None
    assert busy(world) == [child]
    world.behave()
    assert world.pool.crew.kills == 0


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0, FailureKind.CRASHED),
        (3, FailureKind.CRASHED),
        (-signal.SIGSEGV, FailureKind.CRASHED),
        (-signal.SIGALRM, FailureKind.TIMEOUT),
    ],
)
def test_how_a_child_died_says_what_it_was(code: int, kind: FailureKind) -> None:
    """Its own alarm is a timeout, everything else of its own accord a crash."""
    world = started(1, workers=1)
    for _ in range(2):
        (child,) = busy(world)
        world.die(child, code)
        make_ready(world)
    assert kinds(world) == [kind, kind]


def test_a_clerk_that_died_is_told_again_what_it_had_not_done() -> None:
    """Results and endings are kept until they are acknowledged."""
    world = started(2)
    first, second = busy(world)
    world.say(first, written(order(first).job))
    world.say(second, Failed(order(second).job, FailureKind.READ, "no", Stage.INSPECT, ""))
    world.restart_clerk()
    world.welcome()
    assert [type(m) for m in world.clerk.inbox if not isinstance(m, More)] == [Commit, Settle]
    world.behave()
    assert world.tally.counts[Outcome.DECOMPRESSED] == world.tally.counts[Outcome.FAILED] == 1


# --- second opinions


def checking(**settings: Any) -> tuple[World, SimChild]:
    """Return a world with one file, and the child that is to judge its result."""
    world = started(1, verify="second", **settings)
    (maker,) = busy(world)
    world.say(maker, written(order(maker).job))
    make_ready(world)
    (judge,) = busy(world)
    return world, judge


def no_opinion(world: World, kind: FailureKind, engine: str, *, exhausted: bool = False) -> None:
    """Let the one child that is to judge say that it cannot, or will not."""
    (judge,) = busy(world)
    world.say(judge, Failed(check(judge).job, kind, "why", Stage.VERIFY, engine, exhausted))
    make_ready(world)


def committed(world: World) -> list[Result]:
    """Return the results of which the clerk was told, and has not handled."""
    return [result for m in world.clerk.inbox if isinstance(m, Commit) for result in m.results]


def test_a_second_engine_has_the_limit_of_its_own_pace() -> None:
    """Not that which sixty results of the first have set."""
    world = started(1, verify="second")
    for _ in range(60):
        world.pool._dispatcher.learn(written(1, seconds=0.001))
    (maker,) = busy(world)
    world.say(maker, written(order(maker).job))
    make_ready(world)
    (judge,) = busy(world)
    world.say(judge, Inspected(check(judge).job, JPEG_LOSSLESS, 32 * MIB, "pylibjpeg"))
    world.advance(31.5)
    assert judge.term_at is None
    world.advance(1.0)
    assert judge.term_at is not None


def test_a_result_is_committed_after_another_child_confirmed_it() -> None:
    """The maker, if it is the only child, is retired; the judge is told what it needs, and gets no writer's place."""
    world, judge = checking(workers=1)
    asked = check(judge)
    assert judge.id != world.makers[asked.result]
    assert (asked.first, asked.asked, asked.source) == ("gdcm", (), b"/source/CT0001")
    assert (judge.bytes, world.pool.gate.writers_held) == (2 * MIB, 0)
    assert not committed(world)
    world.say(judge, Checked(asked.job, "pylibjpeg"))
    (result,) = committed(world)
    assert (result.temp, result.written.notes) == (asked.result, ())
    world.behave()
    assert (world.pool.exit_code, world.tally.confirmed) == (0, 1)


def test_two_children_judge_each_others_work() -> None:
    """Neither has to be retired for it."""
    world = started(6, verify="second")
    first = set(world.children)
    world.behave()
    assert (world.tally.confirmed, world.tally.counts[Outcome.DECOMPRESSED]) == (6, 6)
    assert len(first) == 2
    assert world.pool.crew.kills == 0
    assert set(world.makers.values()) == first


def test_without_a_second_engine_the_result_is_committed_with_a_note() -> None:
    """Nobody was asked in vain before."""
    world, _ = checking()
    no_opinion(world, FailureKind.UNSUPPORTED, "", exhausted=True)
    (result,) = committed(world)
    assert result.written.notes == ("not confirmed: there is no second engine for this Transfer Syntax",)
    world.behave()
    assert (world.pool.exit_code, world.tally.confirmed) == (0, 0)


def test_where_the_original_will_be_gone_a_result_that_nobody_can_confirm_is_thrown_away() -> None:
    world = World(items(1), config(verify="second"), in_place=True, keeps_originals=False)
    world.handle(1)
    world.look(1)
    world.find()
    make_ready(world)
    (maker,) = busy(world)
    assert not order(maker).may_round
    world.say(maker, written(order(maker).job))
    make_ready(world)
    no_opinion(world, FailureKind.UNSUPPORTED, "", exhausted=True)
    assert not committed(world)
    world.behave()
    assert (world.pool.exit_code, world.tally.counts[Outcome.FAILED]) == (1, 1)


def test_a_result_that_a_second_engine_refutes_is_thrown_away() -> None:
    """Nobody can tell which is right, so neither is."""
    world, judge = checking()
    asked = check(judge)
    no_opinion(world, FailureKind.VERIFY, "pylibjpeg")
    assert world.discarded == {asked.result}
    assert kinds(world) == [FailureKind.VERIFY]
    assert judge.kill_at is not None
    world.behave()
    assert world.pool.exit_code == 1


def test_an_opinion_that_cannot_be_had_is_asked_of_another_engine() -> None:
    """And when none is left, the result is not called done."""
    world, _ = checking()
    no_opinion(world, FailureKind.CORRUPT, "pylibjpeg")
    (judge,) = busy(world)
    assert check(judge).asked == ("pylibjpeg",)
    no_opinion(world, FailureKind.UNSUPPORTED, "", exhausted=True)
    assert kinds(world) == [FailureKind.CORRUPT, FailureKind.VERIFY]
    assert len(world.discarded) == 1
    world.behave()


def test_opinions_come_to_an_end() -> None:
    """Even where engines never run out."""
    world, _ = checking()
    for number in range(MAX_OPINIONS + 1):
        assert not world.tally.failed
        no_opinion(world, FailureKind.CRASHED, f"engine {number}")
    assert kinds(world) == [FailureKind.CRASHED] * (MAX_OPINIONS + 1) + [FailureKind.VERIFY]
    world.behave()


@pytest.mark.parametrize(
    ("kind", "times"),
    [(FailureKind.READ, 1), (FailureKind.CHANGED, 2), (FailureKind.WRITE, 2), (FailureKind.LOST, 1)],
)
def test_trouble_with_storage_while_a_result_is_judged_is_not_the_pictures(kind: FailureKind, times: int) -> None:
    """The file ends as any other with that trouble, so that another run tries it again: VERIFY would settle it."""
    world, _ = checking(workers=1)
    for _ in range(times):
        assert not world.tally.failed
        if kind is FailureKind.LOST:
            (judge,) = busy(world)
            judge.unkillable = True
            world.advance(8.25 + 4.0)
        else:
            no_opinion(world, kind, "pylibjpeg")
        for child in list(world.children.values()):
            if isinstance(child.order, Assign):
                world.say(child, written(child.order.job))
                make_ready(world)
    assert kinds(world) == [kind] * times
    assert len(world.discarded) == times
    world.behave()


@pytest.mark.parametrize("how", ["fork server", "signal"])
def test_what_ends_a_judge_from_outside_is_no_verdict(how: str) -> None:
    """Twice, and the file is made anew, last and alone; its one second engine is not struck off for it."""
    world, judge = checking(workers=1)
    for _ in range(2):
        world.say(judge, Inspected(check(judge).job, JPEG_LOSSLESS, 2 * MIB, "pylibjpeg"))
        if how == "signal":
            world.die(judge, -signal.SIGKILL)
        else:
            world.kill_forkserver()
            world.advance(STATUS_SECONDS)
        make_ready(world)
        (maker,) = busy(world)
        world.say(maker, written(order(maker).job))
        make_ready(world)
        (judge,) = busy(world)
        assert check(judge).asked == ()
    job = world.pool.crew[judge.id].job
    assert job
    assert (job.alone, job.attempts) == (True, [])
    world.say(judge, Checked(check(judge).job, "pylibjpeg"))
    world.behave()
    assert (world.pool.exit_code, len(world.discarded)) == (0, 2)


def test_a_judge_that_dies_from_outside_though_alone_gave_no_opinion() -> None:
    """Then it is this file: another engine is asked, and the run ends."""
    world = World([Item(b"CT", 1, 1, interrupted=2)], config(workers=1, verify="second"))
    world.handle(1)
    world.look(1)
    world.find()
    make_ready(world)
    (maker,) = busy(world)
    world.say(maker, written(order(maker).job))
    for _ in range(MAX_OPINIONS + 1):
        assert not world.tally.failed
        make_ready(world)
        (judge,) = busy(world)
        check(judge)
        world.die(judge, -signal.SIGKILL)
    assert kinds(world)[-1] is FailureKind.VERIFY
    world.behave()


def test_a_file_that_is_to_be_done_alone_waits_until_all_others_are_judged() -> None:
    """Else it would share the machine with a judge, and be blamed for what that needs."""
    world = World([Item(b"CT1", 1, 1, interrupted=2), Item(b"CT2", 1, 1, interrupted=2)], config(verify="second"))
    world.handle(1)
    world.look(2)
    world.find()
    make_ready(world)
    (maker,) = busy(world)
    world.say(maker, written(order(maker).job))
    make_ready(world)
    (judge,) = busy(world)
    world.say(judge, Checked(check(judge).job, "pylibjpeg"))
    (maker,) = busy(world)
    assert order(maker).source == b"/source/CT2"
    world.behave()


def test_draining_drops_what_is_unchecked_and_leaves_it_for_the_next_run() -> None:
    """A check under way may end, and its result is committed; no other is begun."""
    world = started(4, verify="second")
    first, second = busy(world)
    world.say(first, written(1))
    world.say(second, written(2))
    assert (order(first).job, check(second).job) == (3, 1)
    world.step(world.pool.drain)
    assert {world.written[temp] for temp in world.discarded} == {2}
    world.say(first, written(3))
    assert {world.written[temp] for temp in world.discarded} == {2, 3}
    world.say(second, Checked(1, "pylibjpeg"))
    world.behave()
    assert world.pool.exit_code == 130
    assert dict(world.endings) == {b"CT0001": 1}


def test_an_opinion_that_cannot_be_had_while_draining_is_asked_of_nobody_else() -> None:
    """The file is left for the next run, which makes it anew."""
    world, _ = checking()
    world.step(world.pool.drain)
    no_opinion(world, FailureKind.CORRUPT, "pylibjpeg")
    assert len(world.discarded) == 1
    world.behave()
    assert not world.endings


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind is not FailureKind.UNSUPPORTED])
def test_no_failure_but_that_there_is_no_engine_lets_a_result_pass(kind: FailureKind) -> None:
    """A child whose memory a codec has spoilt may say so with any kind."""
    world, _ = checking()
    no_opinion(world, kind, "pylibjpeg", exhausted=True)
    assert not committed(world)
    world.behave()


def test_a_judge_that_ran_out_of_memory_is_what_the_file_ends_with() -> None:
    """Not VERIFY, which would settle it: with more memory it may be confirmed."""
    world, _ = checking()
    no_opinion(world, FailureKind.MEMORY, "pylibjpeg")
    no_opinion(world, FailureKind.UNSUPPORTED, "", exhausted=True)
    (ending,) = world.tally.failed.values()
    assert ending.kind is FailureKind.MEMORY
    assert "pylibjpeg: MEMORY: why" in ending.reason
    assert "no second engine can confirm it" in ending.reason
    assert len(world.discarded) == 1
    world.behave()


def test_a_result_that_is_made_anew_is_confirmed_once() -> None:
    """What was confirmed and could not get its name does not count."""
    world, judge = checking()
    world.say(judge, Checked(check(judge).job, "pylibjpeg"))
    world.handle(len(world.clerk.inbox), FailureKind.WRITE)
    assert world.tally.confirmed == 0
    world.behave()
    assert (world.tally.confirmed, world.tally.counts[Outcome.DECOMPRESSED]) == (1, 1)


@pytest.mark.parametrize("engine", ["gdcm", "gdcmconv", ""])
def test_a_judge_that_names_the_makers_codecs_confirms_nothing(engine: str) -> None:
    """It has looked with the same eyes; or with none."""
    world, judge = checking()
    world.say(judge, Checked(check(judge).job, engine))
    assert judge.doomed
    assert not committed(world)
    world.behave()


@pytest.mark.parametrize("say", [written, lambda job: Wants(job, writer=True), lambda job: Checked(job + 1, "turbo")])
def test_a_judge_that_says_what_only_a_maker_may_is_killed(say: Callable[[int], Message]) -> None:
    """And the other way round; nothing comes of it."""
    world, judge = checking()
    world.say(judge, say(check(judge).job))
    assert judge.doomed
    assert not committed(world)
    world.behave()
    world = started(1, verify="second")
    (maker,) = busy(world)
    world.say(maker, Checked(order(maker).job, "gdcm"))
    assert maker.doomed
    assert not committed(world)
    world.behave()


# --- what once went wrong


def test_a_child_that_closed_its_channel_gets_no_job() -> None:
    """It is dying, and the file would be blamed for it."""
    world = World(items(1), config(workers=1))
    make_ready(world)
    (child,) = world.children.values()
    world.hang_up(child)
    world.handle(1)
    world.look(1)
    world.find()
    assert child.order is None
    world.behave()


def test_a_child_gets_no_job_before_the_fork_server_has_told_its_pid() -> None:
    """Should the fork server die in between, nobody could ever tell that the child is dead."""
    world = World(items(1), config(workers=1))
    world.handle(1)
    world.look(1)
    world.find()
    (child,) = world.children.values()
    world.say(child, Ready())
    assert child.order is None
    world.launched(child)
    assert child.order is not None
    world.behave()


def test_a_child_that_asks_for_the_writers_place_it_holds_does_not_wait_for_itself() -> None:
    """Waiting has no deadline, so it must end by itself."""
    world = started(1, workers=1, max_writers=1)
    (child,) = busy(world)
    assert child.writer
    world.say(child, Wants(order(child).job, writer=True))
    assert child.wants is None
    world.behave()


def test_lost_children_that_hold_every_token_stop_the_run() -> None:
    """Nobody else can ever get through the gate: that is storage that does not answer."""
    world = started(3, workers=2, max_writers=1, max_lost=3)
    lost, other = busy(world)
    world.say(other, Wants(order(other).job, writer=True))
    lost.unkillable = True
    world.advance(8.25 + 4.0)
    assert phase(world, lost) is Phase.LOST
    make_ready(world)
    for child in busy(world):
        if child is not lost and not child.wants:
            world.say(child, Wants(order(child).job, writer=True))
    world.advance(8.0)
    assert "no new file is begun" in world.notices[-1]
    world.advance(64.0)
    assert isinstance(world.pool.error, StoppedError)
    world.behave()


def test_a_run_that_stops_gives_up_on_stalled_storage_too() -> None:
    """The first reason to stop stands, but the run must end."""
    world = started(3)
    first, second = busy(world)
    world.say(first, Failed(order(first).job, FailureKind.NO_SPACE, "full", Stage.WRITE, "gdcm"))
    second.unkillable = True
    world.stalled = True
    world.advance(8.0 + 64.0 + 8.0)
    assert world.pool.is_over
    assert world.pool.exit_code == 75
    assert "make room" in str(world.pool.error)


def test_a_file_whose_child_was_killed_because_the_run_gave_up_is_left_for_the_next_run() -> None:
    """Not even a file that is done alone is called failed for it."""
    world = World([Item(b"CT", 1, 1, interrupted=2)], config(workers=1))
    world.handle(1)
    world.look(1)
    world.find()
    make_ready(world)
    assert busy(world)
    world.step(lambda: world.pool.from_clerk(Stopped("the target is gone", fatal=True), world.now))
    assert world.pool.is_over
    assert not world.tally.failed


@pytest.mark.parametrize("stale", [False, True])
def test_a_file_that_ended_while_a_restarted_clerk_walked_is_not_done_twice(stale: bool) -> None:
    """The clerk may have looked it up before it ended, and say so afterwards."""
    world = started(1, workers=1)
    world.restart_clerk()
    world.welcome()
    world.handle(9)
    (child,) = busy(world)
    if stale:
        world.look(1)
    world.say(child, written(order(child).job))
    world.handle(9)
    world.look(1)
    world.find()
    world.behave()
    assert world.tally.counts[Outcome.DECOMPRESSED] == 1


def test_after_a_stall_a_child_that_speaks_has_its_whole_limit() -> None:
    """Storage took its time, not the file."""
    world = started(1, workers=1)
    (child,) = busy(world)
    world.stalled = True
    world.advance(12.0)
    world.stalled = False
    world.say(child, Wants(order(child).job, bytes=2 * MIB))
    world.advance(7.875)
    assert child.term_at is None
    world.advance(0.125)
    assert child.term_at == world.now


@pytest.mark.parametrize("others", ["copy", "skip"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("outcome", Outcome)
def test_a_child_cannot_call_done_what_it_did_not_write(outcome: Outcome, in_place: bool, others: str) -> None:
    """Nothing to write is legal in place for what needs no decoder, and where other files are to be skipped."""
    world = World(items(1), config(workers=1, others=others), in_place=in_place)
    world.handle(1)
    world.look(1)
    world.find()
    make_ready(world)
    (child,) = busy(world)
    world.say(child, Left(order(child).job, outcome, "", 1, 1, "by design"))
    legal = in_place and outcome in (Outcome.COPIED, Outcome.OTHER, Outcome.KEPT)
    legal |= others == "skip" and outcome is Outcome.SKIPPED
    assert bool(world.tally.counts[outcome]) == legal
    assert child.doomed != legal


def test_a_clerk_that_dies_after_the_end_starts_nothing_again() -> None:
    """The next one is told to finish, and no child is launched."""
    world = World([], config())
    world.handle(1)
    world.find()
    assert world.clerk.told_finish
    world.restart_clerk()
    world.welcome()
    assert not world.children
    world.step(lambda: world.pool.from_clerk(Scanned(0, 0, 0, complete=False), world.now))
    assert not world.children
    world.behave()
    assert not world.children


def test_the_fork_servers_death_is_no_ones_fault() -> None:
    """Its children's channels close at once, and that they are dead is known a second later."""
    world = started(2)
    for _ in range(3):
        world.kill_forkserver()
        world.advance(STATUS_SECONDS)
        make_ready(world)
    world.behave()
    assert world.pool.exit_code == 0
    assert not world.tally.failed
    assert world.pool.crew.kills == 0


def test_a_child_that_closes_its_channel_and_lives_on_is_killed() -> None:
    """It can neither be told nor tell anything any more."""
    world = started(1, workers=1)
    (child,) = busy(world)
    world.hang_up(child)
    world.advance(4.0)
    assert child.term_at is not None
    world.behave()


def test_a_look_that_takes_long_does_not_blame_time_for_a_closed_channel() -> None:
    """The look may have been asked for before the child's last moment came, and be answered after it."""
    world = started(1, workers=1)
    (child,) = busy(world)
    child.ignores_term = True
    world.hang_up(child)
    look = Look(None, "", Stage.DECODE, is_stopped=False, reason="slow")
    world.pool.examined(child.id, look, world.now + 2.0)
    world.advance(2.0)
    assert world.pool.crew[child.id].cause is FailureKind.PROTOCOL
    world.behave()


def test_a_child_that_hangs_up_while_it_waits_gets_no_grant() -> None:
    """It is killed in a moment, and the place goes to the next."""
    world = started(3, workers=3, max_writers=1)
    first, second, third = busy(world)
    world.say(second, Wants(order(second).job, writer=True))
    world.say(third, Wants(order(third).job, writer=True))
    world.hang_up(second)
    world.say(first, written(order(first).job))
    assert third.writer
    assert not second.writer
    world.behave()


def test_a_child_killed_while_it_waits_waits_no_more() -> None:
    """A token that it will never hear of would be lost with it."""
    world = started(3, workers=3, max_writers=1)
    first, second, third = busy(world)
    world.say(second, Wants(order(second).job, writer=True))
    world.say(third, Wants(order(third).job, writer=True))
    second.unkillable = True
    world.say(second, Ready())
    assert second.term_at is not None
    world.say(first, written(order(first).job))
    assert third.writer
    world.behave()


def test_a_file_found_after_the_run_was_stopped_is_left_for_the_next_one() -> None:
    """The journal is closed by then."""
    world = World([Item(b"CT", 1, 1, exists="there is a file")], config())
    world.handle(1)
    world.look(1)
    world.step(world.pool.drain)
    world.find()
    world.behave()
    assert not world.tally.failed


def test_a_run_that_has_had_its_time_ends_without_waiting_for_its_turn_to_write() -> None:
    """The bytes a second are no longer limited then, which whoever waits for them learns at once."""
    world = started(9, rate=MIB, schedule=Schedule(max_duration_seconds=24.0))
    first, second = busy(world)
    for child in (first, second):
        world.say(child, Inspected(order(child).job, JPEG_LOSSLESS, 32 * MIB, "gdcm"))
        world.say(child, Wants(order(child).job, writer=True))
    assert (first.writer, second.writer) == (True, False)
    world.say(first, good(order(first)))
    world.advance(1.0)
    world.handle(9)
    world.advance(22.0)
    assert not second.writer
    assert not [notice for notice in world.notices if "storage" in notice], "a gate that is shut on purpose"
    world.advance(1.0)
    assert second.writer
    world.behave()
    assert (world.pool.exit_code, world.pool.stopped) == (130, "--max-duration is over: 24.0 s")
