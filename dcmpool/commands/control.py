"""`dcmpool control`: tell the run on a TARGET what to do, without ending it."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from dcmpool.errors import UsageError
from dcmpool.terminal import one_line


class What(StrEnum):
    """What a run can be told."""

    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    WORKERS = "workers"
    WRITERS = "writers"


def control(
    target: Annotated[str, typer.Argument(help="What the run writes to.", metavar="TARGET")],
    what: Annotated[What, typer.Argument(help="What to do.", metavar="COMMAND")],
    number: Annotated[
        int | None, typer.Argument(help="For workers and writers.", metavar="[N]", min=1, max=1024)
    ] = None,
) -> None:
    """Tell the run that works on TARGET now what to do; from any terminal of the same user and machine.

    \b
    pause      give out no other file; those that workers have end
    resume     go on
    drain      let the files that workers have end, then the run, as Ctrl-C does
    workers N  work with so many processes from now on
    writers N  let so many write at once

    \b
    python -m dcmpool control archive-decompressed pause
    python -m dcmpool control archive-decompressed workers 4
    """
    from dcmpool.client import ask  # noqa: PLC0415 - of no use to a run
    from dcmpool.control import NUMBERED, Command, Request  # noqa: PLC0415

    with one_line():
        command = Command(what.value)
        if not target:
            raise UsageError("a path is empty")
        if (number is None) is (command in NUMBERED):
            raise UsageError(f"{what.value} takes {'a number' if number is None else 'no number'}")
        answer = ask(target, Request(command, number))
    print(answer.text, file=sys.stdout if answer.ok else sys.stderr)
    raise typer.Exit(0 if answer.ok else 1)
