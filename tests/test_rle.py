"""The count over RLE segments (PS3.5 Annex G): a segment passes if, and only if, its runs are what is due."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcmpool.errors import Fault
from dcmpool.rle import walk_rle

BYTES = st.sampled_from([0, 127, 128, 255]) | st.integers(0, 255)
RUNS = (
    st.lists(BYTES, min_size=1, max_size=128).map(lambda literal: bytes([len(literal) - 1, *literal]))
    | st.tuples(st.integers(129, 255), BYTES).map(bytes)
    | st.just(b"\x80")
)


def decoded_length(segment: bytes, due: int) -> int | None:
    """Give what the runs up to `due` bytes decode to, by PS3.5 G.3.2; None if one is cut, or no zeros follow them."""
    length = 0
    while length < due and segment:
        control = segment[0]
        size = 1 if control == 128 else 2 if control > 128 else control + 2
        if len(segment) < size:
            return None
        length += 0 if control == 128 else 257 - control if control > 128 else control + 1
        segment = segment[size:]
    return None if any(segment) else length


def passes(segment: bytes, columns: int) -> bool:
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + segment
    try:
        walk_rle(frame, 1, columns, 1, 8)
    except Fault:
        return False
    return True


@given(
    st.lists(RUNS, max_size=8), RUNS.filter(lambda run: run != b"\x80"), st.sampled_from([b"", b"\x00", b"\x00\x00"])
)
def test_whole_runs_pass(runs: list[bytes], last: bytes, pad: bytes) -> None:
    runs = [*runs, last]  # no-ops after it would be no padding (PS3.5 G.3.1)
    due = sum(257 - run[0] if run[0] > 128 else len(run) - 1 for run in runs)
    assert passes(b"".join(runs) + pad, due)


@given(st.lists(RUNS, min_size=1, max_size=8).map(b"".join), st.integers(0, 2000), BYTES, st.integers(-129, 129), BYTES)
@example(b"\x7f", 0, 127, 127, 127)  # nothing but the head of a run
@example(b"\x00a\x80\x00", 0, 0, 0, 0)
def test_a_damaged_segment_passes_only_if_its_runs_are_still_what_is_due(
    segment: bytes, where: int, value: int, more: int, last: int
) -> None:
    at = where % len(segment)
    for damaged in (segment[:at] + bytes([value]) + segment[at + 1 :], segment[:at], segment + bytes([last])):
        length = decoded_length(segment, 1 << 20) or 0
        for due in {length, length + more, length + 128, length - 128}:
            if due > 0:
                assert passes(damaged, due) == (decoded_length(damaged, due) == due), (damaged, due)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("samples", [1, 3])
def test_each_byte_of_a_sample_has_its_segment(bits: int, samples: int) -> None:
    count = samples * bits // 8
    segments = [b"\xfd\x80"] * count  # four times 128
    offsets = [64 + 2 * number for number in range(count)]
    frame = struct.pack("<16L", count, *offsets, *[0] * (15 - count)) + b"".join(segments)
    assert walk_rle(frame, 2, 2, samples, bits).length == len(frame)
    with pytest.raises(Fault, match="segment 1"):
        walk_rle(frame, 2, 3, samples, bits)
