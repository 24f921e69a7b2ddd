"""Times are counted where they belong, runs stand one after the other, and charts stay inside their frame."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmpool.history import Span
from dcmpool.journal import Row
from dcmpool.model import Outcome
from dcmpool.plot import charts
from dcmpool.timeline import INTERVALS, Timeline

ROW = Row(
    b"CT", 10, 1, Outcome.DECOMPRESSED, None, "", "", "gdcm", "[]", 2_000_000, 1, 20, "", 0.5, "a", "1", 1000.0, 0.25
)


def test_a_file_counts_where_it_ended_in_the_working_time_of_all_runs() -> None:
    """The day between the two runs takes no place."""
    spans = [Span("a", 1010.0, 1060.0, 3), Span("b", 90_000.0, 90_060.0, 1)]
    timeline = Timeline(spans, {"a": 1000.0, "b": 90_000.0})
    assert [(s.run, s.at, s.seconds) for s in timeline.stretches] == [("a", 0.0, 60.0), ("b", 60.0, 60.0)]
    for run, ended in (("a", 1010.5), ("a", 1010.7), ("a", 1060.0), ("b", 90_060.0), ("c", 5.0)):
        timeline.add(msgspec.structs.replace(ROW, run=run, ended=ended))
    timeline.add(msgspec.structs.replace(ROW, ended=None))
    assert {n: i.files for n, i in enumerate(timeline.intervals) if i.files} == {10: 2, 60: 1, INTERVALS - 1: 1}
    assert timeline.intervals[10].bytes == 4_000_000


@given(st.lists(st.floats(0.0001, 1000), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_known_to_a_tenth(times: list[float], share: float) -> None:
    timeline = Timeline([Span("a", 1000.0, 1001.0, 1)], {})
    for seconds in times:
        timeline.add(msgspec.structs.replace(ROW, write_seconds=seconds))
    wanted = sorted(times)[max(0, -(-int(share * len(times) * 1000) // 1000) - 1)]
    found = timeline.intervals[0].quantile(share)
    assert found is not None
    assert min(abs(found / time - 1) for time in times) < 0.1
    assert found == pytest.approx(wanted, rel=0.1) or found >= wanted * 0.9


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.0001, 50)), min_size=1, max_size=30))
def test_charts_stay_inside_their_frame(files: list[tuple[float, float]]) -> None:
    """Whatever the figures are; and the highest label is not below any of them."""
    timeline = Timeline([Span("a", 1000.0, 1100.0, 1)], {})
    for at, seconds in files:
        timeline.add(msgspec.structs.replace(ROW, ended=1000 + at, write_seconds=seconds))
    for chart in charts(timeline):
        assert chart.labels[2] == "0"
        for _, path in chart.paths:
            numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
            assert numbers
            assert all(0 <= number <= 1000 for number in numbers)
            assert all(0 <= float(y) <= 100 for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path))


def test_a_journal_without_times_has_no_charts() -> None:
    assert charts(Timeline([], {})) == []
