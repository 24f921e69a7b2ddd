"""Numbers and names as people read them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmpool.text import duration, shown, shown_full, size


@given(st.binary(max_size=300))
def test_any_file_name_is_safe_to_print(path: bytes) -> None:
    """One line, printable, and encodable whatever bytes it has."""
    text = shown(path)
    assert text.isprintable()
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"series/CT0001.dcm", "series/CT0001.dcm"),
        ("Röntgen/画像".encode(), "Röntgen/画像"),
        (b"a\nb", r"a\nb"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        (b"caf\xe9", r"caf\xe9"),
        ("\u202egnp".encode(), r"\u202egnp"),
        (b"", ""),
    ],
)
def test_what_is_not_printable_is_escaped(path: bytes, text: str) -> None:
    """A newline, an escape sequence, a change of writing direction, bytes that are not UTF-8."""
    assert shown(path) == text


def test_a_whole_path_is_shown_relative_where_that_is_shorter(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near paths by their place from here, far ones whole."""
    monkeypatch.chdir(tmp_path)
    assert shown_full(os.fsencode(tmp_path) + b"/series") == "series"
    assert shown_full(b"/series") == "/series"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (123_456, "123 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
        (5_000_000_000, "5.0 GB"),
        (1_234_500_000_000_000, "1,234.5 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    """Three significant digits with the decimal unit."""
    assert size(count) == text


@given(st.floats(0, 1e18))
def test_no_size_is_written_with_more_than_four_digits_before_its_unit(count: float) -> None:
    """Under a thousand terabytes, that is."""
    number, unit = size(count).split()
    assert unit == "TB" or len(number.partition(".")[0]) <= 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (59.9, "59.9 s"),
        (59.97, "1:00"),
        (60, "1:00"),
        (187.4, "3:07"),
        (3600, "1:00:00"),
        (360_000, "100:00:00"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """Seconds with a tenth under a minute, clock-like above."""
    assert duration(seconds) == text
