"""Where the journal of a TARGET lies: in TARGET/.dcmpool; on this machine, if TARGET is on a network; or elsewhere.

SQLite's write-ahead log needs memory that all of its users share (https://sqlite.org/wal.html), which a network does
not give; and each of its syncs would be one more way to the server and back.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final
from urllib.parse import quote

import msgspec

from dcmpool import _os
from dcmpool.errors import UsageError
from dcmpool.model import STATE_DIRECTORY, Purpose
from dcmpool.protocol import Open
from dcmpool.text import shown, words

NAME: Final = b"journal.sqlite"
NFS: Final = frozenset(("nfs", "nfs4"))
SMB: Final = frozenset(("cifs", "smb3", "smbfs"))
_CLUSTER: Final = frozenset(("afs", "beegfs", "ceph", "coda", "gpfs", "lustre", "ncpfs", "orangefs"))
_VIRTUAL: Final = frozenset(("9p", "drvfs", "vboxsf", "fuse.vmhgfs-fuse"))
_FUSE_NET = ("sshfs", "rclone", "s3fs", "gcsfuse", "glusterfs", "ceph-fuse", "curlftpfs", "juicefs")
NETWORK: Final = NFS | SMB | _CLUSTER | _VIRTUAL | {f"fuse.{name}" for name in _FUSE_NET}
"""Types of file systems (proc(5), mountinfo) behind which there is another machine."""
_TABLES: Final = {"files", "intents", "begun", "runs"}


class Place(msgspec.Struct, frozen=True):
    """The journal's file, and what the user should be told of it ("" if nothing)."""

    path: bytes
    notice: str = ""


def journal_of(target: bytes, *, chosen: bytes, is_there: bool, file_system: str, state_home: bytes) -> bytes:
    """Return the path of the journal of a TARGET, an absolute path without links. Pure.

    `chosen`: the user's own, or b"". `is_there`: whether TARGET/.dcmpool has one, which stays in use wherever that is.
    `file_system`: the type of TARGET's. `state_home`: the user's directory for state.
    """
    inside = os.path.join(target, STATE_DIRECTORY, NAME)
    if chosen:
        return chosen
    if is_there or file_system not in NETWORK:
        return inside
    return os.path.join(state_home, b"dcmpool", blake2b(target, digest_size=12).hexdigest().encode(), NAME)


def find(target: bytes, chosen: bytes = b"") -> Place:
    """Return the place of the journal of a TARGET, which need not exist yet.

    Raises
    ------
    OSError
        As the storage gives it.
    """
    real = os.path.realpath(target)
    kind = _os.file_system(existing(real))
    path = journal_of(
        real,
        chosen=chosen,
        is_there=os.path.lexists(os.path.join(real, STATE_DIRECTORY, NAME)),
        file_system=kind,
        state_home=_state_home(),
    )
    if chosen or os.path.join(real, b"") in path:
        return Place(path)
    return Place(path, f"the target is on a network ({kind}): its journal is kept on this machine, in {shown(path)}")


def check(place: Place, order: Open, target: bytes) -> None:
    """Raise `UsageError` if what lies at a place is no journal of this TARGET, or if none may lie there."""
    if _is_own(place.path, target):
        return
    _refuse_among_files(place.path, order.source, target)
    _refuse_other_file(place.path, os.R_OK if order.purpose is Purpose.AUDIT else os.R_OK | os.W_OK)
    if order.purpose is Purpose.AUDIT or not order.overwrite:
        _refuse_other_target(place.path, target, order.purpose)


@contextlib.contextmanager
def made(place: Place, order: Open, target: bytes) -> Iterator[None]:
    """Make the journal's directory, and take it away again if the block fails.

    Raises
    ------
    UsageError
        The journal cannot be there; nothing was written.
    """
    path = place.path
    if _is_own(path, target):
        yield  # who makes TARGET makes it
        return
    check(place, order, target)
    new: list[bytes] = []
    try:
        make_directories(os.path.dirname(path), new, mode=0o700 if place.notice else 0o777)
    except OSError as error:
        _remove(new)
        raise UsageError(f"the journal cannot be made: {shown(path)}: {words(error)}") from error
    try:
        if order.purpose is Purpose.RUN:
            _demand_writable(os.path.dirname(path))
        yield
    except BaseException:
        _remove(new)
        raise


def make_directories(path: bytes, new: list[bytes], mode: int = 0o777) -> None:
    """Make a directory and those missing above it, and add to `new` those that nobody else made meanwhile."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, mode)
            new.append(directory)


def existing(path: bytes) -> bytes:
    """Return a path, or the first one above it that exists."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def is_inside(path: bytes, directory: bytes) -> bool:
    """Whether a path is a directory or lies below it; both absolute and without links."""
    return path == directory or path.startswith(os.path.join(directory, b""))


def read_only(path: bytes) -> str:
    """Return the address by which SQLite opens a journal and writes nothing, not even beside it (sqlite.org/uri.html).

    A write-ahead log that a dead run left is read with it, and needs the index that lies there too.
    """
    log = path + b"-wal"
    is_whole = not os.path.exists(log) or not os.path.getsize(log)
    return f"file:{quote(path)}?mode=ro&" + ("immutable=1" if is_whole else "readonly_shm=1")


def _state_home() -> bytes:
    chosen = os.environb.get(b"XDG_STATE_HOME", b"")  # XDG Base Directory: to be passed over if relative
    return chosen if os.path.isabs(chosen) else os.path.join(os.path.expanduser(b"~"), b".local", b"state")


def _real(path: bytes) -> bytes:
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _is_own(path: bytes, target: bytes) -> bool:
    return _real(path) == os.path.join(os.path.realpath(target), STATE_DIRECTORY, NAME)


def _demand_writable(directory: bytes) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UsageError(f"the journal's directory cannot be written: {shown(directory)}")


def _refuse_among_files(path: bytes, source: bytes, target: bytes) -> None:
    """A journal among the files of SOURCE would be taken for one of them, or a result would get its name."""
    for name, directory in (("source", source), ("target", target)):
        if directory and is_inside(_real(path), os.path.realpath(directory)):
            raise UsageError(f"the journal {shown(path)} would lie inside the {name}: choose a place outside of it")


def _refuse_other_file(path: bytes, access: int) -> None:
    if not os.path.lexists(path):
        return
    if not os.path.isfile(path):
        raise UsageError(f"the journal is not a file: {shown(path)}")
    if not os.access(path, access):
        raise UsageError(f"the journal cannot be {'written' if access & os.W_OK else 'read'}: {shown(path)}")
    tables = {name for (name,) in _selected(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and not tables >= _TABLES:
        raise UsageError(f"{shown(path)} is not a journal of dcmpool, but some other database")


def _refuse_other_target(path: bytes, target: bytes, purpose: Purpose) -> None:
    """A journal outside of its TARGET says nothing about another one."""
    found = _selected(path, "SELECT target FROM runs ORDER BY number DESC LIMIT 1") if os.path.exists(path) else []
    for (other,) in found:
        if not isinstance(other, bytes) or os.path.realpath(other) == os.path.realpath(target):
            continue
        what = f"the journal {shown(path)} is of the target {shown(other)}"
        if purpose is Purpose.RUN:
            raise UsageError(f"{what}: choose another one, or say with --overwrite that this target takes its place")
        if os.path.lexists(other):  # else it was moved, and may well be this one
            raise UsageError(f"{what}: name that target, or the journal of this one")


def _selected(path: bytes, query: str) -> list[tuple[object, ...]]:
    try:
        with contextlib.closing(sqlite3.connect(read_only(path), uri=True)) as database:
            return database.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []  # no such table yet, or its storage: whoever opens it to write will say
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{shown(path)} is not a journal of dcmpool: {error}") from error


def _remove(directories: list[bytes]) -> None:
    for directory in reversed(directories):
        with contextlib.suppress(OSError):  # another run may have come in
            os.rmdir(directory)
