"""TARGET: what stands there, and how a complete temp file gets its final name.

    temp file (synced by the worker) > intent > rename > fsync of each directory once > journal

A file in TARGET is replaced only if the journal knows it and it is still as dcmpool wrote it, or the user said
`--overwrite`; never through a link below TARGET, whatever the user said. All of it may be repeated: a result that
already stands counts as committed.
"""

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass

from dcmpool import _os
from dcmpool.journal import Intent, Journal, Row
from dcmpool.model import FailureKind, stored_time
from dcmpool.protocol import CommitFailure, KeptFile, Result
from dcmpool.scan import STATE_DIRECTORY
from dcmpool.text import shown

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a result cannot get its final name, whatever it is."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True, slots=True)
class Target:
    """The tree of results: in place, SOURCE itself."""

    root: bytes
    in_place: bool
    overwrite: bool
    durable: bool

    @property
    def state(self) -> bytes:
        """TARGET/.dcmpool."""
        return os.path.join(self.root, STATE_DIRECTORY)

    @property
    def temp(self) -> bytes:
        """Where workers write."""
        return os.path.join(self.state, b"tmp")

    def final(self, path: bytes) -> bytes:
        """Return the full final name of a result."""
        return os.path.join(self.root, path)

    def obstacle(self, path: bytes, row: Row | None) -> Obstacle | None:
        """Say what keeps a result from this name: a file that must not be replaced, or a name that cannot be had."""
        if link := self._link_on_the_way(path):
            return Obstacle(FailureKind.EXISTS, f"{shown(link)} is a link, and results go through none")
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
        journal.intend(fresh)
        renamed = []
        for result in fresh:
            try:
                self._rename(result)
                renamed.append(result)
            except OSError as error:
                failures.append(_failure(result, error))
        self.sync({os.path.dirname(self.final(result.path)) for result in renamed})
        journal.settle(renamed, ())
        failed = {failure.job: failure for failure in failures}
        for result in results:
            if result.job in failed:
                _remove(result.temp)
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

    def make_directory(self, path: bytes) -> None:
        """Make a directory and its missing parents, durably."""
        missing = [path]
        while not os.path.isdir(parent := os.path.dirname(missing[-1])):
            missing.append(parent)
        for directory in reversed(missing):
            try:
                os.mkdir(directory)
            except FileExistsError:
                if not os.path.isdir(directory):
                    raise
            else:
                self.sync({os.path.dirname(directory)})

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
        if found or not self.in_place:
            return found
        try:
            status = os.lstat(self.final(result.path))
        except OSError as error:
            return Obstacle(FailureKind.CHANGED, f"the source is gone: {error.strerror}")
        as_read = (result.written.source_size, result.written.source_mtime_ns)
        as_written = (result.written.size, result.written.mtime_ns)
        if (status.st_size, stored_time(status.st_mtime_ns)) not in (as_read, as_written):
            return Obstacle(FailureKind.CHANGED, "the source changed while it was decompressed")
        return None

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

    def _rename(self, result: Result) -> None:
        final = self.final(result.path)
        directory = os.path.dirname(final)
        if self.durable and os.path.isdir(directory) and not os.access(directory, os.R_OK):
            raise PermissionError(errno.EACCES, "its directory cannot be read, and so not be synced")
        try:
            self._move(result.temp, final)
        except FileNotFoundError:
            self.make_directory(directory)
            self._move(result.temp, final)

    def _move(self, temp: bytes, final: bytes) -> None:
        try:
            os.rename(temp, final)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._move_across(temp, final)

    def _move_across(self, temp: bytes, final: bytes) -> None:
        """Rename where the final directory is on another file system than the temp folder: copy beside it first.

        The temp file goes before the rename, since it is by its absence that `recover` knows a rename.
        """
        beside = _beside(temp, final)
        try:
            shutil.copy2(temp, beside)
            if self.durable:
                with open(beside, "rb") as file:
                    os.fsync(file.fileno())
            _remove(temp)
            os.rename(beside, final)
        except OSError:
            _remove(beside)
            raise

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


def _failure(result: Result, error: OSError) -> CommitFailure:
    kind = FailureKind.NO_SPACE if error.errno in _FULL else FailureKind.WRITE
    return CommitFailure(result.job, kind, f"the result cannot get its final name: {error.strerror}")


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except OSError:
        return  # gone already, or its storage is: the next run sweeps
