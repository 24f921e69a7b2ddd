"""Children that try what the sandbox forbids, and print how it ended."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcmpool import engines, worker


def tries(source: Path) -> dict[str, Callable[[], Any]]:
    """Return what is tried, by name."""
    beside = source.parent
    supervisor = int((beside / "supervisor").read_text())
    port = int((beside / "port").read_text())
    return {
        "read /etc/shadow": lambda: Path("/etc/shadow").read_bytes(),
        "write beside": lambda: (beside / "written").write_bytes(b"x"),
        "write to target": lambda: (beside / "native" / "written").write_bytes(b"x"),
        "overwrite source": lambda: source.joinpath("CT0001.dcm").open("r+b"),
        "remove source": lambda: source.joinpath("CT0001.dcm").unlink(),
        "connect": lambda: socket.create_connection(("127.0.0.1", port), 2),
        "signal the supervisor": lambda: os.kill(supervisor, signal.SIGCONT),
    }


def serve_child(channel_fd: int, board: int) -> None:
    """Do jobs as the real worker does, but for decoding: try what is forbidden, and die."""

    def decode(name: str, instance: Any, source: Any, scratch: Path) -> Any:
        folder = Path(os.readlink(f"/proc/self/fd/{source.fd}")).parent
        for what, action in tries(folder).items():
            try:
                action()
                outcome = "done"
            except OSError as error:
                outcome = type(error).__name__
            os.write(1, f"{what}: {outcome}\n".encode())
        os.abort()  # so that what was printed is kept as evidence

    engines.decode = decode
    worker.serve_child(channel_fd, board)
