"""The count over an RLE Lossless Frame (PS3.5 Annex G): a header of offsets, and segments of runs."""

import struct
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, Final

from dcmpool.codestream import Codestream
from dcmpool.dataset import corrupt

# A literal run of what are no-ops, should a run that is cut make them control bytes.
_MARK: Final = bytes([128]) * 128
_LITERAL: Final = bytes([127]) + _MARK


def _rle_segment(data: bytes, position: int, end: int, due: int, segment: int) -> None:
    """Count what one segment decodes to (PS3.5 G.3.2): `due` bytes, and then at most padding."""
    if _is_plain(data[position:end], due):
        return
    decoded = 0
    while decoded < due and position < end:
        control = data[position]
        if control < 128:
            decoded += control + 1
            position += control + 2
        elif control > 128:
            decoded += 257 - control
            position += 2
        else:
            position += 1
    if decoded < due or position > end:
        raise corrupt(f"RLE segment {segment} ends before its pixels; the file is truncated")
    if decoded > due or data[position:end].strip(b"\x00"):
        raise corrupt(f"RLE segment {segment} holds more pixels than Rows and Columns say")


def _is_plain(segment: bytes, due: int) -> bool:
    """Tell, thirty times as fast as run by run, that a segment is exactly `due` bytes, with one 00 after them at most;
    False where that is not certain."""
    return _ends_at(segment, due) or (segment.endswith(b"\x00") and _ends_at(segment[:-1], due))


def _ends_at(runs: bytes, due: int) -> bool:
    """Tell that `runs` decode to `due` bytes and their last run is whole: then what lies behind them decodes as if it
    stood alone."""
    decode = _packbits()
    if decode is None or runs.endswith(b"\x80"):  # a no-op, perhaps, which tells nothing of where the runs end
        return False
    try:
        decoded = decode(runs + _LITERAL)
    except Exception:  # noqa: BLE001 - whatever it raises, the walk over the runs says what is wrong
        return False
    return len(decoded) == due + len(_MARK) and decoded.endswith(_MARK)


@cache
def _packbits() -> Callable[[bytes], bytes] | None:
    try:
        import imagecodecs  # noqa: PLC0415 - a broken one leaves the walk over the runs
    except Exception:  # noqa: BLE001 - a broken codec may raise anything at import
        return None
    decode: Any = imagecodecs.packbits_decode
    return decode  # type: ignore[no-any-return]


def walk_rle(data: bytes, rows: int, columns: int, samples: int, bits_allocated: int) -> Codestream:
    """Check an RLE header (PS3.5 G.5) and its segments against the Image Pixel Module, which alone says the size.

    Raises
    ------
    Fault
        CORRUPT when the header is damaged, or a segment does not decode to exactly one byte a pixel.
    """
    due = samples * (-(-bits_allocated // 8))
    pixels = -(-rows * columns // 8) if bits_allocated == 1 else rows * columns  # 1-bit samples are packed first
    if len(data) < 64:
        raise corrupt("the RLE header is cut; the file is truncated")
    count, *offsets = struct.unpack("<16L", data[:64])
    if count != due:
        raise corrupt(f"the RLE header counts {count} segments, {due} are due")
    if due > 15:
        raise corrupt(f"{due} RLE segments are due, the header holds 15 at most")
    used = [*offsets[:count], len(data)]
    if used[0] != 64 or used != sorted(set(used)):
        raise corrupt("the RLE header's offsets are damaged, or the file is truncated")
    for segment, (start, end) in enumerate(pairwise(used), 1):
        _rle_segment(data, start, end, pixels, segment)
    return Codestream(
        "RLE", rows, columns, samples, bits_allocated, signed=False, start=0, length=len(data), lossless=True
    )
