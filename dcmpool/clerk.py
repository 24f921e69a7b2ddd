"""The clerk: the one trusted child that touches SOURCE's and TARGET's names, and parses no DICOM.

    supervisor --Open--> checks, lock, journal --Opened/Refused-->
               --More--> [thread] walk SOURCE, drop what is settled --Found/Noted/Earlier/Scanned-->
               --Commit, Settle, Begin, Discard--> rename, sync, journal --Committed-->
               --Finish--> --Finished-->

What may block in the kernel blocks here, not in the supervisor. Walking and committing are two threads, so
that a SOURCE that does not answer does not stop commits. All that came in one read is one transaction.
"""

import contextlib
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from dcmpool import _os
from dcmpool.commit import Target, is_as_written
from dcmpool.errors import DcmpoolError, UsageError
from dcmpool.journal import Journal, Row
from dcmpool.model import FailureKind, Outcome
from dcmpool.protocol import (
    BATCH,
    FROM_CLERK,
    TO_CLERK,
    Begin,
    Commit,
    Committed,
    Discard,
    Earlier,
    Finish,
    Finished,
    Found,
    Item,
    Keep,
    Message,
    More,
    Noted,
    Open,
    Opened,
    Refused,
    Scanned,
    Settle,
    Stopped,
)
from dcmpool.scan import File, Note, look, walk
from dcmpool.text import shown

_READ_BYTES = 1 << 20
_FLUSH_SECONDS = 0.02
"""How long a file found waits for others to make a batch."""


class Clerk:
    """One run's clerk: `serve` is its life."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._credit = threading.Semaphore(0)
        self._committing = threading.Lock()

    def serve(self) -> None:
        """Do what the supervisor asks until it says `Finish` or is gone."""
        reader = TO_CLERK.reader()
        while data := self._channel.recv(_READ_BYTES):
            try:
                if self._handle(reader.feed(data)):
                    return
            except (OSError, sqlite3.Error) as error:
                self._send(Stopped(f"the target's state cannot be written: {_words(error)}", fatal=True))
                return

    def _handle(self, messages: list[Message]) -> bool:
        """Do all that came in one read; return whether the run is over."""
        if any(isinstance(message, Open) and not self._open(message) for message in messages):
            return True
        for jobs in (message.jobs for message in messages if isinstance(message, More) and message.jobs):
            self._credit.release(jobs)
        results = [result for m in messages if isinstance(m, Commit) for result in m.results]
        endings = [ending for m in messages if isinstance(m, Settle) for ending in m.endings]
        begun = [attempt for m in messages if isinstance(m, Begin) for attempt in m.attempts]
        if begun:
            self._journal.begin(begun)
        with self._committing:
            if results:
                done, failures = self._target.commit(results, self._journal)
                self._send(Committed(tuple(done), tuple(failures)))
            if endings:
                self._journal.settle((), endings)
                self._send(Committed(tuple(ending.job for ending in endings)))
        for name in (name for m in messages if isinstance(m, Discard) for name in m.names):
            self._target.discard(name)
        for message in messages:
            if isinstance(message, Keep):
                self._target.keep(message.name, message.files, message.copy)
            if isinstance(message, Finish):
                self._finish(message)
                return True
        return False

    def _open(self, order: Open) -> bool:
        """Check, lock and open; begin to walk. Return whether the run can begin."""
        try:
            self._target = _prepare(order)
            self._lock = _os.lock_file(os.path.join(self._target.state, b"lock"))
            journal = os.path.join(self._target.state, b"journal.sqlite")
            self._journal = Journal(journal, order.run, order.judge)
            try:
                self._check_source(order)
                self._target.recover(self._journal)
                self._target.sweep(order.run.encode())
                self._journal.begin_run(_base(order), self._target.root)
            except BaseException:
                self._journal.close()
                raise
        except (DcmpoolError, OSError, sqlite3.Error) as error:
            code = error.exit_code if isinstance(error, DcmpoolError) else UsageError.exit_code
            self._send(Refused(_one_line(error, order), code))
            return False
        self._send(Opened(_base(order), self._target.root))
        walker = _Walker(order, self._target, journal, self._send, self._credit, self._committing)
        threading.Thread(target=walker.run, name="walk", daemon=True).start()
        return True

    def _check_source(self, order: Open) -> None:
        """Raise `UsageError` if TARGET holds the results of another SOURCE: names would be taken for each other.

        A SOURCE that was moved together with its TARGET is the same.
        """
        earlier = self._journal.directories()
        if earlier is None or order.overwrite:
            return
        source, target = earlier
        way = os.path.relpath(_base(order), self._target.root)
        if _base(order) == source or way == os.path.relpath(source, target):
            return
        raise UsageError(
            f"the target {shown(self._target.root)} holds results of {shown(source)}: "
            "choose another target, or say with --overwrite that this source takes its place"
        )

    def _finish(self, order: Finish) -> None:
        self._journal.end_run(order.exit_code, complete=order.complete)
        self._journal.close()
        with contextlib.suppress(OSError):
            os.rmdir(self._target.temp)
        self._send(Finished())

    def _send(self, message: Message) -> None:
        with self._sending:
            self._channel.sendall(FROM_CLERK.encode(message))


class _Walker:
    """The walking thread: SOURCE in, jobs out, no further ahead than the supervisor allows."""

    def __init__(
        self,
        order: Open,
        target: Target,
        journal: bytes,
        send: Callable[[Message], None],
        credit: threading.Semaphore,
        committing: threading.Lock,
    ) -> None:
        self._order = order
        self._target = target
        self._journal_path = journal
        self._send = send
        self._credit = credit
        self._committing = committing
        self._items: list[Item] = []
        self._files = self._bytes = self._settled = 0
        self._flushed = time.monotonic()

    def run(self) -> None:
        try:
            with closing(Journal(self._journal_path, self._order.run, self._order.judge)) as self._journal:
                for found in self._paths():
                    self._take(found)
                    if len(self._items) >= BATCH or time.monotonic() - self._flushed > _FLUSH_SECONDS:
                        self._flush()
                self._flush()
            self._report(complete=True)
        except (OSError, sqlite3.Error, DcmpoolError) as error:
            self._send(Stopped(f"the source cannot be walked: {_words(error)}", fatal=False))

    def _paths(self) -> Iterator[File | Note]:
        if not self._order.files_from:
            return walk(self._order.source, in_place=self._order.in_place)
        return self._listed()

    def _listed(self) -> Iterator[File | Note]:
        """Yield the paths of a list, one a line, relative to SOURCE or inside it."""
        seen: set[bytes] = set()
        base = _base(self._order)
        with open(self._order.files_from, "rb") as lines:
            for line in lines:
                path = line.rstrip(b"\r\n")
                full = os.path.normpath(os.path.join(base, path))
                relative = os.path.relpath(full, base)
                if not path or relative in seen:
                    continue
                seen.add(relative)
                if relative == b"." or relative.startswith(b"../"):
                    yield Note(path, FailureKind.READ, "the list names a path that is not a file inside the source")
                    continue
                found = look(full, relative, in_place=self._order.in_place)
                yield (
                    found
                    if not isinstance(found, tuple)
                    else Note(relative, FailureKind.READ, "a directory, not a file")
                )

    def _take(self, found: File | Note) -> None:
        if isinstance(found, Note):
            self._send(Noted(found.path, found.kind, found.reason))
            return
        self._files += 1
        self._bytes += found.size
        row = self._journal.find(found.path)
        if row is not None and row.run == self._order.run:
            return  # an earlier clerk of this run has settled it, and the supervisor has counted it
        if row is not None and self._is_settled(found, row):
            self._settled += row.kind is None
            if row.kind is not None:
                self._send(Earlier(row.ending()))
            return
        if not self._credit.acquire(blocking=False):
            self._flush()
            self._credit.acquire()
        obstacle = self._target.obstacle(found.path, row)
        interruptions = self._journal.interruptions(found.path)
        self._items.append(Item(found.path, found.size, found.mtime_ns, interruptions, obstacle))

    def _is_settled(self, found: File, row: Row) -> bool:
        """Whether a file needs nothing more: same source, a final outcome, and the result stands as written."""
        if self._order.in_place and (found.size, found.mtime_ns) == (row.result_size, row.result_mtime_ns):
            return True
        if (found.size, found.mtime_ns) != (row.size, row.mtime_ns) or row.outcome is Outcome.SKIPPED:
            return False
        if row.kind is not None:
            return self._journal.is_content(row)
        if row.result_size is None:
            return self._order.in_place
        try:
            return is_as_written(os.lstat(self._target.final(found.path)), row)
        except OSError:
            return False

    def _flush(self) -> None:
        if self._order.again:
            with self._committing:
                self._drop_settled()
                self._send_items()
        else:
            self._send_items()
        self._report(complete=False)
        self._flushed = time.monotonic()

    def _drop_settled(self) -> None:
        """Drop what was committed since the walk met it; in the lock, so that no acknowledgement overtakes this."""
        rows = ((item, self._journal.find(item.path)) for item in self._items)
        left = [item for item, row in rows if row is None or row.run != self._order.run]
        if len(left) < len(self._items):
            self._credit.release(len(self._items) - len(left))
        self._items = left

    def _send_items(self) -> None:
        if self._items:
            self._send(Found(tuple(self._items)))
            self._items.clear()

    def _report(self, *, complete: bool) -> None:
        self._send(Scanned(self._files, self._bytes, self._settled, complete))


def _prepare(order: Open) -> Target:
    """Check SOURCE against TARGET and make TARGET/.dcmpool/tmp.

    Raises
    ------
    UsageError
        SOURCE or TARGET cannot be used; nothing was written.
    """
    source, target = os.path.realpath(order.source), os.path.realpath(order.target)
    if not os.path.exists(source):
        raise UsageError(f"no such file or directory: {shown(order.source)}")
    if not os.path.isdir(source) and not os.path.isfile(source):
        raise UsageError(f"neither a directory nor a file: {shown(order.source)}")
    if os.path.isdir(source) and not os.access(source, os.R_OK | os.X_OK):
        raise UsageError(f"the source cannot be read: {shown(order.source)}: Permission denied")
    if order.files_from and (os.path.isdir(order.files_from) or not os.access(order.files_from, os.R_OK)):
        raise UsageError(f"the list of files cannot be read: {shown(order.files_from)}")
    if not order.in_place:
        _refuse_overlap(source, target, shown(order.source), shown(order.target))
    root = _base(order) if order.in_place else os.path.abspath(order.target)
    result = Target(root, order.in_place, order.overwrite, order.durable)
    _make_writable(result, shown(root))
    return result


def _base(order: Open) -> bytes:
    """Return the directory to which paths are relative."""
    return order.source if os.path.isdir(order.source) else os.path.dirname(order.source)


def _refuse_overlap(source: bytes, target: bytes, source_name: str, target_name: str) -> None:
    if source == target:
        raise UsageError(f"source and target are the same: {source_name}. --in-place replaces the files there")
    if target.startswith(source.rstrip(b"/") + b"/"):
        raise UsageError(f"the target {target_name} lies inside the source {source_name}: choose one beside it")
    if source.startswith(target.rstrip(b"/") + b"/"):
        raise UsageError(f"the source {source_name} lies inside the target {target_name}: choose one beside it")


def _make_writable(target: Target, name: str) -> None:
    """Make the temp folder, or raise with nothing left behind."""
    if os.path.lexists(target.root) and not os.path.isdir(target.root):
        raise UsageError(f"the target is not a directory: {name}")
    missing = []
    path = target.temp
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    probe = os.path.join(target.temp, b"probe")
    made = []
    try:
        for directory in reversed(missing):
            os.mkdir(directory)
            made.append(directory)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
        target.sync({os.path.dirname(directory) for directory in made})
    except OSError as error:
        for directory in reversed(made):
            os.rmdir(directory)
        raise UsageError(f"the target cannot be written: {name}: {error.strerror}") from error


def _one_line(error: Exception, order: Open) -> str:
    if isinstance(error, DcmpoolError):
        return str(error)
    return f"the target cannot be used: {shown(order.target)}: {_words(error)}"


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def main() -> None:
    """Run the clerk on the socket whose descriptor is the first argument; the second is its parent's pid."""
    channel, parent = int(sys.argv[1]), int(sys.argv[2])
    _os.die_with_parent(parent)
    Clerk(socket.socket(fileno=channel)).serve()
    os._exit(0)  # the walking thread may hang in a SOURCE that does not answer


if __name__ == "__main__":
    main()
