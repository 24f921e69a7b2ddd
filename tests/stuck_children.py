"""Children that get stuck for real, each in another way, when their file is named for it: while they decode, mostly."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dcmpool import engines, survey, worker
from dcmpool.instance import inspect
from tests import children


def spin(*_: Any) -> list[bytes]:
    """Spin in C with the GIL held."""
    children.spin()
    return []


def full_pipe(*_: Any) -> list[bytes]:
    """Write to a pipe that nobody drains."""
    write = os.pipe()[1]
    while True:
        os.write(write, bytes(4096))


def lock(*_: Any) -> list[bytes]:
    """Wait for a lock that nobody releases."""
    held = threading.Lock()
    held.acquire()
    held.acquire()
    return []


def stop(*_: Any) -> list[bytes]:
    """Be stopped, as by a debugger."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return []


def wait(*_: Any) -> list[bytes]:
    """Wait for what never comes, and is neither a lock nor storage."""
    time.sleep(1000)
    return []


def program(*_: Any) -> list[bytes]:
    """Wait for a program that spins."""
    subprocess.run([sys.executable, "-c", "while True: pass"], check=True)
    return []


def refused_memory(*_: Any) -> list[bytes]:
    """Call operator new of C++ as a library does that catches nothing: it throws, and that ends the process."""
    new = ctypes.CDLL("libstdc++.so.6")._Znwm
    new.argtypes = [ctypes.c_size_t]
    new(1 << 40)
    return []


STUCK = {function.__name__: function for function in (spin, stop, wait, full_pipe, lock, program, refused_memory)}


def serve_child(channel_fd: int, board: int) -> None:
    """Do jobs as the real worker does, but for the decoding of files that name a way to get stuck."""
    honest = engines.decode

    def decode(name: str, instance: Any, source: Any, scratch: Path) -> Any:
        stem = Path(os.readlink(f"/proc/self/fd/{source.fd}")).stem
        stuck = STUCK.get(stem.removesuffix(f"_with_{name}"))
        return stuck() if stuck else honest(name, instance, source, scratch)

    def inspected(source: Any, **how: bool) -> Any:
        stem = Path(os.readlink(f"/proc/self/fd/{source.fd}")).stem
        if stem == "spin_in_the_header":
            children.spin()
        if stem == "crash_in_the_header":
            os.abort()
        return inspect(source, **how)

    engines.decode = decode
    for module in (worker, survey):
        setattr(module, "inspect", inspected)  # noqa: B010 - mypy
    worker.serve_child(channel_fd, board)
