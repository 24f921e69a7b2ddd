"""Processes as the supervisor holds them: descriptors, never a blocking call.

`Child` is a worker, made by the fork server; the others are each a `Helper`, heard through a `Stream`.
"""

import errno
import os
import socket
from typing import Any

from dcmpool import _os
from dcmpool.board import has_begun, inspected_on, new_board, stage_on
from dcmpool.diagnose import Evidence
from dcmpool.helper import Helper
from dcmpool.model import Stage
from dcmpool.protocol import FROM_WORKER, TO_WORKER, Codec, Inspected, Message

_READ_BYTES = 65536
_WHAT_TO_DO = {
    errno.EMFILE: "allow more open files (ulimit -n) or use fewer --workers",
    errno.ENFILE: "the whole machine has too many open files",
    errno.EAGAIN: "allow more processes (ulimit -u) or use fewer --workers",
    errno.ENOMEM: "use fewer --workers",
}


def refusal(error: OSError) -> str:
    """Say what the machine refused, and what to do about it."""
    todo = _WHAT_TO_DO.get(error.errno or 0)
    return f"{error.strerror}: {todo}" if todo else error.strerror or str(error)


class Child:
    """A worker's descriptors: its channel, its output, its trace (faulthandler), its board (`board.py`)."""

    def __init__(self, maker: Helper, memory_mib: int) -> None:
        self.maker = maker
        self.memory_mib = memory_mib
        self.pid = 0
        self.output = self.trace = self.board = self.pidfd = -1
        self.channel, self._theirs = socket.socketpair()
        self.channel.setblocking(False)
        try:
            self.output = _os.sealed_memory("output", _os.OUTPUT_BYTES)
            self.trace = _os.sealed_memory("trace", _os.OUTPUT_BYTES)
            self.board = new_board()
        except OSError:
            self.close()
            raise
        self.is_dead = False
        self.code: int | None = None
        self.seen: tuple[float, Evidence] | None = None
        """When it was last looked at, and what was seen."""
        self._reader = FROM_WORKER.reader()

    def descriptors(self) -> list[int]:
        """Return what the fork server gives to the child, in its order."""
        return [self._theirs.fileno(), self.output, self.trace, self.board]

    def launched(self, pid: int, pidfd: int) -> None:
        """Take the proof of life; the child's end of the channel is its own from now on."""
        self.pid, self.pidfd = pid, pidfd
        self._theirs.close()

    def send(self, message: Message) -> bool:
        """Send a message; False if the child is gone, or does not read and its buffer is full."""
        frame = TO_WORKER.encode(message)
        try:
            return self.channel.send(frame) == len(frame)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False

    def receive(self) -> tuple[list[Message], bool]:
        """Return the messages that are there, and whether the child has closed its end.

        Raises
        ------
        ProtocolError
            The child sent what is no message.
        """
        try:
            data = self.channel.recv(_READ_BYTES)
        except BlockingIOError:
            return [], False
        except ConnectionResetError:
            return [], True
        return self._reader.feed(data), not data

    def has_begun(self, job: int) -> bool:
        """Whether it has begun this job, as its board says."""
        return has_begun(self.board, job)

    @property
    def stage(self) -> Stage:
        """What the child says it is doing."""
        return stage_on(self.board)

    def shown(self, job: int) -> Inspected | None:
        """Return what the child shows of this job; None if nothing yet."""
        return inspected_on(self.board, job)

    def signal(self, number: int) -> None:
        """Signal the child and its process group."""
        if self.pidfd >= 0 and not self.is_dead:
            _os.send_signal(self.pidfd, self.pid, number)

    def close(self) -> None:
        """Close everything."""
        self.channel.close()
        self._theirs.close()
        for fd in (self.output, self.trace, self.board, self.pidfd):
            if fd >= 0:
                os.close(fd)


class Stream:
    """A helper's stream socket: whole messages in, and a buffer out, so that nobody waits for it."""

    def __init__(self, channel: socket.socket, incoming: Codec[Any], outgoing: Codec[Any]) -> None:
        self._channel = channel
        self._reader = incoming.reader()
        self._outgoing = outgoing
        self._buffer = bytearray()
        self._closed = False
        self.is_over = False
        """Whether the other side has said its last word."""

    def send(self, message: Message) -> None:
        """Send a message, or as much of it as goes; the rest waits for `flush`. After `close`, nothing happens."""
        if not self._closed:
            self._buffer += self._outgoing.encode(message)
            self.flush()

    def close(self) -> None:
        """Drop what waits: the other side is gone."""
        self._closed = True
        self._buffer.clear()

    def flush(self) -> bool:
        """Send what waits; return whether anything still does."""
        try:
            while self._buffer:
                del self._buffer[: self._channel.send(self._buffer)]
        except BlockingIOError:
            return True
        except (BrokenPipeError, ConnectionResetError):
            self._buffer.clear()  # its pidfd will say that it is dead
        return False

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._buffer)

    def receive(self) -> list[Message]:
        """Return the messages that are there; none at the end of the stream, or after `close`.

        Raises
        ------
        ProtocolError
            The other side sent what is no message.
        """
        if self._closed:
            return []
        try:
            data = self._channel.recv(1 << 20)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            data = b""
        self.is_over = not data
        return self._reader.feed(data)
