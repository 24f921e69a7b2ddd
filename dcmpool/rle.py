"""The count over an RLE Lossless Frame (PS3.5 Annex G): a header of offsets, and segments of runs."""

import struct
from itertools import pairwise

from dcmpool.codestream import Codestream
from dcmpool.dataset import corrupt


def _rle_segment(data: bytes, position: int, end: int, due: int, segment: int) -> None:
    """Count what one segment decodes to (PS3.5 G.3.2): `due` bytes, and then at most padding."""
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
