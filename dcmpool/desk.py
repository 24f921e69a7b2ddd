"""The run's end of `dcmpool status` and `dcmpool control`: a socket that the user alone can reach.

    client --Request, a line of JSON--> desk --Answer, a line of JSON--> client

A client can be asked nothing and can hold nothing up: what it says is read as it comes, it has a few seconds, and there
are not many at a time.
"""

import contextlib
import os
import selectors
import socket
import struct
from collections.abc import Callable

import msgspec

from dcmpool import rundir
from dcmpool.control import Answer, Request

_MAX_CLIENTS = 8
_MAX_REQUEST_BYTES = 4096
_PATIENCE_SECONDS = 5.0
_REST_SECONDS = 0.02
"""After each client the next one waits for so long: a flood of them takes little of the loop's time."""


class Desk:
    """Answers clients once it is open. `serve` does what a request asks for; `now` is the run's own time."""

    def __init__(
        self, selector: selectors.BaseSelector, serve: Callable[[Request], Answer], now: Callable[[], float]
    ) -> None:
        self._selector = selector
        self._serve = serve
        self._now = now
        self._listener: socket.socket | None = None
        self._path = ""
        self._number = 0
        self._rests_until: float | None = None
        self._clients: dict[socket.socket, tuple[bytearray, float]] = {}

    # --- beginning and end

    def open(self, target: bytes) -> None:
        """Listen, for the run on this TARGET, whose lock we hold: a socket of that name is a dead run's.

        Raises
        ------
        OSError
            There is no place for a socket that is the user's alone.
        """
        directory = rundir.make()
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _sweep(directory, descriptor)
            name = rundir.socket_name(target)
            self._listener = _listen(descriptor, name)
            self._number = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_ino
        finally:
            os.close(descriptor)
        self._path = os.path.join(directory, name)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Be gone, and leave nothing behind."""
        for client in list(self._clients):
            self._dismiss(client)
        if self._listener is not None:
            if self._listener in self._selector.get_map():
                self._selector.unregister(self._listener)
            with contextlib.suppress(OSError):
                # TARGET may be another run's by now. What listens keeps its number: no other socket can have it.
                if os.lstat(self._path).st_ino == self._number:
                    os.unlink(self._path)
                os.rmdir(os.path.dirname(self._path))  # unless another run has its socket there
            self._listener.close()
            self._listener = None

    # --- clients

    def next_deadline(self) -> float | None:
        """Return when `expire` is due; None while there is no client."""
        moments = [deadline for _, deadline in self._clients.values()]
        if self._rests_until is not None:
            moments.append(self._rests_until)
        return min(moments, default=None)

    def expire(self, now: float) -> None:
        """Dismiss clients that say nothing, and let the next one come."""
        for client, (_, deadline) in list(self._clients.items()):
            if now >= deadline:
                self._dismiss(client)
        if self._rests_until is not None and now >= self._rests_until and self._listener is not None:
            self._rests_until = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - it has woken the loop
        self._selector.unregister(self._listener)
        self._rests_until = self._now() + _REST_SECONDS
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # it is gone, or nothing is left for those who only look: descriptors, memory (accept(2))
        client.setblocking(False)
        if len(self._clients) >= _MAX_CLIENTS or not _is_ours(client):
            client.close()
            return
        self._clients[client] = bytearray(), self._now() + _PATIENCE_SECONDS
        self._selector.register(client, selectors.EVENT_READ, lambda: self._hear(client))

    def _hear(self, client: socket.socket) -> None:
        said, _ = self._clients[client]
        try:
            data = client.recv(_MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        said += data
        line, end, _ = said.partition(b"\n")
        if end:
            self._answer(client, bytes(line))
        if end or not data or len(said) > _MAX_REQUEST_BYTES:
            self._dismiss(client)

    def _answer(self, client: socket.socket, line: bytes) -> None:
        try:
            answer = self._serve(msgspec.json.decode(line, type=Request))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            answer = Answer(f"no request: {error}", ok=False)
        with contextlib.suppress(OSError):  # it is gone, or its buffer is too small: that is its own business
            client.send(answer.encode())

    def _dismiss(self, client: socket.socket) -> None:
        del self._clients[client]
        self._selector.unregister(client)
        client.close()


def _is_ours(client: socket.socket) -> bool:
    """Whether the client is this user, or root (unix(7), SO_PEERCRED: pid, uid, gid)."""
    _, user, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return user in (os.geteuid(), 0)


def _listen(descriptor: int, name: str) -> socket.socket:
    """Return a socket of that name in an open directory; it gets the name when it listens, and not before."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    begun = f"{name}.{os.getpid()}"
    try:
        listener.bind(rundir.through(descriptor, begun))
        os.chmod(begun, 0o600, dir_fd=descriptor)
        listener.listen(_MAX_CLIENTS)
        os.replace(begun, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    except OSError:
        listener.close()
        raise
    return listener


def _sweep(directory: str, descriptor: int) -> None:
    """Remove the sockets of runs that are dead: nobody listens there any more."""
    for name in (name for name in os.listdir(directory) if name.endswith(rundir.SUFFIX)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.setblocking(False)
            try:
                probe.connect(rundir.through(descriptor, name))
            except ConnectionRefusedError:
                os.unlink(name, dir_fd=descriptor)
