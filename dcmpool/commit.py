"""TARGET: what stands there, and how a complete temp file gets its final name.

    temp file (synced by the worker) > intent > rename > fsync of each directory once > journal

A file in TARGET is replaced only if the journal knows it and it is still as dcmpool wrote it, or the user said
`--overwrite`; never through a link below TARGET, whatever the user said. In place the original is kept in DIR first
(`backup.py`), if the user named one, and looked at once more. All of it may be repeated: a result that already stands
counts as committed.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator

import msgspec

from dcmpool import _os, replica
from dcmpool.backup import Backup, OtherBackupError
from dcmpool.ground import Spelling
from dcmpool.journal import Intent, Journal, Row
from dcmpool.model import STATE_DIRECTORY, FailureKind, stored_time
from dcmpool.protocol import CommitFailure, KeptFile, Result
from dcmpool.text import linked, shown

_PORTION_BYTES = 64 << 20
"""Originals that one commit may have to copy."""


class Obstacle(msgspec.Struct, frozen=True):
    """Why a result cannot get its final name, whatever it is."""

    kind: FailureKind
    reason: str


class Target(msgspec.Struct, frozen=True):
    """The tree of results: in place, SOURCE itself."""

    root: bytes
    in_place: bool
    overwrite: bool
    durable: bool
    split_links: bool = False
    """In place: whether one name of several that a file has may be replaced."""
    backup: Backup | None = None
    """In place: where originals are kept."""
    spelling: Spelling | None = None
    """Where the file system ignores case, and results of several sources may get into each other's way."""

    @property
    def state(self) -> bytes:
        """TARGET/.dcmpool."""
        return os.path.join(self.root, STATE_DIRECTORY)

    @property
    def temp(self) -> bytes:
        """Where workers write."""
        return os.path.join(self.state, b"tmp")

    @property
    def lock(self) -> bytes:
        """What a run holds as long as it is on."""
        return os.path.join(self.state, b"lock")

    def final(self, path: bytes) -> bytes:
        """Return the full final name of a result."""
        return os.path.join(self.root, path)

    def obstacle(self, path: bytes, row: Row | None) -> Obstacle | None:
        """Say what keeps a result from this name: a file that must not be replaced, or a name that cannot be had."""
        if link := self._link_on_the_way(path):
            return Obstacle(FailureKind.EXISTS, f"{shown(link)} is a link, and results go through none")
        if other := self._spelled_otherwise(path):
            return other
        try:
            status = os.lstat(self.final(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return Obstacle(FailureKind.WRITE, f"the target's name cannot be looked at: {error.strerror}")
        if self.in_place or self.overwrite or (row is not None and is_as_written(status, row)):
            return None
        if row is not None and row.result_size is not None:
            reason = "the result was changed after dcmpool wrote it; --overwrite replaces it"
        else:
            reason = "the target holds a file of this name that dcmpool did not write; --overwrite replaces it"
        return Obstacle(FailureKind.EXISTS, reason)

    def portions(self, results: list[Result]) -> Iterator[list[Result]]:
        """Divide results so that no commit takes long where each may have to copy its original."""
        if self.backup is None and results:
            yield results
            return
        portion: list[Result] = []
        for result in results:
            portion.append(result)
            if sum(r.written.source_size for r in portion) >= _PORTION_BYTES:
                yield portion
                portion = []
        if portion:
            yield portion

    def commit(self, results: list[Result], journal: Journal) -> tuple[list[int], list[CommitFailure]]:
        """Give each result its final name, durably; return the jobs done and those that failed.

        Raises
        ------
        sqlite3.Error
            The journal cannot be written; nothing is acknowledged, and all may be repeated.
        """
        results = list({result.temp: result for result in results}.values())
        objections = [(result.job, self._objection(result, journal)) for result in results]
        failures = [CommitFailure(job, found.kind, found.reason) for job, found in objections if found]
        refused = {failure.job for failure in failures}
        fresh = [r for r in results if r.job not in refused and not self._already(r, journal)]
        backups = self._new_backups(fresh)
        journal.intend(fresh, backups)
        failures += self._keep_originals(fresh)
        renamed = []
        for result in (r for r in fresh if r.job not in {failure.job for failure in failures}):
            if failure := self._rename(result):
                failures.append(failure)
            else:
                renamed.append(result)
        self.sync({os.path.dirname(self.final(result.path)) for result in renamed})
        journal.settle(renamed, ())
        failed = {failure.job: failure for failure in failures}
        for result in results:
            if result.job in failed:
                _remove(result.temp)
        for result in (r for r in fresh if r.job in failed):
            self._withdraw(result.path, result.temp, backups.get(result.path, b""))
        journal.resolve((), [r.path for r in fresh if r.job in failed])
        return [r.job for r in results if r.job not in failed], list(failed.values())

    def recover(self, journal: Journal) -> None:
        """Settle the renames that a dead run left half done: by what stands on disk."""
        done, undone = [], []
        for intent in journal.intents():
            if intent.row is not None and self._took_place(intent, intent.row):
                done.append(intent.row)
            else:
                undone.append(intent.path)
                _remove(_beside(intent.temp, self.final(intent.path)))
                self._withdraw(intent.path, intent.temp, intent.backup)
        self.sync({os.path.dirname(self.final(row.path)) for row in done})
        if done or undone:
            journal.resolve(done, undone)

    def sweep(self, run: bytes) -> None:
        """Remove what dead runs left in the temp folder; names of this run stay."""
        for name in os.listdir(self.temp):
            if not name.startswith(run):
                self.discard(name)

    def discard(self, name: bytes) -> None:
        """Remove a temp file or a private folder of a dead child."""
        name = os.path.basename(name)
        if name in (b"", b".", b".."):
            return
        path = os.path.join(self.temp, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            _remove(path)

    def evidence(self, name: str) -> bytes:
        """Return the folder of the evidence of this name."""
        return os.path.join(self.state, b"evidence", os.path.basename(name.encode()))

    def keep(self, name: str, files: tuple[KeptFile, ...]) -> None:
        """Keep evidence: small files in a folder of its own. Best effort."""
        folder = self.evidence(name)
        with contextlib.suppress(OSError):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            for file in files:
                with open(os.path.join(folder, os.path.basename(file.name.encode())), "wb") as kept:
                    kept.write(file.text)

    def sync(self, directories: set[bytes]) -> None:
        """Make the names in these directories durable."""
        if self.durable:
            for directory in sorted(directories):
                _os.sync_directory(directory)

    def _link_on_the_way(self, path: bytes) -> bytes:
        """Return the first directory above a final name that is a link; b"" if none is.

        Behind it may be anybody's files, SOURCE's originals among them, or the place of another result.
        """
        found = b""
        while path := os.path.dirname(path):
            if os.path.islink(self.final(path)):
                found = path
        return found

    def _objection(self, result: Result, journal: Journal) -> Obstacle | None:
        """Say why a result must not get its name: what stands there is not ours, or its source has changed."""
        found = self.obstacle(result.path, None if self.in_place else journal.find(result.path))
        return found or self._change(result) or self._link_made(result.path)

    def _change(self, result: Result) -> Obstacle | None:
        """Say how the original is no longer what it was when it was read, and so not to be replaced by its result."""
        if not self.in_place:
            return None
        try:
            status = os.lstat(self.final(result.path))
        except OSError as error:
            return Obstacle(FailureKind.CHANGED, f"the source is gone: {error.strerror}")
        as_read = (result.written.source_size, result.written.source_mtime_ns)
        as_written = (result.written.size, result.written.mtime_ns)
        if (status.st_size, stored_time(status.st_mtime_ns)) not in (as_read, as_written):
            return Obstacle(FailureKind.CHANGED, "the source changed while it was decompressed")
        return None

    def _spelled_otherwise(self, path: bytes) -> Obstacle | None:
        """Say that this name is taken by one that differs in case alone, which is another source's."""
        if self.spelling is None:
            return None
        try:
            other = self.spelling.other(path)
        except OSError as error:
            return Obstacle(FailureKind.WRITE, f"the target's names cannot be looked at: {error.strerror}")
        if not other:
            return None
        reason = f"the target has {shown(other)} in another spelling, and does not tell upper from lower case"
        return Obstacle(FailureKind.EXISTS, reason)

    def _link_made(self, path: bytes) -> Obstacle | None:
        """Say that an original has several names; the worker has looked too, but that is a while ago."""
        if self.split_links or not self.in_place:
            return None
        try:
            names = os.lstat(self.final(path)).st_nlink
        except OSError:
            return None  # the last look before the rename tells
        return Obstacle(FailureKind.LINKED, linked(names)) if names > 1 else None

    def _keep_originals(self, results: list[Result]) -> list[CommitFailure]:
        """Have a durable backup of each original, where one is wanted; return those that cannot be had."""
        if self.backup is None:
            return []
        failures = []
        for result in results:
            try:
                self.backup.keep(result.path, os.path.basename(result.temp))
            except OtherBackupError:
                reason = "the backup folder holds another file of this name, which is not replaced"
                failures.append(CommitFailure(result.job, FailureKind.EXISTS, reason))
            except OSError as error:
                failures.append(_failure(result, error, "the original cannot be kept"))
        failed = {failure.job for failure in failures}
        self.backup.sync([result.path for result in results if result.job not in failed])
        return failures

    def _new_backups(self, results: list[Result]) -> dict[bytes, bytes]:
        """Return the folder of the backups that are to be made, by the path of their original."""
        if self.backup is None:
            return {}
        return {result.path: self.backup.folder for result in results if self.backup.lacks(result.path)}

    def _withdraw(self, path: bytes, temp: bytes, folder: bytes) -> None:
        """Take back a backup that was new in this folder, which may be that of an earlier run."""
        if folder:
            Backup(folder, self.root, self.durable).withdraw(path, os.path.basename(temp))

    def _already(self, result: Result, journal: Journal) -> bool:
        """Whether an earlier clerk of this run has committed this very result, and only its answer was lost."""
        if os.path.lexists(result.temp):
            return False
        row = journal.find(result.path)
        if row is None or not journal.is_of_this_run(row) or row.digest != result.written.digest:
            return False
        try:
            return is_as_written(os.lstat(self.final(result.path)), row)
        except OSError:
            return False

    def _rename(self, result: Result) -> CommitFailure | None:
        """Give a result its name, after a last look at what stands there in place; say why not, if not."""
        final = self.final(result.path)
        try:
            if change := self._change(result) or self._spelled_otherwise(result.path):
                return CommitFailure(result.job, change.kind, change.reason)
            self._check_syncable(os.path.dirname(final))
            try:
                return self._move(result, final)
            except FileNotFoundError:
                _os.make_directory(os.path.dirname(final), durable=self.durable)
                return self._move(result, final)
        except OSError as error:
            return _failure(result, error, "the result cannot get its final name")

    def _check_syncable(self, directory: bytes) -> None:
        if self.durable and os.path.isdir(directory) and not os.access(directory, os.R_OK):
            raise PermissionError(errno.EACCES, "its directory cannot be read, and so not be synced")

    def _move(self, result: Result, final: bytes) -> CommitFailure | None:
        try:
            os.rename(result.temp, final)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return self._move_across(result, final)
        return None

    def _move_across(self, result: Result, final: bytes) -> CommitFailure | None:
        """Rename where the final directory is on another file system than the temp folder: copy beside it first.

        The copy takes its time, so there is one more look at the original. The temp file goes before the rename, since
        it is by its absence that `recover` knows a rename.
        """
        beside = _beside(result.temp, final)
        try:
            replica.copy(result.temp, beside, durable=self.durable)
            if change := self._change(result):
                _remove(beside)
                return CommitFailure(result.job, change.kind, change.reason)
            _remove(result.temp)
            os.rename(beside, final)
        except OSError:
            _remove(beside)
            raise
        return None

    def _took_place(self, intent: Intent, row: Row) -> bool:
        try:
            status = os.lstat(self.final(intent.path))
        except OSError:
            return False
        return not os.path.lexists(intent.temp) and is_as_written(status, row)


def is_as_written(status: os.stat_result, row: Row) -> bool:
    """Whether a file of TARGET still is the one that the journal knows."""
    return (status.st_size, stored_time(status.st_mtime_ns)) == (row.result_size, row.result_mtime_ns)


def _beside(temp: bytes, final: bytes) -> bytes:
    return os.path.join(os.path.dirname(final), b".dcmpool-" + os.path.basename(temp))


def _failure(result: Result, error: OSError, what: str) -> CommitFailure:
    kind = FailureKind.NO_SPACE if error.errno in replica.FULL else FailureKind.WRITE
    return CommitFailure(result.job, kind, f"{what}: {error.strerror}")


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except OSError:
        return  # gone already, or its storage is: the next run sweeps
