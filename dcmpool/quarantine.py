"""Originals that failed, copied into one folder: by a thread of its own, as evidence is (`copier.py`).

    DIR/sub/broken.dcm, DIR/sub/broken.dcm.dcmpool.json (why), DIR/files.txt (paths, as `--files-from` reads them)

Promises: what has its name there is whole; nothing is replaced but an earlier copy of the same original; what cannot be
copied is said, and stops nothing; wherever a run is killed, the next one goes on from there.
"""

import contextlib
import fcntl
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, BinaryIO, Final

import msgspec

from dcmpool import _os
from dcmpool.commit import Target
from dcmpool.model import stored_time
from dcmpool.protocol import Ending
from dcmpool.text import shown, words

LIST: Final = b"files.txt"
WORDS: Final = b".dcmpool.json"
_TEMP: Final = re.compile(rb"\.dcmpool-[0-9a-f]{8}")
"""What a run is writing: its own number."""
_PRIVATE_DIRECTORY, _PRIVATE = 0o700, 0o600
"""The copies are patient data."""
_CHUNK_BYTES = 1 << 20
_STILL_SECONDS = 30.0
"""How long the end of a run waits for a copy that does not get on."""
_TELL_SECONDS = 1.0


class Quarantine:
    """The folder `root` and its thread, which begins with the first copy. `base`: what paths are relative to."""

    def __init__(self, root: bytes, base: bytes, target: Target, run: str, say: Callable[[str], None]) -> None:
        self._root = root
        self._base = base
        self._target = target
        self._run = run
        self._say = say
        self._wanted: SimpleQueue[tuple[Ending, bool] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="quarantine", daemon=True)
        self._listed: set[bytes] | None = None
        self._swept: set[bytes] = set()
        self._steps = 0
        self._starting = threading.Lock()

    def add(self, ending: Ending, *, is_earlier: bool = False) -> None:
        """Have the original of a failure copied, of this run or of an earlier one."""
        self._wanted.put((ending, is_earlier))
        with self._starting:  # the walk and the clerk's own thread come here
            if not self._thread.ident:
                self._thread.start()

    def end(self, gets_on: Callable[[], None]) -> None:
        """Wait for what is not done yet, as long as it gets on; that it does is told every second."""
        if not self._thread.ident:
            return
        self._wanted.put(None)
        steps, since = self._steps, time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < _STILL_SECONDS:
            self._thread.join(_TELL_SECONDS)
            if steps != self._steps:
                steps, since = self._steps, time.monotonic()
                gets_on()
        if self._thread.is_alive():
            self._say("the quarantine is not complete: storage does not answer; the next run goes on with it")

    def _work(self) -> None:
        while wanted := self._wanted.get():
            ending, is_earlier = wanted
            try:
                self._take(ending, is_earlier=is_earlier)
            except OSError as error:
                self._say(f"not in quarantine: {shown(ending.path)}: {words(error)}")
            except Exception as error:  # noqa: BLE001 - the border: a thread that ends silently leaves files out unsaid
                self._say(f"not in quarantine: {shown(ending.path)}: {type(error).__name__}: {words(error)}")
            self._steps += 1

    def _take(self, ending: Ending, *, is_earlier: bool) -> None:
        final = os.path.join(self._root, ending.path)
        there = _There(final, ending.path)
        if not (is_earlier and there.is_whole and there.says(ending)):
            self._copy(final, ending, there, is_earlier=is_earlier)
        self._list(ending.path)

    def _copy(self, final: bytes, ending: Ending, there: "_There", *, is_earlier: bool) -> None:
        """Write the words, and the copy unless it stands there."""
        directory = os.path.dirname(final)
        _os.make_directory(directory, durable=True, mode=_PRIVATE_DIRECTORY)
        self._sweep(directory)
        with _opened(os.path.join(self._base, ending.path)) as original:
            status = os.fstat(original.fileno())
            about = self._about(ending, status, there.words if is_earlier else {})
            is_there = there.is_whole and there.copy == _version(status)
            if there.copy and not is_there:
                about["replaces"] = there.copy
            text = json.dumps(about, indent=1).encode()
            self._write(final + WORDS, lambda file: file.write(text))  # first: a copy without words is not ours
            if not is_there:
                self._write(final, lambda file: self._pour(original, file), status)
        _os.sync_directory(directory)

    def _sweep(self, directory: bytes) -> None:
        """Remove what dead runs were writing in a directory, once: who lives holds the lock of what it writes."""
        if directory in self._swept:
            return
        self._swept.add(directory)
        names = set(os.listdir(directory))
        for name in names:
            if _TEMP.fullmatch(name) and name + WORDS not in names:  # else it is an original that is called so
                with contextlib.suppress(OSError), _locked(os.path.join(directory, name)):
                    os.unlink(os.path.join(directory, name))

    def _pour(self, original: BinaryIO, copy: BinaryIO) -> None:
        while chunk := original.read(_CHUNK_BYTES):
            copy.write(chunk)
            self._steps += 1

    def _write(self, final: bytes, fill: Callable[[BinaryIO], object], like: os.stat_result | None = None) -> None:
        """Give a file its name when it is whole and on disk."""
        temp = os.path.join(os.path.dirname(final), b".dcmpool-" + self._run.encode())
        try:
            with open(_new(temp), "wb") as file:
                fill(file)
                file.flush()
                if like:
                    _demand_size(file.tell(), like)
                    os.utime(file.fileno(), ns=(like.st_atime_ns, like.st_mtime_ns))
                os.fsync(file.fileno())
            os.rename(temp, final)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temp)
            raise

    def _about(self, ending: Ending, status: os.stat_result, before: dict[str, Any]) -> dict[str, Any]:
        """Return the words about a failure; those of `before` tell what an earlier run has seen of the same bytes."""
        size, mtime_ns = _version(status)
        about = {
            "path": os.fsdecode(ending.path),
            "source": os.fsdecode(self._base),
            "run": self._run,
            "size": size,
            "mtime_ns": mtime_ns,
            "kind": ending.kind,
            "reason": ending.reason,
            "transfer_syntax_uid": ending.transfer_syntax_uid,
            "attempts": msgspec.to_builtins(ending.attempts),
            "diagnoses": self._diagnoses(ending),
        }
        if (before.get("size"), before.get("mtime_ns")) == (size, mtime_ns):
            about |= {name: before[name] for name in ("run", "diagnoses") if name in before}
        return about

    def _diagnoses(self, ending: Ending) -> list[Any]:
        """Return what is kept of the deaths over this file in this run, as far as it can be read."""
        found = []
        for attempt in range(1, 2 * len(ending.attempts) + 3):  # some deaths are no attempt
            path = os.path.join(self._target.evidence(f"{self._run}-{ending.job}-{attempt}"), b"diagnosis.json")
            with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
                found.append(json.load(file))
        return found

    def _list(self, path: bytes) -> None:
        """Add a path to the list, once."""
        if b"\n" in path or path.endswith(b"\r"):
            self._say(f"not in {shown(LIST)}, since its name has a line break: {shown(path)}")
            return
        name = os.path.join(self._root, LIST)
        with open(name, "a+b", opener=_opener) as file:
            file.seek(0)
            if self._listed is None:
                self._listed = {line.rstrip(b"\r\n") for line in file}
            if path not in self._listed:
                file.write(path + b"\n")
                file.flush()
                os.fsync(file.fileno())
                self._listed.add(path)


class _There:
    """What stands under a name in the folder: `words` ({} if there are none), and the size and time of the `copy`.

    Raises
    ------
    OSError
        It is something else than dcmpool has put there for this original.
    """

    def __init__(self, final: bytes, path: bytes) -> None:
        self.copy: list[int] | None = None
        self.words: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.copy = _version(os.lstat(final))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(final + WORDS, "rb") as file:
            self.words = _read(file)
        is_of_it = self.words.get("path") == os.fsdecode(path)
        # Words come first: when a run is killed right then, the copy is still the one that it was about to replace.
        is_ours = is_of_it and (self.copy is None or self.is_whole or self.copy == self.words.get("replaces"))
        if path == LIST or ((self.copy or self.words) and not is_ours):
            raise FileExistsError("another file of this name is there")

    @property
    def is_whole(self) -> bool:
        """Whether the copy is the one that the words tell of; a user may take it away."""
        return self.copy is not None and self.copy == [self.words.get("size"), self.words.get("mtime_ns")]

    def says(self, ending: Ending) -> bool:
        """Whether this failure is what the words tell of."""
        said = [self.words.get(name) for name in ("size", "mtime_ns", "kind", "reason")]
        return said == [ending.size, ending.mtime_ns, ending.kind, ending.reason]


def _read(file: BinaryIO) -> dict[str, Any]:
    """Return words; what is no such thing says nothing about any path."""
    try:
        found = json.load(file)
    except ValueError:
        found = None
    return found if isinstance(found, dict) and found else {"path": None}


def _version(status: os.stat_result) -> list[int]:
    """Return by what a version of a file is known, as JSON has it."""
    return [status.st_size, stored_time(status.st_mtime_ns)]


def _new(path: bytes) -> int:
    """Make a file and hold its lock; where there are no locks, nobody can take it for a dead run's either."""
    while True:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                os.ftruncate(fd, 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # another run was faster with its lock, and has swept it away


@contextlib.contextmanager
def _locked(path: bytes) -> Iterator[None]:
    """Hold the lock of a file that nobody else holds; raise OSError if somebody does."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[BinaryIO]:
    """Open a regular file to read; a FIFO that took its place since must not hang."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("not a regular file")
        yield file


def _demand_size(size: int, like: os.stat_result) -> None:
    if size != like.st_size:
        raise OSError("it changed while it was copied")


def _opener(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CLOEXEC, _PRIVATE)
