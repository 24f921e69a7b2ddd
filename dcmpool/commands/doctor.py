"""`dcmpool doctor`: what this machine can do."""

from pathlib import Path
from typing import Annotated

import typer

from dcmpool.errors import UsageError
from dcmpool.terminal import one_line, write_new


def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="Measure the storage of this folder too.", metavar="[PATH]")
    ] = None,
    bench: Annotated[bool, typer.Option("--bench", help="Measure the time of each engine too.")] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --bench: write the fastest order, for run --config FILE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Try every engine on known pictures, each in its own process, and say what this machine can do.

    \b
    python -m dcmpool doctor
    python -m dcmpool doctor /archive --bench --write order.toml
    """
    from dcmpool import chart  # noqa: PLC0415 - of no use to a run
    from dcmpool import doctor as surgery  # noqa: PLC0415

    with one_line():
        if write and not bench:
            raise UsageError("--write needs --bench, which measures what is to be written")
        health = surgery.examine(measure=bench, folder=folder)
        if write:
            write_new(write, lambda file: file.write(chart.order_as_toml(surgery.fastest(health.findings))))
    if as_json:
        print(health.to_json())
    else:
        from rich.console import Console  # noqa: PLC0415 - slow to import

        chart.print_health(health, Console())
    raise typer.Exit(1 if health.ailments else 0)
