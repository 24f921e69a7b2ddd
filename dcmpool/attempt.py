"""One attempt at one file in one child, as a run makes it, and what it came to; the result is thrown away.

    parent (this command) --Assign, Grant--> child; <-- Wants, the end; on its board: Inspected

Nothing is left behind, however it ends: no process, no file.

For `python -m dcmpool attempt FILE`, with which the evidence of a death can be repeated.
"""

import contextlib
import faulthandler
import importlib
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from dcmpool import _os, diagnose
from dcmpool.board import inspected_on, new_board, stage_on
from dcmpool.config import MIB
from dcmpool.engines import ENGINE_NAMES
from dcmpool.errors import UsageError
from dcmpool.protocol import (
    FROM_WORKER,
    TO_WORKER,
    Assign,
    Failed,
    Grant,
    Left,
    Message,
    Ready,
    Wants,
    Written,
)

_JOB = 1
_GRACE_SECONDS = 0.2
_LOOK_SECONDS = 0.1


def attempt(file: Path, *, engine: str, limit_seconds: float, memory_mib: int) -> int:
    """Make one attempt, print what happens, and return an exit code: 0 if there was a result, else 1.

    Raises
    ------
    UsageError
        There is no such engine.
    """
    if engine and engine not in ENGINE_NAMES:
        raise UsageError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINE_NAMES)}")
    ours, theirs = socket.socketpair()
    board, output = new_board(), _os.sealed_memory("output", _os.OUTPUT_BYTES)
    with _ended_by_signals(), ours, theirs, tempfile.TemporaryDirectory(prefix="dcmpool-") as folder:
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            _os.die_with_parent(parent)
            _become_worker(theirs.detach(), board, output, memory_mib, Path(folder))
        theirs.close()
        try:
            _say(ours, _order(file, folder, engine, 2 * limit_seconds))
            return _follow(ours, board, pid, limit_seconds)
        finally:
            for kill in (os.kill, os.killpg):  # the child, and what it has started; at first it has no group of its own
                with contextlib.suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            sys.stderr.write(_os.read_output(output))
            os.close(board)
            os.close(output)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end this process as Ctrl-C does: by an exception, after which all is cleared away."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)  # as a shell has it

    heeded = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _order(file: Path, folder: str, engine: str, alarm_seconds: float) -> Assign:
    return Assign(
        job=_JOB, attempt=1, source=os.fsencode(file.absolute()), temp=os.fsencode(os.path.join(folder, "result")),
        engine=engine, tried=(), skip_others=False, in_place=False, durable=True, alarm_seconds=alarm_seconds,
        granted_bytes=0, granted_writer=False,
    )  # fmt: skip


def _become_worker(channel: int, board: int, output: int, memory_mib: int, scratch: Path) -> None:
    """Be the child, in a session of its own.

    What it prints is shown later, and SIGTERM makes it print its stack, whoever holds the lock.
    """
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, chain=True)
    _os.set_limits(memory_mib * MIB)
    os.environ["TMPDIR"] = str(scratch / "scratch")
    code = 1
    try:
        importlib.import_module("dcmpool.worker").serve_child(channel, board)  # the codecs are the child's business
        code = 0
    except Exception:  # noqa: BLE001 - the border of a process: shown, and the end
        traceback.print_exc()
    finally:
        os._exit(code)


def _follow(channel: socket.socket, board: int, pid: int, limit_seconds: float) -> int:
    """Answer what the child asks until it ends, or its time does."""
    reader = FROM_WORKER.reader()
    begun = time.monotonic()
    introduced = False
    while True:
        left = begun + limit_seconds - time.monotonic()
        is_ready = select.select([channel], [], [], min(max(0.0, left), _LOOK_SECONDS))[0]
        introduced = introduced or _introduce(board)
        if left <= 0 and (not is_ready or left < -_GRACE_SECONDS):  # what it says just then still counts
            return _end_it(board, pid, limit_seconds)
        if not is_ready:
            continue
        data = _hear(channel)
        if not data:
            print(f"the child ended by itself, in {stage_on(board)}, after {time.monotonic() - begun:.2f} s")
            return 1
        for message in reader.feed(data):
            match message:
                case Ready():
                    pass
                case Wants():
                    _say(channel, Grant(message.job, 2 * limit_seconds))
                case Failed() | Left():
                    print(f"{getattr(message, 'kind', 'nothing to do')}: {message.reason}")
                    return int(isinstance(message, Failed))
                case Written():
                    print(f"{message.outcome}: {message.size:,} bytes, {message.seconds:.3f} s")
                    return 0


def _introduce(board: int) -> bool:
    """Say what the file is and what will decode it, as soon as the child shows it."""
    found = inspected_on(board, _JOB)
    if found is None:
        return False
    engine = found.engine or "no engine"
    print(f"{found.transfer_syntax_uid}, {found.native_bytes:,} bytes native, {engine}", flush=True)
    return True


def _say(channel: socket.socket, message: Message) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which the end of the stream will say
        channel.sendall(TO_WORKER.encode(message))


def _hear(channel: socket.socket) -> bytes:
    try:
        return channel.recv(65536)
    except ConnectionResetError:  # it died before it had read all
        return b""


def _end_it(board: int, pid: int, limit_seconds: float) -> int:
    """Say what holds the child up, have it print its stack, and leave it to be killed."""
    stage = stage_on(board)
    before = diagnose.examine(pid)
    print(f"no result within {limit_seconds:g} s, in {stage}: {diagnose.cause(before, stage)}; {before.text()}")
    sys.stdout.flush()
    os.kill(pid, signal.SIGTERM)
    pidfd = os.pidfd_open(pid)
    select.select([pidfd], [], [], _GRACE_SECONDS)
    os.close(pidfd)
    return 1
