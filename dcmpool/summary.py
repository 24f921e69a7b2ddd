"""The summary that ends a run, on the terminal."""

from collections import Counter
from typing import TYPE_CHECKING

from dcmpool.advice import OUTCOMES
from dcmpool.model import Outcome
from dcmpool.protocol import Ending
from dcmpool.report import Line, Report
from dcmpool.syntaxes import syntax_name
from dcmpool.text import duration, shown, shown_full, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MAX_LISTED = 1000


def print_summary(report: Report, console: "Console") -> None:
    """Print counts by outcome and Transfer Syntax, and every file that is not as the user will expect."""
    console.print(f"{shown_full(report.source)} -> {shown_full(report.target)}", markup=False, highlight=False)
    for outcome, words in OUTCOMES.items():
        if report.counts[outcome]:
            console.print(f"{report.counts[outcome]:>10,}  {words}", markup=False, highlight=False)
    if report.by_transfer_syntax:
        console.print(_syntax_table(report))
    print_lines(console, "Kept", report.kept)
    print_lines(console, "Left out", report.skipped)
    print_lines(console, "Noted", report.notes)
    print_failures(report, console)
    if report.gone:
        files = "1 file of earlier runs is" if report.gone == 1 else f"{report.gone:,} files of earlier runs are"
        gone = f"{files} no longer in SOURCE; their results are kept, and `dcmpool report` names them"
        console.print(gone, markup=False, highlight=False, soft_wrap=True)
    pace = report.native_bytes / max(report.seconds, 0.001)
    figures = [f"{duration(report.seconds)}", f"{size(report.native_bytes)} native", f"{size(pace)}/s"]
    counts = ((report.confirmed, "confirmed by a second engine"), (report.kills, "killed"), (report.retries, "retried"))
    figures += [f"{count:,} {words}" for count, words in counts if count]
    console.print(", ".join(figures), markup=False, highlight=False)
    console.print(_verdict(report), markup=False, highlight=False, soft_wrap=True)


def print_audit(report: Report, console: "Console") -> None:
    """Print what an audit of TARGET found."""

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    line(f"{shown_full(report.target)}, held against its journal and {shown_full(report.source)}")
    line(f"{sum(report.counts.values()) - report.counts[Outcome.FAILED]:>10,}  are what they should be")
    if report.confirmed:
        line(f"{report.confirmed:>10,}  of them confirmed by a second engine")
    for reason, count in Counter(note.reason for note in report.notes).items():
        line(f"{count:>10,}  of them {reason}")
    if report.counts[Outcome.FAILED]:
        line(f"{report.counts[Outcome.FAILED]:>10,}  are not")
    print_failures(report, console)
    line(_audit_verdict(report))


def _audit_verdict(report: Report) -> str:
    if report.stopped:
        return f"Stopped: {report.stopped} (exit code {report.exit_code})"
    if report.counts[Outcome.FAILED]:
        if report.source == report.target:
            todo = "In place nothing can be made anew: what is damaged has to come from a backup"
        else:
            todo = "Where the source is still there, remove the failed files from the target and run again"
        return f"{todo} (exit code {report.exit_code})"
    return f"All is well, in {duration(report.seconds)} (exit code 0)"


def print_failures(report: Report, console: "Console") -> None:
    """Print every failed file with its reason and its attempts."""
    if report.failed:
        console.print("\nFailed:", markup=False, highlight=False)
    for ending in report.failed[:_MAX_LISTED]:
        console.print(_failure(ending), markup=False, highlight=False, soft_wrap=True)
    if len(report.failed) > _MAX_LISTED:
        console.print(
            f"  and {len(report.failed) - _MAX_LISTED:,} more: --json lists all", markup=False, highlight=False
        )


def _failure(ending: Ending) -> str:
    if len(ending.attempts) < 2:
        return f"  {shown(ending.path)}\n      {ending.kind}: {ending.reason}"
    tries = [f"      {a.kind} ({a.engine or a.stage}, {duration(a.seconds)}): {a.reason}" for a in ending.attempts]
    return "\n".join([f"  {shown(ending.path)}", *tries])


def print_lines(console: "Console", title: str, lines: list[Line]) -> None:
    """Print paths and what is to be said of them, under a title; nothing where there are none."""
    if not lines:
        return
    console.print(f"\n{title}:", markup=False, highlight=False)
    for line in lines[:_MAX_LISTED]:
        console.print(f"  {shown(line.path)}: {line.reason}", markup=False, highlight=False, soft_wrap=True)
    if len(lines) > _MAX_LISTED:
        console.print(f"  and {len(lines) - _MAX_LISTED:,} more: --json lists all", markup=False, highlight=False)


def _syntax_table(report: Report) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - slow to import

    outcomes = [o for o in Outcome if any(counts.get(o) for counts in report.by_transfer_syntax.values())]
    table = Table("Transfer Syntax", *(str(o) for o in outcomes), box=None, pad_edge=True, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for uid, counts in report.by_transfer_syntax.items():
        table.add_row(syntax_name(uid), *(f"{counts[o]:,}" if counts.get(o) else "" for o in outcomes))
    return table


def _verdict(report: Report) -> str:
    if report.stopped:
        return f"stopped: {report.stopped}; the same command resumes (exit code {report.exit_code})"
    failed = report.counts[Outcome.FAILED]
    if failed:
        return f"{failed:,} of {sum(report.counts.values()):,} failed, all others are complete (exit code 1)"
    return "all well"
