"""The run's own time: what passes while the process is stopped does not count, wherever that happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmpool.runclock import RunClock


class Clock:
    """A clock that goes when it is told to."""

    moment = 1000.0

    def __call__(self) -> float:
        return self.moment


@given(
    steps=st.lists(
        st.tuples(st.one_of(st.just(0.0), st.floats(0.01, 90)), st.floats(0, 1), st.floats(1.01, 10**6), st.booleans())
    )
)
def test_it_stands_still_while_the_process_does(steps: list[tuple[float, float, float, bool]]) -> None:
    """In a wait and between two; such a wait has not been, what takes no longer than it should has."""
    clock = Clock()
    run = RunClock(clock)
    due = run.now()
    for wait, share, stop, is_stopped in steps:
        if wait:
            run.expect_wait(wait)
        if is_stopped:
            clock.moment += wait + stop
        else:
            clock.moment += (wait or 1.0) * share
            due += (wait or 1.0) * share
        assert run.now() == pytest.approx(due)


def test_a_wait_without_an_end_has_no_deadline_to_keep() -> None:
    clock = Clock()
    run = RunClock(clock)
    before = run.now()
    run.expect_wait(None)
    clock.moment += 3600.0
    assert run.now() == before + 3600.0
    assert run.seconds == 3600.0
    clock.moment += 3600.0
    assert run.now() == before + 3600.0, "it was one wait alone"
