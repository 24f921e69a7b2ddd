"""The options that several commands share: their types, their words of help."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dcmpool.config import MIB, profiles


class Others(StrEnum):
    """What becomes of files that are not DICOM."""

    COPY = "copy"
    SKIP = "skip"


class WhatOfLinks(StrEnum):
    """What becomes of files with several names, in place."""

    REFUSE = "refuse"
    SPLIT = "split"


_UNITS = {"K": 1024, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}
_SPANS = {"S": 1, "M": 60, "H": 3600, "D": 86400}


def size(text: str) -> int:
    """Return the MiB of a size such as 512M, 2G or a number of bytes, rounded up."""
    count = _bytes(text)
    if not MIB <= count < 1e18:
        raise typer.BadParameter(f"{text!r}: at least 1M is needed")
    return -(-int(count) // MIB)


def rate(text: str) -> int:
    """Return the bytes a second of a size such as 80M."""
    count = _bytes(text)
    if not 1024 <= count <= 1e15:
        raise typer.BadParameter(f"{text!r}: at least 1K is needed")
    return int(count)


def span(text: str) -> float:
    """Return the seconds of a time such as 8h, 90m, 2d or a number of seconds."""
    word = text.strip().upper()
    try:
        seconds = float(word.rstrip("SMHD")) * _SPANS.get(word[-1:], 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 8h or 90m") from None
    if not 0 < seconds <= 100_000_000:
        raise typer.BadParameter(f"{text!r} is not a time that a run can take")
    return seconds


def limit(text: str) -> float:
    """Return the seconds of a limit, from a tenth to 11 days."""
    try:
        seconds = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of seconds") from None
    if not seconds >= 0.1:
        raise typer.BadParameter(f"{text!r}: at least 0.1 is needed")
    if seconds > 1_000_000:
        raise typer.BadParameter(f"{text!r}: at most 1000000 are possible")
    return seconds


def number(text: str) -> int:
    """Return a number of 1 or more."""
    if not text.strip().isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise typer.BadParameter(f"{text!r} is not a number of 1 or more")
    return int(text)


def failures(text: str) -> str:
    """Return a number of files, or a share of them such as 5%."""
    if not re.fullmatch(r"\d{1,9}|\d{1,2}(\.\d{1,3})?%", text):
        raise typer.BadParameter(f"{text!r} is neither a number nor a share such as 5%")
    return text


def _bytes(text: str) -> float:
    word = text.strip().upper().removesuffix("B").removesuffix("I")
    try:
        return float(word.rstrip("KMGT")) * _UNITS.get(word[-1:], 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a size such as 512M or 2G") from None


# The help of each is one line on a terminal of 80 columns, so that all of `run --help` fits one screen.
Source = Annotated[str, typer.Argument(help="A series, a folder of them, or one file.", metavar="SOURCE")]
Output = Annotated[
    str | None, typer.Option("-o", "--output", metavar="TARGET", help="Where results go. [SOURCE-decompressed]")
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Replace each file by its result, whole.")]
Workers = Annotated[int | None, typer.Option(metavar="N", parser=number, help="Worker processes. [CPUs + 2, or more]")]
Engine = Annotated[str | None, typer.Option(metavar="NAME", help="Decoder to try first; `doctor` names them.")]
SecondsLimit = Annotated[
    float | None, typer.Option(metavar="S", parser=limit, help="Seconds for one attempt. [from size and speed]")
]
MaxWriters = Annotated[int | None, typer.Option(metavar="N", parser=number, help="Files written at once. [8]")]
MaxInflight = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Decoded data not yet on disk. [from memory]", hidden=True)
]
Bandwidth = Annotated[int | None, typer.Option(metavar="SIZE", parser=rate, help="Bytes written a second, as 80M.")]
Nice = Annotated[int | None, typer.Option(metavar="N", help="Let other programs go first: 1 to 19.")]
MaxFailures = Annotated[
    str | None, typer.Option(metavar="N|P%", parser=failures, help="Stop when more files than that have failed.")
]
MaxDuration = Annotated[
    float | None, typer.Option(metavar="TIME", parser=span, help="End after that long, as 8h; resumable.")
]
Window = Annotated[str | None, typer.Option(metavar="HOURS", help="Work at these hours alone: 20:00-06:00.")]
WhatOfOthers = Annotated[
    Others | None, typer.Option(metavar="HOW", help="Files that are not DICOM: copy or skip. [copy]")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that dcmpool did not write.")]
Verify = Annotated[str | None, typer.Option(metavar="HOW", help="structure, second (engine), sample=1%. [structure]")]
SandboxMode = Annotated[str | None, typer.Option(metavar="MODE", help="auto, require or off. [auto]", hidden=True)]
EvidenceCopy = Annotated[
    bool, typer.Option("--evidence-copy", help="Keep a copy of each file whose worker was killed.", hidden=True)
]
Quarantine = Annotated[str | None, typer.Option(metavar="DIR", help="Copy what fails into DIR, with the reason.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done with each file; write nothing.")]
Journal = Annotated[str | None, typer.Option(metavar="FILE", help="Where the journal lies. [TARGET/.dcmpool]")]
Backup = Annotated[str | None, typer.Option(metavar="DIR", help="In place: keep each original in DIR.")]
HardLinks = Annotated[
    WhatOfLinks | None, typer.Option(metavar="HOW", help="In place, hard links: refuse or split. [refuse]")
]
YesLossy = Annotated[bool, typer.Option("--yes-lossy", help="In place: replace lossy colour too, which rounds.")]
FilesFrom = Annotated[str | None, typer.Option(metavar="LIST", help="Only these files, a path a line; - is stdin.")]
Profile = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"{', '.join(p for p in profiles() if p != 'default')}.")
]
RetryFailed = Annotated[
    str | None, typer.Option(metavar="KIND", help="Do failures of earlier runs again: all, or a kind.")
]
ConfigFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings of your own, TOML.")]
Events = Annotated[str | None, typer.Option(metavar="FILE", help="Write all that happens as JSON Lines; - is stdout.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print failures alone.")]
