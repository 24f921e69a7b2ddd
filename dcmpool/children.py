"""The workers of a run as processes: launched, heard, looked at, signalled, reaped. The policy is told what happens.

    launch --> fork server --Launched, with a pidfd--> child <--channel--> `Pool.message`
                    '-------Exited-----.   pidfd: dead-.
                                       '---------------'--> evidence, `Pool.died`

A child is dead when its pidfd says so; its exit status comes from the fork server, or never.
"""

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable

import msgspec

from dcmpool import _os, diagnose, evidence
from dcmpool.actions import Look
from dcmpool.child import Child, refusal
from dcmpool.config import MIB, Config
from dcmpool.dispatch import scratch_name
from dcmpool.endings import how_it_died
from dcmpool.events import Event
from dcmpool.evidence import MAX_KEPT, Death, with_share
from dcmpool.forklink import ForkLink
from dcmpool.memory import OUT_OF_MEMORY, Killer
from dcmpool.model import FailureKind, Stage
from dcmpool.pool import Pool
from dcmpool.protocol import Exited, Failed, Keep, Launch, Launched, Message, NotMade, ProtocolError, Written
from dcmpool.telling import worker_died

_STATUS_SECONDS = 1.0
"""How long a dead child's exit status is waited for; it comes with the proof of death, or never."""


class Place(msgspec.Struct, frozen=True):
    """Where children work."""

    base: bytes
    """The directory to which all paths are relative."""
    temp: bytes
    """TARGET/.dcmpool/tmp; b"" where nothing is to be written."""
    readable: tuple[bytes, ...]
    """What they may read, beside programs and libraries; empty if they are not confined."""


class Children:
    """All children of a run, and the fork server that makes them of `worker_module`.

    `now` is the run's own time; `tell` tells the clerk, `happened` whoever follows the run.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        pool: Pool,
        config: Config,
        worker_module: str,
        *,
        now: Callable[[], float],
        tell: Callable[[Message], None],
        happened: Callable[[Event], None],
    ) -> None:
        self._selector = selector
        self._pool = pool
        self._config = config
        self._now = now
        self._tell = tell
        self._happened = happened
        self._maker = ForkLink(
            selector,
            pool,
            worker_module,
            nice=config.work.nice,
            launched=self._on_launched,
            exited=self._on_exited,
            happened=happened,
        )
        self._children: dict[int, Child] = {}
        self._awaiting_code: dict[int, float] = {}
        self._place = Place(b"", b"", ())
        self._kept = 0
        self._killer = Killer()
        self.memory_mib = config.limits.memory_mib
        """What each child that is launched from now on may take."""

    def start(self) -> None:
        """Start the fork server."""
        self._maker.start()

    def open(self, place: Place) -> None:
        """Say where children are to work, before the first is launched."""
        self._place = place

    # --- doing

    def launch(self, number: int) -> None:
        """Have the fork server make a child."""
        try:
            child = self._children[number] = Child(self._maker.present, self.memory_mib)
        except OSError as error:
            self._pool.not_launched(number, refusal(error), self._now())
            return
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._on_channel(number))
        scratch = os.path.join(self._place.temp, scratch_name(self._pool.run, number)) if self._place.temp else b""
        memory_bytes = child.memory_mib * MIB
        self._maker.ask(Launch(number, memory_bytes, scratch, self._place.readable, self._config.engines), child)

    def send(self, number: int, message: Message) -> None:
        """Send a message. What does not go is not missed: the child is dead, or does not read, and its time ends."""
        self._children[number].send(message)

    def signal(self, number: int, signal_number: int) -> None:
        """Signal a child and its process group."""
        child = self._children[number]
        if child.pid:
            child.signal(signal_number)
        else:
            # A launch that is not answered: the fork server hangs, and all its children are to be made anew.
            self._maker.kill()

    def examine(self, number: int) -> None:
        """Look at a child that takes long, and tell the policy what was seen."""
        child, worker = self._children[number], self._pool.crew[number]
        self._look_at_board(number)
        now = time.monotonic()  # not the run's own time: a child may have worked on while this process was stopped
        seen_at, before = child.seen or (now, None)
        found = with_share(diagnose.examine(child.pid), before, now - seen_at)
        child.seen = now, found
        stage = child.stage
        engine = f" with {worker.engine}" if worker.engine else ""
        why = diagnose.cause(found, stage)
        reason = f"no result within {worker.limit_seconds:.1f} s: {stage}{engine}, {why} ({found.text()})"
        side = diagnose.waits_for(found, stage)
        look = Look(side, found.mark, stage, is_stopped=found.is_stopped, reason=reason)
        self._pool.examined(number, look, self._now())

    def forget(self, number: int) -> None:
        """Close the descriptors of a child that is proved dead, or never came to be."""
        child = self._children.pop(number, None)
        if child is None:
            return  # its launch was refused
        self._awaiting_code.pop(number, None)
        for file in (child.channel, child.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(file)
        self._maker.forget(child)
        child.close()

    # --- asking

    def stage(self, number: int) -> Stage:
        """Return what a child says it is doing."""
        return self._children[number].stage

    def look_at_boards(self) -> None:
        """Tell the policy what all children show."""
        for worker in self._pool.crew:  # not every process here: of a dead one the policy may have been told already
            self._look_at_board(worker.id)

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be sent."""
        return self._maker.is_behind

    def flush(self) -> None:
        """Send what waits."""
        self._maker.flush()

    def next_deadline(self) -> float | None:
        """Return when `expire` is due."""
        return min(self._awaiting_code.values(), default=None)

    def expire(self, now: float) -> None:
        """Give up on exit statuses that do not come."""
        for number, deadline in list(self._awaiting_code.items()):
            if now >= deadline or self._children[number].maker.is_closed:
                del self._awaiting_code[number]
                self._died(number, None, now)

    # --- hearing

    def _on_launched(self, message: Launched, pidfd: int) -> None:
        number = message.child
        if number not in self._children:
            os.close(pidfd)  # launched for a run that no longer wants it; the closed channel ends it
            return
        self._children[number].launched(message.pid, pidfd)
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._on_death(number))
        self._pool.launched(number, message.pid, self._now())

    def _on_channel(self, number: int) -> None:
        child, now = self._children[number], self._now()
        try:
            messages, closed = child.receive()
        except ProtocolError as error:
            self._selector.unregister(child.channel)
            self._look_at_board(number)
            self._pool.garbled(number, str(error), now)
            return
        for message in messages:
            if not isinstance(message, Written):  # which says all that the board does
                self._look_at_board(number)
            if isinstance(message, Failed) and message.kind is FailureKind.MEMORY:
                self._ran_out_of_memory(number, message, now)
            self._pool.message(number, message, now)
        if closed:
            self._look_at_board(number)
            self._selector.unregister(child.channel)
            self._pool.hung_up(number, now)

    def _look_at_board(self, number: int) -> None:
        """Tell the policy what a child shows of its job: before anything of which that is known, or follows."""
        job = self._pool.crew[number].job
        if job is not None and (inspected := self._children[number].shown(job.id)):
            self._pool.inspected(number, inspected)

    def _on_death(self, number: int) -> None:
        """The pidfd says that the child is dead: hear its last messages, then say so as soon as its status is known."""
        child = self._children[number]
        if child.channel in self._selector.get_map():
            self._on_channel(number)
        with contextlib.suppress(KeyError):  # it has hung up
            self._selector.unregister(child.channel)  # whoever holds it still is not the child
        self._look_at_board(number)
        self._selector.unregister(child.pidfd)
        child.is_dead = True
        if child.code is not None or child.maker.is_closed or self._pool.crew[number].is_retired:
            self._died(number, child.code, self._now())
        else:
            self._pool.proved_dead(number)
            self._awaiting_code[number] = self._now() + _STATUS_SECONDS

    def _on_exited(self, message: Exited | NotMade) -> None:
        child = self._children.get(message.child)
        if child is None:
            return
        if isinstance(message, NotMade):
            self.forget(message.child)
            lack = OSError(message.errno, os.strerror(message.errno))
            self._pool.not_launched(message.child, refusal(lack), self._now())
            return
        child.code = message.code
        if self._awaiting_code.pop(message.child, None) is not None:
            self._died(message.child, message.code, self._now())

    def _died(self, number: int, code: int | None, now: float) -> None:
        child, worker = self._children[number], self._pool.crew[number]
        ours = worker.cause is not None or worker.killed
        if worker.was_ahead and not ours and worker.job and not child.has_begun(worker.job.id):
            self._pool.died_between(number)
            return
        out_of_memory = "" if ours else self._killer.had(code, _os.read_bytes(child.output), now)
        if not worker.is_retired:
            kind = worker.cause or (FailureKind.MEMORY if out_of_memory else FailureKind.CRASHED)
            reason = worker.reason or f"the worker {how_it_died(code)}; {out_of_memory}".removesuffix("; ")
            cause = OUT_OF_MEMORY if out_of_memory else ""
            if worker.cause is FailureKind.TIMEOUT and child.seen:
                cause = diagnose.cause(child.seen[1], child.stage)
            self._keep_evidence(number, kind, reason, cause, now)
        self._pool.died(number, code, now, out_of_memory)

    # --- evidence

    def _ran_out_of_memory(self, number: int, message: Failed, now: float) -> None:
        """Keep evidence of a child that says that it was refused memory: it lives on, but not for long."""
        child = self._children[number]
        child.seen = now, diagnose.examine(child.pid)
        self._keep_evidence(number, message.kind, message.reason, OUT_OF_MEMORY, now)

    def _keep_evidence(self, number: int, kind: FailureKind, reason: str, cause: str, now: float) -> None:
        """Have the clerk keep what is known of a child that ended over a file."""
        child, worker = self._children[number], self._pool.crew[number]
        if worker.job is None:
            return
        self._kept += 1
        name = f"{self._pool.run}-{worker.job.id}-{worker.job.dispatched}" if self._kept <= MAX_KEPT else ""
        source = os.path.join(self._place.base, worker.job.path)
        death = Death(
            path=worker.job.path,
            source=source,
            kind=kind,
            reason=reason,
            cause=cause,
            engine=worker.engine,
            stage=child.stage,
            seconds=now - worker.begun,
            limit_seconds=worker.limit_seconds,
            memory_mib=child.memory_mib,
            evidence=child.seen[1] if child.seen else None,
        )
        self._happened(worker_died(death, worker.job.dispatched, child.pid, name))
        if not name:
            return
        kept = evidence.files(death, _os.read_bytes(child.output), _os.read_bytes(child.trace))
        self._tell(Keep(name, kept, source if self._config.work.evidence_copy else b""))

    # --- the end

    def kill(self) -> set[int]:
        """SIGKILL children and fork server; return the pidfds of those not known to be dead."""
        for child in self._children.values():
            child.signal(signal.SIGKILL)
        return self.dismiss()

    def dismiss(self) -> set[int]:
        """SIGKILL the fork server, and by the kernel its children; return the pidfds of those not known to be dead."""
        living = {child.pidfd for child in self._children.values() if child.pidfd >= 0 and not child.is_dead}
        return living | self._maker.kill()

    def close(self) -> None:
        """Let go of all of them."""
        for number in list(self._children):
            self.forget(number)
        self._maker.close()
