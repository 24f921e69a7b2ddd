"""The loop: waits, hands events to the policy, does what it says. One thread; touches neither SOURCE nor TARGET.

    clerk <--stream--> Supervisor <--packets--> fork server --fork--> workers
                        Supervisor <--channel, pidfd--> each worker

Nothing here blocks but the one wait: channels do not, memfds and /proc cannot, and the user's terminal is
written by a thread of its own.
"""

import contextlib
import errno
import os
import select
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from subprocess import DEVNULL

from dcmpool import __version__, _os, diagnose, evidence, sandbox
from dcmpool.actions import Action, CloseChild, Examine, LaunchChild, Look, Notice, SendTo, SignalChild, Tell
from dcmpool.child import Child, Helper, Stream
from dcmpool.config import MIB, Config
from dcmpool.dispatch import scratch_name
from dcmpool.endings import how_it_died
from dcmpool.errors import DcmpoolError, LaunchError, LockedError, UsageError
from dcmpool.evidence import MAX_KEPT, Death, with_share
from dcmpool.lifecycle import Phase
from dcmpool.memory import OUT_OF_MEMORY, Killer
from dcmpool.model import FailureKind, Purpose
from dcmpool.pool import Pool
from dcmpool.progress import Activity, Progress, Snapshot
from dcmpool.protocol import (
    FROM_CLERK,
    FROM_FORKSERVER,
    MAX_FRAME_BYTES,
    TO_CLERK,
    TO_FORKSERVER,
    Committed,
    Exited,
    Failed,
    Keep,
    Launch,
    Launched,
    Open,
    Opened,
    ProtocolError,
    Refused,
    Room,
    Warmed,
)
from dcmpool.report import Report, Tally

_MAX_HELPER_DEATHS = 3
_STATUS_SECONDS = 1.0
"""How long a dead child's exit status is waited for; it comes with the proof of death, or never."""
_GOODBYE_SECONDS = 0.5
"""How long what was killed is waited for, twice: the prompt has to be back within 2 s."""
_OVERRUN_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 1_000_000.0
"""epoll_wait(2) takes its timeout as 2^31 ms at most, and raises over that."""
_WHAT_TO_DO = {
    errno.EMFILE: "allow more open files (ulimit -n) or use fewer --workers",
    errno.ENFILE: "the whole machine has too many open files",
    errno.EAGAIN: "allow more processes (ulimit -u) or use fewer --workers",
    errno.ENOMEM: "use fewer --workers",
}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Task:
    """What a run is to do, beside its settings."""

    source: bytes
    target: bytes
    in_place: bool = False
    files_from: int | None = None
    """The descriptor of a list of paths (`pathlist.py`); None to walk all of SOURCE."""
    purpose: Purpose = Purpose.RUN
    """In an audit `source` is what the journal of `target` says."""


class Supervisor:
    """One run: `run` is its life. `worker_module` has the `serve_child` that children run."""

    def __init__(
        self,
        task: Task,
        config: Config,
        progress: Progress,
        *,
        tally: Tally | None = None,
        worker_module: str = "dcmpool.worker",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task = task
        self._config = config.resolved()
        self._judge = f"{__version__} {config.judging()}"
        self._progress = progress
        self._worker_module = worker_module
        self._clock = clock
        self._run = os.urandom(4).hex()
        self._tally = tally or Tally()
        self._pool = Pool(self._config, self._run, in_place=task.in_place, tally=self._tally)
        self._children: dict[int, Child] = {}
        self._helpers: list[Helper] = []
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._awaiting_code: dict[int, float] = {}
        self._target = task.target
        self._temp = self._base = b""
        self.room: Room | None = None
        """What TARGET's file system has left; None until the clerk has looked."""
        self._kept = 0
        self._killer = Killer()
        self._unconfined = self._config.sandbox.mode == "off"
        self._opened = False
        self._clerk_deaths = self._forkserver_deaths = 0
        self._signals = 0
        self._stood_still = 0.0
        self._begun = clock()

    def run(self) -> Report:
        """Do the run and return its report.

        Raises
        ------
        UsageError, LockedError
            SOURCE or TARGET cannot be used, or another run uses it; nothing was written.
        LaunchError
            This machine gives no more processes or descriptors; what was begun can be resumed.
        """
        try:
            return self._run_guarded()
        except OSError as error:
            # Neither SOURCE nor TARGET is touched here: it is descriptors, processes or memory that lack.
            raise LaunchError(f"processes cannot be started: {_words(error)}") from error

    def _run_guarded(self) -> Report:
        _os.allow_descriptors()
        with selectors.DefaultSelector() as self._selector, self._signals_queued(), self._orphans_adopted():
            try:
                self._check_sandbox()
                self._pool.begin(self._now())
                self._start_clerk()
                self._start_forkserver()
                self._loop()
                return self._report()
            finally:
                self._leave()

    @property
    def has_lost_children(self) -> bool:
        """Whether a child is left that cannot be killed, so that waiting for children would never end."""
        return self._pool.crew.count(Phase.LOST) > 0

    # --- the loop

    def _loop(self) -> None:
        while True:
            before = self._now()
            self._perform()
            if self._pool.is_over:
                return
            timeout = self._timeout(before)
            events = self._selector.select(timeout)
            self._discount(before, timeout)
            for key, _ in events:
                key.data()
            now = self._now()
            if self._signals >= 2:
                self._abort()
                return
            self._give_up_on_codes(now)
            self._flush()
            self._pool.tick(now)
            if self._progress.is_due(now):
                self._progress.show(self._snapshot(now), now)

    def _now(self) -> float:
        """Return the run's own time, in seconds: it stands still while this process does, so no child suffers."""
        return self._clock() - self._stood_still

    def _discount(self, before: float, timeout: float | None) -> None:
        """Notice after a wait whether this process was stopped in it (Ctrl-Z, a frozen machine).

        Such a wait may end without a look at what has come meanwhile. So the run's own time is again as it was before
        it, all deadlines are as far away, and the next wait shows what has come.
        """
        waited = self._now() - before
        if timeout is not None and waited > timeout + _OVERRUN_SECONDS:
            self._stood_still += waited

    def _timeout(self, now: float) -> float | None:
        deadlines = [*self._awaiting_code.values()]
        if (deadline := self._pool.next_deadline()) is not None:
            deadlines.append(deadline)
        if (due := self._progress.next_due(now)) is not None:
            deadlines.append(due)
        if self._unsent or self._clerk_stream.is_behind:
            deadlines.append(now + 0.01)  # a socket's buffer is full: rare, and not worth a write event
        return min(max(0.0, min(deadlines) - now), _LONGEST_WAIT_SECONDS) if deadlines else None

    def _perform(self) -> None:
        for action in self._pool.take_actions():
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case LaunchChild():
                self._launch(action.worker)
            case SendTo():
                if not self._children[action.worker].send(action.message):
                    # Dead, which its pidfd will say; or it does not read, which its deadline will.
                    return
            case SignalChild():
                self._signal(action.worker, action.number)
            case Examine():
                self._examine(action.worker)
            case CloseChild():
                self._close_child(action.worker)
            case Tell():
                self._clerk_stream.send(action.message)
            case Notice():
                self._progress.notice(action.text)

    def _flush(self) -> None:
        self._clerk_stream.flush()
        try:
            while self._unsent:
                frame, fds = self._unsent[0]
                socket.send_fds(self._forkserver.channel, [frame], fds)
                self._unsent.popleft()
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()  # its pidfd will say that it is dead

    def _check_sandbox(self) -> None:
        """Say so where the kernel cannot confine children."""
        if self._unconfined or sandbox.abi():
            return
        if self._config.sandbox.mode == "require":
            raise UsageError('this kernel cannot confine workers (Landlock), and sandbox.mode is "require"')
        self._unconfined = True
        self._progress.notice("this kernel has no Landlock: workers are not confined")

    # --- children

    def _launch(self, number: int) -> None:
        try:
            child = self._children[number] = Child(self._forkserver)
        except OSError as error:
            self._pool.not_launched(number, _words(error))
            return
        self._selector.register(child.channel, selectors.EVENT_READ, lambda: self._on_channel(number))
        # A survey writes nothing, so its children have no place to.
        surveys = self._task.purpose is Purpose.SURVEY
        scratch = b"" if surveys else os.path.join(self._temp, scratch_name(self._run, number))
        readable: tuple[bytes, ...] = ()
        if not self._unconfined:
            audits = self._task.purpose is Purpose.AUDIT
            readable = (self._base, self._target) if audits else (self._task.source,)
        request = Launch(number, self._config.limits.memory_mib * MIB, scratch, readable, self._config.engines)
        self._unsent.append((TO_FORKSERVER.pack(request), child.descriptors()))
        self._flush()

    def _on_channel(self, number: int) -> None:
        child = self._children.get(number)
        if child is None or child.is_dead or child.channel not in self._selector.get_map():
            return  # closed by an event of the same wait
        now = self._now()
        try:
            messages, closed = child.receive()
        except ProtocolError as error:
            self._selector.unregister(child.channel)
            self._pool.garbled(number, str(error), now)
            return
        for message in messages:
            if isinstance(message, Failed) and message.kind is FailureKind.MEMORY:
                self._ran_out_of_memory(number, message, now)
            self._pool.message(number, message, now)
        if closed:
            self._selector.unregister(child.channel)
            self._pool.hung_up(number, now)

    def _on_death(self, number: int) -> None:
        """The pidfd says that the child is dead: hear its last messages, then say so as soon as its status is known."""
        child = self._children.get(number)
        if child is None or child.is_dead:
            return
        if child.channel in self._selector.get_map():
            self._on_channel(number)
        self._selector.unregister(child.pidfd)
        child.is_dead = True
        if child.code is not None or child.maker.is_closed or self._pool.crew[number].is_retired:
            self._died(number, child.code, self._now())
        else:
            self._pool.proved_dead(number)
            self._awaiting_code[number] = self._now() + _STATUS_SECONDS

    def _on_exited(self, message: Exited) -> None:
        child = self._children.get(message.child)
        if child is None:
            return
        child.code = message.code
        if self._awaiting_code.pop(message.child, None) is not None:
            self._died(message.child, message.code, self._now())

    def _give_up_on_codes(self, now: float) -> None:
        for number, deadline in list(self._awaiting_code.items()):
            if now >= deadline or self._children[number].maker.is_closed:
                del self._awaiting_code[number]
                self._died(number, None, now)

    def _died(self, number: int, code: int | None, now: float) -> None:
        child, worker = self._children[number], self._pool.crew[number]
        ours = worker.cause is not None or worker.killed
        out_of_memory = "" if ours else self._killer.had(code, _os.read_bytes(child.output), now)
        if not worker.is_retired:
            kind = worker.cause or (FailureKind.MEMORY if out_of_memory else FailureKind.CRASHED)
            reason = worker.reason or f"the worker {how_it_died(code)}; {out_of_memory}".removesuffix("; ")
            cause = OUT_OF_MEMORY if out_of_memory else ""
            if worker.cause is FailureKind.TIMEOUT and child.seen:
                cause = diagnose.cause(child.seen[1], child.stage)
            self._keep_evidence(number, kind, reason, cause, now)
        self._pool.died(number, code, now, out_of_memory)

    def _ran_out_of_memory(self, number: int, message: Failed, now: float) -> None:
        """Keep evidence of a child that says that it was refused memory: it lives on, but not for long."""
        child = self._children[number]
        child.seen = now, diagnose.examine(child.pid)
        self._keep_evidence(number, message.kind, message.reason, OUT_OF_MEMORY, now)

    def _keep_evidence(self, number: int, kind: FailureKind, reason: str, cause: str, now: float) -> None:
        """Have the clerk keep what is known of a child that ended over a file."""
        child, worker = self._children[number], self._pool.crew[number]
        if worker.job is None or self._kept >= MAX_KEPT:
            return
        self._kept += 1
        source = os.path.join(self._base, worker.job.path)
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
            memory_mib=self._config.limits.memory_mib,
            evidence=child.seen[1] if child.seen else None,
        )
        kept = evidence.files(death, _os.read_bytes(child.output), _os.read_bytes(child.trace))
        name = f"{self._run}-{worker.job.id}-{worker.job.dispatched}"
        self._clerk_stream.send(Keep(name, kept, source if self._config.work.evidence_copy else b""))

    def _signal(self, number: int, signal_number: int) -> None:
        child = self._children[number]
        if child.pid:
            child.signal(signal_number)
        else:
            # A launch that is not answered: the fork server hangs, and all its children are to be made anew.
            self._forkserver.kill()

    def _examine(self, number: int) -> None:
        child = self._children[number]
        worker = self._pool.crew[number]
        now = self._clock()  # not the run's own time: a child may have worked on while this process was stopped
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
        self._perform()

    def _close_child(self, number: int) -> None:
        child = self._children.pop(number)
        self._awaiting_code.pop(number, None)
        for file in (child.channel, child.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(file)
        self._unsent = deque(entry for entry in self._unsent if entry[1] != child.descriptors())
        child.close()

    # --- the fork server

    def _start_forkserver(self) -> None:
        self._forkserver = Helper("dcmpool.forkserver", self._worker_module, packets=True)
        self._helpers.append(self._forkserver)
        self._selector.register(self._forkserver.channel, selectors.EVENT_READ, self._on_forkserver)
        self._selector.register(self._forkserver.pidfd, selectors.EVENT_READ, self._on_forkserver_death)

    def _on_forkserver(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._forkserver.channel, MAX_FRAME_BYTES, 1)
        except (BlockingIOError, ConnectionResetError):
            return
        if not data:
            self._selector.unregister(self._forkserver.channel)
            return
        match FROM_FORKSERVER.decode(data):
            case Warmed() as message:
                for module, reason in message.missing.items():
                    self._progress.notice(f"{module} cannot be loaded, its engine is left out: {reason}")
            case Launched() as message:
                if not fds:  # recvmsg(2): what finds no free descriptor is dropped
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._on_launched(message, fds[0])
            case Exited() as message:
                self._on_exited(message)

    def _on_launched(self, message: Launched, pidfd: int) -> None:
        self._forkserver_deaths = 0
        if message.child not in self._children:
            os.close(pidfd)  # launched for a run that no longer wants it; the closed channel ends it
            return
        number = message.child
        self._children[number].launched(message.pid, pidfd)
        self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._on_death(number))
        self._pool.launched(number, message.pid, self._now())

    def _on_forkserver_death(self) -> None:
        """Relaunch it. Its children die with it, by the kernel; what was not forked yet is launched again."""
        last_words = self._forkserver.last_words()
        self._close_helper(self._forkserver)
        self._unsent.clear()
        self._pool.forkserver_died()
        self._forkserver_deaths += 1
        if self._forkserver_deaths >= _MAX_HELPER_DEATHS:
            self._pool.stop(LaunchError(f"the fork server dies again and again: {last_words or 'it said nothing'}"))
        self._perform()
        self._start_forkserver()

    # --- the clerk

    def _start_clerk(self) -> None:
        listed = self._task.files_from
        self._clerk = Helper("dcmpool.clerk", packets=False, stdin=DEVNULL if listed is None else listed)
        self._helpers.append(self._clerk)
        self._clerk_stream = Stream(self._clerk.channel, FROM_CLERK, TO_CLERK)
        self._selector.register(self._clerk.channel, selectors.EVENT_READ, self._on_clerk)
        self._selector.register(self._clerk.pidfd, selectors.EVENT_READ, self._on_clerk_death)
        self._clerk_stream.send(
            Open(
                source=self._task.source,
                target=self._task.target,
                in_place=self._task.in_place,
                listed=listed is not None,
                overwrite=self._config.work.overwrite,
                durable=self._config.storage.durable,
                run=self._run,
                judge=self._judge,
                again=self._opened,
                purpose=self._task.purpose,
            )
        )

    def _on_clerk(self) -> None:
        try:
            messages = self._clerk_stream.receive()
        except ProtocolError:
            self._clerk_stream.close()
            self._clerk.kill()  # its death says the rest
            return
        if not messages:
            return
        now = self._now()
        for message in messages:
            match message:
                case Opened():
                    self._on_opened(message, now)
                case Refused():
                    self._on_refused(message)
                case _:
                    if isinstance(message, Committed):  # it got on; a walk alone begins anew with each clerk
                        self._clerk_deaths = 0
                    self._pool.from_clerk(message, now)

    def _on_opened(self, message: Opened, now: float) -> None:
        self._target, self.room = message.target, message.room
        self._base = message.base
        self._temp = os.path.join(message.target, b".dcmpool", b"tmp")
        if not self._opened:
            self._opened = True
            self._pool.opened(message.base, self._temp, now)
        self._pool.welcome_clerk(now)

    def _on_refused(self, message: Refused) -> None:
        kind: type[DcmpoolError] = LockedError if message.exit_code == LockedError.exit_code else UsageError
        if not self._opened:
            raise kind(message.reason)
        self._pool.stop(LaunchError(f"the clerk cannot go on: {message.reason}"))
        self._pool.give_up(self._now())

    def _on_clerk_death(self) -> None:
        last_words = self._clerk.last_words()
        self._on_clerk()
        self._close_helper(self._clerk)
        if not self._pool.needs_clerk:
            return
        if self._opened and self._task.purpose is Purpose.SURVEY:
            # Nothing is journalled, so another clerk would have all be counted again.
            self._pool.lose_clerk(f"the clerk died; it said: {last_words or 'nothing'}", self._now())
            return
        self._clerk_deaths += 1
        if self._clerk_deaths >= _MAX_HELPER_DEATHS:
            error = LaunchError(f"the clerk dies again and again: {last_words or 'it said nothing'}")
            if not self._opened:
                raise error
            self._pool.stop(error)
            self._pool.give_up(self._now())
            return
        self._start_clerk()

    # --- signals, progress, the end

    @contextlib.contextmanager
    def _signals_queued(self) -> Iterator[None]:
        """Have signals do nothing but wake the loop; those that are ignored (nohup) stay so."""
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(read, selectors.EVENT_READ, lambda: self._on_signal(read))
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        handlers = {number: signal.signal(number, lambda *_: None) for number in heeded}
        old = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(read)
            os.close(write)

    @contextlib.contextmanager
    def _orphans_adopted(self) -> Iterator[None]:
        """Have what a dead fork server leaves behind become ours, and end with the run."""
        before = _os.children()
        _os.adopt_orphans()
        try:
            yield
        finally:
            _os.end_children(_os.children() - before, _GOODBYE_SECONDS)
            _os.adopt_orphans(wanted=False)

    def _on_signal(self, read: int) -> None:
        self._signals += sum(number in _SIGNALS for number in os.read(read, 4096))
        if self._signals == 1:
            self._progress.notice("finishing the files under way; once more stops at once")
            self._pool.drain()

    def _abort(self) -> None:
        """Stop at once: everything that runs is killed, and the next run resumes."""
        self._pool.drain()
        for child in self._children.values():
            child.signal(signal.SIGKILL)
        self._clerk.kill()
        self._forkserver.kill()

    def _leave(self) -> None:
        """Let go of all processes: by now they have nothing to do, or were killed."""
        for helper in self._helpers:
            helper.kill()
        self._wait_for_death()
        for number in list(self._children):
            self._close_child(number)
        for helper in self._helpers:
            self._close_helper(helper)

    def _wait_for_death(self) -> None:
        """Wait until the kernel has let go of all that was killed; what hangs in it is not waited for long."""
        living = {child.pidfd for child in self._children.values() if child.pidfd >= 0 and not child.is_dead}
        living |= {helper.pidfd for helper in self._helpers if not helper.is_closed}
        poll = select.poll()
        for fd in living:
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while living and (left := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                poll.unregister(fd)
                living.discard(fd)

    def _close_helper(self, helper: Helper) -> None:
        if helper.is_closed:
            return
        if helper is self._clerk:
            self._clerk_stream.close()
        for file in (helper.channel, helper.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(file)
        helper.close()

    def _snapshot(self, now: float) -> Snapshot:
        busy = [worker for worker in self._pool.crew if worker.job is not None]
        return Snapshot(
            ended=self._tally.ended,
            walked=self._tally.files_walked,
            walk_complete=self._pool.jobs.walked,
            native_bytes=self._tally.native_bytes,
            source_bytes=self._tally.source_bytes,
            walked_bytes=self._tally.bytes_walked,
            failed=len(self._tally.failed),
            kills=self._pool.crew.kills,
            retries=self._tally.retries,
            seconds=self._clock() - self._begun,
            activities=tuple(
                Activity(worker.job.path, self._children[worker.id].stage, worker.phase.value, now - worker.begun)
                for worker in busy
                if worker.job
            ),
        )

    def _report(self) -> Report:
        return self._tally.report(
            source=self._task.source or self._base,
            target=self._target,
            kills=self._pool.crew.kills,
            seconds=self._clock() - self._begun,
            exit_code=self._pool.exit_code,
            stopped=str(self._pool.error) if self._pool.error else "interrupted" if self._pool.draining else "",
        )


def _words(error: OSError) -> str:
    """Say what the machine refused, and what to do about it."""
    todo = _WHAT_TO_DO.get(error.errno or 0)
    return f"{error.strerror}: {todo}" if todo else error.strerror or str(error)
