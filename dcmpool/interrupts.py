"""Signals that end a run: they do nothing but wake its loop, which counts them."""

import contextlib
import os
import selectors
import signal
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """How often the user, or whoever else, has asked for the end. `on_first` is called for the first time alone."""

    def __init__(self, on_first: Callable[[], None], urgent_at: int = 2) -> None:
        self._on_first = on_first
        self._urgent_at = urgent_at
        self._count = 0

    @property
    def are_urgent(self) -> bool:
        """Whether it was asked for twice, or as often as is heeded: then at once."""
        return self._count >= self._urgent_at

    @contextlib.contextmanager
    def heard(self, selector: selectors.BaseSelector) -> Iterator[None]:
        """Have signals wake whoever waits on `selector`; those that are ignored (nohup) stay so."""
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        selector.register(read, selectors.EVENT_READ, lambda: self._take(os.read(read, 4096)))
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

    def _take(self, numbers: bytes) -> None:
        was_quiet = self._count == 0
        self._count += sum(number in _SIGNALS for number in numbers)
        if was_quiet and self._count:
            self._on_first()
