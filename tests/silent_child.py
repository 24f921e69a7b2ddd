"""A child that starts and never says so."""

import signal


def serve_child(channel_fd: int, board: int) -> None:
    """Wait for ever."""
    while True:
        signal.pause()
