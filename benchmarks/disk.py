"""The disk that is measured: whatever is deleted from it slows those down who write to it next."""

import os
import shutil
import time
from pathlib import Path

_REST_SECONDS = 65.0
"""ext4 without a journal passes over inodes that were deleted less than a minute ago, one by one (fs/ext4/ialloc.c,
`recently_deleted`): after a few thousand of them it takes longer to make a file than to write it."""


class Disk:
    """Deletes what is no longer wanted, and waits until that is forgotten."""

    def __init__(self) -> None:
        self._rested_at = 0.0

    def remove(self, folder: Path) -> None:
        """Delete a folder with all that is in it."""
        shutil.rmtree(folder)
        os.sync()  # an inode whose deletion is not written yet is passed over for five minutes more
        self._rested_at = time.monotonic() + _REST_SECONDS

    def rest(self) -> None:
        """Wait until what was deleted costs nobody anything."""
        time.sleep(max(0.0, self._rested_at - time.monotonic()))
