"""What a worker does for one order: its channel, its grants, its stage and clock, and that it ends as one message.

`worker` has the errands of a run and an audit, `survey` that of a survey. Whatever a file or a codec does here ends as
one message, or as this process's death.
"""

import errno
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from dcmpool import _os, replica
from dcmpool.board import Board
from dcmpool.errors import Fault
from dcmpool.instance import Instance
from dcmpool.model import FailureKind, Stage
from dcmpool.protocol import (
    FROM_WORKER,
    TO_WORKER,
    Assign,
    Check,
    Failed,
    Grant,
    Inspected,
    Message,
    Survey,
    Wants,
)

STREAM_BYTES = 64 * 1024 * 1024
"""Instances up to this size are decoded whole before they are written; larger ones Frame by Frame."""

UID_CHARACTERS = 64
"""PS3.5 6.2, UI; a file may hold more."""


class Channel:
    """The worker's end of its private socket: blocking, since a worker has nothing else to do.

    An order that was sent ahead is passed over once it is taken back, which both ends know without a word: the child
    has asked for something, or failed, since it got the order before.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._reader = TO_WORKER.reader()
        self._messages: list[Any] = []
        self._takes_next = False
        """Whether an order that was sent ahead stands."""

    def send(self, message: Message) -> None:
        """Send one message."""
        if isinstance(message, Wants | Failed):
            self._takes_next = False
        self._socket.sendall(FROM_WORKER.encode(message))

    def receive(self) -> Any:
        """Return the next message, or None when the supervisor has closed its end."""
        while (message := self._next()) is not None:
            is_ahead = isinstance(message, Assign) and message.ahead
            if is_ahead and not self._takes_next:
                continue
            if not isinstance(message, Grant):
                self._takes_next = True
            return message
        return None

    def _next(self) -> Any:
        while not self._messages:
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:  # closed with something unread in it
                return None
            if not data:
                return None
            self._messages += self._reader.feed(data)
        return self._messages.pop(0)


class Errand(ABC):
    """What a worker does for one order: its grants, its stage, its clock, and that it ends as one message."""

    def __init__(self, order: Assign | Check | Survey, channel: Channel, board: Board) -> None:
        self._job = order.job
        self._path = order.source
        self._channel = channel
        self._board = board
        self._engine = ""
        self._bytes = order.granted_bytes
        self._writer = False
        self._alarm_seconds = order.alarm_seconds
        self._stage = Stage.INSPECT
        self._begun = time.monotonic()

    def run(self) -> Message:
        """Do the job and return the message that ends it."""
        self._arm()
        self._board.begin(self._job)
        self._enter(Stage.INSPECT)
        try:
            return self._work()
        except Fault as fault:
            return self._failed(fault.kind, self._explained(fault))
        except MemoryError:
            return self._failed(FailureKind.MEMORY, "more memory is needed than a worker may use (limits.memory_mib)")
        except OSError as error:
            full = error.errno in replica.FULL
            reason = "the target's storage is full" if full else f"the target cannot be written: {error.strerror}"
            return self._failed(FailureKind.NO_SPACE if full else FailureKind.WRITE, reason)
        except Exception as error:  # noqa: BLE001 - the border: whatever a codec raises fails this attempt, not the run
            # The type alone: a codec's message may quote the file, and so the patient.
            return self._failed(FailureKind.CORRUPT, f"{type(error).__name__} while the file was read")
        finally:
            _os.arm_alarm(0)

    @abstractmethod
    def _work(self) -> Message:
        """Do it; raise `Fault`, `MemoryError` or `OSError` (of the target) if it cannot be done."""

    def _show_inspected(self, instance: Instance) -> None:
        uid = instance.transfer_syntax_uid[:UID_CHARACTERS]
        self._board.show(Inspected(self._job, uid, instance.native_bytes, self._engine))

    def _staged(self, frames: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """Pass Frames through, and say at each that it is decoding, not writing, that takes the time."""
        iterator = iter(frames)
        while True:
            around = self._stage
            self._enter(Stage.DECODE)
            frame = next(iterator, None)
            self._enter(around)
            if frame is None:
                return
            yield frame

    def _need_bytes(self, size: int, *, ask: bool) -> None:
        """Have `size` bytes granted. A large instance asks even so, to learn the limit that goes with its size."""
        if ask or size > self._bytes:
            self._wait(Wants(self._job, bytes=size))
            self._bytes, self._writer = size, False

    def _need_writer(self) -> None:
        if not self._writer:
            self._wait(Wants(self._job, writer=True))
            self._writer = True

    def _wait(self, wants: Wants) -> None:
        """Ask, and wait without limit: time at the gate is not this job's."""
        _os.arm_alarm(0)
        begun = time.monotonic()
        self._channel.send(wants)
        answer = self._channel.receive()
        if not isinstance(answer, Grant):
            os._exit(0)  # the supervisor is gone or past caring
        self._alarm_seconds = answer.alarm_seconds
        self._begun += time.monotonic() - begun
        self._arm()

    def _arm(self) -> None:
        """Set the backstop, should the supervisor not be there to kill."""
        _os.arm_alarm(self._alarm_seconds)

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self._board.enter(stage)

    def _explained(self, fault: Fault) -> str:
        """Return the reason; where the sandbox alone forbids to read a file, what to do about it."""
        denied = fault.kind is FailureKind.READ and fault.reason.endswith(os.strerror(errno.EACCES))
        if denied and os.access(self._path, os.R_OK):  # access(2) knows of permissions, not of Landlock
            return "it leads out of what the sandbox lets a worker read; --sandbox off allows it"
        return fault.reason

    def _failed(self, kind: FailureKind, reason: str, *, exhausted: bool = False) -> Failed:
        return Failed(self._job, kind, reason[:2000], self._stage, self._engine, exhausted)
