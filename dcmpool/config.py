"""Every setting of a run: built-in defaults < profile or file < flags, checked once, then frozen.

`config/default.toml` spells out each default with its unit and reason; a test holds the two equal.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from dcmpool import _os
from dcmpool.engines import ENGINE_NAMES, ORDER
from dcmpool.errors import UsageError

MIB = 1024 * 1024
_WINDOW = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")

Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]
SecondsOrAuto = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the configuration file."""


class Work(Section, frozen=True):
    """Who does the work, and on what."""

    workers: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    engine: str = ""
    others: Literal["copy", "skip"] = "copy"
    overwrite: bool = False
    verify: Annotated[str, msgspec.Meta(pattern=r"^(|structure|second|sample=\d{1,3}(\.\d+)?%)$")] = ""
    evidence_copy: bool = False
    hard_links: Literal["refuse", "split"] = "refuse"
    yes_lossy: bool = False
    scan_ahead: Positive = 512
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 0


class Limits(Section, frozen=True):
    """When a child is given up."""

    attempt_seconds: SecondsOrAuto = 0.0
    floor_seconds: Seconds = 20.0
    slowest_mib_per_second: Seconds = 0.5
    memory_mib: Natural = 0
    start_seconds: Seconds = 20.0
    grace_seconds: Seconds = 0.2
    lost_seconds: Seconds = 5.0
    max_lost: Natural = 8


class Gate(Section, frozen=True):
    """How much may be under way to storage at once."""

    max_writers: Positive = 8
    adaptive: bool = True
    max_inflight_mib: Natural = 0
    grant_mib: Positive = 64
    bytes_per_second: Annotated[int, msgspec.Meta(ge=0, le=10**15)] = 0


class Storage(Section, frozen=True):
    """What is expected of the disks."""

    durable: bool = True
    stall_seconds: Seconds = 10.0
    give_up_seconds: Seconds = 600.0


class Schedule(Section, frozen=True):
    """On what terms a run works."""

    max_failures: Annotated[str, msgspec.Meta(pattern=r"^(|\d{1,9}|\d{1,2}(\.\d{1,3})?%)$")] = ""
    max_duration_seconds: Annotated[float, msgspec.Meta(ge=0, le=100_000_000)] = 0.0
    window: str = ""


class Sandbox(Section, frozen=True):
    """What keeps a worker from what is none of its business."""

    mode: Literal["auto", "require", "off"] = "auto"


class Config(Section, frozen=True):
    """All settings of a run; `resolve` turns 0 ("by this machine") into numbers."""

    work: Work = Work()
    limits: Limits = Limits()
    gate: Gate = Gate()
    storage: Storage = Storage()
    schedule: Schedule = Schedule()
    sandbox: Sandbox = Sandbox()
    engines: dict[str, tuple[str, ...]] = {}
    """The order of engines by Transfer Syntax UID, where it is not the built-in one; what is left out is not tried."""

    def judging(self) -> str:
        """Return the settings that may decide whether a file fails."""
        limits = self.limits
        times = (limits.attempt_seconds, limits.floor_seconds, limits.slowest_mib_per_second)
        order = f" engines={sorted(self.engines.items())}" if self.engines else ""
        return f"engine={self.work.engine} seconds={times} memory={limits.memory_mib} verify={self.work.verify}{order}"

    def second_share(self, *, in_place: bool) -> float:
        """Return the share of results, 0 to 1, that a second engine is to confirm."""
        verify = self.work.verify or ("second" if in_place else "structure")
        if verify.startswith("sample="):
            return min(1.0, float(verify.removeprefix("sample=").removesuffix("%")) / 100)
        return 1.0 if verify == "second" else 0.0

    def memory_mib(self, workers: int) -> int:
        """Return what each of so many workers may take of the memory that there is now."""
        return self.limits.memory_mib or _between(1024, _os.available_memory() * 4 // 5 // workers // MIB, 8192)

    def resolved(self) -> "Config":
        """Return the configuration with each 0 replaced by what this machine allows."""
        memory = _os.available_memory()
        cpus = _os.available_cpus()
        # More than CPUs: while two wait for their fsync, others decode.
        workers = self.work.workers or max(cpus + 2, cpus * 3 // 2)
        inflight_mib = self.gate.max_inflight_mib or _between(128, memory // 4 // MIB, 4096)
        return msgspec.structs.replace(
            self,
            work=msgspec.structs.replace(self.work, workers=workers),
            limits=msgspec.structs.replace(self.limits, memory_mib=self.memory_mib(workers)),
            gate=msgspec.structs.replace(
                self.gate,
                max_inflight_mib=inflight_mib,
                grant_mib=max(1, min(self.gate.grant_mib, inflight_mib // workers)),
            ),
        )


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def load(*, profile: str = "", path: Path | None = None, flags: dict[str, dict[str, Any]] | None = None) -> Config:
    """Return the checked configuration.

    Parameters
    ----------
    profile
        The name of a shipped profile ("workstation", "network-share", "slow-disk"), or "".
    path
        A TOML file of the user's.
    flags
        What the command line says, by section and name; `None` values are left out.

    Raises
    ------
    UsageError
        A file cannot be read, a setting is unknown, or a value is not allowed; the text names both.
    """
    values: dict[str, Any] = {}
    for text, origin in _texts(profile, path):
        _merge(values, _parse(text, origin), origin)
        _check(values, origin)
    _merge(values, {s: {k: v for k, v in table.items() if v is not None} for s, table in (flags or {}).items()}, "")
    return _check(values, "the command line")


def profiles() -> dict[str, Path]:
    """Return the shipped configuration files by name: those of the wheel, or of config/ in a checkout."""
    installed = Path(__file__).with_name("profiles")
    folder = installed if installed.is_dir() else Path(__file__).parent.parent / "config"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _texts(profile: str, path: Path | None) -> list[tuple[str, str]]:
    texts = []
    if profile:
        known = profiles()
        if profile not in known:
            raise UsageError(f"unknown profile {profile!r}; choose one of {', '.join(known)}")
        texts.append((known[profile].read_text("utf-8"), f"profile {profile}"))
    if path is not None:
        try:
            texts.append((path.read_text("utf-8"), str(path)))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UsageError(f"cannot read the configuration {path}: {reason}") from error
    return texts


def _parse(text: str, origin: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most runs read no file of settings

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin} is not TOML: {error}") from error


def _merge(values: dict[str, Any], more: dict[str, Any], origin: str) -> None:
    for section, table in more.items():
        if not isinstance(table, dict):
            raise UsageError(f"{origin}: {section} = ... stands outside a section such as [work] or [limits]")
        values.setdefault(section, {}).update(table)


def _check(values: dict[str, Any], origin: str) -> Config:
    try:
        config = msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        name = where.strip("`").removeprefix("$.")
        raise UsageError(f"{origin}: {name + ': ' if name else ''}{message}") from error
    if config.work.engine and config.work.engine not in ENGINE_NAMES:
        known = ", ".join(ENGINE_NAMES)
        raise UsageError(f"{origin}: work.engine: unknown engine {config.work.engine!r}; choose one of {known}")
    window = config.schedule.window
    if window and (not _WINDOW.fullmatch(window) or window[:5] == window[6:]):
        raise UsageError(f"{origin}: schedule.window: {window!r} is no part of a day such as 20:00-06:00")
    for uid, names in config.engines.items():
        able = ORDER.get(uid, ())
        if not names or not set(names) <= set(able) or len(set(names)) < len(names):
            known = ", ".join(able) or "there is none"
            raise UsageError(f"{origin}: engines: {uid}: name engines that decode it, each once: {known}")
    return config
