"""The clerk as a process: started, told, heard, and started again when it dies or breaks the protocol."""

import selectors
from collections.abc import Callable

import msgspec

from dcmpool.child import Stream, refusal
from dcmpool.errors import LaunchError
from dcmpool.helper import CLERK, Helper, take
from dcmpool.model import Purpose
from dcmpool.pool import Pool
from dcmpool.protocol import FROM_CLERK, TO_CLERK, Committed, Message, Open, Opened, ProtocolError, Refused

_MAX_DEATHS = 3
"""Deaths in a row, without anything committed in between."""


class ClerkLink:
    """The clerk of a run.

    `order` is the first message to it, `stdin` its standard input; `opened` is called once, when SOURCE and TARGET are
    found to be usable; `now` is the run's own time.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        pool: Pool,
        order: Open,
        stdin: int,
        *,
        nice: int,
        opened: Callable[[Opened, float], None],
        now: Callable[[], float],
    ) -> None:
        self._selector = selector
        self._pool = pool
        self._order = order
        self._stdin = stdin
        self._nice = nice
        self._opened = opened
        self._now = now
        self._helper: Helper | None = None
        self._deaths = 0

    def start(self) -> None:
        """Start it, and have it look at SOURCE and TARGET."""
        self._helper = take(CLERK, packets=False, stdin=self._stdin, nice=self._nice)
        self._stream = Stream(self._helper.channel, FROM_CLERK, TO_CLERK)
        self._helper.watch(self._selector, self._hear, self._on_death)
        self._stream.send(self._order)

    # --- telling

    def tell(self, message: Message) -> None:
        """Tell it something; what does not go at once waits for `flush`, and is lost with the clerk."""
        self._stream.send(message)

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be sent."""
        return self._stream.is_behind

    def flush(self) -> None:
        """Send what waits."""
        self._stream.flush()

    # --- hearing

    def _hear(self) -> None:
        assert self._helper is not None  # noqa: S101 - who is heard was started
        try:
            messages = self._stream.receive()
        except ProtocolError:
            self._stream.close()
            self._helper.kill()  # its death says the rest
            return
        now = self._now()
        for message in messages:
            match message:
                case Opened():
                    self._on_opened(message, now)
                case Refused():
                    self._on_refused(message, now)
                case _:
                    if isinstance(message, Committed):  # it got on; a walk alone begins anew with each clerk
                        self._deaths = 0
                    self._pool.from_clerk(message, now)

    def _on_opened(self, message: Opened, now: float) -> None:
        if not self._order.again:
            self._order = msgspec.structs.replace(self._order, again=True, looks=not message.temp)
            self._opened(message, now)
        self._pool.welcome_clerk(now)

    def _on_refused(self, message: Refused, now: float) -> None:
        if not self._order.again:
            raise message.error()
        self._pool.stop(LaunchError(f"the clerk cannot go on: {message.reason}"))
        self._pool.give_up(now)

    def _on_death(self) -> None:
        assert self._helper is not None  # noqa: S101 - who died was started
        last_words = self._helper.last_words()
        self._hear()
        self.close()
        if not self._pool.needs_clerk:
            return
        if self._order.again and self._order.purpose is Purpose.SURVEY:
            # Nothing is journalled, so another clerk would have all be counted again.
            self._pool.lose_clerk(f"the clerk died; it said: {last_words or 'nothing'}", self._now())
            return
        self._deaths += 1
        error = LaunchError(f"the clerk dies again and again: {last_words or 'it said nothing'}")
        if self._deaths < _MAX_DEATHS:
            try:
                self.start()
            except OSError as lack:
                error = LaunchError(f"the clerk cannot be started again: {refusal(lack)}")
            else:
                return
        if not self._order.again:
            raise error
        self._pool.stop(error)
        self._pool.give_up(self._now())

    # --- the end

    def kill(self) -> set[int]:
        """SIGKILL it; return its pidfd, as long as it is not known to be dead."""
        return self._helper.kill() if self._helper else set()

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        if self._helper is not None:
            self._stream.close()
            self._helper.close()
