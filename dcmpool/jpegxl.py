"""The head of a JPEG XL codestream (ISO/IEC 18181-1), bare or in its container (18181-2), and where it may end; what
lies between is for the decoder."""

import struct
from typing import Final

from dcmpool.codestream import Codestream
from dcmpool.dataset import corrupt
from dcmpool.errors import Fault
from dcmpool.model import FailureKind

_SIGNATURE: Final = b"\xff\x0a"
_CONTAINER: Final = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_GREY: Final = 1
_HEAD_BYTES: Final = 130
"""More than a head takes that has no preview, no animation and no extra channels."""


def read_jpeg_xl(data: bytes) -> Codestream:
    """Read size, depth and number of components from the head.

    Raises
    ------
    Fault
        CORRUPT when it is damaged, UNSUPPORTED for what a native Frame cannot hold.
    """
    head = b"".join(data[start : min(stop, start + _HEAD_BYTES)] for start, stop in _parts(data))[:_HEAD_BYTES]
    if head[:2] != _SIGNATURE:
        raise corrupt("the JPEG XL stream does not start with its signature")
    bits = _Bits(head[2:])
    rows, columns = _size(bits)
    precision, grey, lossless = _metadata(bits)
    return Codestream(
        kind="JPEG XL",
        rows=rows,
        columns=columns,
        components=1 if grey else 3,
        precision=precision,
        signed=False,
        start=0,
        length=len(data),
        lossless=lossless,
    )


def without_end(data: bytes) -> bytes:
    """Give a stream that `read_jpeg_xl` takes without the end of its codestream: its last two bytes, after any 00.

    Nothing tells where a codestream ends but decoding it: no decoder can do without both of them, unless the end came
    before. One byte may be padding: encoders are known to add FF.
    """
    ends = ((start, start + len(data[start:stop].rstrip(b"\x00"))) for start, stop in reversed(_parts(data)))
    start, end = next((start, end) for start, end in ends if end > start)
    return data[: max(start, end - 2)]


class _Bits:
    """Fields of a JPEG XL head, the lowest bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.number = int.from_bytes(data, "little")
        self.left = 8 * len(data)

    def u(self, count: int) -> int:
        """Read a number of `count` bits."""
        if count > self.left:
            raise corrupt("the JPEG XL stream ends in its head; the file is truncated")
        value = self.number & ((1 << count) - 1)
        self.number >>= count
        self.left -= count
        return value

    def choice(self, *ways: tuple[int, int]) -> int:
        """Read a number in one of four ways, each an offset and a count of bits."""
        offset, count = ways[self.u(2)]
        return offset + self.u(count)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.u(1)

    def side() -> int:
        return 8 * (bits.u(5) + 1) if small else bits.choice((1, 9), (1, 13), (1, 18), (1, 30))

    rows = side()
    ratio = bits.u(3)
    if ratio == 0:
        return rows, side()
    above, below = _RATIOS[ratio - 1]
    return rows, rows * above // below


def _metadata(bits: _Bits) -> tuple[int, bool, bool]:
    """Give bits a sample, whether there is grey alone, and whether no lossy colour transform (XYB) was used."""
    if bits.u(1):  # all default: 8 bits, sRGB, XYB
        return 8, False, False
    if bits.u(1) and (bits.u(3) or bits.u(3)):
        raise Fault(FailureKind.UNSUPPORTED, "a JPEG XL stream that is turned, has a preview, or moves")
    if bits.u(1):
        raise Fault(FailureKind.UNSUPPORTED, "a JPEG XL stream of floating-point samples")
    precision = bits.choice((8, 0), (10, 0), (12, 0), (1, 6))
    bits.u(1)  # whether 16-bit buffers are enough
    if bits.choice((0, 0), (1, 0), (2, 4), (1, 12)):
        raise Fault(FailureKind.UNSUPPORTED, "a JPEG XL stream with extra channels")
    xyb = bool(bits.u(1))
    if bits.u(1):  # the default colour encoding, sRGB
        return precision, False, not xyb
    bits.u(1)  # whether an ICC profile follows
    return precision, bits.choice((0, 0), (1, 0), (2, 4), (18, 6)) == _GREY, not xyb


def _parts(data: bytes) -> list[tuple[int, int]]:
    """Give start and stop of each part of the one codestream: all, or in the boxes of a container, which end where the
    data do."""
    if data[:12] != _CONTAINER:
        return [(0, len(data))]
    position, parts, is_whole = len(_CONTAINER), list[tuple[int, int]](), False
    last = len(data.rstrip(b"\x00")) - 1
    while position < last:  # one byte more is padding
        length, kind = struct.unpack(">L4s", data[position : position + 8].ljust(8, b"\x00"))
        if min(kind) < ord(" "):
            raise corrupt(f"the JPEG XL container holds no box at byte {position} where one is due")
        start = position + 8
        if length == 1:
            length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = len(data) if length == 0 else position + length
        if end < start + (4 if kind == b"jxlp" else 0) or end > len(data):
            raise corrupt("a box of the JPEG XL stream is cut; the file is truncated")
        if is_whole and kind in (b"jxlc", b"jxlp", _CONTAINER[4:8]):
            raise corrupt("the JPEG XL container holds more than one codestream")
        if kind == b"jxlc":
            parts.append((start, end))
            is_whole = True
        elif kind == b"jxlp":  # its number comes first; the highest bit says that it is the last
            parts.append((start + 4, end))
            is_whole = data[start] >= 0x80
        position = end
    if not is_whole:
        raise corrupt("the JPEG XL container holds no whole codestream")
    return parts
