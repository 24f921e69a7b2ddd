"""The child's side: one job at a time, from the source's header to a synced and checked temp file.

    Assign -> inspect -> [wants bytes] -> decode -> [wants a writer's place] -> write, fsync, verify -> Written

A worker owns nothing that outlives it but a temp file, so it may be killed at any instant. It asks before it
takes, and shows what it does on a board that the supervisor can read without asking. Whatever a file
or a codec does here ends as one message, or as this process's death.
"""

import contextlib
import functools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from dcmpool import audit, engines, native, replica, verify
from dcmpool.board import Board
from dcmpool.errand import STREAM_BYTES, UID_CHARACTERS, Channel, Errand
from dcmpool.errors import Fault
from dcmpool.instance import Instance, inspect
from dcmpool.model import FailureKind, Outcome, Stage, stored_time
from dcmpool.protocol import (
    Assign,
    Check,
    Checked,
    Failed,
    Left,
    Message,
    Ready,
    Recorded,
    Survey,
    Written,
)
from dcmpool.source import Source, open_source
from dcmpool.survey import Surveying
from dcmpool.text import linked

_ROUNDS = "lossy colour becomes RGB, which rounds: --backup DIR keeps the original, --yes-lossy does without"


class Attempt(Errand):
    """One attempt at one job: from the source to a temp file."""

    def __init__(self, order: Assign, channel: Channel, board: Board) -> None:
        super().__init__(order, channel, board)
        self._order = order
        self._writer = order.granted_writer
        self._write_seconds = 0.0

    def _work(self) -> Message:
        with open_source(self._path) as source:
            instance = inspect(source)
            if instance.outcome is Outcome.OTHER and self._order.skip_others:
                return self._left(source, instance, Outcome.SKIPPED, "not a DICOM file")
            if self._order.in_place and instance.outcome is not Outcome.DECOMPRESSED:
                return self._left(source, instance, instance.outcome, "nothing to decompress")
            if self._order.in_place and source.links > 1 and not self._order.split_links:
                raise Fault(FailureKind.LINKED, linked(source.links))
            if instance.flaw and not self._order.engine:
                # An engine that the user names is heard first: that is how one finds what makes a loop hang.
                raise Fault(FailureKind.CORRUPT, instance.flaw)
            if not self._order.may_round and instance.rounds_colour:
                raise Fault(FailureKind.IRREPLACEABLE, _ROUNDS)
            if instance.outcome is Outcome.DECOMPRESSED:
                failed = self._choose_engine(instance)
                if failed:
                    return failed
            self._show_inspected(instance)
            return self._produce(source, instance)

    def _choose_engine(self, instance: Instance) -> Failed | None:
        """Choose the first engine that was not tried; with none left there is no attempt to make."""
        names = engines.candidates(instance, self._order.engine or None)
        left = [name for name in names if name not in self._order.tried]
        if not left:
            syntax = instance.transfer_syntax_uid
            reason = "no engine is left to try" if names else f"no engine reads the Transfer Syntax {syntax}"
            return self._failed(FailureKind.UNSUPPORTED, reason, exhausted=True)
        self._engine = left[0]
        return None

    def _produce(self, source: Source, instance: Instance) -> Written:
        decompress = instance.outcome is Outcome.DECOMPRESSED
        size = instance.memory_bytes if decompress else source.size
        streamed = size > STREAM_BYTES
        self._need_bytes(min(size, STREAM_BYTES), ask=streamed)
        frames: Iterable[bytes | memoryview] = ()
        if decompress:
            self._enter(Stage.DECODE)
            frames = self._staged(engines.decode(self._engine, instance, source, _scratch()))
            if instance.flaw:
                deque(frames, maxlen=0)
                raise Fault(FailureKind.CORRUPT, instance.flaw)
            if not streamed:
                frames = list(frames)
        self._need_writer()
        return self._write(source, instance, frames)

    def _write(self, source: Source, instance: Instance, frames: Iterable[bytes | memoryview]) -> Written:
        self._enter(Stage.WRITE)
        begun = time.monotonic()
        # Not O_TRUNC over an old one: this name is of this attempt alone.
        fd = os.open(self._order.temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if instance.outcome is Outcome.DECOMPRESSED:
                written = native.write_native(fd, source, instance, frames)
            else:
                written = native.write_copy(fd, source)
            lost = replica.take_over(fd, source.fd, exact=self._order.in_place)
            if self._order.durable:
                os.fsync(fd)
            self._write_seconds = time.monotonic() - begun
            self._enter(Stage.VERIFY)
            verify.check(fd, source, instance, written)
            source.check_unchanged()
            mtime_ns = stored_time(os.fstat(fd).st_mtime_ns)
        except BaseException:
            with contextlib.suppress(OSError):  # what keeps it from being removed is not what happened first
                os.unlink(self._order.temp)
            raise
        finally:
            os.close(fd)
        return Written(
            job=self._order.job,
            outcome=instance.outcome,
            engine=self._engine,
            transfer_syntax_uid=instance.transfer_syntax_uid[:UID_CHARACTERS],
            source_size=source.size,
            source_mtime_ns=stored_time(source.mtime_ns),
            size=written.size,
            mtime_ns=mtime_ns,
            native_bytes=written.native_bytes,
            digest=written.digest,
            seconds=time.monotonic() - self._begun,
            write_seconds=self._write_seconds,
            notes=(*instance.notes, *(lost if self._order.in_place else ()))[:16],
        )

    def _left(self, source: Source, instance: Instance, outcome: Outcome, reason: str) -> Left:
        uid = instance.transfer_syntax_uid[:UID_CHARACTERS]
        return Left(self._order.job, outcome, uid, source.size, stored_time(source.mtime_ns), reason)


class Opinion(Errand):
    """A second engine's opinion on a result: one just made, or one of an earlier run, which is looked at again too."""

    def __init__(self, order: Check, channel: Channel, board: Board) -> None:
        super().__init__(order, channel, board)
        self._order = order

    def _work(self) -> Message:
        recorded = self._order.recorded
        if recorded is None:
            with open_source(self._path) as source, self._result() as fd:
                return self._judge(fd, source, inspect(source))
        self._enter(Stage.VERIFY)
        with self._result() as fd:
            if self._order.result == self._path:
                return self._check_alone(fd, recorded, "its source was replaced in place")
            try:
                with open_source(self._path) as source:
                    if (source.size, stored_time(source.mtime_ns)) != (recorded.source_size, recorded.source_mtime_ns):
                        return self._check_alone(fd, recorded, "the source has changed since")
                    instance = inspect(source)
                    audit.check_recorded(fd, recorded, source, instance)
                    return self._judge(fd, source, instance)
            except Fault as fault:
                if fault.kind not in (FailureKind.READ, FailureKind.CHANGED):
                    raise
                return self._check_alone(fd, recorded, f"the source {self._explained(fault)}")

    @contextlib.contextmanager
    def _result(self) -> Iterator[int]:
        try:
            fd = os.open(self._order.result, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise Fault(FailureKind.VERIFY, "the result is missing") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _judge(self, fd: int, source: Source, instance: Instance) -> Message:
        names = [name for name in engines.second(instance, self._order.first) if name not in self._order.asked]
        if not os.environ["TMPDIR"] and not engines.WRITES_FILES.isdisjoint(names):
            return self._judge_without_files(fd, source, instance, names)
        return self._judge_by(fd, source, instance, names)

    def _judge_without_files(self, fd: int, source: Source, instance: Instance, names: list[str]) -> Message:
        """Judge where nothing may be written; who can give no opinion then says nothing against the result."""
        left = [name for name in names if name not in engines.WRITES_FILES]
        try:
            if left:
                return self._judge_by(fd, source, instance, left)
        except Fault as fault:
            if fault.kind is FailureKind.VERIFY:
                raise
        missing = ", ".join(sorted(engines.WRITES_FILES.intersection(names)))
        return Checked(self._job, "", f"not confirmed: {missing} needs a place to write to")

    def _judge_by(self, fd: int, source: Source, instance: Instance, names: list[str]) -> Message:
        if not names:
            return self._failed(FailureKind.UNSUPPORTED, "there is no second engine", exhausted=True)
        self._engine = names[0]
        self._show_inspected(instance)
        self._need_bytes(min(instance.memory_bytes, STREAM_BYTES), ask=instance.memory_bytes > STREAM_BYTES)
        self._enter(Stage.VERIFY)
        # What this run has just made is proved already; what an earlier one made may be of an earlier dcmpool.
        decode = engines.decode if self._order.recorded else engines.decode_again
        frames = decode(self._engine, instance, source, _scratch())
        verify.check_second(fd, instance, self._staged(frames))
        source.check_unchanged()
        return Checked(self._job, self._engine)

    def _check_alone(self, fd: int, recorded: Recorded, note: str) -> Message:
        audit.check_alone(fd, recorded)
        return Checked(self._job, "", f"held against the journal alone: {note}"[:2000])


@functools.cache
def _scratch() -> Path:
    """Return this child's private directory, made when it is first needed."""
    scratch = Path(os.environ["TMPDIR"])
    scratch.mkdir(mode=0o700, exist_ok=True)
    return scratch


def errand(order: Assign | Check | Survey, channel: Channel, board: Board) -> Errand:
    """Return what an order asks for."""
    match order:
        case Assign():
            return Attempt(order, channel, board)
        case Check():
            return Opinion(order, channel, board)
        case Survey():
            return Surveying(order, channel, board)


def serve_child(channel_fd: int, board_fd: int) -> None:
    """Do jobs until the supervisor closes the channel."""
    channel, board = Channel(channel_fd), Board(board_fd)
    channel.send(Ready())
    while (order := channel.receive()) is not None:
        os.lseek(2, 0, os.SEEK_SET)  # what an earlier job printed is no evidence for this one
        channel.send(errand(order, channel, board).run())
