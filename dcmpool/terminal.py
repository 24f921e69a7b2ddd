"""A command's end of the terminal: errors in one line, progress while it runs, the summary at its end."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from dcmpool import _os
from dcmpool.config import Config
from dcmpool.errors import DcmpoolError, UsageError
from dcmpool.eventlink import STDOUT
from dcmpool.model import Due, Purpose
from dcmpool.progress import Mode, Progress
from dcmpool.protocol import Plan
from dcmpool.report import Report
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task
from dcmpool.text import shown, size

INTERRUPTED = 130
"""Exit code, as a shell has it for SIGINT."""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Have an error of the program's own be one line and its exit code."""
    try:
        _os.check_platform()
        yield
    except DcmpoolError as error:
        print(f"dcmpool: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:  # while the list of files comes; a run itself has its own way to end
        raise typer.Exit(INTERRUPTED) from None


def write_new(path: Path, fill: Callable[[TextIO], object]) -> None:
    """Write a file that is not there yet; raise `UsageError` where it cannot be."""
    try:
        with path.open("x", encoding="utf-8") as file:
            fill(file)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def supervise(task: Task, settings: Config, *, events: str | None = None, as_json: bool, quiet: bool) -> NoReturn:
    """Do a run or an audit with its progress on the terminal and its summary at the end; exit with its code.

    `events` says where the event stream goes; if to standard output, the summary goes to standard error.
    """
    if events == "":
        raise UsageError("a path is empty")
    if as_json and events == STDOUT:
        raise UsageError("--json and --events - both want standard output: give --events a file")
    audit, to_stderr = task.purpose is Purpose.AUDIT, events == STDOUT
    conduct(
        task,
        settings,
        events=events,
        quiet=quiet,
        show=lambda _, report: _print(report, as_json=as_json, quiet=quiet, audit=audit, to_stderr=to_stderr),
    )


def conduct(
    task: Task,
    settings: Config,
    *,
    events: str | None = None,
    quiet: bool,
    show: Callable[[Supervisor, Report], None],
) -> NoReturn:
    """Do what a task asks, with its progress on the terminal; `show` its end, and exit with its code."""
    mode = Mode.OFF if quiet else Mode.LIVE if sys.stderr and sys.stderr.isatty() else Mode.PLAIN
    progress = Progress(mode)
    supervisor = Supervisor(task, settings, progress, events=events)
    try:
        report = supervisor.run()
    finally:
        progress.close()
    try:
        show(supervisor, report)
        sys.stdout.flush()
    except OSError:
        # Nobody reads the summary, or its disk is full; the run itself is complete. Python would complain at its exit.
        for fd in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    if supervisor.has_lost_children:
        os._exit(report.exit_code)  # no exit hook may wait for what cannot die
    raise typer.Exit(report.exit_code)


def rehearse(task: Task, settings: Config, *, events: str | None, as_json: bool, quiet: bool) -> NoReturn:
    """Say what a run would do: a line a path on standard output, and counts at the end on standard error.

    `quiet`: the lines of those that would fail, and nothing else; `as_json`: the counts alone.
    """
    from dcmpool.rehearsal import Rehearsal  # noqa: PLC0415 - no other command needs it

    if events is not None:
        raise UsageError("--dry-run and --events exclude each other: nothing happens")

    def tell(plan: Plan) -> None:
        if not as_json and (plan.due is Due.FAILS or not quiet):
            print(f"{plan.due} {shown(plan.path)}")

    rehearsal = Rehearsal(task, settings, tell, lambda text: print(f"dcmpool: {text}", file=sys.stderr))
    try:
        rehearsal.run()
        if as_json:
            print(rehearsal.to_json())
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the lines has seen enough; Python would complain at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not (as_json or quiet):
        said = ", ".join(f"{rehearsal.counts[due]:,} {due} ({size(rehearsal.bytes[due])})" for due in Due)
        print(f"dcmpool: {said}; nothing was written", file=sys.stderr)
    raise typer.Exit(0)


def _print(report: Report, *, as_json: bool, quiet: bool, audit: bool, to_stderr: bool) -> None:
    if as_json:
        print(report.to_json())
        return
    if quiet and report.stopped:
        print(f"dcmpool: {report.stopped} (exit code {report.exit_code})", file=sys.stderr)
    if quiet and not report.failed:
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only needed at the end

    from dcmpool.summary import print_audit, print_failures, print_summary  # noqa: PLC0415

    if quiet:
        print_failures(report, Console(stderr=True))
    else:
        (print_audit if audit else print_summary)(report, Console(stderr=to_stderr))
