"""The process that writes the event stream: what blocks in a file, a FIFO or a terminal blocks here.

    supervisor --lines, as bytes--> scribe --> a file, a FIFO, the standard output of the run
               <--OPENED, or what went wrong--

It ends with its stream, and is killed with the run: a reader that does not read keeps nobody.
"""

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Iterable

from dcmpool import _os
from dcmpool.errors import UsageError
from dcmpool.text import words

OPENED = b"+"
"""What it says first if the stream can be written; else it says why not, as UTF-8, and ends."""
STDIN = "-"
"""Instead of a path: the stream is what this process has as its standard input."""
_START = b'{"event": "'
"""How each line begins."""
_READ_BYTES = 1 << 16


def open_stream(path: bytes, trees: Iterable[bytes] = ()) -> int:
    """Open a file for what is added at its end. A line that a killed run left unfinished is ended before.

    `trees`: SOURCE, TARGET and where originals are kept; a file in one of them would be taken for one of its own, or
    what comes there get its name.

    Raises
    ------
    UsageError
        It lies in one of these, or it is a file that holds something else; neither it nor anything else is written.
    OSError
        It cannot be opened or written.
    """
    _refuse_among_files(path, trees)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_size:
        if not _START.startswith(os.pread(fd, len(_START), 0)):
            raise UsageError("it holds something else, which would be damaged: choose another file")
        if os.pread(fd, 1, found.st_size - 1) != b"\n":
            os.write(fd, b"\n")
    return fd


def _refuse_among_files(path: bytes, trees: Iterable[bytes]) -> None:
    """Neither the name itself, which may be a link, nor the file that it leads to may lie there."""
    if os.path.exists(path) and not os.path.isfile(path):
        return  # a device, or what cannot be opened
    named = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    for tree in map(os.path.realpath, trees):
        if tree in (os.path.commonpath((tree, real)) for real in (named, os.path.realpath(path))):
            raise UsageError("it lies in the source or the target, or among what is kept aside: choose another place")


def copy(channel: socket.socket, fd: int) -> None:
    """Write all that comes; raise `OSError` when that does not go."""
    while data := channel.recv(_READ_BYTES):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    os.close(fd)  # network file systems say here what they could not write


def _serve(channel: socket.socket, to: str, trees: Iterable[bytes]) -> None:
    path = os.fsencode(to)
    if to == STDIN:
        channel.sendall(OPENED)
        copy(channel, 0)
    elif os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
        channel.sendall(OPENED)
        copy(channel, os.open(path, os.O_WRONLY | os.O_CLOEXEC))  # waits until somebody reads
    else:
        fd = open_stream(path, trees)
        channel.sendall(OPENED)
        copy(channel, fd)


def main() -> None:
    """Write to a path, or to stdin. Arguments: the socket, the parent's pid, that path, the trees to keep out of."""
    channel, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    _os.die_with_parent(parent)
    try:
        _serve(channel, sys.argv[3], [os.fsencode(tree) for tree in sys.argv[4:]])
    except (OSError, UsageError) as error:
        with contextlib.suppress(OSError):
            channel.sendall(words(error).encode())
