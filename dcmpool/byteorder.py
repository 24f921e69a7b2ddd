"""Whether a Little Endian data set says the same as the Big Endian one that it was made from (PS3.5 7.3).

Either order takes the same bytes for each element, so both are read side by side, element by element. This module
shares no code with `bigendian`, which it is there to check.
"""

from collections.abc import Callable, Iterator
from typing import Final

Read = Callable[[int, int], bytes]
"""Give `length` bytes from `offset`, of a data set that starts at 0."""

_CHUNK_BYTES: Final = 1 << 20
_BYTES_OF_NUMBER: Final = {
    **dict.fromkeys(["AT", "OW", "SS", "US"], 2),
    **dict.fromkeys(["FL", "OF", "OL", "SL", "UL"], 4),
    **dict.fromkeys(["FD", "OD", "OV", "SV", "UV"], 8),
}
_LONG: Final = ["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]


def difference(big: Read, little: Read, size: int) -> str:
    """Compare two data sets of `size` bytes; name the first element that differs, empty if none does."""
    offset = 0
    while offset < size:
        start, tag = offset, little(offset, 4)
        for width, length in _pieces(little, offset, size):
            if not _same(big, little, offset, length, width):
                return f"element {tag[1::-1].hex()}{tag[3:1:-1].hex()} at byte {start} of the data set".upper()
            offset += length
    return ""


def _pieces(little: Read, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Give the parts of the element at `offset`, each as bytes of a number and bytes in all."""
    head = little(offset, min(12, size - offset))
    yield 2, 4
    if head[:2] == b"\xfe\xff":
        yield 4, 4
        return
    vr = head[4:6].decode("ascii", "replace")
    yield 1, 2
    if vr in _LONG:
        yield 2, 2
        yield 4, 4
        length = int.from_bytes(head[8:12], "little")
    else:
        yield 2, 2
        length = int.from_bytes(head[6:8], "little")
    if vr != "SQ":
        yield _BYTES_OF_NUMBER.get(vr, 1), length


def _same(big: Read, little: Read, offset: int, length: int, width: int) -> bool:
    end = offset + length
    for begin in range(offset, end, _CHUNK_BYTES):
        count = min(_CHUNK_BYTES, end - begin)
        before, after = big(begin, count), little(begin, count)
        if len(after) != count or any(before[i::width] != after[width - 1 - i :: width] for i in range(width)):
            return False
    return True
