"""The command line: arguments in, exit code out; nothing else is decided here."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from dcmpool import __version__, _os
from dcmpool.commands.attempt import attempt
from dcmpool.commands.control import control
from dcmpool.commands.doctor import doctor
from dcmpool.commands.report import report
from dcmpool.commands.run import run
from dcmpool.commands.scan import scan
from dcmpool.commands.status import status
from dcmpool.commands.verify import verify
from dcmpool.errors import UsageError
from dcmpool.terminal import INTERRUPTED

app = typer.Typer(
    name="dcmpool",
    help="Decompress DICOM series and archives; no file can stop the run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dcmpool {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=False)
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Decompress DICOM series and archives; no file can stop the run."""


for _command in (run, scan, status, control, report, verify, attempt, doctor):
    app.command()(_command)


def main() -> NoReturn:
    """Run the command line: bad usage is one line and exit code 2."""
    _open_outputs()
    if caller := os.environ.pop(_os.CALLER, ""):
        _os.end_with(int(caller))
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="dcmpool", standalone_mode=False)
    except _USAGE_ERROR as error:
        text = " ".join(error.format_message().split())
        print(f"dcmpool: {text.rstrip('.')}; `dcmpool run --help` shows what there is", file=sys.stderr)
        code = UsageError.exit_code
    except typer.Abort:  # what typer makes of Ctrl-C where a command has no way of its own to end
        code = INTERRUPTED
    sys.exit(code)


# typer brings its own click in newer versions and exports of its exceptions only this one's descendants.
_USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _open_outputs() -> None:
    """Have outputs that take anything: names that a terminal cannot show are escaped, a closed one swallows all."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
        else:
            stream.reconfigure(errors="backslashreplace")
