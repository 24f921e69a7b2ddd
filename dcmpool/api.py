"""dcmpool from Python: the command line in a process of its own, its report as an object, its outcomes as they come.

    run     dcmpool run SOURCE --json            -> Report
    stream  the same, and --events over a pipe   -> FileEnded, FileEnded, ..., Report
    scan    dcmpool scan SOURCE --json           -> dict

A supervisor needs a main thread and children of its own; a notebook, a thread, or a script without a main guard has
none to give. Settings are the command's long options, `--max-writers 4` as `max_writers=4`: they are not listed here,
but handed on, so there is no other list that could differ. The process ends when its caller does (`_os.CALLER`).
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import msgspec

from dcmpool import _os
from dcmpool.errors import DcmpoolError, LaunchError, LockedError, StoppedError, UsageError
from dcmpool.events import FileEnded, Tried, decode
from dcmpool.helper import python_command

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_OURS = ("json", "events", "quiet")
"""Options of which this module makes its own use."""
_PATIENCE_SECONDS = 10.0
"""How long a run that is to end may take for the files under way, and then for itself."""
_READ_BYTES = 1 << 16
_ERRORS: dict[int, type[DcmpoolError]] = {
    kind.exit_code: kind for kind in (UsageError, LockedError, LaunchError, StoppedError)
}


class Failed(msgspec.Struct, frozen=True):
    """A file without a result. `path` is relative to SOURCE, as `os.fsdecode` has it."""

    path: str
    kind: str
    """`dcmpool.model.FailureKind`."""
    reason: str
    transfer_syntax_uid: str
    attempts: tuple[Tried, ...]


class Named(msgspec.Struct, frozen=True):
    """A path and what is to be said of it."""

    path: str
    reason: str


class Report(msgspec.Struct, frozen=True):
    """The end of a run: what `--json` prints."""

    source: str
    target: str
    counts: dict[str, int]
    """Files by `dcmpool.model.Outcome`."""
    by_transfer_syntax: dict[str, dict[str, int]]
    failed: tuple[Failed, ...]
    kept: tuple[Named, ...]
    skipped: tuple[Named, ...]
    notes: tuple[Named, ...]
    native_bytes: int
    kills: int
    retries: int
    confirmed: int
    gone: int
    """Files of earlier runs that are no longer in SOURCE; their results stay."""
    seconds: float
    exit_code: int
    """0 all well, 1 some failed, 70 and 75 stopped, 130 interrupted; after all but 0 the same call goes on."""
    stopped: str
    """Why the run ended before its work did; "" if it did not."""


class Stream:
    """A run whose outcomes come as they are: a context manager, and in it an iterator.

    Outcomes wait in memory for a loop that is slower than the run. Leaving the block ends the run, resumable.
    """

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._begun: _Command | None = None
        self._ended: SimpleQueue[FileEnded | None] = SimpleQueue()

    def __enter__(self) -> "Stream":
        read, write = os.pipe()
        try:
            command, *words = self._words
            self._begun = _Command([command, f"--events=/dev/fd/{write}", *words], write)
            arguments = read, self._begun.pidfd
            self._listener = threading.Thread(target=self._listen, args=arguments, name="dcmpool", daemon=True)
            self._listener.start()
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._command.end()
        self._listener.join()
        self._command.close()

    def __iter__(self) -> Iterator[FileEnded]:
        return self

    def __next__(self) -> FileEnded:
        """Return the next file that has ended; raise as `run` does if the run could not begin."""
        command = self._command
        ended = self._ended.get()
        if ended is None:
            self._ended.put(None)
            command.result()
            raise StopIteration
        return ended

    @property
    def report(self) -> Report:
        """The report, once the run has ended; raises as `run` does."""
        return msgspec.convert(self._command.result(), Report)

    @property
    def _command(self) -> "_Command":
        if self._begun is None:
            raise RuntimeError("a stream begins with its block: with dcmpool.stream(...) as outcomes")
        return self._begun

    def _listen(self, read: int, process: int) -> None:
        """Take events as they come, since those that nobody takes are dropped."""
        try:
            for line in _lines(read, process):
                event = decode(line)
                if isinstance(event, FileEnded):
                    self._ended.put(event)
        finally:
            self._ended.put(None)
            os.close(read)


class _Command:
    """The command line with these arguments, from its start to its end. `descriptors` stay open in it."""

    def __init__(self, words: list[str], *descriptors: int) -> None:
        if not sys.executable:
            raise LaunchError("this Python cannot say where its interpreter is (sys.executable)")
        with contextlib.ExitStack() as files:
            self._outputs = [files.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    python_command("dcmpool.__main__", *words),
                    stdin=subprocess.DEVNULL,
                    stdout=self._outputs[0],
                    stderr=self._outputs[1],
                    pass_fds=descriptors,
                    start_new_session=True,  # Ctrl-C is the caller's, who then ends the run in order
                    env=os.environ | {_os.CALLER: str(os.getpid())},
                )
            except ValueError as error:
                raise UsageError(f"no path and no option can be that: {error}") from error
            self.pidfd = os.pidfd_open(self._process.pid)
            files.callback(os.close, self.pidfd)
            self._files = files.pop_all()
        self._said: list[bytes] | None = None

    def __enter__(self) -> "_Command":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self.close()

    def end(self) -> None:
        """Have it end, if it has not: in order, then at once, then by force."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_PATIENCE_SECONDS)

    def close(self) -> None:
        """Let go of all but what it said."""
        if self._said is None:
            self._said = self._read()
            self._files.close()

    def result(self) -> dict[str, Any]:
        """Wait for the end and return the object that it printed; raise what kept it from that."""
        code = self._process.wait()
        out, err = self._said or self._read()
        try:
            value: dict[str, Any] = json.loads(out)
        except ValueError:
            raise _trouble(code, err.decode("utf-8", "replace")) from None
        return value

    def _read(self) -> list[bytes]:
        # By offset: the file position is the process's too.
        return [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) for file in self._outputs]


def run(source: AnyPath, target: AnyPath | None = None, **settings: Any) -> Report:
    """Make a native copy of a series or an archive, as `dcmpool run` does, and return the report.

    `settings` are the options of the command: `workers=8`, `in_place=True`, `verify="sample=1%"`. That some files
    failed is in the report, no exception.

    Raises
    ------
    UsageError, LockedError, LaunchError
        The run could not begin: the command's own line.
    DcmpoolError
        It was killed; the same call goes on where it was.
    """
    with _Command(_words("run", source, target, settings)) as command:
        return msgspec.convert(command.result(), Report)


def stream(source: AnyPath, target: AnyPath | None = None, **settings: Any) -> Stream:
    """Run as `run` does, and give each file as it ends.

    with dcmpool.stream("archive", "native") as outcomes:
        for outcome in outcomes:
            print(outcome.path, outcome.outcome, outcome.digest)
    print(outcomes.report.counts)
    """
    return Stream(_words("run", source, target, settings))


def scan(source: AnyPath, target: AnyPath | None = None, **settings: Any) -> dict[str, Any]:
    """Count what lies in a series or an archive, as `dcmpool scan` does: the object that its `--json` prints.

    `settings` are the options of that command; raises as `run` does.
    """
    with _Command(_words("scan", source, target, settings)) as command:
        return command.result()


def _words(command: str, source: AnyPath, target: AnyPath | None, settings: dict[str, Any]) -> list[str]:
    if ours := [name for name in settings if name in _OURS]:
        raise UsageError(f"{ours[0]} is no setting: from Python, reports and events come as objects")
    settings = {"output": target} | settings if target is not None else settings
    options = [word for name, value in settings.items() for word in _option(name, value)]
    return [command, "--json", *options, "--", _word(source)]


def _option(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    return [flag] if value is True else [f"{flag}={_word(value)}"]


def _word(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else str(value)


def _lines(read: int, process: int) -> Iterator[bytes]:
    """Yield the lines of a pipe until it ends, or its writer: what the caller has forked may hold it open."""
    poll = select.poll()
    poll.register(read, select.POLLIN)
    poll.register(process, select.POLLIN)
    rest = b""
    while read in {fd for fd, _ in poll.poll()} and (data := os.read(read, _READ_BYTES)):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _trouble(code: int, said: str) -> DcmpoolError:
    """Return what a command without a result has to say."""
    if code < 0:
        return DcmpoolError(f"the run was killed by {signal.Signals(-code).name}; the same call goes on where it was")
    lines = [line for line in said.splitlines() if line.strip()]
    reason = lines[-1].removeprefix("dcmpool: ") if lines else f"the command ended with exit code {code}"
    return _ERRORS.get(code, DcmpoolError)(reason)
