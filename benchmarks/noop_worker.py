"""A worker that does nothing: what a job costs without any work. `crash.dcm` and the like end the child instead."""

import os
from pathlib import Path

from dcmpool.errand import Channel
from dcmpool.model import Outcome, stored_time
from dcmpool.protocol import Left, Ready


def serve_child(channel_fd: int, board: int) -> None:
    """Answer every job at once: nothing to decompress, which settles it in place; elsewhere it is left out."""
    channel = Channel(channel_fd)
    channel.send(Ready())
    while (order := channel.receive()) is not None:
        if Path(os.fsdecode(order.source)).name.startswith("crash"):
            os.abort()
        status = os.stat(order.source)
        mtime_ns = stored_time(status.st_mtime_ns)
        channel.send(
            Left(
                order.job,
                Outcome.COPIED if order.in_place else Outcome.SKIPPED,
                "",
                status.st_size,
                mtime_ns,
                "nothing to do",
            )
        )
