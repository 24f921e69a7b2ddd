"""`dcmpool attempt`: one attempt at one file, to see what holds it up."""

from pathlib import Path
from typing import Annotated

import typer

from dcmpool import options
from dcmpool.terminal import one_line


def attempt(
    file: Annotated[Path, typer.Argument(help="One file.", metavar="FILE")],
    engine: Annotated[str, typer.Option(help="The engine to use.")] = "",
    limit: Annotated[float, typer.Option(help="Seconds.", metavar="S", parser=options.limit)] = 20.0,
    memory: Annotated[int, typer.Option(help="MiB of address space.", min=256, max=1_000_000_000)] = 4096,
) -> None:
    """Make one attempt at one file, as a run does, and say what holds it up; nothing is kept.

    \b
    python -m dcmpool attempt archive/odd.dcm --engine gdcm --limit 3
    """
    from dcmpool.attempt import attempt as make_attempt  # noqa: PLC0415 - of no use to a run

    with one_line():
        raise typer.Exit(make_attempt(file, engine=engine, limit_seconds=limit, memory_mib=memory))
