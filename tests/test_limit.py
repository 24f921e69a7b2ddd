"""The limit of an attempt: from its size, then from the run's own speed, never under the floor."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpool.config import MIB, Limits
from dcmpool.limit import Limit

SYNTAX = "1.2.840.10008.1.2.4.70"
OTHER = "1.2.840.10008.1.2.4.90"
ENGINE = "turbo"
SECOND = "gdcm"
SYNTAXES = st.sampled_from([SYNTAX, OTHER, ""])
ENGINES = st.sampled_from([ENGINE, SECOND, ""])
SETTINGS = Limits(floor_seconds=10.0, slowest_mib_per_second=0.5)


def experienced(samples: int, seconds_per_mib: float) -> Limit:
    """Return a limit that has seen so many attempts at one MiB each."""
    limit = Limit(SETTINGS)
    for _ in range(samples):
        limit.learn(SYNTAX, ENGINE, MIB, seconds_per_mib)
    return limit


@pytest.mark.parametrize(("mib", "seconds"), [(0, 10.0), (1, 10.0), (5, 10.0), (6, 12.0), (1024, 2048.0)])
def test_at_first_the_slowest_honest_speed_decides(mib: int, seconds: float) -> None:
    """Size by speed, and never under the floor."""
    assert Limit(SETTINGS).seconds(SYNTAX, ENGINE, mib * MIB) == seconds


def test_the_users_limit_wins() -> None:
    """Over the floor, the size and what was learned."""
    limit = Limit(Limits(attempt_seconds=3.0, floor_seconds=10.0))
    for _ in range(60):
        limit.learn(SYNTAX, ENGINE, MIB, 5.0)
    assert limit.seconds(SYNTAX, ENGINE, 1024 * MIB) == 3.0
    assert limit.at_most(1024 * MIB) == 3.0


def test_after_fifty_samples_the_runs_own_speed_decides() -> None:
    """Twenty times the median of a MiB, for this Transfer Syntax alone."""
    assert experienced(49, 0.05).seconds(SYNTAX, ENGINE, 100 * MIB) == 200.0
    assert experienced(50, 0.05).seconds(SYNTAX, ENGINE, 100 * MIB) == pytest.approx(100.0)
    assert experienced(50, 0.05).seconds(SYNTAX, ENGINE, MIB) == 10.0
    assert experienced(50, 0.05).seconds(OTHER, ENGINE, 100 * MIB) == 200.0


def test_an_engine_is_not_held_to_the_pace_of_another() -> None:
    """A second engine may be ten times as slow as the first, and right."""
    assert experienced(50, 0.001).seconds(SYNTAX, SECOND, 100 * MIB) == 200.0


def test_a_slow_run_has_longer_limits() -> None:
    """A machine that is busy otherwise is not a hang."""
    assert experienced(50, 4.0).seconds(SYNTAX, ENGINE, 100 * MIB) == pytest.approx(8000.0)


def test_single_slow_files_do_not_move_the_limit() -> None:
    """The median stands for the run, and only the latest samples count."""
    limit = experienced(64, 0.05)
    for _ in range(20):
        limit.learn(SYNTAX, ENGINE, MIB, 1000.0)
    assert limit.seconds(SYNTAX, ENGINE, 100 * MIB) == pytest.approx(100.0)
    for _ in range(64):
        limit.learn(SYNTAX, ENGINE, MIB, 0.1)
    assert limit.seconds(SYNTAX, ENGINE, 100 * MIB) == pytest.approx(200.0)


def test_what_has_no_pixels_teaches_nothing() -> None:
    """A copied text file says nothing about the speed of a decoder."""
    limit = Limit(SETTINGS)
    for _ in range(60):
        limit.learn("", "", 0, 5.0)
    assert limit.seconds("", "", MIB) == 10.0


@given(
    learned=st.lists(
        st.tuples(SYNTAXES, ENGINES, st.integers(0, 2**32 - 2), st.floats(0, 1e9)),
        max_size=120,
    ),
    size=st.integers(0, 2**63 - 1),
    slowest=st.floats(1e-9, 1e6),
    floor=st.floats(0.001, 1e6),
)
@settings(max_examples=100)
def test_a_limit_is_a_time_that_the_loop_can_wait_for(
    learned: list[tuple[str, str, int, float]], size: int, slowest: float, floor: float
) -> None:
    """Whatever children say: not under the floor, not over a million seconds, and `at_most` is over all."""
    limit = Limit(Limits(floor_seconds=floor, slowest_mib_per_second=slowest))
    for sample in learned:
        limit.learn(*sample)
    for syntax, engine in itertools.product((SYNTAX, OTHER, ""), (ENGINE, SECOND, "")):
        assert floor <= limit.seconds(syntax, engine, size) <= 1_000_000
        assert limit.seconds(syntax, engine, size) <= limit.at_most(size)
