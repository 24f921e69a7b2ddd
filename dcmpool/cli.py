"""The command line: arguments in, exit code out; nothing else is decided here."""

import contextlib
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dcmpool import __version__, _os, pathlist
from dcmpool.config import MIB, Config, load, profiles
from dcmpool.engines import ENGINE_NAMES
from dcmpool.errors import DcmpoolError, UsageError
from dcmpool.progress import Mode, Progress
from dcmpool.report import Report
from dcmpool.supervisor import Supervisor, Task

app = typer.Typer(
    name="dcmpool",
    help="Decompress DICOM series and archives; no file can stop the run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_INTERRUPTED = 130
"""Exit code, as a shell has it for SIGINT."""


class Others(StrEnum):
    """What becomes of files that are not DICOM."""

    COPY = "copy"
    SKIP = "skip"


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


def _bytes(text: str) -> int:
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
FilesFrom = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Only these files, a path a line, relative to SOURCE; - reads stdin."),
]
Profile = Annotated[str | None, typer.Option(metavar="NAME", help=f"{', '.join(profiles())}.")]
ConfigFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings of your own, TOML.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print failures alone.")]


@app.command()
def run(
    source: Source,
    output: Output = None,
    in_place: InPlace = False,
    workers: Workers = None,
    engine: Engine = None,
    limit: SecondsLimit = None,
    max_writers: MaxWriters = None,
    max_inflight: MaxInflight = None,
    others: WhatOfOthers = None,
    overwrite: Overwrite = False,
    verify: Verify = None,
    sandbox: SandboxMode = None,
    evidence_copy: EvidenceCopy = False,
    files_from: FilesFrom = None,
    profile: Profile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a native copy of a series or an archive: every SOP Instance decompressed and checked.

    A second run with the same SOURCE and TARGET resumes. Ctrl-C once ends cleanly, twice at once.

    \b
    python -m dcmpool run series_dir
    python -m dcmpool run archive -o native --workers 8 --profile workstation
    python -m dcmpool run series_dir --in-place --engine gdcm --limit 30
    """
    work = {"workers": workers, "engine": engine, "others": others and others.value, "overwrite": overwrite or None}
    flags: dict[str, dict[str, Any]] = {
        "work": work | {"verify": verify, "evidence_copy": evidence_copy or None},
        "limits": {"attempt_seconds": limit},
        "gate": {"max_writers": max_writers, "max_inflight_mib": _bytes(max_inflight) if max_inflight else None},
        "sandbox": {"mode": sandbox},
    }
    with _one_line():
        settings = load(profile=profile or "", path=config, flags=flags)
        task = _task(source, output, in_place=in_place, files_from=files_from)
        _supervise(task, settings, as_json=as_json, quiet=quiet)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Have an error of the program's own be one line and its exit code."""
    try:
        _os.check_platform()
        yield
    except DcmpoolError as error:
        print(f"dcmpool: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:  # while the list of files comes; a run itself has its own way to end
        raise typer.Exit(_INTERRUPTED) from None


@app.command("verify")
def verify_target(
    target: Annotated[str, typer.Argument(help="What an earlier run has written.", metavar="TARGET")],
    workers: Workers = None,
    limit: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Limit of one file. [from size and speed]", min=0.1)
    ] = None,
    profile: Profile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check the results of earlier runs again; nothing is changed.

    Each file must be what the journal says. Where its source is still there, unchanged, the header must be the
    source's and a second engine must give the same picture.

    \b
    python -m dcmpool verify archive-decompressed
    """
    with _one_line():
        flags: dict[str, dict[str, Any]] = {"work": {"workers": workers}, "limits": {"attempt_seconds": limit}}
        settings = load(profile=profile or "", path=config, flags=flags)
        root = os.fsencode(os.path.abspath(target)) if target else b""
        if not root:
            raise UsageError("a path is empty")
        _supervise(Task(b"", root, audit=True), settings, as_json=as_json, quiet=quiet)


@app.command()
def attempt(
    file: Annotated[Path, typer.Argument(help="One file.", metavar="FILE")],
    engine: Annotated[str, typer.Option(help="The engine to use.")] = "",
    limit: Annotated[float, typer.Option(help="Seconds.", min=0.1, max=1_000_000)] = 20.0,
    memory: Annotated[int, typer.Option(help="MiB of address space.", min=256, max=1_000_000_000)] = 4096,
) -> None:
    """Make one attempt at one file, as a run does, and say what holds it up; nothing is kept."""
    from dcmpool.attempt import attempt as make_attempt  # noqa: PLC0415 - of no use to a run

    with _one_line():
        raise typer.Exit(make_attempt(file, engine=engine, limit_seconds=limit, memory_mib=memory))


@app.command()
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
    """Try every engine on known pictures, each in its own process, and say what this machine can do."""
    from dcmpool import chart  # noqa: PLC0415 - of no use to a run
    from dcmpool import doctor as surgery  # noqa: PLC0415

    with _one_line():
        if write and not bench:
            raise UsageError("--write needs --bench, which measures what is to be written")
        health = surgery.examine(measure=bench, folder=folder)
        if write:
            _write_new(write, chart.order_as_toml(surgery.fastest(health.findings)))
    if as_json:
        print(health.to_json())
    else:
        from rich.console import Console  # noqa: PLC0415 - slow to import

        chart.print_health(health, Console())
    raise typer.Exit(1 if health.ailments else 0)


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _task(source: str, output: str | None, *, in_place: bool, files_from: str | None) -> Task:
    if not source or output == "" or files_from == "":
        raise UsageError("a path is empty")
    if in_place and output is not None:
        raise UsageError("--in-place and -o exclude each other: in place, the results replace the sources")
    try:
        full = Path(os.path.abspath(source))
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
    return Task(os.fsencode(full), os.fsencode(root), in_place, listed)


def _supervise(task: Task, settings: Config, *, as_json: bool, quiet: bool) -> NoReturn:
    mode = Mode.OFF if quiet else Mode.LIVE if sys.stderr and sys.stderr.isatty() else Mode.PLAIN
    progress = Progress(mode)
    supervisor = Supervisor(task, settings, progress)
    try:
        report = supervisor.run()
    finally:
        progress.close()
    try:
        _print(report, as_json=as_json, quiet=quiet, audit=task.audit)
    except OSError:
        # Nobody reads the summary, or its disk is full; the run itself is complete. Python would complain at its exit.
        for fd in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    if supervisor.has_lost_children:
        os._exit(report.exit_code)  # no exit hook may wait for what cannot die
    raise typer.Exit(report.exit_code)


def _print(report: Report, *, as_json: bool, quiet: bool, audit: bool) -> None:
    if as_json:
        print(report.to_json(), flush=True)
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
        (print_audit if audit else print_summary)(report, Console())
        sys.stdout.flush()


def main() -> NoReturn:
    """Run the command line: bad usage is one line and exit code 2."""
    _open_outputs()
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="dcmpool", standalone_mode=False)
    except _USAGE_ERROR as error:
        text = " ".join(error.format_message().split())
        print(f"dcmpool: {text.rstrip('.')}; `dcmpool run --help` shows what there is", file=sys.stderr)
        code = UsageError.exit_code
    except typer.Abort:  # what typer makes of Ctrl-C where a command has no way of its own to end
        code = _INTERRUPTED
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
