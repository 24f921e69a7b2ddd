"""`--dry-run`: what a run would do, file by file. SOURCE and TARGET are looked at by the planner (`planner.py`)."""

import json
import os
import select
from collections import Counter
from collections.abc import Callable

from dcmpool import _os
from dcmpool.child import Stream
from dcmpool.config import Config
from dcmpool.errors import LaunchError, StoppedError
from dcmpool.helper import Helper
from dcmpool.model import Due
from dcmpool.protocol import FROM_CLERK, TO_CLERK, Finished, Message, Opened, Plan, Planned, Refused, Stopped
from dcmpool.task import Task
from dcmpool.text import duration

_GOODBYE_SECONDS = 0.5


class Rehearsal:
    """One dry run. `tell` takes each path's plan as it comes, `notice` what the user should know meanwhile."""

    def __init__(self, task: Task, config: Config, tell: Callable[[Plan], None], notice: Callable[[str], None]) -> None:
        self._task = task
        self._config = config
        self._tell = tell
        self._notice = notice
        self._is_over = False
        self.counts: Counter[Due] = Counter()
        self.bytes: Counter[Due] = Counter()

    def run(self) -> None:
        """Hear the planner to its end.

        Raises
        ------
        UsageError
            A run would be refused.
        StoppedError
            SOURCE cannot be walked, or storage does not answer.
        LaunchError
            The planner died.
        """
        helper = Helper("dcmpool.planner", packets=False, stdin=self._task.stdin, nice=self._config.work.nice)
        try:
            stream = Stream(helper.channel, FROM_CLERK, TO_CLERK)
            stream.send(self._task.order(self._config, os.urandom(4).hex()))
            while not self._is_over:
                self._await(helper)
                for message in stream.receive():
                    self._hear(message)
                if stream.is_over and not self._is_over:
                    raise LaunchError(f"the planner died: {helper.last_words() or 'it said nothing'}")
        finally:
            helper.kill()
            _os.wait_for_death({helper.pidfd}, _GOODBYE_SECONDS)
            helper.close()

    def to_json(self) -> str:
        """Return the counts, files and bytes, as one JSON object."""
        return json.dumps(
            {
                "dry_run": True,
                "source": os.fsdecode(self._task.source),
                "target": os.fsdecode(self._task.target),
                "counts": {due: self.counts[due] for due in Due},
                "bytes": {due: self.bytes[due] for due in Due},
                "exit_code": 0,
            }
        )

    def _await(self, helper: Helper) -> None:
        """Wait until the planner says something or is gone; say so if it takes long, as it waits for storage alone."""
        poll = select.poll()
        poll.register(helper.channel, select.POLLIN)
        storage = self._config.storage
        if poll.poll(storage.stall_seconds * 1000):
            return
        self._notice(f"storage has not answered for {duration(storage.stall_seconds)}")
        if not poll.poll(max(0.0, storage.give_up_seconds - storage.stall_seconds) * 1000):
            raise StoppedError(f"storage has not answered for {duration(storage.give_up_seconds)}")

    def _hear(self, message: Message) -> None:
        match message:
            case Opened():
                for text in message.notices:
                    self._notice(text)
            case Planned():
                for plan in message.plans:
                    self.counts[plan.due] += 1
                    self.bytes[plan.due] += plan.size
                    self._tell(plan)
            case Refused():
                raise message.error()
            case Stopped():
                raise StoppedError(message.reason)
            case Finished():
                self._is_over = True
            case _:
                raise AssertionError(f"unexpected from the planner: {message}")
