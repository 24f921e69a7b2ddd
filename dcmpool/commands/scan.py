"""`dcmpool scan`: what lies in a series or an archive, and what a run will need."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from dcmpool import _os
from dcmpool.commands.run import task_of
from dcmpool.config import Schedule, load
from dcmpool.errors import UsageError
from dcmpool.model import Purpose
from dcmpool.options import AsJson, ConfigFile, FilesFrom, Output, Profile, Quiet, SecondsLimit, Source, Workers
from dcmpool.report import Report
from dcmpool.supervisor import Supervisor
from dcmpool.terminal import INTERRUPTED, conduct, one_line, write_new

if TYPE_CHECKING:
    from dcmpool.forecast import Forecast


def scan(
    source: Source,
    output: Output = None,
    workers: Workers = None,
    limit: SecondsLimit = None,
    files_from: FilesFrom = None,
    profile: Profile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    as_csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write a row for each class to FILE; - is stdout.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Count what lies in SOURCE and say what a run will need; nothing is written to SOURCE or TARGET.

    Headers are read, and a few files of each Transfer Syntax decompressed and thrown away, to see how long it takes.
    The exit code is 1 if files are unreadable or would be refused.

    \b
    python -m dcmpool scan archive -o /mnt/native
    python -m dcmpool scan archive --csv classes.csv
    """
    from dcmpool.forecast import Forecast  # noqa: PLC0415 - of no use to a run

    flags: dict[str, dict[str, Any]] = {"work": {"workers": workers}, "limits": {"attempt_seconds": limit}}
    with one_line():
        if as_json and as_csv == "-":
            raise UsageError("--json and --csv - both write to stdout: give --csv a FILE")
        if as_csv and as_csv != "-" and os.path.lexists(as_csv):
            raise UsageError(f"{as_csv} exists, and is not replaced")
        # The terms of a run are not those of a look at what it will need.
        settings = msgspec.structs.replace(load(profile=profile or "", path=config, flags=flags), schedule=Schedule())
        task = task_of(source, output, files_from=files_from, purpose=Purpose.SURVEY)

        def show(supervisor: Supervisor, report: Report) -> None:
            if supervisor.survey is None or report.exit_code == INTERRUPTED:
                print("dcmpool: interrupted: the scan is not complete", file=sys.stderr)
                return
            workers = settings.resolved().work.workers
            forecast = Forecast(report, *supervisor.survey, workers, _os.available_cpus())
            _show(forecast, as_json=as_json, as_csv=as_csv, quiet=quiet)

        conduct(task, settings, quiet=quiet, show=show)


def _show(forecast: "Forecast", *, as_json: bool, as_csv: str | None, quiet: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only needed at the end

    from dcmpool.summary import print_failures  # noqa: PLC0415

    if as_csv == "-":
        forecast.write_csv(sys.stdout)
    elif as_json:
        print(forecast.to_json())
    elif not quiet:
        forecast.print(Console())
    elif forecast.report.failed:
        print_failures(forecast.report, Console(stderr=True))
    if as_csv and as_csv != "-":
        write_new(Path(as_csv), forecast.write_csv)
