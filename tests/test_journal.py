"""The journal: what goes in comes out, after any interruption, and nothing that is not ours is taken for it."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpool.errors import UsageError
from dcmpool.journal import Journal
from dcmpool.model import RETRY, FailureKind, Outcome, Stage
from dcmpool.protocol import FROM_CLERK, Attempt, Begun, Earlier, Ending, Totals
from tests.results import MTIME_NS, Place

SYNTAX = "1.2.840.10008.1.2.4.70"

VERSION_1 = """
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
PRAGMA user_version = 1;
"""
"""The tables of dcmpool 0.1.0."""


def ending(path: bytes = b"CT", kind: FailureKind | None = FailureKind.CORRUPT) -> Ending:
    """Return a file that ended without a result."""
    attempts = (Attempt("gdcm", FailureKind.TIMEOUT, "slow", "decode", 2.0), Attempt("", FailureKind.READ, "", "", 0.5))
    outcome = Outcome.FAILED if kind else Outcome.SKIPPED
    return Ending(7, path, 100, MTIME_NS, outcome, SYNTAX, kind, "why", attempts if kind else ())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for name in place.temps():
        place.target.discard(name)


def test_a_result_is_found_again_by_its_path(place: Place) -> None:
    """Source, result, engine, digest, run and judge, from another connection too."""
    with closing(place.journal()) as journal:
        journal.settle([place.result("a/CT", "pixels")], [])
    with closing(place.journal("run2")) as journal:
        row = journal.find(b"a/CT")
        assert row is not None
        assert (row.path, row.size, row.mtime_ns) == (b"a/CT", 3, MTIME_NS)
        assert (row.outcome, row.kind, row.reason) == (Outcome.DECOMPRESSED, None, "")
        assert (row.transfer_syntax_uid, row.engine, row.native_bytes) == (SYNTAX, "gdcm", 8)
        assert (row.result_size, row.result_mtime_ns, row.digest) == (6, MTIME_NS, b"pixels".hex())
        assert (row.seconds, row.run, row.judge) == (1.5, "run1", "1.0")
        assert journal.find(b"a/CT2") is None


@pytest.mark.parametrize("kind", [None, *FailureKind])
def test_an_ending_is_found_again_as_the_message_about_it(place: Place, kind: FailureKind | None) -> None:
    """With all its attempts; the job's number is of its own run."""
    with closing(place.journal()) as journal:
        journal.settle([], [ending(kind=kind)])
        row = journal.find(b"CT")
        assert row is not None
        assert row.result_size is None
        told = row.ending()
        assert told.job == 0
        assert (told.path, told.size, told.mtime_ns, told.outcome) == (b"CT", 100, MTIME_NS, ending(kind=kind).outcome)
        assert (told.kind, told.reason, told.attempts) == (kind, "why", ending(kind=kind).attempts)


@given(path=st.binary(min_size=1, max_size=255), reason=st.text(max_size=50))
@settings(max_examples=30)
def test_any_path_and_any_reason_can_be_kept(path: bytes, reason: str) -> None:
    """Paths are bytes: not UTF-8, with NUL, whatever."""
    with closing(Journal(b":memory:", "run", "1")) as journal:
        journal.settle([], [Ending(1, path, 0, 0, Outcome.FAILED, "", FailureKind.READ, reason, ())])
        row = journal.find(path)
        assert row is not None
        assert (row.path, row.reason) == (path, reason)


def test_the_last_word_counts(place: Place) -> None:
    """A file that failed and then succeeded has one row."""
    with closing(place.journal()) as journal:
        journal.settle([], [ending()])
        journal.settle([place.result("CT", "pixels")], [])
        row = journal.find(b"CT")
        assert row is not None
        assert (row.outcome, row.kind) == (Outcome.DECOMPRESSED, None)


def test_an_attempt_that_never_ended_is_an_interruption(place: Place) -> None:
    """Each run counts once, until the file ends."""
    for run in ("run1", "run2"):
        with closing(place.journal(run)) as journal:
            journal.begin([Begun(b"CT", "gdcm")])
            journal.begin([Begun(b"CT", "pylibjpeg"), Begun(b"other", "gdcm")])
    with closing(place.journal("run3")) as journal:
        assert journal.interruptions(b"CT") == 2
        assert journal.interruptions(b"unknown") == 0
        journal.settle([], [ending(b"CT")])
        assert journal.interruptions(b"CT") == 0
        assert journal.interruptions(b"other") == 2


def test_nothing_was_under_way_when_a_run_came_to_its_end(place: Place) -> None:
    """What it left undone was dropped in order, and no attempt died with it: that counts for nothing."""
    with closing(place.journal("run0")) as journal:
        journal.begin([Begun(b"CT", "gdcm")])
    with closing(place.journal("run1")) as journal:
        journal.begin_run(b"/source", b"/target")
        journal.begin([Begun(b"CT", "gdcm"), Begun(b"MR", "gdcm")])
        assert (journal.interruptions(b"CT"), journal.interruptions(b"MR")) == (2, 1)
        journal.end_run(130, Totals(), complete=False)
        assert (journal.interruptions(b"CT"), journal.interruptions(b"MR")) == (1, 0)


def test_an_intent_is_there_until_it_is_resolved(place: Place) -> None:
    """By a rename that took place, one that did not, or the outcome."""
    with closing(place.journal()) as journal:
        results = [place.result(name, name, job) for job, name in enumerate("abc")]
        journal.intend(results, {})
        assert [(i.path, i.temp, i.row and i.row.digest) for i in journal.intents()] == [
            (r.path, r.temp, r.written.digest) for r in results
        ]
        journal.settle(results[:1], [])
        row = journal.intents()[0].row
        assert row is not None
        journal.resolve([row], [b"c"])
        assert journal.intents() == []
        assert [bool(journal.find(path)) for path in (b"a", b"b", b"c")] == [True, True, False]


def test_content_decides_only_where_the_table_says_so_and_for_this_judge(place: Place) -> None:
    """Another version, or another set of engines, may be able to read it."""
    with closing(place.journal()) as journal:
        for kind in FailureKind:
            journal.settle([], [ending(kind.encode(), kind)])
            row = journal.find(kind.encode())
            assert row is not None
            assert journal.is_content(row) == RETRY[kind].settles
        journal.settle([place.result("CT", "pixels")], [])
        row = journal.find(b"CT")
        assert row is not None
        assert not journal.is_content(row)
    with closing(place.journal(judge="1.1")) as journal:
        for kind in FailureKind:
            row = journal.find(kind.encode())
            assert row is not None
            assert not journal.is_content(row)


@pytest.mark.parametrize(
    ("attempt", "settled"),
    [
        (Attempt("gdcm", FailureKind.TIMEOUT, "slow", Stage.DECODE, 2.0), True),
        (Attempt("gdcm", FailureKind.TIMEOUT, "slow", Stage.WRITE, 2.0), False),
        (Attempt("gdcm", FailureKind.TIMEOUT, "slow", Stage.VERIFY, 2.0), False),
        (Attempt("gdcm", FailureKind.TIMEOUT, "slow", "second opinion", 2.0), False),
        (Attempt("", FailureKind.TIMEOUT, "slow", Stage.INSPECT, 2.0), False),
        (Attempt("", FailureKind.TIMEOUT, "slow", Stage.DECODE, 2.0), False),
        (Attempt("gdcm", FailureKind.MEMORY, "large", Stage.DECODE, 2.0), False),
        (Attempt("gdcm", FailureKind.CORRUPT, "damaged", Stage.DECODE, 2.0), True),
    ],
)
@pytest.mark.parametrize("last", [None, FailureKind.CORRUPT, FailureKind.VERIFY])
def test_what_storage_or_memory_decided_is_not_settled(
    place: Place, attempt: Attempt, settled: bool, last: FailureKind | None
) -> None:
    """Another run may have more of it, and then the engine that lacked it gets its turn, whatever others say."""
    attempts = (attempt, Attempt("turbo", last, "no", Stage.DECODE, 1.0)) if last else (attempt,)
    kind = attempts[-1].kind
    with closing(place.journal()) as journal:
        journal.settle([], [Ending(7, b"CT", 100, MTIME_NS, Outcome.FAILED, SYNTAX, kind, "why", attempts)])
        row = journal.find(b"CT")
        assert row is not None
        assert journal.is_content(row) == settled


def test_the_directories_of_the_last_run_are_known(place: Place) -> None:
    """So that a TARGET is not mixed with another SOURCE; a clerk that begins the same run again changes nothing."""
    with closing(place.journal("run1")) as journal:
        assert journal.directories() is None
        journal.begin_run(b"/source", b"/target")
        assert journal.directories() == (b"/source", b"/target")
    with closing(place.journal("run2")) as journal:
        journal.begin_run(b"/elsewhere", b"/target")
        journal.end_run(75, Totals(), complete=False)
    with closing(place.journal("run1")) as journal:
        journal.begin_run(b"/source", b"/target")
        assert journal.directories() == (b"/elsewhere", b"/target")


def test_a_journal_of_a_newer_program_is_refused(place: Place) -> None:
    """And left as it is."""
    place.journal().close()
    path = os.path.join(place.target.state, b"journal.sqlite")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 4")
    with pytest.raises(UsageError, match=r"newer dcmpool \(schema 4, this one knows 3\)"):
        place.journal()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (4,)


def a_journal_of_version_1(place: Place) -> str:
    """Make a journal as the first dcmpool had it: a result, a failure, a rename under way, an attempt, a run."""
    path = os.fsdecode(place.target.state) + "/journal.sqlite"
    row = {
        "path": b"CT3", "size": 3, "mtime_ns": MTIME_NS, "outcome": "decompressed", "kind": None, "reason": "",
        "transfer_syntax_uid": SYNTAX, "engine": "gdcm", "attempts": "[]", "result_size": 6,
        "result_mtime_ns": MTIME_NS, "native_bytes": 8, "digest": "ab", "seconds": 1.5, "run": "old", "judge": "1.0",
    }  # fmt: skip
    attempts = json.dumps([{"engine": "gdcm", "kind": "CORRUPT", "reason": "no", "stage": "decode", "seconds": 0.1}])
    rows = [row | {"path": b"CT1"}, row | {"path": b"CT2", "outcome": "failed", "kind": "CORRUPT", "reason": "no"}]
    rows[1] |= {"attempts": attempts, "result_size": None, "result_mtime_ns": None}
    with closing(sqlite3.connect(path)) as database:
        database.executescript(VERSION_1)
        database.executemany(f"INSERT INTO files VALUES ({', '.join('?' * 16)})", [tuple(r.values()) for r in rows])
        temp = os.path.join(place.target.temp, b"old-1-1-99")
        intent = (b"CT3", temp, 6, MTIME_NS, msgspec.msgpack.encode(row))
        database.execute("INSERT INTO intents VALUES (?, ?, ?, ?, ?)", intent)
        database.execute("INSERT INTO begun VALUES (?, ?, ?)", (b"CT4", "gdcm", "old"))
        database.execute("INSERT INTO runs VALUES (1, 'old', '1.0', ?, ?, NULL, 0)", (b"/source", b"/target"))
        database.commit()
    return path


def test_a_journal_of_version_1_becomes_one_of_today(place: Place) -> None:
    """With all that was in it; what was not kept then is unknown."""
    a_journal_of_version_1(place)
    place.put("CT3", "pixels")
    with closing(place.journal("new")) as journal:
        first, second = journal.find(b"CT1"), journal.find(b"CT2")
        assert first is not None
        assert second is not None
        assert (first.digest, first.seconds, first.judge) == ("ab", 1.5, "1.0")
        assert (first.ended, first.write_seconds, first.confirmed_by) == (None, None, "")
        assert journal.is_content(second)
        assert second.ending().attempts == (Attempt("gdcm", FailureKind.CORRUPT, "no", "decode", 0.1),)
        assert journal.interruptions(b"CT4") == 1
        assert journal.directories() == (b"/source", b"/target")
        place.target.recover(journal)
        third = journal.find(b"CT3")
        assert third is not None
        assert (third.result_size, third.ended) == (6, None)
        journal.settle([place.result("CT1", "newer")], [ending(b"CT5")])
        journal.begin_run(b"/source", b"/target", "{}")
        journal.end_run(0, Totals(files=4), complete=True)
    with closing(place.journal("newer")) as journal:
        changed = journal.find(b"CT1")
        assert changed is not None
        assert changed.digest == b"newer".hex()
        assert changed.ended is not None


def test_a_migration_that_fails_leaves_the_old_journal(place: Place) -> None:
    """All steps or none: a table that is in the way is met by the last of them."""
    path = a_journal_of_version_1(place)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE gone (path)")
        before = database.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    with pytest.raises(sqlite3.Error, match="already exists"):
        place.journal()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before


def test_what_was_tried_before_a_result_and_who_confirmed_it_is_kept(place: Place) -> None:
    """So that a file that cost a child is found, though another engine could read it."""
    attempt = Attempt("gdcm", FailureKind.TIMEOUT, "no result within 2.0 s", "decode", 2.0)
    made = msgspec.structs.replace(place.result("CT", "pixels"), attempts=(attempt,), confirmed_by="turbo")
    noted = msgspec.structs.replace(made.written, notes=("a remark", "another"))
    before = time.time()
    with closing(place.journal()) as journal:
        journal.settle([msgspec.structs.replace(made, written=noted)], [])
        row = journal.find(b"CT")
        assert row is not None
        assert row.ending().attempts == (attempt,)
        assert (row.confirmed_by, row.write_seconds, row.reason) == ("turbo", 0.5, "a remark; another")
        assert before <= (row.ended or 0) <= time.time()


def test_a_failure_leaves_the_result_of_an_earlier_run_ours(place: Place) -> None:
    """It still stands there, and the next result may take its place; but the file itself has failed."""
    with closing(place.journal()) as journal:
        journal.settle([place.result("CT", "pixels")], [])
        journal.settle([], [ending(b"CT")])
        row = journal.find(b"CT")
        assert row is not None
        assert (row.kind, row.result_size, row.digest) == (FailureKind.CORRUPT, 6, "")
        for _ in range(2):
            ((path, stands, is_old),) = journal.results()
            assert stands is not None
            assert (path, is_old, stands.outcome) == (b"CT", True, Outcome.DECOMPRESSED)
            assert (stands.digest, stands.engine, stands.native_bytes) == (b"pixels".hex(), "gdcm", 8)
            journal.settle([], [ending(b"CT", None)])
        row = journal.find(b"CT")
        assert row is not None
        assert (row.kind, row.result_size) == (None, 6), "one that is left out now may be made again later"
        journal.settle([place.result("CT", "newer")], [])
        ((_, stands, is_old),) = journal.results()
        assert stands is not None
        assert (stands.digest, is_old) == (b"newer".hex(), False)


def test_what_an_older_program_has_not_kept_of_a_result_is_known_to_be_missing(place: Place) -> None:
    """It overwrote what a result has to be when a later run failed."""
    path = a_journal_of_version_1(place)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE files SET result_size = 6, result_mtime_ns = 7 WHERE path = ?", (b"CT2",))
        database.commit()
    with closing(place.journal()) as journal:
        found = {path: (row and row.kind, is_old) for path, row, is_old in journal.results()}
    assert found == {b"CT1": (None, False), b"CT2": (FailureKind.CORRUPT, True)}


@pytest.mark.parametrize("content", [b"not a database, but as long as one " * 50, b"SQLite format 3\0" * 90])
def test_what_is_no_journal_is_refused(place: Place, content: bytes) -> None:
    """And left as it is."""
    path = Path(os.fsdecode(place.target.state)) / "journal.sqlite"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not a journal of dcmpool"):
        place.journal()
    assert path.read_bytes() == content


def damage(place: Place, change: str) -> None:
    """Change the database behind its back."""
    with closing(sqlite3.connect(os.path.join(place.target.state, b"journal.sqlite"))) as database:
        database.execute(change)
        database.commit()


DAMAGES = [
    "outcome = 'nonsense'", "outcome = 5", "kind = 'nonsense'", "size = 'many'", "size = 1.5", "mtime_ns = NULL",
    "result_size = 'many'", "seconds = X'00'", "engine = NULL", "attempts = '[{\"engine\"'", "attempts = '{}'",
    "attempts = NULL", "attempts = CAST(X'FF5B' AS TEXT)", "outcome = CAST(X'FFFE' AS TEXT)", "judge = X'FF'",
]  # fmt: skip
"""What a row may look like when storage, or somebody with an editor, has been at it."""


@pytest.mark.parametrize("change", DAMAGES)
def test_a_row_that_cannot_be_understood_is_no_row(place: Place, change: str) -> None:
    """And the others are none the worse for it."""
    with closing(place.journal()) as journal:
        journal.settle([place.result("good", "pixels")], [ending(b"bad")])
    damage(place, f"UPDATE files SET {change} WHERE path = X'{b'bad'.hex()}'")
    with closing(place.journal()) as journal:
        assert journal.find(b"bad") is None
        assert journal.find(b"good") is not None


def test_a_reason_that_is_not_utf_8_any_more_can_still_be_told(place: Place) -> None:
    with closing(place.journal()) as journal:
        journal.settle([], [ending(b"CT")])
    damage(place, "UPDATE files SET reason = CAST(X'41FF42' AS TEXT)")
    with closing(place.journal()) as journal:
        row = journal.find(b"CT")
        assert row is not None
        assert FROM_CLERK.decode(FROM_CLERK.pack(Earlier(row.ending()))) == Earlier(row.ending())


@pytest.mark.parametrize("change", ["row = X'93'", "row = NULL", "row = 'text'", "temp = 'text'", "temp = X'00'"])
def test_an_intent_that_cannot_be_understood_did_not_take_place(place: Place, change: str) -> None:
    """Nobody vouches for what stands there; the others are settled."""
    results = [place.result("good", "pixels", 1), place.result("bad", "pixels", 2)]
    with closing(place.journal()) as journal:
        journal.intend(results, {})
    for result in results:
        os.rename(result.temp, place.target.final(result.path))
    damage(place, f"UPDATE intents SET {change} WHERE path = X'{b'bad'.hex()}'")
    with closing(place.journal()) as journal:
        place.target.recover(journal)
        assert journal.find(b"good") is not None
        assert journal.find(b"bad") is None


@pytest.mark.parametrize("change", ["source = 'text'", "target = NULL"])
def test_directories_that_cannot_be_understood_are_unknown(place: Place, change: str) -> None:
    with closing(place.journal()) as journal:
        journal.begin_run(b"/source", b"/target")
    damage(place, f"UPDATE runs SET {change}")
    with closing(place.journal()) as journal:
        assert journal.directories() is None


def test_a_transaction_that_fails_leaves_nothing_behind(place: Place) -> None:
    """All of it or nothing."""
    with closing(place.journal()) as journal:
        # SQLite's integers have 64 bits.
        huge = Ending(1, b"second", 2**70, 0, Outcome.FAILED, "", FailureKind.READ, "", ())
        with pytest.raises(OverflowError):
            journal.settle([], [ending(b"first"), huge])
        assert journal.find(b"first") is None
        journal.settle([], [ending(b"first")])
        assert journal.find(b"first") is not None


def test_two_connections_see_each_others_rows(place: Place) -> None:
    """The walk reads while the other thread commits."""
    with closing(place.journal()) as writer, closing(place.journal()) as reader:
        assert reader.find(b"CT") is None
        writer.settle([], [ending()])
        assert reader.find(b"CT") is not None


def test_a_row_survives_the_death_of_its_process(place: Place) -> None:
    """Without any goodbye to SQLite."""
    child = os.fork()
    if not child:
        try:
            place.journal().settle([], [ending()])
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with closing(place.journal()) as journal:
        assert journal.find(b"CT") is not None
