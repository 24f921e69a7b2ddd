"""A run as it stands: what its children, its gate and its tally say, in one value."""

from dcmpool.control import Command
from dcmpool.model import FailureKind, Outcome, Stage
from dcmpool.overview import Overview
from dcmpool.protocol import Failed, Inspected, Ready, Wants
from tests.world import JPEG_LOSSLESS, World, config, good, items


def test_a_run_under_way() -> None:
    """Two children at work, the longer first; one file has failed, one is done."""
    world = World(items(9), config(workers=3))
    overview = Overview(world.pool, lambda _: "decode", world.now)
    world.handle(1)
    world.look(4)
    world.find()
    world.launch_all()
    first, second, third = world.children.values()
    for child in (first, second, third):
        world.say(child, Ready())
    assert first.order
    assert second.order
    assert third.order
    world.say(third, good(third.order))
    world.say(first, Inspected(first.order.job, JPEG_LOSSLESS, 1, "gdcm"))
    world.say(second, Failed(second.order.job, FailureKind.READ, "gone", Stage.INSPECT, ""))
    world.say(third, Wants(third.order.job, bytes=3 << 20))
    world.advance(2.0)
    seen = overview.look(world.now)
    assert (seen.state, seen.at_seconds, seen.remaining, seen.walk_complete) == ("running", 2.0, None, False)
    assert seen.counts == {Outcome.FAILED: 1}
    assert [(r.path, r.kind, r.reason) for r in seen.refused] == [("CT0002", FailureKind.READ, "gone")]
    assert [doing.pid for doing in seen.workers] == [first.pid, third.pid]
    assert [doing.phase for doing in seen.workers] == ["busy", "waiting"]
    assert (seen.workers[0].engine, seen.workers[0].stage, seen.workers[0].seconds) == ("gdcm", "decode", 2.0)
    assert (seen.gate.bytes, seen.gate.waiting, seen.gate.max_writers) == (2 << 20, 1, 2)
    world.control(Command.PAUSE)
    assert overview.look(world.now).state == "paused"
    world.behave()
    assert overview.look(world.now).counts == {Outcome.DECOMPRESSED: 8, Outcome.FAILED: 1}
