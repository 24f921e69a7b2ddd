"""The board: what a child shows can be read at any time, and nothing else is taken for it."""

import os
from collections.abc import Iterator

import pytest

from dcmpool.board import Board, has_begun, inspected_on, new_board, stage_on
from dcmpool.model import Stage
from dcmpool.protocol import ON_BOARD, Inspected

SHOWN = Inspected(7, "1.2.840.10008.1.2.4.70", 1 << 19, "turbo")


@pytest.fixture
def fd() -> Iterator[int]:
    """A board as the supervisor makes it."""
    fd = new_board()
    yield fd
    os.close(fd)


def test_what_is_shown_is_read_until_it_is_cleared(fd: int) -> None:
    """Of the job that is asked for, and of no other."""
    board = Board(fd)
    assert (stage_on(fd), inspected_on(fd, 7)) == (Stage.INSPECT, None)
    board.show(SHOWN)
    board.enter(Stage.VERIFY)
    assert (stage_on(fd), inspected_on(fd, 7), inspected_on(fd, 8)) == (Stage.VERIFY, SHOWN, None)
    board.begin(8)
    assert (inspected_on(fd, 7), has_begun(fd, 7), has_begun(fd, 8)) == (None, False, True)


def test_the_longest_there_is_can_be_shown(fd: int) -> None:
    """A UID has 64 characters and a file may hold any; the name of an engine has 40."""
    longest = Inspected(2**63 - 1, "\N{GREEK SMALL LETTER ALPHA}" * 64, 2**32 - 2, "x" * 40)
    Board(fd).show(longest)
    assert inspected_on(fd, longest.job) == longest


def test_nonsense_is_nothing(fd: int) -> None:
    """A child may write what it likes."""
    body = ON_BOARD.pack(SHOWN)
    for length in (0, 1, len(body) - 1, len(body) + 1, 65535):
        os.pwrite(fd, b"\xff" * 8, 1016)
        assert not has_begun(fd, 7)
        os.pwrite(fd, b"\xff" + length.to_bytes(2, "big") + body, 0)
        assert (stage_on(fd), inspected_on(fd, 7)) == (Stage.INSPECT, None)
