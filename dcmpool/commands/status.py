"""`dcmpool status`: how the run on a TARGET is doing."""

from typing import Annotated

import typer

from dcmpool.errors import UsageError
from dcmpool.terminal import one_line


def status(
    target: Annotated[str, typer.Argument(help="What the run writes to.", metavar="TARGET")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how the run is doing that works on TARGET now; from any terminal of the same user and machine.

    \b
    python -m dcmpool status archive-decompressed
    python -m dcmpool status archive-decompressed --json
    """
    from dcmpool import events, view  # noqa: PLC0415 - of no use to a run
    from dcmpool.client import ask  # noqa: PLC0415
    from dcmpool.control import Command, Request  # noqa: PLC0415

    with one_line():
        if not target:
            raise UsageError("a path is empty")
        answer = ask(target, Request(Command.STATUS))
    if answer.run is None:
        raise AssertionError(answer)
    if as_json:
        print(events.encode(answer.run).decode(), end="")
    else:
        from rich.console import Console  # noqa: PLC0415 - slow to import

        console = Console()
        console.print(view.screen(answer.run, console.width))
