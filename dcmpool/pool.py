"""The policy of a run: which child does what, until when, and what follows. Pure: no I/O, every event says the time.

    events (launched, message, garbled, hung_up, died, examined; the clerk's answers; tick) -> actions

`Pool` is the whole of it as the loop sees it: it takes each event to the part that knows what it means, and decides
when the run begins, stalls, stops and ends. The parts: `crew` (children), `dispatch` (who does what next), `endings`
(what follows an attempt), `opinions` (results that need confirming), `jobs` (the queue), `ledger` (the clerk),
`gate`, `limit`, `stall`.

Invariants, each held by a property test: a job ends exactly once; tokens are held by children not proved dead
alone; a result is committed only after `Written` of that very attempt; every busy child has a deadline; from
deadline to SIGKILL it is the grace and one wait; at the end no child is left that is not LOST.
"""

from datetime import datetime
from os.path import basename

from dcmpool.actions import Action, Look
from dcmpool.brakes import Brakes
from dcmpool.config import MIB, Config
from dcmpool.crew import Crew
from dcmpool.dispatch import Dispatcher, scratch_name
from dcmpool.endings import Endings, how_it_died
from dcmpool.errors import DcmpoolError, LaunchError, StoppedError
from dcmpool.gate import WriteGate
from dcmpool.inventory import Inventory
from dcmpool.jobs import Jobs
from dcmpool.ledger import Ledger
from dcmpool.lifecycle import Phase, Worker
from dcmpool.model import Outcome
from dcmpool.opinions import Opinions
from dcmpool.protocol import (
    Checked,
    Committed,
    Earlier,
    Failed,
    Finished,
    Found,
    Inspected,
    Left,
    Message,
    Noted,
    Ready,
    Said,
    Scanned,
    Stopped,
    Surveyed,
    Totals,
    Wants,
    Written,
)
from dcmpool.report import Tally

_LACK_SECONDS = 10.0
"""How long after this machine has given no child another one is asked for."""


class Pool:
    """All children, jobs, tokens and deadlines of a run."""

    def __init__(
        self, config: Config, run: str, *, in_place: bool, keeps_originals: bool = True, surveys: bool = False
    ) -> None:
        self._config = config
        self.run = run
        self._in_place = in_place
        self._actions: list[Action] = []
        self._due: float | None = None
        """When `tick` is due because something changed outside it."""
        self._is_open = self._finishing = self._clerk_ended = self._gave_up = False
        self._wanted = config.work.workers
        self._lacks_until: float | None = None
        """When a child is asked for again that this machine has not given."""
        self._why = ""
        self.error: DcmpoolError | None = None
        self.draining = False
        emit = self._actions.append
        self.inventory = Inventory(emit) if surveys else None
        self.tally = tally = self.inventory or Tally(emit)
        self.gate = WriteGate(
            config.gate.max_inflight_mib * MIB,
            config.gate.max_writers,
            adaptive=config.gate.adaptive,
            rate=config.gate.bytes_per_second,
        )
        self.jobs = Jobs()
        self.crew = Crew(config, self.gate, emit)
        self.ledger = Ledger(self.jobs, tally, config.work.scan_ahead, emit)
        share = config.second_share(in_place=in_place)
        self.opinions = Opinions(share, self.jobs, self.ledger, keeps_originals=keeps_originals)
        self.brakes = Brakes(config, emit)
        self._endings = Endings(self.crew, self.jobs, self.ledger, self.opinions, self.stop)
        self._dispatcher = Dispatcher(config, run, self.crew, self.jobs, self.opinions, emit, in_place=in_place)

    # --- what the loop asks

    def take_actions(self) -> list[Action]:
        """Return what is to be done, once."""
        actions = self._actions.copy()
        self._actions.clear()
        return actions

    def next_deadline(self) -> float | None:
        """Return when `tick` is due at the latest; None if only an event can bring anything on."""
        brakes = self.brakes.next_deadline(ends=self.draining, hopes=not self._gave_up)
        parts = (self.crew.next_deadline(), self.ledger.next_deadline(), self.gate.next_deadline())
        lack = self._lacks_until if self.state == "running" else None
        moments = (self._due, brakes, lack, *parts)
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to wait for: no child that is not LOST, and nothing from the clerk."""
        return self._finishing and not self.needs_clerk

    @property
    def needs_clerk(self) -> bool:
        """Whether a clerk that dies has to be replaced."""
        return not (self._clerk_ended or self._gave_up)

    @property
    def state(self) -> str:
        """What the run is at, in a word."""
        return "draining" if self.draining else self.brakes.state

    @property
    def stopped(self) -> str:
        """Why the run ends before its work is done; "" if it does not."""
        return str(self.error) if self.error else self._why if self.draining else ""

    @property
    def exit_code(self) -> int:
        """The exit code, as things stand."""
        if self.error:
            return self.error.exit_code
        if self.draining:
            return 130
        return 1 if self.tally.counts[Outcome.FAILED] else 0

    # --- events of the run

    def begin(self, now: float) -> None:
        """Wait for the clerk, which looks at SOURCE and TARGET."""
        self.brakes.terms.begin(now)
        self.ledger.begin(now)

    def opened(self, base: bytes, target: bytes, temp: bytes, now: float) -> None:
        """Begin: paths are relative to the directory `base`; results go to the directory `temp`, then to `target`."""
        self._dispatcher.open(base, target, temp, self.inventory)
        self.ledger.opened()
        self._is_open = True
        self._launch_missing(now)

    def welcome_clerk(self, now: float) -> None:
        """Tell a clerk what it may send, and what an earlier one has not acknowledged; or that all is over."""
        if self._finishing:
            self._tell_finish(now)
        else:
            self.ledger.welcome(now)

    def from_clerk(self, message: Message, now: float) -> None:
        """Take what the clerk says; after the end, a new one's walk is of no interest."""
        if isinstance(message, Said):
            self.brakes.say(message.text)
            return
        if self._finishing and isinstance(message, Committed):
            self.ledger.gets_on(now)
        if self._finishing and not isinstance(message, Stopped | Finished):
            return
        if not isinstance(message, Committed):
            self.ledger.walked_on()
        self._from_clerk(message, now)

    def _from_clerk(self, message: Message, now: float) -> None:
        match message:
            case Found():
                self._found(message, now)
            case Noted():
                self.tally.noted(message)
            case Earlier():
                self.tally.ending(message.ending, earlier=True)
            case Scanned():
                self.tally.walked(message)
                self.jobs.walked = message.complete
            case Committed():
                for reason in self.ledger.committed(message, now):
                    self.stop(StoppedError(f"{reason}: make room"))
            case Stopped():
                self.stop(StoppedError(message.reason))
                if message.fatal:
                    self.give_up(now)
            case Finished():
                self._clerk_ended = True
            case _:
                raise AssertionError(f"unexpected from the clerk: {message}")

    def employ(self, workers: int) -> None:
        """Have so many children from now on; those that are too many end when they are done with what they do."""
        self._wanted = workers

    def drain(self, why: str = "interrupted") -> None:
        """Begin no new job; let those under way end. Where the run has not even begun, it is over."""
        self._why = self._why or why
        self._end_early()
        if not self._is_open:
            self._finishing = self._clerk_ended = True

    def stop(self, error: DcmpoolError) -> None:
        """End the run early, resumable, for a reason of its own."""
        self.error = self.error or error
        self._end_early()

    def _end_early(self) -> None:
        self.draining = True
        self.gate.lift_rate()

    def lose_clerk(self, reason: str, now: float) -> None:
        """End a run that cannot go on with another clerk."""
        self.stop(LaunchError(reason))
        self.give_up(now)

    def give_up(self, now: float) -> None:
        """Wait for nothing more: no child, no acknowledgement."""
        self._gave_up = True
        for worker in self.crew:
            self.crew.retire(worker, now)

    def tick(self, now: float, wall: datetime | None = None) -> None:
        """Do what the time has come for, and give out work; `wall`: local time, for hours that the user has set."""
        self._due, was_draining = None, self.draining
        for worker in self.crew.expire(now):
            self._endings.lost(worker, now)
        self._dispatcher.grant(now)
        # In place, what is held keeps others from beginning; what comes while the clerk is busy is one transaction too.
        self.ledger.send_held(now, at_once=self.draining or self._in_place)
        self._brake(now, wall)
        if self.state == "running":
            self.crew.dismiss_surplus(self._wanted, now)
            if self._is_open:
                self._launch_missing(now)
        if self.state == "running":  # which the launch of one child too many ends
            self._dispatcher.dispatch(now, self._wanted - len(self.ledger.committing))
            self._dispatcher.send_ahead(self._wanted)
        if not self.draining:
            self.ledger.pay_credit()
        elif not was_draining:
            self._due = now  # what is done at its turn above is to be done otherwise now
        self._finish(now)

    # --- events of a child

    def launched(self, number: int, pid: int, now: float) -> None:
        """The fork server has made the child."""
        self.crew.launched(number, pid, now)
        self._lacks_until = None

    def not_launched(self, number: int, reason: str, now: float) -> None:
        """This machine gives no such child now: go on with those that there are, and ask again later; or end."""
        self.crew.not_launched(number)
        if not self.crew.made:
            self.stop(LaunchError(f"workers cannot be launched: {reason}"))
            return
        if self._lacks_until is None:
            self.brakes.say(f"not all workers can be launched: {reason}; going on with {self.crew.made}")
        self._lacks_until = now + _LACK_SECONDS

    def message(self, number: int, message: Message, now: float) -> None:
        """Take what a child says; what it may not say now ends it."""
        worker = self.crew[number]
        if worker.is_ending:
            return
        if not worker.is_legal(message) or not self._dispatcher.may_end_so(message):
            self.garbled(number, f"{type(message).__name__} while {worker.phase}", now)
            return
        if worker.stalled_since is not None:
            worker.recover(now)
        self._take_message(worker, message, now)

    def _take_message(self, worker: Worker, message: Message, now: float) -> None:
        match message:
            case Ready():
                worker.rest()
            case Wants():
                self._dispatcher.wants(worker, message, now)
            case Written():
                self._dispatcher.learn(message)
                self._endings.written(worker, message, now)
            case Left():
                self._endings.left(worker, message, now)
            case Checked():
                self._endings.checked(worker, message, now)
            case Surveyed():
                assert self.inventory is not None  # noqa: S101 - `Dispatcher.may_end_so` holds it
                self._endings.surveyed(worker, message, self.inventory, now)
            case Failed():
                self._endings.failed(worker, message, now)

    def inspected(self, number: int, message: Inspected) -> None:
        """Take what a child shows of its job; this is no sign of life, since it may have been there for long."""
        worker = self.crew[number]
        is_at_work = worker.phase is Phase.BUSY and not worker.hung_up
        if is_at_work and worker.job and message.job == worker.job.id and message != worker.shown:
            self._dispatcher.inspected(worker, message)

    def garbled(self, number: int, reason: str, now: float) -> None:
        """A child broke the protocol."""
        self.crew.break_off(self.crew[number], reason, now)

    def hung_up(self, number: int, now: float) -> None:
        """A child closed its channel. It is dying, which its pidfd will prove, or it lies."""
        self.crew.hang_up(self.crew[number], now)

    def examined(self, number: int, look: Look, now: float) -> None:
        """Take what the kernel says of a child that takes long."""
        worker = self.crew[number]
        if self.crew.examined(worker, look, now):
            self._due = now
        self.ledger.remember(self.crew.long_attempt(worker))

    def proved_dead(self, number: int) -> None:
        """A child is dead, and how it died is about to be known: nothing can be due from it any more."""
        self.crew[number].deadline = None

    def died(self, number: int, code: int | None, now: float, out_of_memory: str = "") -> None:
        """A child is proved dead: `code` as `subprocess.Popen.returncode`, None if nobody can know it.

        `out_of_memory` says how that is known, if it is what the child died of.
        """
        worker = self._bury(number)
        if worker.job is not None:
            self._endings.died(worker, code, now, out_of_memory)
        elif self.crew.cannot_start(worker, code):
            how = worker.reason or how_it_died(code)
            self.stop(LaunchError(f"workers cannot start; of the last one is known: {how}"))

    def died_between(self, number: int) -> None:
        """A child died by itself between two jobs: it had not begun the one that it was given ahead.

        That comes to another child, and not ahead, so that this can happen to it but once.
        """
        worker = self._bury(number)
        self.jobs.give_back([job for job in (worker.job, *self.crew.take_back(worker)) if job])

    def _bury(self, number: int) -> Worker:
        """Forget a dead child, and have the files go that it may have left."""
        worker = self.crew.bury(number)
        temps = (worker.temp, worker.ahead.temp if worker.ahead else b"", worker.stale_temp)
        self.ledger.discard(scratch_name(self.run, number), *(basename(temp) for temp in temps if temp))
        return worker

    def forkserver_died(self) -> None:
        """The fork server is gone: what it had not yet forked will never be."""
        self.crew.forget_unborn()

    # --- inside

    def _found(self, message: Found, now: float) -> None:
        if self.draining:
            return  # left for the next run; the journal may be closed already
        for item in message.items:
            if ending := self.jobs.add(item):
                self.ledger.end(ending, now)

    def _launch_missing(self, now: float) -> None:
        lost = self.crew.count(Phase.LOST)
        if lost > self._config.limits.max_lost:
            self.stop(StoppedError(f"{lost} workers hang in the kernel and cannot be killed: storage does not answer"))
            return
        wanted = self._wanted
        if self.jobs.walked:
            wanted = min(wanted, len(self.jobs))
        missing = wanted - self.crew.living
        if self._lacks_until is not None and self.crew.made:
            if now < self._lacks_until:
                return
            self._lacks_until = now + _LACK_SECONDS
            missing = min(missing, 1)
        for _ in range(missing):
            self.crew.launch(now)

    def _brake(self, now: float, wall: datetime | None) -> None:
        """Stop, end or rest: because storage does not answer, or on the user's own terms."""
        starving = self._is_open and not (self.jobs.walked or self.draining or len(self.jobs))
        self.ledger.look_at_walk(now, starving=starving)
        waits = self.crew.waits(now) + self.ledger.waits(is_open=self._is_open)
        self.brakes.look(waits, now, None if self.draining else wall)
        if self.brakes.is_hopeless(now) and not self._gave_up:
            self.stop(StoppedError(self.brakes.stall_text(now)))
            self.give_up(now)
        if self.draining:
            return
        if text := self.brakes.terms.breach(self.tally):
            self.stop(StoppedError(text))
        elif self.brakes.terms.is_over(now):
            self.drain(text := self.brakes.terms.over_text())
        if text:
            self.brakes.say(f"{text}; finishing the files under way")

    def _finish(self, now: float) -> None:
        """Notice the end: nothing under way, nothing unacknowledged, and either all done or no more wanted.

        The clerk is told last, since it has to sweep up after the children.
        """
        if self.draining:
            self.opinions.drop_all()
        unacknowledged = not (self.ledger.is_settled or self._gave_up)
        under_way = unacknowledged or any(worker.job is not None for worker in self.crew)
        if self._finishing or under_way or not (self.draining or self.jobs.is_over):
            return
        for worker in self.crew:
            self.crew.retire(worker, now)
        if self.crew.living == 0:
            self._finishing = True
            self._tell_finish(now)

    def _tell_finish(self, now: float) -> None:
        tally = self.tally
        totals = Totals(
            files=tally.files_walked,
            bytes=tally.bytes_walked,
            counts={outcome.value: count for outcome, count in tally.counts.items() if count},
            kills=self.crew.kills,
            retries=tally.retries,
            gone=tally.gone,
            stopped=self.stopped,
        )
        self.ledger.finish(self.exit_code, now, complete=not self.draining, totals=totals)
