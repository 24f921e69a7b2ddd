"""What a child shows of its job while it works: a page of memory that the supervisor may read at any time.

    byte 0: the stage | bytes 1 and 2: the length of what follows, 0 for nothing | `Inspected`, once the header is read
    the last 8 bytes: the number of the job that it has begun last

It can be read whatever the child is stuck in, and when it is dead. Nobody is woken by what is shown: the supervisor
looks when it has a reason to, and that of most jobs it never has.
"""

import mmap
import os
from typing import Final

from dcmpool import _os
from dcmpool.model import Stage
from dcmpool.protocol import ON_BOARD, Inspected, ProtocolError

_BYTES: Final = 1024
_BEGUN: Final = _BYTES - 8
_STAGES: Final = tuple(Stage)


class Board:
    """The child's side of it."""

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, _BYTES)

    def begin(self, job: int) -> None:
        """Show that this job has begun, and nothing of the last one any more."""
        self._clear()
        self._page[_BEGUN:] = job.to_bytes(_BYTES - _BEGUN, "big")

    def enter(self, stage: Stage) -> None:
        """Show what is being done."""
        self._page[0] = _STAGES.index(stage)

    def show(self, inspected: Inspected) -> None:
        """Show what the header says."""
        body = ON_BOARD.pack(inspected)
        self._clear()
        self._page[3 : 3 + len(body)] = body
        self._page[1:3] = len(body).to_bytes(2, "big")  # last, so that half of it is never taken for the whole

    def _clear(self) -> None:
        self._page[1:3] = bytes(2)


def new_board() -> int:
    """Return a memfd for a board."""
    return _os.sealed_memory("board", _BYTES)


def stage_on(fd: int) -> Stage:
    """Return the stage that a board shows, INSPECT if it shows none."""
    index = os.pread(fd, 1, 0)[0]
    return _STAGES[index] if index < len(_STAGES) else Stage.INSPECT


def has_begun(fd: int, job: int) -> bool:
    """Whether this is the job that the child has begun last."""
    return int.from_bytes(os.pread(fd, _BYTES - _BEGUN, _BEGUN), "big") == job


def inspected_on(fd: int, job: int) -> Inspected | None:
    """Return what a board shows of this job; None as long as that is nothing, or nonsense."""
    page = os.pread(fd, _BYTES, 0)
    try:
        found = ON_BOARD.decode(page[3 : 3 + int.from_bytes(page[1:3], "big")])
    except ProtocolError:
        return None
    return found if found.job == job else None
