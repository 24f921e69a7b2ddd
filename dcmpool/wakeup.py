"""What one wait of the loop has found ready, and who is told of it."""

import selectors
from collections.abc import Iterable


def heed(selector: selectors.BaseSelector, ready: Iterable[tuple[selectors.SelectorKey, int]]) -> None:
    """Call what each descriptor that is ready was registered with.

    Not what an earlier call let go of: the descriptor is closed by now, or its number another's. Such a pair comes
    often: a process that dies makes its pidfd and its channel ready together.
    """
    registered = selector.get_map()
    for key, _ in ready:
        if registered.get(key.fd) is key:
            key.data()
