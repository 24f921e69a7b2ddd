"""A worker that misbehaves, for real, when the file it is given is named for it (`segfault.dcm`); else the real one.

Used as the module of the children of a real supervisor; each behaviour is what a codec or a file can bring about.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dcmpool import engines
from dcmpool.board import Board
from dcmpool.errand import Channel
from dcmpool.model import FailureKind, Outcome, Stage
from dcmpool.protocol import FROM_WORKER, Assign, Check, Failed, Ready, Wants, Written
from dcmpool.worker import errand

_HOLDING_THE_GIL = ctypes.PyDLL(None)  # unlike CDLL, it keeps the lock while the C function runs


def hang() -> None:
    """Hang in C code that holds the GIL, as a codec of python-gdcm does."""
    while True:
        _HOLDING_THE_GIL.pause()


def spin() -> None:
    """Spin in C code that holds the GIL."""
    buffer = ctypes.create_string_buffer(b" " * (64 << 20))
    while True:
        _HOLDING_THE_GIL.strspn(buffer, b" ")


def segfault(channel: Channel, order: Assign) -> None:
    ctypes.string_at(0)


def hang_in_c(channel: Channel, order: Assign) -> None:
    hang()


def spin_in_c(channel: Channel, order: Assign) -> None:
    spin()


def ignore_sigterm(channel: Channel, order: Assign) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    hang()


def stop_itself(channel: Channel, order: Assign) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def exit_quietly(channel: Channel, order: Assign) -> None:
    os._exit(0)


def exit_with_code(channel: Channel, order: Assign) -> None:
    os._exit(3)


def abort(channel: Channel, order: Assign) -> None:
    os.abort()


def kill_itself(channel: Channel, order: Assign) -> None:
    """As the out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_parent(channel: Channel, order: Assign) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    hang()


def garbage(channel: Channel, order: Assign) -> None:
    channel._socket.sendall(b"\x00\x00\x00\x08GARBAGE!")
    hang()


def half_a_frame(channel: Channel, order: Assign) -> None:
    channel._socket.sendall(FROM_WORKER.encode(_written(order))[:20])
    hang()


def huge_message(channel: Channel, order: Assign) -> None:
    channel._socket.sendall(b"\x7f\xff\xff\xff" + bytes(1000))
    hang()


def wrong_id(channel: Channel, order: Assign) -> None:
    channel.send(Failed(order.job + 1, FailureKind.CORRUPT, "of another job", Stage.DECODE, "gdcm"))
    hang()


def ready_again(channel: Channel, order: Assign) -> None:
    channel.send(Ready())
    hang()


def wants_everything(channel: Channel, order: Assign) -> None:
    """Ask for more than there is, again and again, and never work."""
    while True:
        channel.send(Wants(order.job, bytes=1 << 50))
        channel.receive()


def lie(channel: Channel, order: Assign) -> None:
    """Claim a result that is not there."""
    channel.send(_written(order))


def close_channel(channel: Channel, order: Assign) -> None:
    channel._socket.close()
    hang()


def flood(channel: Channel, order: Assign) -> None:
    """Print 100 MB from C, then do the job."""
    line = b"warning: this file is odd\n" * 4000
    for _ in range(1000):
        for fd in (1, 2):
            try:
                os.write(fd, line)
            except PermissionError:
                break
    _do(channel, order)


def grandchild(channel: Channel, order: Assign) -> None:
    """Leave a process behind that is in a session of its own, then do the job."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    _do(channel, order)


def grandchild_and_crash(channel: Channel, order: Assign) -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    os.abort()


def eat_memory(channel: Channel, order: Assign) -> None:
    """Have the engine take all the memory it can."""

    def decode(*_: object) -> list[bytes]:
        eaten = []
        while True:
            eaten.append(b"x" * (64 << 20))

    honest = engines.decode
    engines.decode = decode  # type: ignore[assignment]  # the engine of this child is a bad one
    try:
        _do(channel, order)
    finally:
        engines.decode = honest


def half_a_file(channel: Channel, order: Assign) -> None:
    """Die in the middle of writing."""
    Path(os.fsdecode(order.temp)).write_bytes(b"half")
    os.abort()


def slow_write(channel: Channel, order: Assign) -> None:
    """Hold a writer's place until another file has been finished, then do the job."""
    released = Path(os.fsdecode(order.source)).with_name("released")
    honest = os.fsync

    def fsync(fd: Any) -> None:
        os.close(os.open(released, os.O_RDONLY))  # a FIFO: waits until the test opens its other end
        honest(fd)

    os.fsync = fsync
    try:
        _do(channel, order)
    finally:
        os.fsync = honest


def wrong_picture(channel: Channel, order: Assign | Check) -> None:
    """Have the engine give a wrong picture without a word; the second opinion is honest."""
    if isinstance(order, Check):
        return _do(channel, order)
    honest = engines.decode

    def decode(*arguments: Any) -> Iterator[bytes]:
        for frame in honest(*arguments):
            yield bytes([frame[0] ^ 1]) + bytes(frame[1:])

    engines.decode = decode  # type: ignore[assignment]  # as above
    try:
        _do(channel, order)
    finally:
        engines.decode = honest


def crash_at_check(channel: Channel, order: Assign | Check) -> None:
    """Make a good result, and die each time that an opinion on it is asked for."""
    if isinstance(order, Check):
        os.abort()
    _do(channel, order)


def last_gasp(channel: Channel, order: Assign) -> None:
    """Die of what a job left behind, when it is over and told."""
    _do(channel, order)
    os.abort()


BEHAVIOURS: dict[str, Callable[[Channel, Any], None]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        segfault, hang_in_c, spin_in_c, ignore_sigterm, stop_itself, exit_quietly, exit_with_code, abort, kill_itself,
        kill_parent, garbage, half_a_frame, huge_message, wrong_id, ready_again, wants_everything, lie, close_channel,
        flood, grandchild, grandchild_and_crash, eat_memory, half_a_file, slow_write, wrong_picture,
        crash_at_check, last_gasp,
    )
}  # fmt: skip


def _written(order: Assign) -> Written:
    return Written(order.job, Outcome.DECOMPRESSED, "gdcm", "1.2", 1, 1, 1, 1, 1, "00", 0.1, 0.1)


def _do(channel: Channel, order: Assign | Check) -> None:
    channel.send(errand(order, channel, Board(_board)).run())


_board = -1


def serve_child(channel_fd: int, board: int) -> None:
    """Do jobs as the real worker does, but for those whose file names a behaviour."""
    global _board  # noqa: PLW0603 - one child, one board
    _board = board
    channel = Channel(channel_fd)
    channel.send(Ready())
    while (order := channel.receive()) is not None:
        behaviour = BEHAVIOURS.get(Path(os.fsdecode(order.source)).stem)
        if behaviour:
            behaviour(channel, order)
        else:
            _do(channel, order)
