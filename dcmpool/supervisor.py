"""The loop: waits, hands events to the policy, does what it says. One thread; touches neither SOURCE nor TARGET.

    clerk <--stream--> Supervisor <--packets--> fork server --fork--> workers
                        Supervisor <--channel, pidfd--> each worker

Nothing here blocks but the one wait: channels do not, memfds and /proc cannot, and the user's terminal is
written by a thread of its own. `clerklink` and `children` hold the processes; they tell the policy what happens there.
"""

import errno
import os
import selectors
from collections.abc import Callable
from datetime import datetime

import msgspec

from dcmpool import _os, sandbox, wakeup
from dcmpool.actions import Action, CloseChild, Examine, Happened, LaunchChild, Notice, SendTo, SignalChild, Tell
from dcmpool.child import refusal
from dcmpool.children import Children, Place
from dcmpool.clerklink import ClerkLink
from dcmpool.config import Config
from dcmpool.control import Answer, Command, Request, obey
from dcmpool.desk import Desk
from dcmpool.errors import DcmpoolError, LaunchError, UsageError
from dcmpool.eventlink import EventLink, utc_now
from dcmpool.events import Controlled, Event, Noticed, Snapshot
from dcmpool.interrupts import Interrupts
from dcmpool.inventory import Inventory
from dcmpool.lifecycle import Phase
from dcmpool.model import Purpose
from dcmpool.overview import Overview
from dcmpool.pool import Pool
from dcmpool.progress import Progress
from dcmpool.protocol import Message, Opened, Room
from dcmpool.report import Report
from dcmpool.runclock import RunClock
from dcmpool.task import Task
from dcmpool.telling import run_begun, run_ended

_GOODBYE_SECONDS = 0.5
"""How long what was killed is waited for, twice: the prompt has to be back within 2 s."""
_LONGEST_WAIT_SECONDS = 1_000_000.0
"""epoll_wait(2) takes its timeout as 2^31 ms at most, and raises over that."""
_DESCRIPTORS = 6
"""That a worker takes, and one."""


class Supervisor:
    """One run: `run` is its life. `events` says where its event stream goes (`eventlink.py`).

    `worker_module` has the `serve_child` that children run.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        progress: Progress,
        *,
        events: str | None = None,
        worker_module: str = "dcmpool.worker",
        wall: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._task = task
        self._asked = config
        self._config = config.resolved()
        self._progress = progress
        self._stream_to = events
        self._worker_module = worker_module
        self._clock = RunClock()
        self._wall = wall
        self._surveys = task.purpose is Purpose.SURVEY
        self._pool = Pool(
            self._config,
            os.urandom(4).hex(),
            in_place=task.in_place,
            keeps_originals=task.keeps_originals,
            surveys=self._surveys,
        )
        self._target = task.target
        self._base = b""
        self._room: Room | None = None
        self._unconfined = self._config.sandbox.mode == "off"
        self._interrupts = Interrupts(self._interrupted, urgent_at=1 if self._surveys else 2)

    def run(self) -> Report:
        """Do the run and return its report.

        Raises
        ------
        UsageError, LockedError
            SOURCE or TARGET cannot be used, or another run uses it; nothing was written.
        LaunchError
            This machine gives no more processes or descriptors; what was begun can be resumed.
        """
        _os.allow_descriptors()
        try:
            with (
                selectors.DefaultSelector() as self._selector,
                self._interrupts.heard(self._selector),
                _os.orphans_adopted(_GOODBYE_SECONDS),
            ):
                return self._run_guarded()
        except OSError as error:
            # Neither SOURCE nor TARGET is touched here: it is descriptors, processes or memory that lack.
            raise LaunchError(f"processes cannot be started: {refusal(error)}") from error

    def _run_guarded(self) -> Report:
        task = self._task
        trees = (task.source, task.target, task.backup, task.quarantine)
        self._events = EventLink(self._selector, self._stream_to, self._progress.notice, trees=trees)
        self._clerk = self._new_clerk()
        self._children = self._new_children()
        self._overview = Overview(self._pool, self._children.stage, self._clock.now())
        self._desk = Desk(self._selector, self._serve, self._clock.now)
        try:
            self._begin()
            self._loop()
            return self._end(self._pool.exit_code, self._pool.stopped)
        except DcmpoolError as error:
            self._end(error.exit_code, str(error))
            raise
        except OSError as error:
            self._end(LaunchError.exit_code, refusal(error))
            raise
        finally:
            self._leave()

    @property
    def has_lost_children(self) -> bool:
        """Whether a child is left that cannot be killed, so that waiting for children would never end."""
        return self._pool.crew.count(Phase.LOST) > 0

    @property
    def survey(self) -> tuple[Inventory, Room] | None:
        """What a survey has found, and what TARGET's file system has left; None for others, and before it is begun."""
        return None if self._pool.inventory is None or self._room is None else (self._pool.inventory, self._room)

    # --- the loop

    def _loop(self) -> None:
        while True:
            before = self._clock.now()
            self._perform()
            self._events.flush()
            if self._pool.is_over:
                return
            timeout = self._timeout(before)
            self._clock.expect_wait(timeout)
            # One that was stopped while it waited gives up without a look: what has come goes before what is overdue.
            ready = self._selector.select(timeout) or self._selector.select(0)
            wakeup.heed(self._selector, ready)
            now = self._clock.now()
            if self._interrupts.are_urgent:
                self._abort()
                return
            self._children.expire(now)
            self._desk.expire(now)
            self._clerk.flush()
            self._children.flush()
            self._pool.tick(now, self._wall() if self._config.schedule.window else None)
            self._show(now)

    def _show(self, now: float) -> None:
        if self._overview.sample(now) and self._events.is_wanted:
            self._events.send(self._look(now))
        if self._progress.is_due(now):
            self._progress.show(self._look(now), now)

    def _look(self, now: float) -> Snapshot:
        self._children.look_at_boards()
        return self._overview.look(now)

    def _timeout(self, now: float) -> float | None:
        moments = [self._children.next_deadline(), self._pool.next_deadline(), self._progress.next_due(now)]
        moments += [self._overview.next_due(), self._desk.next_deadline()]
        if self._children.is_behind or self._clerk.is_behind:
            moments.append(now + 0.01)  # a socket's buffer is full: rare, and not worth a write event
        deadline = min((moment for moment in moments if moment is not None), default=None)
        return None if deadline is None else min(max(0.0, deadline - now), _LONGEST_WAIT_SECONDS)

    def _perform(self) -> None:
        while actions := self._pool.take_actions():
            for action in actions:
                self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case LaunchChild():
                self._children.launch(action.worker)
            case SendTo():
                self._children.send(action.worker, action.message)
            case SignalChild():
                self._children.signal(action.worker, action.number)
            case Examine():
                self._children.examine(action.worker)
            case CloseChild():
                self._children.forget(action.worker)
            case Tell():
                self._clerk.tell(action.message)
            case Notice():
                self._progress.notice(action.text)
            case Happened():
                self._events.send(action.event)

    # --- beginning

    def _begin(self) -> None:
        self._events.start()
        self._children.start()  # which takes longest
        self._events.await_opening()
        if self._events.is_wanted:
            task = self._task
            begun = run_begun(
                self._pool.run,
                self._config,
                source=task.source,
                target=task.target,
                in_place=task.in_place,
                audit=task.purpose is Purpose.AUDIT,
            )
            self._events.send(begun)
        self._check_sandbox()
        self._pool.begin(self._clock.now())
        self._clerk.start()

    def _new_clerk(self) -> ClerkLink:
        return ClerkLink(
            self._selector,
            self._pool,
            self._task.order(self._asked, self._pool.run, settings=self._settings()),
            self._task.stdin,
            nice=self._config.work.nice,
            opened=self._opened,
            now=self._clock.now,
        )

    def _settings(self) -> str:
        """Return what decided this run as JSON: the settings, in `run` how it was asked for."""
        asked = {"run": {"command": self._task.command}}
        return msgspec.json.encode(msgspec.to_builtins(self._config) | asked).decode()

    def _new_children(self) -> Children:
        return Children(
            self._selector,
            self._pool,
            self._config,
            self._worker_module,
            now=self._clock.now,
            tell=self._tell_clerk,
            happened=self._happened,
        )

    def _tell_clerk(self, message: Message) -> None:
        self._clerk.tell(message)

    def _serve(self, request: Request) -> Answer:
        """Answer a client of `dcmpool status` or `dcmpool control`."""
        if request.command is Command.STATUS:
            run = self._look(self._clock.now())
            return Answer(f"process {os.getpid()}", run=msgspec.structs.replace(run, time=utc_now()))
        answer = self._too_many(request) or obey(request, self._pool)
        if answer.ok and request.command is Command.WORKERS and request.value:
            self._children.memory_mib = self._asked.memory_mib(request.value)
        self._happened(Controlled(command=request.command, value=request.value, answer=answer.text))
        self._progress.notice(answer.text)
        return answer

    def _too_many(self, request: Request) -> Answer | None:
        """Say so if there are not descriptors enough for so many workers: the run would end for lack of them."""
        more = (request.value or 0) - self._pool.crew.living
        if request.command is not Command.WORKERS or more * _DESCRIPTORS <= _os.spare_descriptors():
            return None
        full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return Answer(f"{request.value} workers cannot be launched: {refusal(full)}", ok=False)

    def _happened(self, event: Event) -> None:
        if isinstance(event, Noticed):
            self._progress.notice(event.text)
        self._events.send(event)

    def _check_sandbox(self) -> None:
        """Say so where the kernel cannot confine children."""
        if self._unconfined or sandbox.abi():
            return
        if self._config.sandbox.mode == "require":
            raise UsageError('this kernel cannot confine workers (Landlock), and sandbox.mode is "require"')
        self._unconfined = True
        self._happened(Noticed(text="this kernel has no Landlock: workers are not confined"))

    def _opened(self, message: Opened, now: float) -> None:
        """SOURCE and TARGET answer and are ours: begin."""
        self._target, self._base, self._room = message.target, message.base, message.room
        for text in message.notices:
            self._happened(Noticed(text=text))
        readable: tuple[bytes, ...] = ()
        if not self._unconfined:
            audits = self._task.purpose is Purpose.AUDIT
            readable = (message.base, message.target) if audits else (self._task.source,)
        self._children.open(Place(message.base, message.temp, readable))
        if not self._surveys:  # which is no run on TARGET
            self._open_desk(message.real)
        self._pool.opened(message.base, message.target, message.temp, now)

    def _open_desk(self, target: bytes) -> None:
        try:
            self._desk.open(target)
        except OSError as error:
            self._happened(Noticed(text=f"no `dcmpool status` of this run: {error.strerror or error}"))

    # --- the end

    def _interrupted(self) -> None:
        if not self._surveys:
            self._happened(Noticed(text="finishing the files under way; once more stops at once"))
        self._pool.drain()

    def _abort(self) -> None:
        """Stop at once: everything that runs is killed, and the next run resumes."""
        self._pool.drain()
        self._children.kill()
        self._clerk.kill()

    def _leave(self) -> None:
        """Let go of all processes: by now they have nothing to do, or were killed."""
        _os.wait_for_death(self._children.dismiss() | self._clerk.kill(), _GOODBYE_SECONDS)
        self._children.close()
        self._clerk.close()
        self._events.close()
        self._desk.close()

    def _end(self, exit_code: int, stopped: str) -> Report:
        """Say what came of it, to the event stream too."""
        report = self._pool.tally.report(
            source=self._task.source or self._base,
            target=self._target,
            kills=self._pool.crew.kills,
            seconds=self._clock.seconds,
            exit_code=exit_code,
            stopped=stopped,
        )
        self._events.send(run_ended(report), at_any_price=True)
        self._events.finish(at_once=self._interrupts.are_urgent)
        return report
