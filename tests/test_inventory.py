"""The tally of a survey holds little however much it counts, and says how long decompression may take."""

import random

import pytest

from dcmpool.distinct import Distinct
from dcmpool.inventory import OTHERS, Inventory
from dcmpool.model import FailureKind, Outcome
from dcmpool.protocol import Ending, Noted, Surveyed, Trial

MANY = 12_000


@pytest.fixture
def inventory() -> Inventory:
    return Inventory(lambda _: None)


def compressed(seconds: float, native_bytes: int, uid: str = "1.2.840.10008.1.2.4.70") -> Surveyed:
    trial = Trial("turbo", seconds, seconds)
    return Surveyed(0, Outcome.DECOMPRESSED, uid, native_bytes=native_bytes, trial=trial)


def test_different_values_are_counted_exactly_and_above_a_number_nearly() -> None:
    few, many, chance = Distinct(most=1000), Distinct(most=1000), random.Random(7)
    for _ in range(MANY):
        digest = chance.getrandbits(63)
        for _ in range(2):
            many.add(digest)
            few.add(digest % 900)
    assert (few.count(), few.is_exact) == (900, True)
    assert not many.is_exact
    assert abs(many.count() - MANY) < MANY / 10  # three times the standard error, 1 / sqrt(1000)
    assert len(many._held) == 1000


def test_all_is_counted_but_not_all_is_named(inventory: Inventory) -> None:
    for number in range(MANY):
        path = b"%d" % number
        inventory.ending(Ending(0, path, 3, 0, Outcome.FAILED, "", FailureKind.CORRUPT, "damaged", ()))
        inventory.noted(Noted(b"fifo" + path, None, "a FIFO"))
        inventory.surveyed(path, 5, Surveyed(0, Outcome.COPIED, f"1.{number}", result_bytes=5), "of a trial")
    assert inventory.counts == {Outcome.FAILED: MANY, Outcome.SKIPPED: MANY, Outcome.COPIED: MANY}
    assert (inventory.files, inventory.results, inventory.result_bytes) == (2 * MANY, MANY, 5 * MANY)
    by_syntax = inventory.groups["transfer_syntax"]
    assert sum(counted.files for counted in by_syntax.values()) == MANY
    assert by_syntax[OTHERS].bytes == 5 * by_syntax[OTHERS].files > 0
    named = (len(inventory.failed), len(inventory.lines[Outcome.SKIPPED]), len(inventory.notes))
    assert max(named + tuple(len(group) for group in inventory.groups.values())) <= 10_000


def test_the_time_to_expect_has_the_spread_of_the_trials(inventory: Inventory) -> None:
    """100 MB at 1, 2 and 3 s for 10 MB, on two workers: 10 s, from 5 to 15; CPUs that are fewer are what counts."""
    for seconds in (1.0, 2.0, 3.0):
        inventory.surveyed(b"a", 1, compressed(seconds, 10_000_000))
    untried = Surveyed(0, Outcome.DECOMPRESSED, "1.2.840.10008.1.2.4.70", native_bytes=70_000_000)
    inventory.surveyed(b"b", 1, untried)
    on_two, on_one = inventory.time_to_expect(2, 4), inventory.time_to_expect(2, 1)
    assert on_two is not None
    assert on_one is not None
    assert (on_two.low, on_two.expected, on_two.high) == pytest.approx((5.0, 10.0, 15.0))
    assert on_one.expected == pytest.approx(20.0)


def test_trials_become_rare_and_end(inventory: Inventory) -> None:
    uid, tried = "1.2.840.10008.1.2.4.70", 0
    for _ in range(1000):
        wanted = uid not in inventory.enough()
        tried += wanted
        found = compressed(1.0, 10)
        inventory.surveyed(b"a", 1, found if wanted else Surveyed(0, Outcome.DECOMPRESSED, uid, native_bytes=10))
    assert tried == 10  # 1, 2, 4, ... 512
    assert sum(len(trials) for trials in inventory.trials.values()) == tried
