"""The clerk's walking thread: SOURCE in, jobs out; what is settled is dropped here.

It has a connection to the journal of its own and waits for nobody but the supervisor's credit, so that a SOURCE that
does not answer does not stop commits.
"""

import functools
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from dcmpool import pathlist
from dcmpool.commit import Target, is_as_written
from dcmpool.errors import DcmpoolError
from dcmpool.journal import Journal, Row
from dcmpool.model import STATE_DIRECTORY, WITHOUT_RESULT, FailureKind, Outcome, Purpose, stored_time
from dcmpool.protocol import ALL_KINDS, BATCH, Earlier, Found, Item, Message, Noted, Open, Recorded, Scanned, Stopped
from dcmpool.text import words
from dcmpool.tree import File, Note, base_of, look, walk

_FLUSH_SECONDS = 0.02
"""How long a file found waits for others to make a batch."""


class Walker:
    """The walking thread: SOURCE in, jobs out, no further ahead than the supervisor allows.

    `open_journal` gives a connection of its own.
    """

    def __init__(
        self,
        order: Open,
        target: Target,
        open_journal: Callable[[], Journal],
        send: Callable[[Message], None],
        credit: threading.Semaphore,
        committing: threading.Lock,
    ) -> None:
        self._order = order
        self._target = target
        self._open_journal = open_journal
        self._send = send
        self._credit = credit
        self._committing = committing
        self._items: list[Item] = []
        self._notes: list[Noted] = []
        self._files = self._bytes = self._settled = self._settled_bytes = self._known = self._gone = 0
        self._flushed = time.monotonic()
        self._stopped = False

    def stop(self) -> None:
        """Have the walk end where it is; called by another thread."""
        self._stopped = True
        self._credit.release()

    def run(self) -> None:
        """Walk to the end, and say so; or say why not."""
        try:
            with closing(self._open_journal()) as self._journal:
                known = self._journal.known() if self._is_whole() else 0
                for found in self._recorded() if self._order.purpose is Purpose.AUDIT else self._paths():
                    if self._stopped:
                        return
                    self._take(found)
                    if len(self._items) >= BATCH or time.monotonic() - self._flushed > _FLUSH_SECONDS:
                        self._flush()
                self._flush()
                if self._is_whole():
                    self._journal.end_walk(self._missing() if self._known < known else ())
            self._report(complete=True)
        except (sqlite3.Error, DcmpoolError) as error:
            self._send(Stopped(f"the journal cannot be read: {words(error)}", fatal=False))
        except OSError as error:
            self._send(Stopped(f"the source cannot be walked: {words(error)}", fatal=False))
        except Exception as error:  # noqa: BLE001 - the border: a thread that ends silently is waited for without end
            reason = f"the source cannot be walked: {type(error).__name__}: {words(error)}"
            self._send(Stopped(reason, fatal=False))

    def _paths(self) -> Iterator[File | Note]:
        if self._order.listed:
            return self._listed()
        if self._order.in_place:
            return walk(self._order.source, target=None)
        exists = os.path.isdir(self._target.root)  # as it need not where nothing is written
        return walk(self._order.source, target=self._target.root if exists else b"")

    def _is_whole(self) -> bool:
        """Whether this walk meets all of SOURCE, so that what it does not meet is gone."""
        return self._order.purpose is Purpose.RUN and not self._order.listed and os.path.isdir(self._order.source)

    def _missing(self) -> Iterator[bytes]:
        """Yield the files of earlier runs that are no longer there; looks at directories alone, once each."""
        names_in = functools.lru_cache(maxsize=64)(_names_in)  # in the order of paths, only those above one come again
        for path in self._journal.paths_of_earlier_runs():
            directory, name = os.path.split(os.path.join(self._order.source, path))
            names = names_in(directory)
            if names is not None and name not in names:
                self._gone += 1
                yield path
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._flush()

    def _recorded(self) -> Iterator[Item | Note]:
        """Yield the results that are to be checked again."""
        pending = {intent.path for intent in self._journal.intents()}
        for path in sorted(pending):
            yield Note(path, FailureKind.VERIFY, "a run was killed while this got its name: run it again first")
        for path, row, is_old in self._journal.results():
            if path in pending or (is_old and self._is_replaced(path)):
                continue
            if row is None:
                yield Note(path, FailureKind.VERIFY, "the journal's entry of this file is damaged")
                continue
            if row.outcome in WITHOUT_RESULT:
                reason = "the last run failed here, and an older dcmpool did not keep what this result has to be"
                yield Note(path, FailureKind.VERIFY, reason)
                continue
            recorded = Recorded(
                outcome=row.outcome,
                engine=row.engine,
                source_size=row.size,
                source_mtime_ns=row.mtime_ns,
                size=row.result_size or 0,
                native_bytes=row.native_bytes,
                digest=row.digest,
            )
            yield Item(path, row.size, row.mtime_ns, recorded=recorded)

    def _is_replaced(self, path: bytes) -> bool:
        """Whether a result over which a later run failed does not stand any more: it was taken away, as one may do, or
        in place the file that failed has taken its name."""
        try:
            status = os.lstat(self._target.final(path))
        except OSError:
            return True
        failed = self._journal.find(path) if self._target.in_place else None
        found = (status.st_size, stored_time(status.st_mtime_ns))
        return failed is not None and found == (failed.size, failed.mtime_ns)

    def _listed(self) -> Iterator[File | Note]:
        """Yield what a list names: paths relative to SOURCE or inside it."""
        seen: set[bytes] = set()
        base = base_of(self._order.source)
        for path in pathlist.paths(sys.stdin.fileno()):
            full = os.path.normpath(os.path.join(base, path))
            relative = os.path.relpath(full, base)
            if not path or relative in seen:
                continue
            seen.add(relative)
            if relative == b"." or relative.startswith(b"../"):
                yield Note(path, FailureKind.READ, "the list names a path that is not a file inside the source")
                continue
            if relative.split(b"/", 1)[0] == STATE_DIRECTORY:
                yield Note(relative, FailureKind.READ, "the list names what lies in dcmpool's own folder")
                continue
            found = look(full, relative, in_place=self._order.in_place)
            yield (
                found if not isinstance(found, tuple) else Note(relative, FailureKind.READ, "a directory, not a file")
            )

    def _take(self, found: File | Note | Item) -> None:
        if isinstance(found, Note):
            self._note(Noted(found.path, found.kind, found.reason))
            return
        self._files += 1
        self._bytes += found.size
        if isinstance(found, Item):
            self._offer(found)
            return
        if self._order.purpose is Purpose.SURVEY:
            self._offer(Item(found.path, found.size, found.mtime_ns))
            return
        row = self._journal.find(found.path)
        if row is not None and self._journal.is_of_this_run(row):
            return  # an earlier clerk of this run has settled it, and the supervisor has counted it
        self._known += row is not None
        if row is not None and self._is_settled(found, row):
            if row.kind is not None:
                self._send(Earlier(row.ending()))
            else:
                self._settled += 1
                self._settled_bytes += found.size
            return
        obstacle = self._target.obstacle(found.path, row)
        if obstacle is not None and obstacle.kind is not FailureKind.EXISTS:
            self._note(Noted(found.path, obstacle.kind, obstacle.reason))
            return
        interruptions = self._journal.interruptions(found.path)
        exists = obstacle.reason if obstacle else ""
        self._offer(Item(found.path, found.size, found.mtime_ns, interruptions, exists))

    def _note(self, note: Noted) -> None:
        self._send(note)
        if self._order.purpose is Purpose.RUN:
            self._notes.append(note)

    def _offer(self, item: Item) -> None:
        """Add a job, once the supervisor has room for it."""
        if not self._credit.acquire(blocking=False):
            self._flush()
            self._credit.acquire()
        self._items.append(item)

    def _is_settled(self, found: File, row: Row) -> bool:
        """Whether a file needs nothing more: same source, a final outcome, and the result stands as written."""
        as_written = (found.size, found.mtime_ns) == (row.result_size, row.result_mtime_ns)
        if self._order.in_place and row.kind is None and as_written:
            return True
        if (found.size, found.mtime_ns) != (row.size, row.mtime_ns) or row.outcome is Outcome.SKIPPED:
            return False
        if row.kind is not None:
            return self._order.retry not in (row.kind, ALL_KINDS) and self._journal.is_content(row)
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
        if self._notes:
            self._journal.note(self._notes)
            self._notes.clear()
        self._report(complete=False)
        self._flushed = time.monotonic()

    def _drop_settled(self) -> None:
        """Drop what was committed since the walk met it; in the lock, so that no acknowledgement overtakes this."""
        rows = ((item, self._journal.find(item.path)) for item in self._items)
        left = [item for item, row in rows if row is None or not self._journal.is_of_this_run(row)]
        if len(left) < len(self._items):
            self._credit.release(len(self._items) - len(left))
        self._items = left

    def _send_items(self) -> None:
        if self._items:
            self._send(Found(tuple(self._items)))
            self._items.clear()

    def _report(self, *, complete: bool) -> None:
        totals = (self._files, self._bytes, self._settled)
        self._send(Scanned(*totals, complete, self._settled_bytes, self._gone))


def _names_in(directory: bytes) -> frozenset[bytes] | None:
    """Return the names in a directory, none if there is no such one; None if nobody can know them."""
    try:
        return frozenset(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError:
        return None
