"""What came out, as Markdown: times, CPU and memory for each kind of series, and the rows that are lost."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import DCMPOOL, FLOOR, PEERS
from benchmarks.series import KINDS, SYNTAXES

BEGIN, END = "<!-- measured: from here to the end mark `make bench` writes -->", "<!-- end -->"


@dataclass(slots=True)
class Row:
    """One peer on one series; `why_not` instead of figures where it gives no right result."""

    kind: str
    syntax: str
    peer: str
    files: int
    wall_seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)
    """What is not in `wall_seconds`, since it was to be told apart."""
    peak_bytes: int = 0
    why_not: str = ""

    @property
    def wall_ms(self) -> float:
        """Milliseconds a file, the median."""
        return statistics.median(self.wall_seconds) / self.files * 1e3

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU a file, the median."""
        return statistics.median(self.cpu_seconds) / self.files * 1e3


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the tables that are no race."""

    section: str
    what: str
    value: str


@dataclass(slots=True)
class Results:
    """All that a run of the bench measured, in order."""

    rows: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def figure(self, section: str, what: str, value: str) -> None:
        """Take one figure, and print it."""
        self.figures.append(Figure(section, what, value))
        print(f"{what:56} {value:>20}", flush=True)

    def row(self, row: Row) -> None:
        """Take one row, and print it."""
        self.rows.append(row)
        name = f"{row.kind}/{row.syntax}/{row.peer}"
        if row.why_not:
            print(f"{name:24} no figure: {row.why_not}", flush=True)
            return
        spread = f"{min(row.wall_seconds) / row.files * 1e3:.2f} to {max(row.wall_seconds) / row.files * 1e3:.2f}"
        print(
            f"{name:24} {_against(self, row):>16} ms a file ({spread}), CPU {row.cpu_ms:.2f} ms, "
            f"peak {row.peak_bytes / 2**20:.0f} MiB",
            flush=True,
        )

    def find(self, kind: str, syntax: str, peer: str) -> Row | None:
        """Return a row, if there is one."""
        wanted = (kind, syntax, peer)
        return next((row for row in self.rows if (row.kind, row.syntax, row.peer) == wanted), None)


def markdown(results: Results, facts: Iterable[str]) -> str:
    """Return the part of docs/performance.md that is measured."""
    parts = ["\n".join(f"- {fact}" for fact in facts)]
    parts += [_kind(results, kind) for kind in KINDS if any(row.kind == kind for row in results.rows)]
    if results.rows:
        parts.append(_lost(results))
    for section in dict.fromkeys(figure.section for figure in results.figures):
        lines = [f"| {f.what} | {f.value} |" for f in results.figures if f.section == section]
        parts.append("\n".join([f"### {section}\n", "| | |", "|---|---:|", *lines]))
    return "\n\n".join(parts)


def write(path: Path, text: str) -> None:
    """Put `text` between the marks in the file `path`, which must have them."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{path} lacks the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _kind(results: Results, kind: str) -> str:
    files = max(row.files for row in results.rows if row.kind == kind)
    starts = [seconds for row in results.rows if row.kind == kind for seconds in row.start_seconds if seconds]
    time = _table(results, kind, lambda row: _against(results, row))
    cpu = _table(results, kind, lambda row: f"{row.cpu_ms:.1f}")
    memory = _table(results, kind, lambda row: f"{row.peak_bytes / 2**20:.0f}")
    return "\n\n".join(
        [
            f"### {KINDS[kind].title[0].upper()}{KINDS[kind].title[1:]}",
            f"{files} files; milliseconds a file, and in brackets how many times dcmpool's that is."
            + (
                f" The floor's start-up, {statistics.median(starts):.2f} s, is left out of its figures."
                if starts
                else ""
            ),
            time,
            "Milliseconds of CPU a file, all processes:",
            cpu,
            "Peak memory in MiB, all processes; a page that several share counts as a part for each:",
            memory,
        ]
    )


def _table(results: Results, kind: str, cell: Callable[[Row], str]) -> str:
    syntaxes = [syntax for syntax in SYNTAXES if results.find(kind, syntax, DCMPOOL.name)]
    lines = [f"| | {' | '.join(syntaxes)} |", f"|---|{'---:|' * len(syntaxes)}"]
    for peer in (DCMPOOL, *PEERS):
        found = [results.find(kind, syntax, peer.name) for syntax in syntaxes]
        if any(found):
            cells = ["" if row is None else "wrong" if row.why_not else cell(row) for row in found]
            lines.append(f"| {peer.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _against(results: Results, row: Row) -> str:
    ours = results.find(row.kind, row.syntax, DCMPOOL.name)
    figure = f"{row.wall_ms:.1f}"
    return figure if ours is None or ours is row or ours.why_not else f"{figure} ({row.wall_ms / ours.wall_ms:.2f})"


def _lost(results: Results) -> str:
    """List where a peer is faster than dcmpool, and who gave no right result."""
    lines = []
    for row in results.rows:
        ours = results.find(row.kind, row.syntax, DCMPOOL.name)
        name = f"{KINDS[row.kind].title}, {row.syntax}, {row.peer}"
        if row.why_not:
            lines.append(f"- {name}: {row.why_not}.")
        elif row.peer != FLOOR.name and ours and not ours.why_not and row.wall_ms < ours.wall_ms:
            lines.append(f"- {name}: {row.wall_ms:.1f} against {ours.wall_ms:.1f} ms.")
    return "\n".join(["### Lost rows, and peers that gave no right result\n", *(lines or ["None."])])
