"""An Explicit VR Big Endian data set (PS3.5 A.3), read by offset as if it were Little Endian.

Either order takes the same bytes for each element, so an offset means the same in both; what lies there is
numbers of 2, 4 or 8 bytes, turned round, and strings, which stay. Promises: what does not lead from the first
element to the end of the file is Fault(CORRUPT), found before anything is used.
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from dcmpool.dataset import LONG_VRS, PIXEL_DATA, SHORT_VRS, UNDEFINED, corrupt, name
from dcmpool.errors import Fault
from dcmpool.model import FailureKind

# Bytes of one number of each VR (PS3.5 6.2); the others are strings of bytes. AT is two numbers.
_WIDTHS: Final = {
    **dict.fromkeys((b"AT", b"OW", b"SS", b"US"), 2),
    **dict.fromkeys((b"FL", b"OF", b"OL", b"SL", b"UL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), 8),
}
_TYPES: Final = {2: "H", 4: "I", 8: "Q"}


class Swapped:
    """The Little Endian form of the file's bytes from `start` to `end`: `size` bytes, to be read by offset."""

    def __init__(self, read: Callable[[int, int], bytes], start: int, end: int) -> None:
        self._read = read
        self._start = start
        self._end = end
        self.size = end - start
        # Runs of numbers of one width: where each begins (from `start`), and the width. The first of them at 0.
        self._runs, self._widths = array("Q"), bytearray()
        offset = start
        while offset < end:
            offset = self._element(offset)

    def read(self, offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset`, both within `size`."""
        parts, end = [], offset + length
        run = bisect_right(self._runs, offset) - 1
        while offset < end:
            begin, width = self._runs[run], self._widths[run]
            limit = self._runs[run + 1] if run + 1 < len(self._runs) else self.size
            first = begin + (offset - begin) // width * width
            last = min(limit, begin - (begin - end) // width * width)
            data = _turned(self._read(self._start + first, last - first), width)
            parts.append(data[offset - first : end - first])
            offset, run = limit, run + 1
        return b"".join(parts)

    def _element(self, offset: int) -> int:
        """Note the runs of one element at `offset`; give the offset of the next, which may be the first inside."""
        head = self._at(offset, 8)
        group, number, vr, length = struct.unpack(">HH2sH", head)
        tag, value = group << 16 | number, offset + 8
        self._run(offset, 2)
        if group == 0xFFFE:  # an item, or the end of one: its elements follow
            self._run(offset + 4, 4)
            return value
        self._run(offset + 4, 1)
        if vr in LONG_VRS:
            self._run(offset + 8, 4)
            length, value = int.from_bytes(self._at(value, 4), "big"), offset + 12
        elif vr in SHORT_VRS:
            self._run(offset + 6, 2)
        else:
            raise corrupt(f"element {name(tag)} of the Big Endian data set shows no VR")
        if vr == b"SQ":
            return value
        return self._value(tag, vr, value, length)

    def _value(self, tag: int, vr: bytes, value: int, length: int) -> int:
        if length == UNDEFINED:
            if tag == PIXEL_DATA:  # PS3.5 A.4: encapsulated is Little Endian, always
                raise corrupt("the Transfer Syntax says Big Endian, the Pixel Data is encapsulated")
            raise Fault(FailureKind.UNSUPPORTED, f"{name(tag)} of undefined length in a Big Endian data set")
        if value + length > self._end:
            raise corrupt(f"element {name(tag)} claims {length} bytes, the file ends after {self._end - value}")
        width = _WIDTHS.get(vr, 1)
        if length % width:
            raise corrupt(f"element {name(tag)} is {length} bytes long, no multiple of {width}")
        self._run(value, width)
        return value + length

    def _at(self, offset: int, length: int) -> bytes:
        if offset + length > self._end:
            raise corrupt(f"the file ends in the middle of an element, at byte {self._end}")
        return self._read(offset, length)

    def _run(self, offset: int, width: int) -> None:
        begin = offset - self._start
        if self._runs and self._runs[-1] == begin:  # the run before is empty
            self._widths[-1] = width
        else:
            self._runs.append(begin)
            self._widths.append(width)


def _turned(data: bytes, width: int) -> bytes:
    if width == 1:
        return data
    numbers = array(_TYPES[width], data)
    numbers.byteswap()
    return numbers.tobytes()
