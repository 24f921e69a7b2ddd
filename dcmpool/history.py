"""A journal as it is read afterwards: nothing is changed in it, and its rows come one by one.

An older journal is read as it is, without the migration that a run makes; what was not kept then is unknown.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from dcmpool import schema
from dcmpool.errors import UsageError
from dcmpool.journal import COLUMNS, Row, row_of
from dcmpool.protocol import Totals
from dcmpool.text import shown, words

_LATER: Final = {"ended": "NULL", "write_seconds": "NULL", "confirmed_by": "''"}
"""Columns of `files` that journals of version 1 lack, and what stands for them."""

T = TypeVar("T")


class Run(msgspec.Struct, frozen=True):
    """One run, as the journal has it; None where it was not kept, or the run was killed before it was known."""

    run: str
    source: bytes
    target: bytes
    exit_code: int | None
    complete: bool
    begun: float | None
    ended: float | None
    settings: dict[str, Any]
    versions: dict[str, str]
    totals: Totals | None


class Remark(msgspec.Struct, frozen=True):
    """A path that was met and is no job: a special file (no `kind`), or one that could not be looked at."""

    path: bytes
    kind: str | None
    reason: str


class Span(msgspec.Struct, frozen=True):
    """When the files of a run ended that no later run has done again, in seconds of the epoch."""

    run: str
    first: float
    last: float
    files: int


class History:
    """A journal opened for reading.

    Raises
    ------
    UsageError
        There is no journal, it cannot be read, or a newer dcmpool wrote it.
    """

    def __init__(self, path: bytes) -> None:
        if not os.path.isfile(path):
            raise UsageError(f"there is no journal: {shown(path)}")
        try:
            self._database = sqlite3.connect(f"file:{quote(path)}?{_way(path)}", uri=True, timeout=30.0)
            self._database.text_factory = lambda text: text.decode("utf-8", "replace")
            self._database.execute("PRAGMA query_only = ON")
            self._version = schema.version(self._database, path)
            if not self._version:
                raise UsageError(f"the journal is empty: {shown(path)}")
        except sqlite3.Error as error:
            raise UsageError(f"the journal cannot be read: {shown(path)}: {words(error)}") from error

    def close(self) -> None:
        """Close the journal."""
        self._database.close()

    def runs(self) -> list[Run]:
        """Return all runs, the first one first; a part of one that was damaged is as if it had not been kept."""
        later = "begun, ended, settings, versions, totals" if self._version > 1 else "NULL, NULL, '', '', ''"
        asked = f"SELECT run, source, target, exit_code, complete, {later} FROM runs ORDER BY number"  # noqa: S608 - constants
        return [
            Run(str(run), _bytes(source), _bytes(target), code if isinstance(code, int) else None, bool(complete),
                _number(begun), _number(ended), _decoded(settings, dict[str, Any]) or {},
                _decoded(versions, dict[str, str]) or {}, _decoded(totals, Totals))
            for run, source, target, code, complete, begun, ended, settings, versions, totals
            in self._database.execute(asked)
        ]  # fmt: skip

    def files(self) -> Iterator[tuple[Row | None, bool]]:
        """Give the row of each file, by path, and whether it has left SOURCE; None for a damaged row."""
        names = COLUMNS if self._version > 1 else ", ".join(_LATER.get(name, name) for name in COLUMNS.split(", "))
        gone = "EXISTS (SELECT 1 FROM gone WHERE gone.path = files.path)" if self._version > 1 else "0"
        for *columns, is_gone in self._database.execute(f"SELECT {names}, {gone} FROM files ORDER BY path"):  # noqa: S608
            yield row_of(tuple(columns)), bool(is_gone)

    def notes(self) -> Iterator[Remark]:
        """Give what the last walks met that is no job, by path."""
        if self._version > 1:
            for path, kind, reason in self._database.execute("SELECT path, kind, reason FROM notes ORDER BY path"):
                yield Remark(_bytes(path), kind, str(reason))

    def spans(self) -> list[Span]:
        """Return when the files of each run ended, in the order of time."""
        if self._version == 1:
            return []
        asked = "SELECT run, min(ended), max(ended), count(*) FROM files WHERE ended > 0 GROUP BY run ORDER BY 2"
        return [Span(str(run), first, last, count) for run, first, last, count in self._database.execute(asked)]

    def interrupted(self) -> int:
        """Return how many files were under way when their run was killed, and have not ended since."""
        return int(self._database.execute("SELECT count(DISTINCT path) FROM begun").fetchone()[0])

    def count_in(self, folder: bytes) -> int:
        """Return how many files lie directly in a folder."""
        low, high = (os.path.join(folder, b""), folder + b"0") if folder else (b"", b"\xff" * 4096)  # "0" follows "/"
        asked = "SELECT count(*) FROM files WHERE path >= ? AND path < ? AND instr(substr(path, ?), X'2F') = 0"
        return int(self._database.execute(asked, (low, high, len(low) + 1)).fetchone()[0])


def _way(path: bytes) -> str:
    """Return how to open a journal so that nothing is left behind, and a run may go on meanwhile.

    A reader has to write beside the database (its shared memory), and takes that away again; where it may not, a
    database without a log can be taken to stand still.
    """
    if os.access(path, os.W_OK) and os.access(os.path.dirname(path) or b".", os.W_OK):
        return "mode=rw"
    return "mode=ro" if os.path.exists(path + b"-wal") else "mode=ro&immutable=1"


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _decoded(text: object, kind: type[T]) -> T | None:
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(text, type=kind) if isinstance(text, str) and text else None
    return None
