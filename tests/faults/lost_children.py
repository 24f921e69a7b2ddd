"""Children that break the protocol while they sit in a read that does not answer, when their file is named for it.

They are to be killed for what they said, and cannot be: they are lost.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any

from dcmpool import worker
from dcmpool.protocol import Message


def serve_child(channel_fd: int, board: int) -> None:
    """Do jobs as the real worker does, but for files named "lost..."."""
    honest = worker.Attempt.run

    def run(attempt: Any) -> Message:
        if Path(os.fsdecode(attempt._order.source)).name.startswith("lost"):
            threading.Thread(target=_say_nonsense, args=(channel_fd,)).start()
            os.read(os.open(attempt._order.source, os.O_RDONLY), 1)
        return honest(attempt)

    setattr(worker.Attempt, "run", run)  # noqa: B010 - mypy
    worker.serve_child(channel_fd, board)


def _say_nonsense(channel_fd: int) -> None:
    time.sleep(0.5)  # the read has reached the disk by then, where no signal ends it
    os.write(channel_fd, b"\x00\x00\x00\x08GARBAGE!")
