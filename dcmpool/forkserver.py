"""The fork server: loads the codecs once and forks a child on request; it never does any work itself.

Not `multiprocessing.forkserver`, because a supervisor must not wait for it: `Process.start()` blocks for ever
while that server is stopped, its sentinels fire when the server dies although the children live on, and its
exit hook joins children that cannot die. This one answers each request by a message with a pidfd, says how each
child ended, kills the child's process group before reaping it (so that the number cannot be another's), adopts
and kills grandchildren that left the group, and is itself killed by the kernel when the supervisor dies.
"""

import contextlib
import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable

from dcmpool import _os, _warm, engines, sandbox
from dcmpool.protocol import (
    FROM_FORKSERVER,
    MAX_FRAME_BYTES,
    TO_FORKSERVER,
    Exited,
    Launch,
    Launched,
    Message,
    NotMade,
    Warmed,
)

CHILD_FDS = 4
"""Descriptors that come with a `Launch`: channel, output, trace, board."""

_IDLE_MILLISECONDS = 300
"""How long nobody wants anything before what is left is loaded: a short run has the machine for itself."""


class Forkserver:
    """Serves one supervisor over a SOCK_SEQPACKET socket (a request is one packet, with its descriptors)."""

    def __init__(
        self, channel: socket.socket, serve_child: Callable[[int, int], None], missing: dict[str, str]
    ) -> None:
        self._channel = channel
        self._serve_child = serve_child
        self._missing = missing
        self._children: dict[int, int] = {}
        self._rules = -1
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Fork and reap until the supervisor closes its end."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        left = deque(_warm.THEN)
        while True:
            events = poll.poll(_IDLE_MILLISECONDS if left else None)
            if left and not events:
                self._warm(left.popleft(), is_last=not left)
            for fd, _ in events:
                if fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._take_request():
                    return

    def _warm(self, module: str, *, is_last: bool) -> None:
        """Load one more module between two requests: children that are made later find it there."""
        self._missing |= _warm.load((module,))
        if is_last:
            _freeze()
            self._send(Warmed(self._missing))

    def _take_request(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._channel, MAX_FRAME_BYTES, CHILD_FDS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        request = TO_FORKSERVER.decode(data)
        if request.readable and self._rules < 0:
            self._rules = sandbox.make_rules(request.readable, os.path.dirname(request.scratch))
        try:
            self._make(request, fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _make(self, request: Launch, fds: list[int]) -> None:
        pid = 0
        try:
            pid = self._fork(request, fds)
            pidfd = os.pidfd_open(pid)
        except OSError as error:  # too many processes, or no memory: those that there are must not die of that
            if pid:
                os.kill(pid, signal.SIGKILL)
            self._send(NotMade(request.child, error.errno or 0))
            return
        self._children[pid] = request.child
        self._send(Launched(request.child, pid), [pidfd])
        os.close(pidfd)

    def _fork(self, request: Launch, fds: list[int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for fd in (self._channel.detach(), self._wake_read, self._wake_write):
                os.close(fd)
            _become_child(parent, request, fds)
            engines.use(request.engines)
            if request.readable:
                sandbox.enter(self._rules)
            self._serve_child(fds[0], fds[3])
            code = 0
        finally:
            # Not sys.exit: what the fork server would do at its exit is none of the child's business.
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(found.si_pid, signal.SIGKILL)
            _, status = os.waitpid(found.si_pid, 0)
            self._kill_strays()
            child = self._children.pop(found.si_pid, None)
            if child is not None:
                self._send(Exited(child, os.waitstatus_to_exitcode(status)))

    def _kill_strays(self) -> None:
        """Kill adopted grandchildren: a worker's own child that left its process group and outlived it."""
        for pid in _os.children() - self._children.keys():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _send(self, message: Message, fds: list[int] | None = None) -> None:
        socket.send_fds(self._channel, [FROM_FORKSERVER.pack(message)], fds or [])


def _become_child(parent: int, request: Launch, fds: list[int]) -> None:
    """Turn a fresh fork into an isolated child: own session, own output, own limits, no terminal, no parent's traps."""
    os.setsid()
    _os.die_with_parent(parent)
    _, output, trace, _ = fds
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    faulthandler.enable(file=trace, all_threads=False)
    # Written from the C level, so it works while a codec holds the GIL; then the default action ends the child.
    faulthandler.register(signal.SIGTERM, file=trace, all_threads=False, chain=True)
    _os.prefer_as_victim()
    _os.set_limits(request.memory_bytes)
    os.environ["TMPDIR"] = os.fsdecode(request.scratch)


def main() -> None:
    """Run the fork server: its socket's descriptor, its parent's pid, the module whose `serve_child` a child runs."""
    channel, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    _os.die_with_parent(parent)
    _os.adopt_orphans()
    missing = _warm.load(_warm.FIRST)
    serve_child = importlib.import_module(sys.argv[3]).serve_child
    _freeze()
    Forkserver(channel, serve_child, missing).serve()


def _freeze() -> None:
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page that children share


if __name__ == "__main__":
    main()
