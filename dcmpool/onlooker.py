"""A walk where there is no room to write: it tells what is settled, and the first file that is not ends the run.

Nothing is left to do in most archives that fill their disk; a run over one of these is well.
"""

import time
from typing import Any

from dcmpool.protocol import Item, Noted, Stopped
from dcmpool.walker import Walker


class Onlooker(Walker):
    """A `Walker` that offers no job and writes nothing; `lack` says how little room there is."""

    def __init__(self, lack: str, *walk: Any) -> None:
        super().__init__(*walk)
        self._lack = lack

    def _offer(self, item: Item) -> None:
        if not self._stopped:
            self._send(Stopped(f"the target has no room for what is left to do: {self._lack}: make room", fatal=False))
        self._stopped = True

    def _note(self, note: Noted) -> None:
        self._send(note)

    def _flush(self) -> None:
        self._report(complete=False)
        self._flushed = time.monotonic()

    def _is_whole(self) -> bool:
        return False  # what is gone from SOURCE is kept in the journal, and so it waits too
