"""What is kept of a child that died over a file: the diagnosis, its output, its stack, and how to repeat it.

    TARGET/.dcmpool/evidence/<run>-<job>-<attempt>/diagnosis.json, diagnosis.txt, output.txt, stack.txt

The supervisor collects, from its own memory and what cannot block; the clerk writes. No patient data: of the
source its path alone, and its bytes only where the user asked for that.
"""

import os
import shlex
import sys
from functools import cache

import msgspec

from dcmpool import __version__
from dcmpool.diagnose import Evidence
from dcmpool.protocol import KeptFile

MAX_KEPT = 200
"""Deaths of a run that are kept: each may take 130 KiB, and more of them say nothing new."""
_PACKAGES = (
    "imagecodecs",
    "python-gdcm",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "pydicom",
    "numpy",
)


class Death(msgspec.Struct, frozen=True):
    """An attempt that ended with its child."""

    path: bytes
    """Relative to SOURCE."""
    source: bytes
    kind: str
    reason: str
    cause: str
    engine: str
    stage: str
    seconds: float
    limit_seconds: float
    memory_mib: int
    evidence: Evidence | None
    """The last look before the end; None if it ended before anybody looked."""

    @property
    def command(self) -> str:
        """Return the command that repeats exactly this attempt."""
        engine = f" --engine {self.engine}" if self.engine else ""
        limit = f" --limit {self.limit_seconds:g} --memory {self.memory_mib}"
        return f"python -m dcmpool attempt {shlex.quote(_shown(self.source))}{engine}{limit}"


def with_share(now: Evidence, before: Evidence | None, seconds: float) -> Evidence:
    """Return `now` with the share of a CPU that it had since it was looked at `seconds` before."""
    if before is None or seconds <= 0:
        return now
    return msgspec.structs.replace(now, cpu_share=(now.cpu_seconds - before.cpu_seconds) / seconds)


def files(death: Death, output: bytes, stack: bytes) -> tuple[KeptFile, ...]:
    """Return what is kept."""
    facts = {
        "file": _shown(death.path),
        "kind": death.kind,
        "cause": death.cause,
        "engine": death.engine,
        "stage": death.stage,
        "seconds": round(death.seconds, 3),
        "limit_seconds": death.limit_seconds,
        "memory_mib": death.memory_mib,
        "reason": death.reason,
        "repeat": death.command,
        "versions": versions(),
        "process": _facts(death.evidence) if death.evidence else None,
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if not isinstance(value, dict)]
    kept = (
        KeptFile("diagnosis.json", msgspec.json.format(msgspec.json.encode(facts)) + b"\n"),
        KeptFile("diagnosis.txt", ("\n".join(lines) + "\n").encode("utf-8", "replace")),
        KeptFile("output.txt", output),
        KeptFile("stack.txt", stack),
    )
    return tuple(file for file in kept if file.text)


def _facts(evidence: Evidence) -> dict[str, object]:
    return {
        "state": evidence.state,
        "cpu_seconds": evidence.cpu_seconds,
        "cpu_share": evidence.cpu_share,
        "system_call": evidence.system_call,
        "on": _shown(os.path.basename(evidence.path)),
        "kernel_function": evidence.kernel_function,
        "rss_bytes": evidence.rss_bytes,
        "peak_bytes": evidence.peak_bytes,
        "read_bytes": evidence.read_bytes,
        "written_bytes": evidence.written_bytes,
        "children": [_facts(child) for child in evidence.children],
    }


def _shown(path: bytes) -> str:
    """A path as text that JSON can hold: names need not be UTF-8."""
    return path.decode("utf-8", "backslashreplace")


def versions() -> dict[str, str]:
    """Return the versions of dcmpool, of Python, and of the packages that decode."""
    return {"dcmpool": __version__, "python": ".".join(map(str, sys.version_info[:3]))} | package_versions()


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decode, "" for one that is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow to import, rarely needed

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
