"""The clerk: the one trusted child that touches SOURCE's and TARGET's names, and parses no DICOM.

    supervisor --Open--> checks, lock, journal --Opened/Refused-->
               --More--> [thread] walk SOURCE (walker.py), drop what is settled --Found/Noted/Earlier/Scanned-->
               --Commit, Settle, Begin, Discard--> rename, sync, journal --Committed-->
               --Finish--> --Finished-->

What may block in the kernel blocks here, not in the supervisor. Walking, committing and copying sources as evidence
are threads of their own, so that a SOURCE that does not answer does not stop commits. All that came in one read is one
transaction.
"""

import contextlib
import os
import socket
import sqlite3
import sys
import threading
from functools import partial

import msgspec

from dcmpool import _os, admission, evidence, ground, place
from dcmpool.copier import Copier
from dcmpool.errors import DcmpoolError, UsageError
from dcmpool.journal import Journal
from dcmpool.model import Outcome, Purpose
from dcmpool.onlooker import Onlooker
from dcmpool.protocol import (
    FROM_CLERK,
    TO_CLERK,
    Begin,
    Commit,
    Committed,
    Discard,
    Earlier,
    Ending,
    Finish,
    Finished,
    Keep,
    Message,
    More,
    Open,
    Opened,
    Refused,
    Result,
    Said,
    Settle,
    Stopped,
)
from dcmpool.quarantine import Quarantine
from dcmpool.room import room
from dcmpool.text import shown, words
from dcmpool.tree import base_of
from dcmpool.walker import Walker

_READ_BYTES = 1 << 20
_GOODBYE_SECONDS = 0.5
"""How long the walk is waited for at the end: it may hang in a SOURCE that does not answer."""


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
                self._send(Stopped(f"the target's state cannot be written: {words(error)}", fatal=True))
                return

    def _handle(self, messages: list[Message]) -> bool:
        """Do all that came in one read; return whether the run is over."""
        if any(isinstance(message, Open) and not self._open(message) for message in messages):
            return True
        for jobs in (message.jobs for message in messages if isinstance(message, More) and message.jobs):
            self._credit.release(jobs)
        is_to_look = self._purpose is Purpose.SURVEY or self._lack
        return self._acknowledge(messages) if is_to_look else self._record(messages)

    def _record(self, messages: list[Message]) -> bool:
        """Commit and journal; return whether the run is over."""
        results = [result for m in messages if isinstance(m, Commit) for result in m.results]
        endings = [ending for m in messages if isinstance(m, Settle) for ending in m.endings]
        begun = [attempt for m in messages if isinstance(m, Begin) for attempt in m.attempts]
        if begun:
            self._journal.begin(begun)
        self._commit(results, endings)
        for name in (name for m in messages if isinstance(m, Discard) for name in m.names):
            self._target.discard(name)
        for message in messages:
            if isinstance(message, Keep):
                self._keep(message)
        self._put_aside(endings)
        finish = next((message for message in messages if isinstance(message, Finish)), None)
        if finish:
            self._finish(finish)
        return finish is not None

    def _commit(self, results: list[Result], endings: list[Ending]) -> None:
        with self._committing:
            for some in self._target.portions(results):
                done, failures = self._target.commit(some, self._journal)
                self._send(Committed(tuple(done), tuple(failures)))
            if endings:
                self._settle(endings)
                self._send(Committed(tuple(ending.job for ending in endings)))

    def _acknowledge(self, messages: list[Message]) -> bool:
        """Take note of what is found by one that leaves no trace, as a survey does; return whether it is over."""
        if jobs := tuple(ending.job for m in messages if isinstance(m, Settle) for ending in m.endings):
            self._send(Committed(jobs))
        is_over = any(isinstance(message, Finish) for message in messages)
        if is_over:
            if self._quarantine is not None:
                self._quarantine.end(self._get_on)
            self._send(Finished())
        return is_over

    def _keep(self, death: Keep) -> None:
        self._target.keep(death.name, death.files)
        if death.copy:
            self._copier.add(death.name, death.copy)

    def _put_aside(self, endings: list[Ending], *, are_earlier: bool = False) -> None:
        """Have originals that failed copied, where that is wanted."""
        if self._quarantine is not None:
            for ending in endings:
                if ending.outcome is Outcome.FAILED:
                    self._quarantine.add(ending, is_earlier=are_earlier)

    def _get_on(self) -> None:
        """Say that the end takes time, and not because storage does not answer."""
        self._send(Committed(()))

    def _say(self, text: str) -> None:
        self._send(Said(text))

    def _send_of_walk(self, message: Message) -> None:
        self._send(message)
        if isinstance(message, Earlier):
            self._put_aside([message.ending], are_earlier=True)

    def _settle(self, endings: list[Ending]) -> None:
        if self._purpose is not Purpose.AUDIT:  # which finds what it finds, and changes nothing
            self._journal.settle((), endings)

    def _open(self, order: Open) -> bool:
        """Check, lock and open; begin to walk. Return whether the run can begin."""
        self._purpose = order.purpose
        self._writes = order.purpose is not Purpose.SURVEY
        self._journal_of_run = partial(Journal, b":memory:", order.run, order.judge)
        self._notices: list[str] = []
        self._lack = ""
        try:
            self._target = admission.admit_audit(order) if order.purpose is Purpose.AUDIT else admission.admit(order)
            if order.purpose is Purpose.SURVEY:
                base, left = base_of(order.source), room(self._target.root)
            else:
                base, left = self._settle_in(order), None
        except (DcmpoolError, OSError, sqlite3.Error) as error:
            code = error.exit_code if isinstance(error, DcmpoolError) else UsageError.exit_code
            self._send(Refused(_one_line(error, order), code))
            return False
        self._quarantine = None
        if order.quarantine:
            self._quarantine = Quarantine(order.quarantine, base, self._target, order.run, self._say)
        root, temp = self._target.root, self._target.temp if self._writes else b""
        self._send(Opened(base, root, os.path.realpath(root), temp, tuple(self._notices), left))
        walk = partial(Onlooker, self._lack) if self._lack else Walker
        self._walker = walk(
            order, self._target, self._journal_of_run, self._send_of_walk, self._credit, self._committing
        )
        self._walk = threading.Thread(target=self._walker.run, name="walk", daemon=True)
        self._walk.start()
        if order.purpose is Purpose.RUN and self._writes:
            self._journal.add_versions(evidence.versions())  # slow to find out, and by now nobody waits for it
        return True

    def _settle_in(self, order: Open) -> bytes:
        """Look at TARGET, take it, open its journal; return the directory to which paths are relative."""
        found = place.find(self._target.root, order.journal)
        if order.purpose is Purpose.RUN:
            self._lack = self._look_for_room(order, found.path)
            self._notices += ground.check(self._target.root)
        if found.notice:
            self._notices.append(found.notice)
        if self._lack:
            return self._look(found, order)
        with place.made(found, order, self._target.root):
            self._take(order)
            if self._target.backup is not None:
                admission.make_backup(self._target.backup)
            if order.purpose is Purpose.RUN:
                self._notices += self._look_at_names()
            return self._open_journal(found.path, order)

    def _look_for_room(self, order: Open, journal: bytes) -> str:
        """Return why nothing may be written, or "". A run goes on as it has begun, whatever room there is by now."""
        if order.again:
            return "there was none when the run began" if order.looks else ""
        return ground.lack(self._target.root, in_place=order.in_place, journal=journal)

    def _look(self, found: place.Place, order: Open) -> bytes:
        """Where there is no room, see whether anything is left to do, and write nothing; return as `_settle_in`."""
        self._writes = False
        place.check(found, order, self._target.root)
        _os.share_lock(self._target.lock)  # for as long as this process lives
        self._journal_of_run = partial(Journal, found.path, order.run, order.judge, read_only=True)
        self._journal = self._journal_of_run()
        admission.check_source(order, self._target, self._journal.directories())
        return base_of(order.source)

    def _take(self, order: Open) -> None:
        """Lock TARGET; for an audit it need not be writable."""
        try:
            self._lock = admission.take(self._target)
        except UsageError as error:
            if order.purpose is not Purpose.AUDIT:
                raise
            _os.share_lock(self._target.lock)  # for as long as this process lives
            self._writes = False
            self._notices.append(f"{words(error)}: it is only read, and no evidence of killed workers is kept")

    def _look_at_names(self) -> list[str]:
        """See what becomes of names in TARGET; return what the user should know of that."""
        target = self._target
        notices = ground.way_of_results(target.root, target.temp)
        if ground.ignores_case(target.state) and not target.in_place:
            self._target = msgspec.structs.replace(target, spelling=ground.Spelling(target.root))
            notices.append("the target ignores case: of files whose names differ in case alone, one is done")
        return notices

    def _open_journal(self, journal: bytes, order: Open) -> bytes:
        """Open the journal and put right what dead runs left; return the directory to which paths are relative."""
        self._copier = Copier(self._target)
        audits = order.purpose is Purpose.AUDIT
        self._journal_of_run = partial(Journal, journal, order.run, order.judge, read_only=audits)
        self._journal = self._journal_of_run()
        try:
            if order.purpose is Purpose.AUDIT:
                base = self._begin_audit()
                self._target = msgspec.structs.replace(self._target, in_place=base == self._target.root)
                return base
            base = self._begin_run(order)
            self._target.recover(self._journal)
            self._target.sweep(order.run.encode())
        except BaseException:
            self._journal.close()
            raise
        return base

    def _begin_run(self, order: Open) -> bytes:
        """Record the run; return the directory to which paths are relative."""
        admission.check_source(order, self._target, self._journal.directories())
        base = base_of(order.source)
        self._journal.begin_run(base, self._target.root, order.settings)
        return base

    def _begin_audit(self) -> bytes:
        """Return the directory to which paths were relative when TARGET was made."""
        directories = self._journal.directories()
        if directories is None:
            raise UsageError(f"no run has written to {shown(self._target.root)}: there is nothing to verify")
        return directories[0]

    def _finish(self, order: Finish) -> None:
        if self._purpose is Purpose.RUN:
            self._journal.end_run(order.exit_code, order.totals, complete=order.complete)
        self._walker.stop()
        self._walk.join(_GOODBYE_SECONDS)  # the last to close the journal folds its write-ahead log into it
        self._journal.close()
        self._copier.end()
        if self._quarantine is not None:
            self._quarantine.end(self._get_on)
        with contextlib.suppress(OSError):
            os.rmdir(self._target.temp)
        self._send(Finished())

    def _send(self, message: Message) -> None:
        with self._sending:
            self._channel.sendall(FROM_CLERK.encode(message))


def _one_line(error: Exception, order: Open) -> str:
    if isinstance(error, DcmpoolError):
        return words(error)
    return f"the target cannot be used: {shown(order.target)}: {words(error)}"


def main() -> None:
    """Run the clerk on the socket whose descriptor is the first argument; the second is its parent's pid."""
    channel, parent = int(sys.argv[1]), int(sys.argv[2])
    _os.die_with_parent(parent)
    Clerk(socket.socket(fileno=channel)).serve()
    os._exit(0)  # the walking thread may hang in a SOURCE that does not answer


if __name__ == "__main__":
    main()
