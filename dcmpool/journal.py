"""The journal: what is settled, in SQLite, so that a run can be resumed after any interruption.

It records final outcomes, results about to get their final names (`intents`), and attempts that were under way
long enough to be worth remembering. "Running" is not in it, so nothing has to be repaired. Paths are bytes,
relative to SOURCE.

Write-ahead log with synchronous=FULL: a transaction survives a power cut; the clerk makes few and large ones.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice

import msgspec

from dcmpool import place, schema
from dcmpool.errors import UsageError
from dcmpool.model import RETRY, WITHOUT_RESULT, FailureKind, Outcome, Stage
from dcmpool.protocol import Attempt, Begun, Ending, Noted, Result, Totals
from dcmpool.text import shown

COLUMNS = (
    "path, size, mtime_ns, outcome, kind, reason, transfer_syntax_uid, engine, attempts, "
    "result_size, result_mtime_ns, native_bytes, digest, seconds, run, judge, ended, write_seconds, confirmed_by"
)


_NAMES = tuple(COLUMNS.split(", "))
_MADE = f"outcome NOT IN ({', '.join(repr(str(outcome)) for outcome in WITHOUT_RESULT)})"
_INSERT = (
    f"INSERT INTO files ({COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))}) "  # noqa: S608 - constants
    # An end without a result leaves that of an earlier run where it is: it is still one that dcmpool wrote, and may
    # replace. What else is known of it moves to `standing`.
    "ON CONFLICT (path) DO UPDATE SET "
    + ", ".join(f"{n} = excluded.{n}" for n in _NAMES if n not in ("path", "result_size", "result_mtime_ns"))
    + "".join(f", {n} = iif(excluded.{_MADE}, excluded.{n}, {n})" for n in ("result_size", "result_mtime_ns"))
)
_STAND = (
    f"INSERT OR REPLACE INTO standing ({COLUMNS}) SELECT {COLUMNS} FROM files "  # noqa: S608 - constants
    f"WHERE path = ? AND {_MADE} AND result_size IS NOT NULL"
)
_RESULTS = (
    f"SELECT 0, {COLUMNS} FROM files WHERE {_MADE} AND result_size IS NOT NULL "  # noqa: S608 - constants
    f"UNION ALL SELECT 1, {COLUMNS} FROM standing "
    # A dcmpool before schema 3 lost the digest of a result when a later run failed.
    f"UNION ALL SELECT 1, {COLUMNS} FROM files WHERE NOT {_MADE} AND result_size IS NOT NULL "
    "AND path NOT IN (SELECT path FROM standing) ORDER BY path"
)


class Row(msgspec.Struct, frozen=True):
    """One settled file: the columns of `files`."""

    path: bytes
    size: int
    mtime_ns: int
    outcome: Outcome
    kind: FailureKind | None
    reason: str
    transfer_syntax_uid: str
    engine: str
    attempts: str
    result_size: int | None
    result_mtime_ns: int | None
    native_bytes: int
    digest: str
    seconds: float
    run: str
    judge: str
    ended: float | None = None
    """When, in seconds of the epoch; None if a dcmpool wrote it that did not keep this, as what follows."""
    write_seconds: float | None = None
    """Of writing and syncing the temp file; None too if nothing was written."""
    confirmed_by: str = ""

    def ending(self) -> Ending:
        """Return the row of a file without a result as the message about it."""
        attempts = msgspec.json.decode(self.attempts, type=tuple[Attempt, ...])
        return Ending(
            0,
            self.path,
            self.size,
            self.mtime_ns,
            self.outcome,
            self.transfer_syntax_uid,
            self.kind,
            self.reason,
            attempts,
        )


class Intent(msgspec.Struct, frozen=True):
    """A result whose rename was under way when its run died."""

    path: bytes
    temp: bytes
    row: Row | None
    """None if it was damaged since."""
    backup: bytes = b""
    """The folder in which its original's backup had no name yet; b"" if there was nothing to be made."""


class Journal:
    """One connection to the journal; a thread needs one of its own. `path` is the database file.

    With `read_only` nothing is written, not even what SQLite keeps beside it; an older journal is brought up to date in
    memory.

    Raises
    ------
    UsageError
        The file is no journal, or a newer dcmpool wrote it.
    sqlite3.Error
        The storage failed (disk full, I/O error).
    """

    def __init__(self, path: bytes, run: str, judge: str, *, read_only: bool = False) -> None:
        self._run = run
        self._judge = judge
        if not read_only and os.path.exists(path) and not os.access(path, os.W_OK):
            # SQLite would open it for reading and leave its write-ahead log behind.
            raise UsageError(f"the journal cannot be written: {shown(path)}")
        self._database = sqlite3.connect(
            place.read_only(path) if read_only else path,
            isolation_level=None,
            timeout=30.0,
            cached_statements=64,
            uri=read_only,
        )
        self._database.text_factory = lambda text: text.decode("utf-8", "replace")  # a damaged row may hold anything
        try:
            version = schema.version(self._database, path)
            if read_only and version < schema.VERSION:
                self._database = _in_memory(self._database)
            if read_only:
                return
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            schema.bring_up_to_date(self._database)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the connection; the last one folds the write-ahead log into the database."""
        self._database.close()

    def begin_run(self, source: bytes, target: bytes, settings: str = "") -> None:
        """Record this run: its directories, absolute, and its settings as JSON."""
        with _transaction(self._database):
            self._database.execute(
                "INSERT OR IGNORE INTO runs (run, judge, source, target, complete, begun, settings) "
                "VALUES (?, ?, ?, ?, 0, ?, ?)",
                (self._run, self._judge, source, target, time.time(), settings),
            )

    def add_versions(self, versions: dict[str, str]) -> None:
        """Record what this run is made of: package to version."""
        with _transaction(self._database):
            text = msgspec.json.encode(versions).decode()
            self._database.execute("UPDATE runs SET versions = ? WHERE run = ?", (text, self._run))

    def directories(self) -> tuple[bytes, bytes] | None:
        """Return SOURCE and TARGET of the last run, None before the first."""
        found = self._database.execute("SELECT source, target FROM runs ORDER BY number DESC LIMIT 1").fetchone()
        return (found[0], found[1]) if found and all(isinstance(path, bytes) for path in found) else None

    def end_run(self, exit_code: int, totals: Totals, *, complete: bool) -> None:
        """Record how this run ended: in order, so that no attempt of it died under way, whatever it left undone."""
        with _transaction(self._database):
            self._database.execute("DELETE FROM begun WHERE run = ?", (self._run,))
            self._database.execute(
                "UPDATE runs SET exit_code = ?, complete = ?, ended = ?, totals = ? WHERE run = ?",
                (exit_code, complete, time.time(), msgspec.json.encode(totals).decode(), self._run),
            )

    def find(self, path: bytes) -> Row | None:
        """Return the row of a path; none that was damaged."""
        found = self._database.execute(f"SELECT {COLUMNS} FROM files WHERE path = ?", (path,)).fetchone()  # noqa: S608 - constant
        return row_of(found) if found else None

    def results(self) -> Iterator[tuple[bytes, Row | None, bool]]:
        """Give each result by path: path, row (None for a damaged one), and whether a later run gave none.

        A row whose outcome is none with a result is that later run's: an older dcmpool has not kept what it has to be.
        """
        for is_old, *columns in self._database.execute(_RESULTS):
            yield columns[0], row_of(tuple(columns)), bool(is_old)

    def known(self) -> int:
        """Return how many files earlier runs have settled."""
        (count,) = self._database.execute("SELECT count(*) FROM files WHERE run <> ?", (self._run,)).fetchone()
        return int(count)

    def paths_of_earlier_runs(self) -> Iterator[bytes]:
        """Give the paths that this run has not settled, in order; others may write meanwhile, and for long."""
        last = b""
        while True:
            found = self._database.execute(
                "SELECT path FROM files WHERE path > ? AND run <> ? ORDER BY path LIMIT 1000", (last, self._run)
            ).fetchall()
            yield from (path for (path,) in found)
            if not found:
                return
            last = found[-1][0]

    def end_walk(self, gone: Iterable[bytes]) -> None:
        """Keep which files of earlier runs are no longer in SOURCE; forget what other walks over all of it have met."""
        old = "SELECT EXISTS (SELECT 1 FROM notes WHERE run <> ?) OR EXISTS (SELECT 1 FROM gone)"
        if self._database.execute(old, (self._run,)).fetchone()[0]:
            with _transaction(self._database):
                self._database.execute("DELETE FROM notes WHERE run <> ?", (self._run,))
                self._database.execute("DELETE FROM gone")
        paths = iter(gone)
        while batch := [(path,) for path in islice(paths, 1000)]:
            with _transaction(self._database):  # not one over all: whoever commits results waits for it
                self._database.executemany("INSERT OR IGNORE INTO gone VALUES (?)", batch)

    def note(self, notes: Iterable[Noted]) -> None:
        """Keep what a walk met that is no job."""
        with _transaction(self._database):
            self._database.executemany(
                "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)",
                [(note.path, note.kind, note.reason, self._run) for note in notes],
            )

    def interruptions(self, path: bytes) -> int:
        """Return how many attempts at a path were under way when their run died."""
        (count,) = self._database.execute("SELECT count(*) FROM begun WHERE path = ?", (path,)).fetchone()
        return int(count)

    def is_content(self, row: Row) -> bool:
        """Return whether the content alone decided this failure, under the version and settings of now."""
        if row.kind is None or not RETRY[row.kind].settles or row.judge != self._judge:
            return False
        return not any(_may_end_otherwise(attempt) for attempt in row.ending().attempts)

    def is_of_this_run(self, row: Row) -> bool:
        """Return whether this run wrote it: an earlier clerk of it, perhaps."""
        return row.run == self._run

    def begin(self, attempts: Iterable[Begun]) -> None:
        """Remember attempts until their file ends."""
        with _transaction(self._database):
            self._database.executemany(
                "INSERT OR REPLACE INTO begun VALUES (?, ?, ?)", [(a.path, a.engine, self._run) for a in attempts]
            )

    def intend(self, results: Iterable[Result], backups: Mapping[bytes, bytes]) -> None:
        """Record that these temp files are about to be renamed; `backups` as in `Intent`, by path."""
        rows = [(result, msgspec.msgpack.encode(self._result_row(result))) for result in results]
        with _transaction(self._database):
            self._database.executemany(
                "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (r.path, r.temp, r.written.size, r.written.mtime_ns, row, backups.get(r.path, b""))
                    for r, row in rows
                ],
            )

    def intents(self) -> list[Intent]:
        """Return the renames that a dead run left half done; damaged ones without a row, or not at all."""
        found = self._database.execute("SELECT path, temp, row, backup FROM intents").fetchall()
        return [
            Intent(path, temp, _unpacked(row), backup if _is_path(backup) else b"")
            for path, temp, row, backup in found
            if _is_path(path) and _is_path(temp)
        ]

    def resolve(self, done: Iterable[Row], undone: Iterable[bytes]) -> None:
        """Record which renames took place and which did not."""
        self._write(done, forget=undone)

    def settle(self, results: Iterable[Result], endings: Iterable[Ending]) -> None:
        """Record final outcomes, in one transaction."""
        self._write([self._result_row(r) for r in results] + [self._ending_row(e) for e in endings])

    def _write(self, rows: Iterable[Row], forget: Iterable[bytes] = ()) -> None:
        rows = list(rows)
        over = [(row.path,) for row in rows]
        without = [(row.path,) for row in rows if row.outcome in WITHOUT_RESULT]
        with _transaction(self._database):
            self._database.executemany(_STAND, without)
            self._database.executemany("DELETE FROM standing WHERE path = ?", set(over) - set(without))
            self._database.executemany(_INSERT, [msgspec.structs.astuple(row) for row in rows])
            self._database.executemany("DELETE FROM intents WHERE path = ?", over + [(path,) for path in forget])
            for table in ("begun", "notes"):
                self._database.executemany(f"DELETE FROM {table} WHERE path = ?", over)  # noqa: S608 - constants

    def _result_row(self, result: Result) -> Row:
        written = result.written
        attempts = msgspec.json.encode(result.attempts).decode()
        return Row(
            result.path, written.source_size, written.source_mtime_ns, written.outcome, None, "; ".join(written.notes),
            written.transfer_syntax_uid, written.engine, attempts, written.size, written.mtime_ns,
            written.native_bytes, written.digest, written.seconds, self._run, self._judge,
            time.time(), written.write_seconds, result.confirmed_by,
        )  # fmt: skip

    def _ending_row(self, ending: Ending) -> Row:
        attempts = msgspec.json.encode(ending.attempts).decode()
        seconds = sum(attempt.seconds for attempt in ending.attempts)
        engine = ending.attempts[-1].engine if ending.attempts else ""
        return Row(
            ending.path, ending.size, ending.mtime_ns, ending.outcome, ending.kind, ending.reason,
            ending.transfer_syntax_uid, engine, attempts, None, None, 0, "", seconds, self._run, self._judge,
            time.time(),
        )  # fmt: skip


def _in_memory(database: sqlite3.Connection) -> sqlite3.Connection:
    """Return a copy of a journal of an older dcmpool as one of today, and close it."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    with closing(database):
        database.backup(copy)
    copy.text_factory = database.text_factory
    schema.bring_up_to_date(copy)
    return copy


def _may_end_otherwise(attempt: Attempt) -> bool:
    """Whether an attempt lacked what it may have in another run: memory, or storage that is fast enough.

    Only in DECODE it is an engine that takes the time; all else reads and writes, as slowly as storage does.
    """
    if attempt.kind is FailureKind.TIMEOUT:
        return not attempt.engine or attempt.stage != Stage.DECODE
    return attempt.kind is FailureKind.MEMORY


def row_of(columns: tuple[object, ...]) -> Row | None:
    """Return what a SELECT of COLUMNS gave; None if it was damaged."""
    try:
        row = msgspec.convert(dict(zip(Row.__struct_fields__, columns, strict=True)), Row)
        row.ending()
    except msgspec.DecodeError:
        return None
    return row


def _unpacked(row: object) -> Row | None:
    try:
        return msgspec.msgpack.decode(row, type=Row) if isinstance(row, bytes) else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_path(value: object) -> bool:
    return isinstance(value, bytes) and b"\0" not in value


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
