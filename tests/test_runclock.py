"""The run's own time: a wait in which the process was stopped did not happen."""

from dcmpool.runclock import RunClock


def test_it_stands_still_while_the_process_does() -> None:
    """What overran is discounted as a whole; what took no longer than it should is not, nor a wait without an end."""
    moment = [1000.0]
    clock = RunClock(lambda: moment[0])
    before = clock.now()
    moment[0] += 5.5
    clock.discount(before, 5.0)
    assert clock.now() == before + 5.5
    before = clock.now()
    moment[0] += 3600.0
    clock.discount(before, 5.0)
    assert clock.now() == before
    moment[0] += 3600.0
    clock.discount(before, None)
    assert clock.now() == before + 3600.0
    assert clock.seconds == 5.5 + 7200.0
