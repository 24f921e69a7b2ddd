"""How fast a run goes and what is left of it, for a run of which we know both."""

import random

import pytest

from dcmpool.pace import Pace

MB = 1_000_000


def driven(rates: list[int], *, seconds: float = 1.0) -> Pace:
    """Return the pace of a run that did so many files of 1 MB in each second."""
    pace, files = Pace(100.0), 0
    for index, rate in enumerate(rates, 1):
        files += rate
        pace.sample(100.0 + index * seconds, files, files * MB, works=True)
    return pace


def test_now_is_the_last_half_minute_and_overall_is_all() -> None:
    pace = driven([10] * 100 + [40] * 30)
    assert pace.now.files_per_second == pytest.approx(40)
    assert pace.now.bytes_per_second == pytest.approx(40 * MB)
    assert pace.overall.files_per_second == pytest.approx((1000 + 1200) / 130)


def test_a_steady_run_knows_its_end() -> None:
    remaining = driven([20] * 1000).remaining(2000 * MB)
    assert remaining is not None
    assert (remaining.low_seconds, remaining.seconds, remaining.high_seconds) == pytest.approx((100, 100, 100))


def test_an_unsteady_run_says_so() -> None:
    """The spread holds what the same kind of rates will bring, nine times in ten, and narrows as the run goes on."""
    chance = random.Random(1)
    hits, widths = 0, []
    for _ in range(200):
        rates = [chance.choice([1, 5, 30, 60]) for _ in range(600)]
        early = driven(rates[:50]).remaining(sum(rates[50:]) * MB)
        late = driven(rates[:500]).remaining(sum(rates[500:]) * MB)
        assert early is not None
        assert late is not None
        hits += early.low_seconds <= 550 <= early.high_seconds
        widths.append((early.high_seconds / early.low_seconds, late.high_seconds / late.low_seconds))
    assert hits >= 180
    assert sum(late < early for early, late in widths) >= 190


def test_nobody_knows_the_end_of_a_run_that_has_just_begun() -> None:
    assert driven([]).remaining(MB) is None
    assert driven([5] * 3).remaining(MB) is None
    assert driven([0] * 50).remaining(MB) is None
    assert driven([]).now.files_per_second == 0


def test_a_pause_is_not_a_slow_run() -> None:
    pace = driven([20] * 100)
    for second in range(3600):
        pace.sample(200.0 + second, 2000, 2000 * MB, works=False)
    assert pace.overall.files_per_second == pytest.approx(20)
    remaining = pace.remaining(200 * MB)
    assert remaining is not None
    assert remaining.seconds == pytest.approx(10)


def test_a_month_takes_no_more_memory_than_a_minute() -> None:
    pace = driven([3] * 100_000, seconds=26.0)
    assert len(pace._marks) <= 62
    assert len(pace._recent) <= 32
    assert pace.overall.files_per_second == pytest.approx(3 / 26)
