"""The tables of the journal, and how an older journal becomes one of today.

A journal outlives the dcmpool that wrote it: each change of the tables is a step here, and all steps that a journal
lacks are one transaction. What was not kept then is NULL.
"""

import sqlite3
from typing import Final

from dcmpool.errors import UsageError
from dcmpool.text import shown

_FIRST: Final = """
CREATE TABLE files (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER,
    outcome TEXT, kind TEXT, reason TEXT, transfer_syntax_uid TEXT, engine TEXT, attempts TEXT,
    result_size INTEGER, result_mtime_ns INTEGER, native_bytes INTEGER, digest TEXT, seconds REAL,
    run TEXT, judge TEXT
) WITHOUT ROWID;
CREATE TABLE intents (
    path BLOB PRIMARY KEY, temp BLOB, result_size INTEGER, result_mtime_ns INTEGER, row BLOB
) WITHOUT ROWID;
CREATE TABLE begun (path BLOB, engine TEXT, run TEXT, PRIMARY KEY (path, run)) WITHOUT ROWID;
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, run TEXT UNIQUE, judge TEXT, source BLOB, target BLOB,
    exit_code INTEGER, complete INTEGER
);
"""
_WITH_TIMES: Final = """
ALTER TABLE files ADD COLUMN ended REAL;
ALTER TABLE files ADD COLUMN write_seconds REAL;
ALTER TABLE files ADD COLUMN confirmed_by TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN begun REAL;
ALTER TABLE runs ADD COLUMN ended REAL;
ALTER TABLE runs ADD COLUMN settings TEXT;
ALTER TABLE runs ADD COLUMN versions TEXT;
ALTER TABLE runs ADD COLUMN totals TEXT;
CREATE TABLE notes (path BLOB PRIMARY KEY, kind TEXT, reason TEXT, run TEXT) WITHOUT ROWID;
CREATE TABLE gone (path BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_WITH_STANDING: Final = """
CREATE TABLE standing (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER,
    outcome TEXT, kind TEXT, reason TEXT, transfer_syntax_uid TEXT, engine TEXT, attempts TEXT,
    result_size INTEGER, result_mtime_ns INTEGER, native_bytes INTEGER, digest TEXT, seconds REAL,
    run TEXT, judge TEXT, ended REAL, write_seconds REAL, confirmed_by TEXT
) WITHOUT ROWID;
ALTER TABLE intents ADD COLUMN backup BLOB NOT NULL DEFAULT X'';
"""
_STEPS: Final = (_FIRST, _WITH_TIMES, _WITH_STANDING)
"""Step n makes a journal of version n one of version n + 1; there is none of version 0, but for an empty file."""
VERSION: Final = len(_STEPS)


def version(database: sqlite3.Connection, path: bytes) -> int:
    """Return the version of a journal, 0 for a database without tables; `path` is for the words of errors.

    Raises
    ------
    UsageError
        It is no journal, or a newer dcmpool wrote it.
    """
    try:
        (found,) = database.execute("PRAGMA user_version").fetchone()
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise UsageError(f"{shown(path)} is not a journal of dcmpool: {error}") from error
    if found > VERSION:
        raise UsageError(
            f"the journal is of a newer dcmpool (schema {found}, this one knows {VERSION}): update dcmpool"
        )
    return int(found)


def bring_up_to_date(database: sqlite3.Connection) -> None:
    """Take the steps that a journal lacks, all or none."""
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found < VERSION:
        steps = "".join(_STEPS[found:])
        database.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;")
