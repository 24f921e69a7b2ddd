"""The options that several commands share: their types, their words of help."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dcmpool.config import MIB, profiles
from dcmpool.engines import ENGINE_NAMES


class Others(StrEnum):
    """What becomes of files that are not DICOM."""

    COPY = "copy"
    SKIP = "skip"


class WhatOfLinks(StrEnum):
    """What becomes of files with several names, in place."""

    REFUSE = "refuse"
    SPLIT = "split"


def size(text: str) -> int:
    """Return the MiB of a size such as 512M, 2G or a number of bytes, rounded up."""
    units = {"K": 1024, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = units.get(number[-1:], 1)
    try:
        count = float(number.rstrip("KMGT")) * unit
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a size such as 512M or 2G") from None
    if not MIB <= count < 1e18:
        raise typer.BadParameter(f"{text!r}: at least 1M is needed")
    return -(-int(count) // MIB)


Source = Annotated[str, typer.Argument(help="A series, a folder of them, or one file.", metavar="SOURCE")]
Output = Annotated[
    str | None, typer.Option("-o", "--output", metavar="TARGET", help="Where the results go. [SOURCE-decompressed]")
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Replace each file by its result, whole.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes. [three for two CPUs]", min=1)]
Engine = Annotated[str | None, typer.Option(metavar="NAME", help=f"Decoder to try first: {', '.join(ENGINE_NAMES)}.")]
SecondsLimit = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Limit of one attempt. [from size and speed]", min=0.1)
]
MaxWriters = Annotated[int | None, typer.Option(help="Files written at once. [8]", min=1)]
MaxInflight = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Decoded data not yet on disk, such as 512M. [from memory]")
]
WhatOfOthers = Annotated[Others | None, typer.Option(help="Files that are not DICOM. [copy]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that dcmpool did not write.")]
Verify = Annotated[
    str | None,
    typer.Option(metavar="HOW", help="structure, second (another engine must agree) or sample=1%. [structure]"),
]
SandboxMode = Annotated[str | None, typer.Option(metavar="MODE", help="auto, require or off. [auto]")]
EvidenceCopy = Annotated[
    bool, typer.Option("--evidence-copy", help="Keep a copy of each file whose worker was killed.")
]
Backup = Annotated[
    str | None, typer.Option(metavar="DIR", help="In place: keep each original in DIR, of the tree's shape.")
]
HardLinks = Annotated[
    WhatOfLinks | None, typer.Option(help="In place: files with several names. [refuse]", case_sensitive=False)
]
FilesFrom = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Only these files, a path a line, relative to SOURCE; - reads stdin."),
]
Profile = Annotated[str | None, typer.Option(metavar="NAME", help=f"{', '.join(profiles())}.")]
ConfigFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings of your own, TOML.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]
Events = Annotated[str | None, typer.Option(metavar="FILE", help="Write what happens, as JSON Lines; - is stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print failures alone.")]
