"""What a run would do, without a trace: the walk of a clerk that writes nothing, in a process of its own.

rehearsal --Open--> checks, journal (read only) --Opened/Refused--> walk --Planned--> ... --Finished/Stopped-->
"""

import os
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress

import msgspec

from dcmpool import _os, ground, place
from dcmpool.admission import admit, check_source
from dcmpool.commit import Target
from dcmpool.errors import DcmpoolError, LockedError, UsageError
from dcmpool.journal import Journal
from dcmpool.model import Due
from dcmpool.place import Place
from dcmpool.protocol import (
    BATCH,
    FROM_CLERK,
    TO_CLERK,
    Finished,
    Item,
    Message,
    Open,
    Opened,
    Plan,
    Planned,
    Refused,
    Stopped,
)
from dcmpool.text import shown, words
from dcmpool.tree import File, Note, base_of
from dcmpool.walker import Walker

_IN_MEMORY = b":memory:"


class Planner(Walker):
    """A walk that says what is due, and offers nothing."""

    def __init__(self, order: Open, target: Target, journal: Journal, send: Callable[[Message], None]) -> None:
        super().__init__(order, target, lambda: journal, send, threading.Semaphore(), threading.Lock())
        self._journal = journal
        self._plans: list[Plan] = []

    def run(self) -> None:
        """Walk to the end.

        Raises
        ------
        OSError, sqlite3.Error
            SOURCE cannot be walked, or the journal cannot be read.
        """
        for found in self._paths():
            self._take(found)
            if len(self._plans) >= BATCH:
                self._tell()
        self._tell()

    def _take(self, found: File | Note | Item) -> None:
        self._plans.append(self._plan(found))

    def _plan(self, found: File | Note | Item) -> Plan:
        if isinstance(found, Note):
            return Plan(Due.FAILS if found.kind else Due.LEAVE, found.path, reason=found.reason)
        row = self._journal.find(found.path)
        if row is not None and isinstance(found, File) and self._is_settled(found, row):
            return Plan(Due.FAILS if row.kind else Due.SETTLED, found.path, found.size, row.reason)
        if obstacle := self._target.obstacle(found.path, row):
            return Plan(Due.FAILS, found.path, found.size, obstacle.reason)
        return Plan(Due.DO if row is None else Due.AGAIN, found.path, found.size)

    def _tell(self) -> None:
        if self._plans:
            self._send(Planned(tuple(self._plans)))
            self._plans.clear()


def plan(order: Open, send: Callable[[Message], None]) -> None:
    """Do what is ordered, and say how it ended."""
    try:
        target = admit(order)
        _demand_writable(target.root)
        _demand_writable(target.state)
        found = place.find(target.root, order.journal)
        ground.lack(target.root, in_place=order.in_place, journal=found.path)
        notices = tuple(ground.check(target.root))
        if ground.ignores_case(target.state) and not order.in_place:
            target = msgspec.structs.replace(target, spelling=ground.Spelling(target.root))
        before = _look_at_journal(found.path, target)
        journal = _journal(found, order, target)
        check_source(order, target, journal.directories())
    except (DcmpoolError, OSError, sqlite3.Error) as error:
        send(Refused(words(error), error.exit_code if isinstance(error, DcmpoolError) else UsageError.exit_code))
        return
    send(Opened(base_of(order.source), target.root, os.path.realpath(target.root), notices=notices))
    try:
        with closing(journal):
            Planner(order, target, journal, send).run()
        reason = ""
    except (OSError, sqlite3.Error) as error:
        reason = f"the source cannot be walked: {words(error)}"
    with suppress(LockedError):
        if before == _look_at_journal(found.path, target):
            send(Stopped(reason, fatal=True) if reason else Finished())
            return
    send(Stopped("a run has begun meanwhile, and what was said is out of date", fatal=True))


def _look_at_journal(path: bytes, target: Target) -> tuple[int, int] | None:
    """Return what tells whether a run has been at the journal meanwhile, which no dry run keeps away.

    Raises
    ------
    LockedError
        One is on.
    """
    if (lock := _os.share_lock(target.lock)) is not None:
        os.close(lock)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _demand_writable(root: bytes) -> None:
    there = place.existing(root)
    if not os.path.isdir(there):
        raise UsageError(f"the target is not a directory: {shown(root)}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"the target cannot be written: {shown(root)}: Permission denied")


def _journal(found: Place, order: Open, target: Target) -> Journal:
    """Return TARGET's journal, or an empty one that lies nowhere."""
    place.check(found, order, target.root)
    if os.path.exists(found.path) and os.path.getsize(found.path):
        return Journal(found.path, order.run, order.judge, read_only=True)
    return Journal(_IN_MEMORY, order.run, order.judge)


def main() -> None:
    """Plan on the socket whose descriptor is the first argument; the second is the parent's pid."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _os.die_with_parent(parent)
    channel = socket.socket(fileno=descriptor)
    reader = TO_CLERK.reader()
    while data := channel.recv(1 << 20):
        for order in reader.feed(data):
            plan(order, lambda message: channel.sendall(FROM_CLERK.encode(message)))
            return


if __name__ == "__main__":
    main()
