"""Charts over time as inline SVG: shapes alone, which stretch with the page; words and numbers stand around them. Pure.

Coordinates: x from 0 to 1000, the left to the right of the axis; y from 0, the top, to 100.
"""

from collections.abc import Callable, Sequence

import msgspec

from dcmpool.timeline import Interval, Timeline

WIDTH, HEIGHT = 1000.0, 100.0
_KILO = 1000


class Chart(msgspec.Struct, frozen=True):
    """One chart: paths of SVG by the class that styles them, and the labels of its y axis from the top down."""

    title: str
    note: str
    paths: list[tuple[str, str]]
    labels: list[str]
    separators: list[float]
    """Where runs begin, beside the first."""


def charts(timeline: Timeline) -> list[Chart]:
    """Return the charts of a timeline; none if no times are known."""
    if not timeline.stretches:
        return []
    seconds = timeline.interval_seconds
    marks = [stretch.at / timeline.seconds * WIDTH for stretch in timeline.stretches[1:]]

    def series(of: Callable[[Interval], float | None]) -> list[float | None]:
        return [of(interval) for interval in timeline.intervals]

    files = series(lambda interval: interval.files / seconds)
    rates = series(lambda interval: interval.bytes / 1e6 / seconds)
    median = series(lambda interval: interval.quantile(0.5))
    worst = series(lambda interval: interval.quantile(0.95))
    return [
        _chart("Files per second", "all that ended, failures too", [("area", files)], marks),
        _chart("MB written per second", "results, native as they are written", [("area", rates)], marks),
        _chart(
            "Seconds to write and sync one file", "the median, and (dashed) what 95 % of files do not pass",
            [("line", median), ("line dashed", worst)], marks,
        ),
    ]  # fmt: skip


def _chart(title: str, note: str, series: list[tuple[str, list[float | None]]], marks: list[float]) -> Chart:
    highest = _round_up(max((value for _, values in series for value in values if value is not None), default=0.0))
    paths = [(kind, _path(values, highest, closed=kind == "area")) for kind, values in series]
    labels = [_label(highest), _label(highest / 2), "0"]
    return Chart(title, note, paths, labels, [round(mark, 1) for mark in marks])


def _path(values: Sequence[float | None], highest: float, *, closed: bool) -> str:
    """Return steps through the values; a gap where there is none."""
    step = WIDTH / len(values)
    parts: list[str] = []
    on = False
    for number, value in enumerate(values):
        if value is None:
            on = False
            continue
        y = round(HEIGHT - value / highest * HEIGHT, 2)
        left, right = round(number * step, 1), round((number + 1) * step, 1)
        parts.append(f"{'L' if on else 'M'}{left} {y}H{right}")
        on = True
    path = "".join(parts)
    return f"M0 {HEIGHT:g}L{path[1:]}V{HEIGHT:g}Z" if closed and path else path


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 5 or 10, times a power of ten."""
    unit = 1e-6
    while value > 10 * unit:
        unit *= 10
    return next((factor * unit for factor in (1, 2, 4, 5, 10) if value <= factor * unit * 1.0000001), 10 * unit)


def _label(value: float) -> str:
    return f"{value:,.0f}" if value >= _KILO else f"{value:.3g}"
