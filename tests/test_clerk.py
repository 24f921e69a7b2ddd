"""The clerk in a process of its own, spoken to as the supervisor does."""

import os
import select
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
from dcmpool.protocol import FROM_CLERK, TO_CLERK, Finish, Finished, FrameReader, Message, More, Open, Opened, Stopped

SECONDS = 20.0


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
