"""`dcmpool run`: make a native copy of a series or an archive."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import msgspec

from dcmpool import pathlist
from dcmpool.config import load
from dcmpool.errors import UsageError
from dcmpool.model import FailureKind, Purpose
from dcmpool.options import (
    AsJson,
    Backup,
    Bandwidth,
    ConfigFile,
    DryRun,
    Engine,
    Events,
    EvidenceCopy,
    FilesFrom,
    HardLinks,
    InPlace,
    Journal,
    MaxDuration,
    MaxFailures,
    MaxInflight,
    MaxWriters,
    Nice,
    Output,
    Overwrite,
    Profile,
    Quarantine,
    Quiet,
    RetryFailed,
    SandboxMode,
    SecondsLimit,
    Source,
    Verify,
    WhatOfOthers,
    Window,
    Workers,
    YesLossy,
    size,
)
from dcmpool.protocol import ALL_KINDS
from dcmpool.task import Task
from dcmpool.terminal import one_line, rehearse, supervise


def run(
    source: Source,
    output: Output = None,
    in_place: InPlace = False,
    backup: Backup = None,
    hard_links: HardLinks = None,
    yes_lossy: YesLossy = False,
    workers: Workers = None,
    engine: Engine = None,
    limit: SecondsLimit = None,
    max_writers: MaxWriters = None,
    max_inflight: MaxInflight = None,
    bandwidth: Bandwidth = None,
    nice: Nice = None,
    max_failures: MaxFailures = None,
    max_duration: MaxDuration = None,
    window: Window = None,
    others: WhatOfOthers = None,
    overwrite: Overwrite = False,
    verify: Verify = None,
    sandbox: SandboxMode = None,
    evidence_copy: EvidenceCopy = False,
    files_from: FilesFrom = None,
    journal: Journal = None,
    dry_run: DryRun = False,
    quarantine: Quarantine = None,
    retry_failed: RetryFailed = None,
    profile: Profile = None,
    config: ConfigFile = None,
    events: Events = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a native copy of a series or an archive, checked, or resume it.

    \b
    python -m dcmpool run series_dir
    python -m dcmpool run archive -o native --window 20:00-06:00 --workers 8
    python -m dcmpool run series_dir --in-place --engine gdcm --limit 30
    """
    work = {"workers": workers, "engine": engine, "others": others and others.value, "overwrite": overwrite or None}
    flags: dict[str, dict[str, Any]] = {
        "work": work
        | {"hard_links": hard_links and hard_links.value, "yes_lossy": yes_lossy or None}
        | {"nice": nice, "verify": verify, "evidence_copy": evidence_copy or None},
        "limits": {"attempt_seconds": limit},
        "gate": {
            "max_writers": max_writers,
            "max_inflight_mib": size(max_inflight) if max_inflight else None,
            "bytes_per_second": bandwidth,
        },
        "schedule": {"max_failures": max_failures, "max_duration_seconds": max_duration, "window": window},
        "sandbox": {"mode": sandbox},
    }
    with one_line():
        settings = load(profile=profile or "", path=config, flags=flags)
        if not in_place and (backup is not None or hard_links or yes_lossy):
            raise UsageError(
                "--backup, --hard-links and --yes-lossy are for --in-place: elsewhere no original is touched"
            )
        task = task_of(source, output, in_place=in_place, files_from=files_from, backup=backup)
        task = msgspec.structs.replace(
            task, retry=_kind(retry_failed), journal=_absolute(journal), quarantine=_absolute(quarantine)
        )
        task = msgspec.structs.replace(task, command=_command())
        (rehearse if dry_run else supervise)(task, settings, events=events, as_json=as_json, quiet=quiet)


def _command() -> str:
    """Return this command for a shell; "" if it cannot be said again: what a process has opened is there but once."""
    try:
        words = ["cd", os.getcwd(), "&&", "dcmpool", *sys.argv[1:]]
    except FileNotFoundError:  # the directory is gone
        return ""
    command = " ".join(word if word == "&&" else shlex.quote(word) for word in words)
    return command if command.isprintable() and "/fd/" not in command else ""


def _kind(retry: str | None) -> str:
    """Return what of earlier failures is done again, as `Task` has it."""
    if retry is None:
        return ""
    for known in (ALL_KINDS, *FailureKind):
        if retry.lower() == known.lower():
            return str(known)
    raise UsageError(f"--retry-failed {retry}: choose {ALL_KINDS} or one of {', '.join(FailureKind)}")


def _absolute(path: str | None) -> bytes:
    if path == "":
        raise UsageError("a path is empty")
    return os.fsencode(os.path.abspath(path)) if path else b""


def task_of(
    source: str,
    output: str | None,
    *,
    in_place: bool = False,
    files_from: str | None,
    backup: str | None = None,
    purpose: Purpose = Purpose.RUN,
) -> Task:
    """Return what is to be done, with absolute paths.

    Raises
    ------
    UsageError
        The arguments contradict each other, or the list cannot be read.
    """
    if "" in (source, output, files_from, backup):
        raise UsageError("a path is empty")
    if in_place and output is not None:
        raise UsageError("--in-place and -o exclude each other: in place, the results replace the sources")
    try:
        full = Path(os.path.abspath(source))
        kept = os.path.abspath(backup) if backup else ""
    except FileNotFoundError as error:
        raise UsageError("the current directory no longer exists") from error
    if in_place:
        root = full
    elif output is not None:
        root = Path(os.path.abspath(output))
    elif full.name:
        root = full.with_name(full.name + "-decompressed")
    else:
        raise UsageError(f"{source} has no place beside it: name a target with -o")
    listed = None if files_from is None else pathlist.hold(files_from)
    return Task(os.fsencode(full), os.fsencode(root), in_place, listed, os.fsencode(kept), purpose)
