"""The clerk in a process of its own, spoken to as the supervisor does."""

import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dcmpool import walker
from dcmpool.clerk import Clerk
from dcmpool.protocol import (
    FROM_CLERK,
    TO_CLERK,
    Commit,
    Committed,
    Finish,
    Finished,
    FrameReader,
    Keep,
    KeptFile,
    Message,
    More,
    Open,
    Opened,
    Refused,
    Stopped,
)
from tests.command import until
from tests.results import Place

SECONDS = 120.0


@dataclass(frozen=True)
class Talk:
    """The supervisor's end of a clerk's socket."""

    channel: socket.socket
    reader: FrameReader[Any] = field(default_factory=FROM_CLERK.reader)
    heard: list[Message] = field(default_factory=list)

    def say(self, *messages: Message) -> None:
        """Send messages in one write."""
        self.channel.sendall(b"".join(TO_CLERK.encode(message) for message in messages))

    def wait_for(self, kind: type[Message], seconds: float = SECONDS) -> Any:
        """Return the next message of a kind, and drop what comes before it; fails at the end of the stream."""
        end = time.monotonic() + seconds
        while True:
            while self.heard:
                message = self.heard.pop(0)
                if isinstance(message, kind):
                    return message
            ready, _, _ = select.select([self.channel], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {kind.__name__} within {seconds} s"
            data = self.channel.recv(1 << 20)
            assert data, f"the clerk is gone, without a {kind.__name__}"
            self.heard.extend(self.reader.feed(data))


@contextmanager
def clerk(prepare: Callable[[], object] = lambda: None) -> Iterator[Talk]:
    """Give a clerk in a forked child that is killed in the end; `prepare` runs in the child."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        try:
            ours.close()
            prepare()
            Clerk(theirs).serve()
        finally:
            os._exit(0)  # the walking thread may hang
    theirs.close()
    with ours:
        try:
            yield Talk(ours)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


def order(folder: Path, run: str = "run1", **changes: Any) -> Open:
    """Return the order to work from `folder`/series to `folder`/native."""
    values = {
        "source": os.fsencode(folder / "series"), "target": os.fsencode(folder / "native"), "in_place": False,
        "listed": False, "overwrite": False, "durable": True, "run": run, "again": False, "judge": "1.0",
    }  # fmt: skip
    return Open(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a SOURCE of one file."""
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "CT1").write_text("one")
    return tmp_path


def test_a_walk_that_fails_in_an_unforeseen_way_says_so(folder: Path) -> None:
    """Never a silent end: the supervisor would wait for files for ever."""

    def fail(*_: object, **__: object) -> Iterator[None]:
        raise RuntimeError("unforeseen \udcff")
        yield

    with clerk(lambda: setattr(walker, "walk", fail)) as talk:
        talk.say(order(folder), More(9))
        assert talk.wait_for(Opened).base == os.fsencode(folder / "series")
        stopped = talk.wait_for(Stopped)
        assert stopped.reason.startswith("the source cannot be walked: RuntimeError: unforeseen")
        assert not stopped.fatal
        talk.say(Finish(75, complete=False))
        talk.wait_for(Finished)


@contextmanager
def unanswered(file: Path) -> Iterator[None]:
    """Have every open(2) of a file wait, as on storage that does not answer, for up to 45 s (fcntl(2), Leases)."""
    holder = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(holder, fcntl.F_SETSIG, signal.SIGURG)  # which nobody heeds; SIGIO would end this process
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        os.close(holder)
        pytest.skip(f"no leases on this file system: {error.strerror}")
    try:
        yield
    finally:
        os.close(holder)


def evidence(folder: Path) -> dict[str, str]:
    """Return what is kept in TARGET."""
    place = folder / "native" / ".dcmpool" / "evidence"
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


def keep(folder: Path, name: str = "run1-1-1") -> Keep:
    """Return the order to keep evidence with a copy of the source."""
    return Keep(name, (KeptFile("output.txt", b"said"),), os.fsencode(folder / "series" / "CT1"))


def test_evidence_is_kept_with_a_copy_of_the_source(folder: Path) -> None:
    with clerk() as talk:
        talk.say(order(folder), More(9))
        talk.wait_for(Opened)
        talk.say(keep(folder), keep(folder, "run1-2-1"), Finish(0, complete=True))
        talk.wait_for(Finished)
    kept = {f"run1-{job}-1/{name}": text for job in "12" for name, text in (("output.txt", "said"), ("source", "one"))}
    assert evidence(folder) == kept
    assert not (folder / "native" / ".dcmpool" / "tmp").exists()


def test_a_source_that_does_not_answer_when_it_is_copied_stops_no_commit(folder: Path) -> None:
    """Nor the end of the run; the rest of the evidence is there, and no half copy."""
    with clerk() as talk:
        talk.say(order(folder), More(9))
        talk.wait_for(Opened)
        place = Place(folder / "native")
        with unanswered(folder / "series" / "CT1"):
            talk.say(keep(folder))
            until((folder / "native" / ".dcmpool" / "evidence" / "run1-1-1" / "output.txt").exists, SECONDS)
            talk.say(Commit((place.result("CT1", "pixels"),)))
            assert talk.wait_for(Committed, 30).jobs == (1,)
            talk.say(Finish(1, complete=True))
            talk.wait_for(Finished, 30)
            assert evidence(folder) == {"run1-1-1/output.txt": "said"}
            assert not (folder / "native" / ".dcmpool" / "tmp").exists()
    assert place.files() == {"CT1": "pixels"}


def test_a_source_that_would_fill_the_target_is_not_copied(folder: Path) -> None:
    """A file of holes may say that it holds a terabyte; from a gigabyte on it is left out."""
    os.truncate(folder / "series" / "CT1", (1 << 30) + 1)
    with clerk() as talk:
        talk.say(order(folder), More(9))
        talk.wait_for(Opened)
        talk.say(keep(folder), Finish(0, complete=True))
        talk.wait_for(Finished)
    assert evidence(folder) == {"run1-1-1/output.txt": "said"}


def test_two_runs_that_begin_at_once_on_a_new_target_are_told_apart(folder: Path) -> None:
    """The second finds what the first has made meanwhile, and that it is in use: exit code 3, not 2."""
    arrived, go = folder / "arrived", folder / "go"

    def come_second(right: Callable[[bytes, int], None] = os.mkdir) -> None:
        def mkdir(path: bytes, mode: int) -> None:
            arrived.touch()
            until(go.exists, SECONDS)
            right(path, mode)

        os.mkdir = mkdir  # type: ignore[assignment]  # in a child of its own

    with clerk(come_second) as second, clerk() as first:
        second.say(order(folder, "run2"), More(9))
        until(arrived.exists, SECONDS)
        first.say(order(folder), More(9))
        first.wait_for(Opened)
        go.touch()
        refused = second.wait_for(Refused)
        assert (refused.exit_code, refused.reason) == (3, f"another run is working on {folder / 'native'}")
        first.say(Finish(0, complete=True))
        first.wait_for(Finished)
