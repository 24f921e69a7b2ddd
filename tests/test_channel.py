"""A child's end of its channel: which orders stand, where the supervisor has sent one ahead. Over a real socket."""

import socket
from collections.abc import Iterator

import pytest

from dcmpool.errand import Channel
from dcmpool.model import FailureKind, Outcome, Stage
from dcmpool.protocol import TO_WORKER, Assign, Failed, Grant, Message, Wants, Written


class Ends:
    """Both ends of a channel; what the supervisor sends is there before the child reads."""

    def __init__(self, ours: socket.socket, channel: Channel) -> None:
        self._ours, self._channel = ours, channel
        self.say = channel.send

    def order(self, *messages: Message) -> None:
        self._ours.sendall(b"".join(TO_WORKER.encode(message) for message in messages))

    def next(self) -> int | None:
        """The job of the next message that the child is given; None once the supervisor has closed its end."""
        message = self._channel.receive()
        return None if message is None else int(message.job)

    def close(self) -> None:
        self._ours.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs.detach())
    with ours, channel._socket:  # which a child keeps as long as it lives
        yield Ends(ours, channel)


def order(job: int, *, ahead: bool = False) -> Assign:
    return Assign(
        job=job, attempt=1, source=b"/s", temp=b"/t", engine="", tried=(), skip_others=False, in_place=False,
        durable=True, alarm_seconds=1.0, granted_bytes=1, granted_writer=True, ahead=ahead,
    )  # fmt: skip


def written(job: int) -> Written:
    return Written(
        job=job, outcome=Outcome.COPIED, engine="", transfer_syntax_uid="", source_size=1, source_mtime_ns=1, size=1,
        mtime_ns=1, native_bytes=0, digest="", seconds=0.0, write_seconds=0.0,
    )  # fmt: skip


def test_an_order_that_was_sent_ahead_follows_one_that_ended_well(ends: Ends) -> None:
    ends.order(order(1), order(2, ahead=True))
    assert ends.next() == 1
    ends.say(written(1))
    ends.order(order(3, ahead=True))
    assert ends.next() == 2
    ends.say(written(2))
    assert ends.next() == 3


def test_after_a_failure_what_was_sent_ahead_is_passed_over(ends: Ends) -> None:
    """The supervisor has taken it back, or will when it hears of the failure; an order that it sends then stands."""
    ends.order(order(1), order(2, ahead=True))
    assert ends.next() == 1
    ends.say(Failed(1, FailureKind.READ, "no", Stage.INSPECT, ""))
    ends.order(order(3), order(4, ahead=True))
    assert ends.next() == 3
    ends.say(written(3))
    assert ends.next() == 4


def test_a_child_that_asks_is_given_the_grant_and_not_what_was_sent_ahead(ends: Ends) -> None:
    """That was sent before the supervisor heard the question, and counts no more."""
    ends.order(order(1))
    assert ends.next() == 1
    ends.say(Wants(1, writer=True))
    ends.order(order(2, ahead=True), Grant(1, 1.0))
    assert ends.next() == 1
    ends.say(written(1))
    ends.order(order(3))
    ends.close()
    assert [ends.next(), ends.next()] == [3, None]
