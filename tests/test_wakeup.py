"""Whoever is let go of while others are told is not told; with real descriptors, as the loop has them."""

import selectors
import socket
from collections.abc import Iterator

import pytest

from dcmpool import wakeup


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        yield selector


class Caller:
    """A descriptor that is ready; what calls it lets go of all the others that it knows."""

    def __init__(self, selector: selectors.BaseSelector, others: list["Caller"]) -> None:
        self._selector, self._others = selector, others
        self.socket, self._end = socket.socketpair()
        self._end.close()
        self.calls = 0
        selector.register(self.socket, selectors.EVENT_READ, self.call)

    def call(self) -> None:
        self.calls += 1
        self.socket.recv(1)  # which fails if it is closed
        for other in self._others:
            if other is not self:
                other.let_go()

    def let_go(self) -> None:
        if self.socket.fileno() >= 0:
            self._selector.unregister(self.socket)
            self.socket.close()


def test_who_is_let_go_of_is_not_called(selector: selectors.BaseSelector) -> None:
    callers: list[Caller] = []
    callers += [Caller(selector, callers) for _ in range(5)]
    ready = selector.select(0)
    assert len(ready) == 5
    wakeup.heed(selector, ready)
    assert sorted(caller.calls for caller in callers) == [0, 0, 0, 0, 1]
    for caller in callers:
        caller.let_go()


def test_a_number_that_is_anothers_by_now_is_not_called_for_the_old_ones_sake(selector: selectors.BaseSelector) -> None:
    """As when a fork server dies and the next one's channel gets the number of the old one's."""
    first, end = socket.socketpair()
    second, other_end = socket.socketpair()
    end.close()
    other_end.close()
    told: list[str] = []
    quiet: list[socket.socket] = []

    def replace(other: socket.socket) -> None:
        told.append("the first")
        number = other.fileno()
        selector.unregister(other)
        other.close()
        new, far = socket.socketpair()
        quiet.extend((new, far))
        assert number in (new.fileno(), far.fileno())
        selector.register(number, selectors.EVENT_READ, lambda: told.append("the new one"))

    selector.register(first, selectors.EVENT_READ, lambda: replace(second))
    selector.register(second, selectors.EVENT_READ, lambda: replace(first))
    wakeup.heed(selector, selector.select(0))
    assert told == ["the first"]
    for file in (first, second, *quiet):
        file.close()


def test_all_others_are_called(selector: selectors.BaseSelector) -> None:
    callers = [Caller(selector, []) for _ in range(5)]
    wakeup.heed(selector, selector.select(0))
    assert [caller.calls for caller in callers] == [1] * 5
    for caller in callers:
        caller.let_go()
