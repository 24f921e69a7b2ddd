"""The worker, with a clock: how long each stage of an instance took goes into the notes of its result."""

import os
import time
from collections import defaultdict
from typing import Any

import msgspec

from dcmpool import worker
from dcmpool.model import Stage
from dcmpool.protocol import Message, Written

_spent: defaultdict[str, float] = defaultdict(float)
_real_fsync = os.fsync


class Staged(worker.Attempt):
    """An attempt that remembers when it entered its stage."""

    _since = 0.0

    def run(self) -> Message:
        """Do the job, then add the seconds of each stage to the message."""
        _spent.clear()
        self._since = time.perf_counter()
        message = super().run()
        self._enter(self._stage)
        if isinstance(message, Written):
            return msgspec.structs.replace(message, notes=(msgspec.json.encode(_spent).decode(),))
        return message

    def _enter(self, stage: Stage) -> None:
        now = time.perf_counter()
        _spent[self._stage] += now - self._since
        self._since = now
        super()._enter(stage)


def _fsync(fd: int) -> None:
    begun = time.perf_counter()
    _real_fsync(fd)
    spent = time.perf_counter() - begun
    _spent["fsync"] += spent
    _spent[Stage.WRITE] -= spent


def serve_child(channel_fd: int, board: int) -> None:
    """Serve as the worker does, with a clock in it."""
    here: dict[Any, tuple[str, Any]] = {worker: ("Attempt", Staged), os: ("fsync", _fsync)}
    for module, (name, value) in here.items():
        setattr(module, name, value)
    worker.serve_child(channel_fd, board)
