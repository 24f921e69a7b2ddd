"""The fork server as a process: started, asked for children, heard, and started again when it dies."""

import errno
import os
import selectors
import socket
from collections import deque
from collections.abc import Callable

from dcmpool.child import Child, refusal
from dcmpool.errors import LaunchError
from dcmpool.events import Event, Noticed
from dcmpool.helper import Helper, take
from dcmpool.pool import Pool
from dcmpool.protocol import (
    FROM_FORKSERVER,
    MAX_FRAME_BYTES,
    TO_FORKSERVER,
    Exited,
    Launch,
    Launched,
    NotMade,
    Warmed,
)

_MAX_DEATHS = 3
"""Deaths in a row, without a child in between."""


class ForkLink:
    """The fork server of a run; its children run `serve_child` of the module `worker_module`.

    `launched` is called with a child's pidfd, `exited` with its exit code or why it was not even made; `happened` tells
    the user.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        pool: Pool,
        worker_module: str,
        *,
        nice: int,
        launched: Callable[[Launched, int], None],
        exited: Callable[[Exited | NotMade], None],
        happened: Callable[[Event], None],
    ) -> None:
        self._selector = selector
        self._pool = pool
        self._worker_module = worker_module
        self._nice = nice
        self._launched = launched
        self._exited = exited
        self._happened = happened
        self._helper: Helper | None = None
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._deaths = 0

    def start(self) -> None:
        """Start it; it loads the codecs, and takes requests meanwhile."""
        self._helper = take(("dcmpool.forkserver", self._worker_module), packets=True, nice=self._nice)
        self._helper.watch(self._selector, self._hear, self._on_death)

    # --- asking

    @property
    def present(self) -> Helper:
        """The process that serves now; its children die with it."""
        assert self._helper is not None  # noqa: S101 - started before any child is thought of
        return self._helper

    def ask(self, request: Launch, child: Child) -> None:
        """Ask for a child; what cannot be sent at once waits for `flush`, and is lost with the fork server."""
        if self.present.is_closed:
            return  # it died in the same wait, and the policy has forgotten the child already
        self._unsent.append((TO_FORKSERVER.pack(request), child.descriptors()))
        self.flush()

    def forget(self, child: Child) -> None:
        """Do not ask for a child, if that has not been sent yet: its descriptors are about to be closed."""
        self._unsent = deque(entry for entry in self._unsent if entry[1] != child.descriptors())

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what waits."""
        try:
            while self._unsent:
                frame, fds = self._unsent[0]
                socket.send_fds(self.present.channel, [frame], fds)
                self._unsent.popleft()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()  # its pidfd will say that it is dead

    # --- hearing

    def _hear(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self.present.channel, MAX_FRAME_BYTES, 1)
        except (BlockingIOError, ConnectionResetError):
            return
        if not data:
            self._selector.unregister(self.present.channel)
            return
        match FROM_FORKSERVER.decode(data):
            case Warmed() as message:
                for module, reason in message.missing.items():
                    self._happened(Noticed(text=f"{module} cannot be loaded, its engine is left out: {reason}"))
            case Launched() as message:
                if fds:
                    self._deaths = 0
                    self._launched(message, fds[0])
                else:  # recvmsg(2): what finds no free descriptor is dropped, and nobody could prove this child dead
                    full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                    self._pool.stop(LaunchError(f"workers cannot be launched: {refusal(full)}"))
                    self.kill()
            case Exited() | NotMade() as message:
                self._exited(message)

    def _on_death(self) -> None:
        """Start it again. Its children die with it, by the kernel; what was not forked yet is launched again."""
        last_words = self.present.last_words()
        self.close()
        self._pool.forkserver_died()
        self._deaths += 1
        if self._deaths >= _MAX_DEATHS:
            self._pool.stop(LaunchError(f"the fork server dies again and again: {last_words or 'it said nothing'}"))
        if self._pool.draining:  # no child is launched any more
            return
        try:
            self.start()
        except OSError as error:
            self._pool.stop(LaunchError(f"the fork server cannot be started again: {refusal(error)}"))

    # --- the end

    def kill(self) -> set[int]:
        """SIGKILL it; return its pidfd, as long as it is not known to be dead."""
        return self._helper.kill() if self._helper else set()

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        if self._helper is not None:
            self._unsent.clear()
            self._helper.close()
