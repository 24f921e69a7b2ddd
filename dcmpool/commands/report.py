"""`dcmpool report`: what became of each file, on one page, as CSV or as JSON."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, TextIO

import typer

from dcmpool.errors import UsageError
from dcmpool.model import STATE_DIRECTORY
from dcmpool.terminal import one_line
from dcmpool.text import shown, words


def report(
    target: Annotated[str, typer.Argument(help="What runs have written.", metavar="TARGET")],
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the page here. [TARGET-report.html, beside TARGET]")
    ] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Write one row a file; - is stdout.")] = None,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write the same with totals; - is stdout.")] = None,
    journal: Annotated[
        str | None, typer.Option(metavar="PATH", help="The journal, where the run was given --journal.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are no reports.")] = False,
) -> None:
    """Say what became of each file of all runs into TARGET, and what to do next; TARGET is not changed.

    Without --csv and --json it is one page that any browser shows, offline. A run may be on meanwhile.

    \b
    python -m dcmpool report archive-decompressed
    python -m dcmpool report archive-decompressed --csv - | grep broken.dcm
    """
    from dcmpool import export, page, place  # noqa: PLC0415 - of no use to a run
    from dcmpool.history import History  # noqa: PLC0415
    from dcmpool.review import Review  # noqa: PLC0415

    with one_line():
        if not target or "" in (html, csv, json, journal):
            raise UsageError("a path is empty")
        root = os.fsencode(os.path.abspath(target))
        if html is None and csv is None and json is None:
            html = os.fsdecode(root) + "-report.html"
        database = place.find(root, os.fsencode(os.path.abspath(journal)) if journal else b"").path
        if os.path.isdir(database):
            database = os.path.join(database, place.NAME)
        with contextlib.closing(History(database)) as history:
            review = Review(history, os.path.join(root, STATE_DIRECTORY, b"evidence")) if html or json else None
            if html and review:
                text = page.render(review, root)
                _write(html, page.START, lambda file: file.write(text), overwrite=overwrite)
            if csv:
                _write(csv, export.CSV_START, lambda file: export.write_csv(history, file), overwrite=overwrite)
            if json and review:
                _write(
                    json, export.JSON_START, lambda file: export.write_json(history, review, root, file),
                    overwrite=overwrite,
                )  # fmt: skip


def _write(name: str, start: str, fill: Callable[[TextIO], object], *, overwrite: bool) -> None:
    """Write a report: whole or not at all, and over nothing but another report."""
    if name == "-":
        _print(fill)
        return
    path = Path(name)
    try:
        if path.exists() and not overwrite and not _is_report(path, start):
            raise UsageError(
                f"{shown(os.fsencode(name))} is there and is no report of dcmpool: --overwrite replaces it"
            )
        with _whole(path) as file:
            fill(file)
    except OSError as error:
        raise UsageError(f"cannot write {shown(os.fsencode(name))}: {words(error)}") from error
    print(f"dcmpool: {shown(os.fsencode(name))}", file=sys.stderr)


def _print(fill: Callable[[TextIO], object]) -> None:
    with open(1, "w", encoding="utf-8", errors="surrogateescape", newline="", closefd=False) as file:
        try:
            fill(file)
            file.flush()
        except BrokenPipeError:  # nobody reads on: `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _is_report(path: Path, start: str) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start.encode()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """Give a file that gets its name when all of it is written."""
    temporary = path.with_name(f".dcmpool-report-{os.getpid()}")
    with temporary.open("x", encoding="utf-8", errors="surrogateescape", newline="") as file:
        try:
            yield file
            file.flush()
            temporary.replace(path)
        except BaseException:
            temporary.unlink()
            raise
