"""The bar chart beside the tables: throughput on the CT slices, one group of bars for each Transfer Syntax."""

from collections.abc import Iterator
from html import escape

from benchmarks.peers import DCMPOOL, FLOOR, PEERS
from benchmarks.results import Results, Row
from benchmarks.series import SYNTAXES
from dcmpool.syntaxes import syntax_name

_KIND = "ct"
_WIDTH, _LABELS, _BARS = 760, 260, 400
_LINE, _BAR, _HEADING = 22, 15, 34
# The background is the page's, so the text takes the colour that a page of either scheme needs.
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.heading { font-weight: 600 }
.ours { fill: #2f81f7 }
.peer { fill: #8b949e }
.floor { fill: none; stroke: #8b949e; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


def svg(results: Results) -> str:
    """Return the chart as one SVG document; a bar's length is its throughput against the greatest of its group."""
    parts: list[str] = []
    top = _HEADING
    for syntax, uid in SYNTAXES.items():
        heading = f"{syntax_name(uid)}, 512 x 512, milliseconds a file"
        rows = list(_rows(results, syntax))
        if not rows:
            continue
        parts.append(f'<text class="heading" x="0" y="{top}">{escape(heading)}</text>')
        fastest = min(row.wall_ms for _, row in rows)
        for title, row in rows:
            parts += _bar(title, row, top + 10, fastest)
            top += _LINE
        top += _HEADING
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>\n"])


def _rows(results: Results, syntax: str) -> Iterator[tuple[str, Row]]:
    for peer in (DCMPOOL, *PEERS):
        row = results.find(_KIND, syntax, peer.name)
        if row and not row.why_not:
            yield peer.title, row


def _bar(title: str, row: Row, top: int, fastest: float) -> Iterator[str]:
    length = max(1.0, _BARS * fastest / row.wall_ms)
    kind = {DCMPOOL.name: "ours", FLOOR.name: "floor"}.get(row.peer, "peer")
    y = top + _BAR - 3
    yield f'<text x="{_LABELS}" y="{y}" text-anchor="end">{escape(title)}</text>'
    yield f'<rect class="{kind}" x="{_LABELS + 8}" y="{top}" width="{length:.1f}" height="{_BAR}"/>'
    yield f'<text x="{_LABELS + 16 + length:.1f}" y="{y}">{row.wall_ms:.1f}</text>'
