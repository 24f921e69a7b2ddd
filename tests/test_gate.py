"""The write gate: what its class promises, by a state machine against a model, and its rules one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dcmpool.gate import Window, WriteGate

SIZES = st.integers(0, 30)
HOLDERS = st.integers(0, 5)


class GateMachine(RuleBasedStateMachine):
    """Holders ask for bytes, then for a writer's place, then give all back; some die, some are killed waiting."""

    gate: WriteGate

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[int, int] = {}
        self.writers: set[int] = set()
        self.waiting_bytes: list[tuple[int, int]] = []
        self.waiting_writer: list[int] = []

    @initialize(max_bytes=st.integers(1, 20), max_writers=st.integers(1, 3))
    def begin(self, max_bytes: int, max_writers: int) -> None:
        self.gate = WriteGate(max_bytes, max_writers)

    def waits(self, holder: int) -> bool:
        return holder in self.waiting_writer or holder in [waiting for waiting, _ in self.waiting_bytes]

    @rule(holder=HOLDERS, size=SIZES, writes=st.booleans())
    def offer(self, holder: int, size: int, writes: bool) -> None:
        if self.waits(holder) or holder in self.bytes or holder in self.writers:
            return
        got, writer = self.gate.offer(holder, size, writes=writes)
        fits = not self.waiting_bytes and sum(self.bytes.values()) + size <= self.gate.max_bytes
        assert got == (size if fits else 0), "an offer overtakes nobody, and takes what fits"
        assert writer == (writes and fits and not self.waiting_writer and len(self.writers) < self.gate.open_to)
        if fits:
            self.bytes[holder] = size
        if writer:
            self.writers.add(holder)
            assert len(self.writers) <= self.gate.open_to, "one more than may write"

    @rule(holder=HOLDERS, size=SIZES)
    def request_bytes(self, holder: int, size: int) -> None:
        if not self.waits(holder):
            self.forget(holder)
            self.gate.request_bytes(holder, size)
            self.waiting_bytes.append((holder, size))

    @rule(holder=HOLDERS)
    def request_writer(self, holder: int) -> None:
        if not self.waits(holder):
            self.writers.discard(holder)
            self.gate.request_writer(holder)
            self.waiting_writer.append(holder)

    @rule()
    def grant(self) -> None:
        for holder in self.gate.grant():
            if holder in self.waiting_writer:
                assert holder == self.waiting_writer.pop(0), "first come, first served"
                self.writers.add(holder)
                assert len(self.writers) <= self.gate.open_to, "one more than may write"
            else:
                first, size = self.waiting_bytes.pop(0)
                assert holder == first, "first come, first served"
                assert not self.bytes or sum(self.bytes.values()) + size <= self.gate.max_bytes
                self.bytes[holder] = size

    @rule(holder=HOLDERS)
    def release(self, holder: int) -> None:
        self.gate.release(holder)
        self.forget(holder)
        self.forget_waiting(holder)

    @rule(most=st.integers(1, 4))
    def resize(self, most: int) -> None:
        self.gate.resize(most)
        assert self.gate.open_to <= most

    @rule(seconds=st.sampled_from([0.001, 0.1, 10.0]))
    def learn(self, seconds: float) -> None:
        self.gate.learn(1, seconds)

    @rule(holder=HOLDERS)
    def withdraw(self, holder: int) -> None:
        self.gate.withdraw(holder)
        self.forget_waiting(holder)

    @precondition(lambda self: self.waiting_bytes or self.waiting_writer)
    @rule()
    def whoever_waits_waits_for_somebody_who_does_not(self) -> None:
        """No deadlock: after granting, somebody holds a token and waits for nothing, or nobody waits."""
        self.grant()
        free = [holder for holder in self.bytes.keys() | self.writers if not self.waits(holder)]
        assert free or not (self.waiting_bytes or self.waiting_writer)

    def forget(self, holder: int) -> None:
        self.bytes.pop(holder, None)
        self.writers.discard(holder)

    def forget_waiting(self, holder: int) -> None:
        self.waiting_bytes = [(waiting, size) for waiting, size in self.waiting_bytes if waiting != holder]
        self.waiting_writer = [waiting for waiting in self.waiting_writer if waiting != holder]

    @invariant()
    def as_modelled(self) -> None:
        if not hasattr(self, "gate"):
            return
        assert self.gate.bytes_held == sum(self.bytes.values())
        assert self.gate.writers_held == len(self.writers)
        assert 1 <= self.gate.open_to <= self.gate.max_writers
        assert self.gate.waiting == len(self.waiting_bytes) + len(self.waiting_writer)
        sizes = [size for size in self.bytes.values() if size]
        assert sum(sizes) <= self.gate.max_bytes or len(sizes) == 1

    def teardown(self) -> None:
        """No starvation: when holders do their work and give all back, everyone who waits is served."""
        if not hasattr(self, "gate"):
            return
        for _ in range(50):
            self.grant()
            for holder in [h for h in self.bytes.keys() | self.writers if not self.waits(h)]:
                self.release(holder)
        assert self.gate.waiting == 0
        assert not self.bytes
        assert not self.writers


WRITES = st.lists(st.tuples(st.integers(0, 1 << 26), st.floats(0, 1000)), max_size=200)


@given(most=st.integers(1, 40), writes=WRITES)
def test_the_window_stays_within_its_limits_and_opens_again(most: int, writes: list[tuple[int, float]]) -> None:
    """Whatever the writes were: at least one may write, never more than `most`, and good times open it wholly."""
    window = Window(most)
    for size, seconds in writes:
        before = window.size
        window.learn(size, seconds)
        assert 1 <= window.size <= most
        assert before // 2 <= window.size <= before + 1
    for _ in range(64 + most + most * (most + 1)):
        window.learn(1000, 0.01)
    assert window.size == most


@given(most=st.integers(1, 40), seconds=st.floats(0.001, 100), spread=st.floats(1, 3.9))
def test_storage_that_is_always_as_slow_narrows_nothing(most: int, seconds: float, spread: float) -> None:
    window = Window(most)
    for number in range(300):
        window.learn(500_000, seconds * (spread if number % 3 else 1))
    assert window.size == most


def test_storage_that_slows_down_halves_the_window_once_for_all_that_wrote_then() -> None:
    window = Window(16)
    for _ in range(10):
        window.learn(1 << 20, 0.1)
    sizes = []
    for _ in range(17 + 9):
        window.learn(1 << 20, 0.5)
        sizes.append(window.size)
    assert sizes[:17] == [8] * 17
    assert sizes[17:] == [4] * 9


def test_what_takes_no_time_says_nothing_of_the_storage() -> None:
    window = Window(4)
    for _ in range(100):
        window.learn(1000, 0.0001)
        window.learn(1000, 0.049)
    assert window.size == 4


def test_a_gate_that_does_not_adapt() -> None:
    gate = WriteGate(10, 4, adaptive=False)
    for seconds in (0.1, 100.0):
        gate.learn(1, seconds)
    assert gate.open_to == 4


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=100, stateful_step_count=40)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), writers=st.integers(1, 3))
@settings(max_examples=100)
def test_everyone_who_takes_bytes_then_a_place_then_writes_gets_through(sizes: list[int], writers: int) -> None:
    """At every point somebody can go on, whatever the sizes, and the bytes are granted in the order of asking."""
    gate = WriteGate(20, writers)
    for holder, size in enumerate(sizes):
        gate.request_bytes(holder, size)
    stages = dict.fromkeys(range(len(sizes)), "bytes")
    order = []
    while stages:
        granted = gate.grant()
        writing = [holder for holder, stage in stages.items() if stage == "writing"]
        assert granted or writing, "nobody can go on"
        for holder in granted:
            if stages[holder] == "bytes":
                order.append(holder)
                stages[holder] = "place"
                gate.request_writer(holder)
            else:
                stages[holder] = "writing"
        for holder in writing:
            gate.release(holder)
            del stages[holder]
    assert order == sorted(order)
    assert (gate.bytes_held, gate.writers_held, gate.waiting) == (0, 0, 0)


def test_more_than_all_bytes_are_granted_to_one_who_is_alone() -> None:
    """The oversize rule: an instance larger than the gate is decoded while nobody else holds bytes."""
    gate = WriteGate(10, 2)
    gate.request_bytes(1, 4)
    gate.request_bytes(2, 50)
    gate.request_bytes(3, 1)
    assert gate.grant() == [1]
    gate.release(1)
    assert gate.grant() == [2]
    assert gate.bytes_held == 50
    assert gate.offer(4, 1) == (0, False)
    gate.release(2)
    assert gate.grant() == [3]


def test_an_offer_overtakes_nobody() -> None:
    """Room for it is there, but somebody waits for more."""
    gate = WriteGate(10, 1)
    assert gate.offer(1, 6) == (6, True)
    gate.request_bytes(2, 5)
    assert gate.grant() == []
    assert gate.offer(3, 1) == (0, False)


def test_an_offer_takes_no_place_for_which_somebody_waits() -> None:
    """Bytes may ride along where the writer's place may not."""
    gate = WriteGate(10, 1)
    assert gate.offer(1, 2) == (2, True)
    assert gate.offer(2, 2) == (2, False)
    gate.request_writer(2)
    gate.release(1)
    assert gate.offer(3, 2) == (2, False)
    assert gate.grant() == [2]


def test_who_writes_nothing_takes_no_writers_place() -> None:
    """A second opinion needs memory and reads."""
    gate = WriteGate(10, 1)
    assert gate.offer(1, 2, writes=False) == (2, False)
    assert gate.offer(2, 2) == (2, True)


def test_who_asks_for_bytes_gives_back_what_it_has() -> None:
    """Who waits for bytes holds nothing, so that nobody waits for it."""
    gate = WriteGate(10, 1)
    gate.offer(1, 4)
    gate.request_bytes(1, 12)
    assert (gate.bytes_held, gate.writers_held) == (0, 0)
    assert gate.grant() == [1]


def test_who_asks_for_the_place_it_holds_gives_it_back() -> None:
    """Otherwise it would wait for itself."""
    gate = WriteGate(10, 1)
    gate.offer(1, 4)
    gate.request_writer(1)
    assert gate.writers_held == 0
    assert gate.grant() == [1]
