"""Whether this machine can do the work: every engine on known vectors, the kernel's part, the storage of a folder.

Each engine is examined in a process of its own (`selftest`), since it may crash or hang here as in a run; the vector
that it was at is then its fault, and the others are asked in another process.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from dcmpool import _os, sandbox
from dcmpool.engines import ENGINE_NAMES, ORDER
from dcmpool.errors import UsageError
from dcmpool.evidence import versions
from dcmpool.helper import ENVIRONMENT, python_command
from dcmpool.syntaxes import JPEG_LS

VECTOR_SECONDS: Final = 20.0
"""How long one vector may take."""
_MEASURE_SECONDS: Final = 0.3
_PROBE_BYTES: Final = 1 << 19
_PROBE_FILES: Final = 32


class Finding(msgspec.Struct, frozen=True):
    """What one engine makes of the vector of one Transfer Syntax: `result` is right, wrong, refused, cannot, crashed
    or hung; `seconds` of CPU a Frame, 0 if not measured."""

    engine: str
    uid: str
    result: str
    reason: str = ""
    seconds: float = 0.0


class Storage(msgspec.Struct, frozen=True):
    """What a folder's storage does: `files_per_second` written and synced, by number of writers."""

    path: str
    free_bytes: int
    files_per_second: dict[int, float]


class Health(msgspec.Struct, frozen=True):
    """Everything that was looked at."""

    versions: dict[str, str]
    cpus: int
    memory_bytes: int
    landlock: int
    findings: list[Finding]
    storage: Storage | None = None

    def to_json(self) -> str:
        """Return one JSON object."""
        return msgspec.json.encode(self).decode()

    @property
    def ailments(self) -> list[str]:
        """What is wrong, each in a line; empty if runs can be trusted here."""
        wrong = [
            f"{f.engine} {'is wrong' if f.result == 'wrong' else f.result} at {f.uid}: {f.reason}"
            for f in self.findings
            if f.result in ("wrong", "crashed", "hung")
        ]
        able = {f.uid for f in self.findings if f.result == "right"}
        return wrong + [
            f"no engine decodes {uid}" for uid in dict.fromkeys(f.uid for f in self.findings) if uid not in able
        ]


def examine(*, measure: bool = False, folder: Path | None = None) -> Health:
    """Examine every engine, and the storage of `folder`; `measure` takes the time of each engine too.

    Raises
    ------
    UsageError
        `folder` cannot be written.
    """
    storage = _probe(folder) if folder else None
    findings = [finding for engine in ENGINE_NAMES for finding in _examine_engine(engine, measure=measure)]
    return Health(
        versions=versions(),
        cpus=_os.available_cpus(),
        memory_bytes=_os.available_memory(),
        landlock=sandbox.abi(),
        findings=findings,
        storage=storage,
    )


def fastest(findings: list[Finding]) -> dict[str, tuple[str, ...]]:
    """Order the engines of each Transfer Syntax by measured time.

    Those that are not right, or were not measured, stay behind as they are; so do GDCM's for JPEG-LS, whose CharLS of
    2010 takes for whole, or spins over, what CharLS 2.4 refuses.
    """
    order = {}
    for uid in dict.fromkeys(finding.uid for finding in findings):
        right = {f.engine: f.seconds for f in findings if f.uid == uid and f.result == "right" and f.seconds}
        if uid in JPEG_LS:
            right = {name: seconds for name, seconds in right.items() if not name.startswith("gdcm")}
        measured = sorted((name for name in ORDER[uid] if name in right), key=lambda name: right[name])
        order[uid] = (*measured, *(name for name in ORDER[uid] if name not in right))
    return order


def _examine_engine(engine: str, *, measure: bool) -> list[Finding]:
    found: list[Finding] = []
    left = [uid for uid, order in ORDER.items() if engine in order]
    while True:
        some, stopped_at, how = _examine_in_child(engine, left, _MEASURE_SECONDS if measure else 0.0)
        found += some
        if not stopped_at:
            return found
        found.append(
            Finding(engine, stopped_at, how, "its process was killed" if how == "hung" else "its process died")
        )
        left = left[left.index(stopped_at) + 1 :]


def _examine_in_child(engine: str, uids: list[str], seconds: float) -> tuple[list[Finding], str, str]:
    """Return what was found, and the Transfer Syntax at which the process came to an end, and how; "" if it did all."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory(prefix="dcmpool-doctor-") as scratch:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            python_command("dcmpool.selftest", engine, str(seconds), *uids),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | ENVIRONMENT | {"TMPDIR": scratch},
        )
        try:
            how = "hung" if _hangs(process, output.fileno()) else "crashed"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").splitlines()
    found = [msgspec.json.decode(line, type=Finding) for line in lines if line.startswith("{")]
    done = {finding.uid for finding in found}
    begun = [line for line in lines if not line.startswith("{")]
    stopped_at = next((uid for uid in begun if uid not in done), "")
    if process.returncode and not stopped_at and not begun and uids:
        return [Finding(engine, uid, "cannot", "its process does not start") for uid in uids], "", ""
    return found, stopped_at, how


def _hangs(process: "subprocess.Popen[bytes]", output: int) -> bool:
    """Wait until the process ends, or has said nothing for too long."""
    size = -1
    while size != (size := os.fstat(output).st_size):
        try:
            process.wait(VECTOR_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return False
    return True


def _probe(folder: Path) -> Storage:
    """Write and sync files of 512 KiB, as a run does, by 1, 2, 4 and 8 writers."""
    data = os.urandom(_PROBE_BYTES)
    try:
        with tempfile.TemporaryDirectory(prefix=".dcmpool-probe-", dir=folder) as name:
            rates = {writers: _write_files(Path(name), writers, data) for writers in (1, 2, 4, 8)}
            return Storage(str(folder), shutil.disk_usage(folder).free, rates)
    except OSError as error:
        raise UsageError(f"the folder cannot be written: {folder}: {error.strerror}") from error


def _write_files(folder: Path, writers: int, data: bytes) -> float:
    def write(number: int) -> None:
        fd = os.open(folder / f"{writers}-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    begun = time.monotonic()
    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(write, range(_PROBE_FILES)))
    return _PROBE_FILES / (time.monotonic() - begun)
