"""A process of our own code beside the workers: clerk, fork server, scribe, each started by `subprocess`.

A short run takes most of its time to get ready. So `start_early` starts clerk and fork server before the command line's
own modules are loaded, and `take` hands them over: all load at the same time.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dcmpool import _os

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); import dcmpool; sys.path.append(sys.path.pop(0)); "
    "from importlib import import_module; "
    "name = sys.argv[2]; del sys.argv[1:3]; import_module(name).main()"
)
"""Started with -P: a folder of the user's that is called like a library must not be imported for it. Our own package is
the one that this process is of, even where another version is installed; nothing else beside it comes first."""
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    # mallopt(3): what a decoder frees is kept for the next Frame. To give it back and get it again from the kernel, by
    # a page fault each 4 KiB, takes a fourteenth of the time of a JPEG-LS slice.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024),
    "PYTHONSAFEPATH": "1",
}
"""What every process of ours runs with: one thread a library, one arena that grows to the largest Frame and stays so,
nobody else's modules."""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `main` of a module of ours, installed or not."""
    return [sys.executable, "-P", "-c", _BOOT, str(Path(__file__).parent.parent), module, *arguments]


class Helper:
    """A process of our own code, started by `subprocess`, on a socket of its own; `nice`: as nice(1) takes it."""

    def __init__(
        self, module: str, *arguments: str, packets: bool, stdin: int = subprocess.DEVNULL, nice: int = 0
    ) -> None:
        kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        ours.setblocking(False)
        self.channel = ours
        self.output = _os.sealed_memory("output", _os.OUTPUT_BYTES)
        command = python_command(module, str(theirs.fileno()), str(os.getpid()), *arguments)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=stdin,
                stdout=self.output,
                stderr=self.output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=os.environ | ENVIRONMENT,
            )
        self.pidfd = os.pidfd_open(self._process.pid)
        _os.be_nice(self._process.pid, nice)
        self.is_closed = False
        self._selector: selectors.BaseSelector | None = None

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def watch(
        self, selector: selectors.BaseSelector, hear: Callable[[], None], died: Callable[[], None] | None = None
    ) -> None:
        """Have `hear` called when it says something and `died` when it is dead, until `close`."""
        self._selector = selector
        selector.register(self.channel, selectors.EVENT_READ, hear)
        if died is not None:
            selector.register(self.pidfd, selectors.EVENT_READ, died)

    def kill(self) -> set[int]:
        """SIGKILL it; return its pidfd, as long as it is not closed."""
        if self.is_closed:
            return set()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        return {self.pidfd}

    def wait(self) -> None:
        """Wait for its death; only for one that has had nothing to do with storage."""
        self._process.wait()

    def last_words(self) -> str:
        """Return the last line that it printed."""
        lines = _os.read_output(self.output).strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Close everything, and reap it if it is dead; a second call does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._selector is not None:
            for file in (self.channel, self.pidfd):
                with contextlib.suppress(KeyError):  # it has hung up already, or its death is not watched
                    self._selector.unregister(file)
        self._process.poll()
        self._process.returncode = self._process.returncode or 0  # one that cannot die is not waited for, nor warned of
        self.channel.close()
        os.close(self.output)
        os.close(self.pidfd)


FORKSERVER = ("dcmpool.forkserver", "dcmpool.worker")
CLERK = ("dcmpool.clerk",)
_early: dict[tuple[str, ...], Helper] = {}


def start_early() -> None:
    """Start the helpers of the run that is about to come; where that fails, the run will say so."""
    with contextlib.suppress(OSError):
        _os.allow_descriptors()
        for command, packets in ((FORKSERVER, True), (CLERK, False)):
            _early[command] = Helper(*command, packets=packets)


def take(command: tuple[str, ...], *, packets: bool, stdin: int = subprocess.DEVNULL, nice: int = 0) -> Helper:
    """Give a helper that runs `command`: the early one, or a new one where that would have another `stdin`."""
    early = _early.pop(command, None)
    if early and stdin == subprocess.DEVNULL:
        _os.be_nice(early.pid, nice)
        return early
    if early:
        _end(early)
    return Helper(*command, packets=packets, stdin=stdin, nice=nice)


def end_early() -> None:
    """End the helpers that no run has taken."""
    for command in list(_early):
        _end(_early.pop(command))


def _end(helper: Helper) -> None:
    helper.kill()
    helper.wait()
    helper.close()
