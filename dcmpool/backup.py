"""The originals that results replace in place: kept in a folder of the user's, in the tree's own shape.

    original -hard link, or a copy that is synced-> DIR/path -directory synced-> only then may a result take its name

A backup that stands there already is never replaced: it is this very original, or the result is refused. Folders that
are made are for their owner alone.
"""

import contextlib
import errno
import filecmp
import os
import stat

import msgspec

from dcmpool import _os, replica

_STORAGE_FAILS = (*replica.FULL, errno.EIO, errno.EROFS)
PRIVATE = 0o700
"""The mode of folders that are made."""


class OtherBackupError(Exception):
    """DIR holds another file of this name."""


class Backup(msgspec.Struct, frozen=True):
    """Backups in `folder` of the files under `tree`."""

    folder: bytes
    tree: bytes
    durable: bool

    def keep(self, path: bytes, mark: bytes) -> None:
        """Keep the original of this path; its name is durable after `sync`. `mark`: a name for what is half made.

        Raises
        ------
        OtherBackupError
            Another file has its place.
        OSError
            It cannot be kept.
        """
        _os.make_directory(os.path.dirname(self._kept(path)), durable=self.durable, mode=PRIVATE)
        try:
            os.link(self._original(path), self._kept(path), follow_symlinks=False)
        except FileExistsError:
            self._check(path)
        except OSError as error:
            if error.errno in _STORAGE_FAILS:
                raise
            self._copy(path, mark)  # another file system, or one without hard links, or another user's file

    def lacks(self, path: bytes) -> bool:
        """Whether nothing has the name that this original's backup would get."""
        return not os.path.lexists(self._kept(path))

    def sync(self, paths: list[bytes]) -> None:
        """Make the backups of these paths durable."""
        if self.durable:
            for directory in sorted({os.path.dirname(self._kept(path)) for path in paths}):
                _os.sync_directory(directory)

    def withdraw(self, path: bytes, mark: bytes) -> None:
        """Take back what `keep` did for an original that was not replaced: else it would seem to have two names.

        Only for one that this folder has lacked before.
        """
        with contextlib.suppress(OSError):
            os.unlink(self._half_made(path, mark))
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self._original(path)), os.lstat(self._kept(path))):
                os.unlink(self._kept(path))

    def _copy(self, path: bytes, mark: bytes) -> None:
        """Copy an original; its name comes last, and takes none that somebody else has made meanwhile."""
        half_made = self._half_made(path, mark)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(half_made)
        replica.copy(self._original(path), half_made, durable=self.durable)
        try:
            os.link(half_made, self._kept(path))
        except FileExistsError:
            self._check(path)
        except OSError as error:
            if error.errno in _STORAGE_FAILS or os.path.lexists(self._kept(path)):
                raise
            os.rename(half_made, self._kept(path))
            return
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(half_made)

    def _check(self, path: bytes) -> None:
        """Raise `OtherBackupError` unless what has the backup's name is this original, or as good as it."""
        original, kept = os.lstat(self._original(path)), os.lstat(self._kept(path))
        if os.path.samestat(original, kept):
            return
        if not stat.S_ISREG(kept.st_mode) or not filecmp.cmp(self._original(path), self._kept(path), shallow=False):
            raise OtherBackupError

    def _original(self, path: bytes) -> bytes:
        return os.path.join(self.tree, path)

    def _kept(self, path: bytes) -> bytes:
        return os.path.join(self.folder, path)

    def _half_made(self, path: bytes, mark: bytes) -> bytes:
        return os.path.join(os.path.dirname(self._kept(path)), b".dcmpool-" + mark)
