"""The user's end of `dcmpool status` and `dcmpool control`: asks the run that works on a TARGET."""

import contextlib
import json
import os
import socket
import struct

import msgspec

from dcmpool import rundir
from dcmpool.control import Answer, Request
from dcmpool.errors import DcmpoolError, UsageError
from dcmpool.text import shown

_PATIENCE_SECONDS = 10


def ask(target: str, request: Request) -> Answer:
    """Return what the run on TARGET answers.

    Raises
    ------
    UsageError
        No run of this user works on it.
    DcmpoolError
        The run does not answer: it is stopped (Ctrl-Z), or has just ended.
    """
    path = os.fsencode(os.path.realpath(target))
    try:
        with _connected(path) as channel:
            channel.sendall(msgspec.json.encode(request) + b"\n")
            said = b"".join(iter(lambda: channel.recv(1 << 16), b""))
        return msgspec.convert(json.loads(said), Answer)
    except (OSError, ValueError) as error:
        raise DcmpoolError(f"the run on {shown(path)} does not answer; if it is stopped, wake it (fg)") from error


def _connected(target: bytes) -> socket.socket:
    name = rundir.socket_name(target)
    for directory in rundir.directories():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError, ConnectionRefusedError):
            rundir.check(directory)
            return _connect(directory, name)
    raise UsageError(f"no run works on {shown(target)}")


def _connect(directory: str, name: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _PATIENCE_SECONDS, 0))  # of connect too
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        channel.connect(rundir.through(descriptor, name))
    except OSError:
        channel.close()
        raise
    finally:
        os.close(descriptor)
    channel.settimeout(_PATIENCE_SECONDS)
    return channel
