"""Encapsulated Pixel Data: which fragments make which Frame (PS3.5 A.4).

Promises: as many Frames as Number of Frames says, or Fault(CORRUPT); an offset table is believed only where
every one of its entries points at a fragment.
"""

import struct
from array import array
from collections.abc import Sequence

import msgspec

from dcmpool.dataset import Element, corrupt, fragments
from dcmpool.source import Source


class Frames(msgspec.Struct, frozen=True):
    """Where the encoded Frames lie: `offsets` and `lengths` (bytes) of all fragments, `first` the index of each
    Frame's first fragment and, at its end, their number."""

    offsets: Sequence[int]
    lengths: Sequence[int]
    first: Sequence[int]

    def __len__(self) -> int:
        return len(self.first) - 1

    def read(self, source: Source, index: int) -> bytes:
        """Read the encoded bytes of one Frame (`index` from 0), its fragments joined."""
        places = range(self.first[index], self.first[index + 1])
        parts = [source.read(self.offsets[place], self.lengths[place]) for place in places]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def largest_bytes(self) -> int:
        """Give the length (bytes) of the largest encoded Frame."""
        return max(sum(self.lengths[self.first[i] : self.first[i + 1]]) for i in range(len(self)))


def find_frames(source: Source, pixel_data: Element, number_of_frames: int, extended: Element | None) -> Frames:
    """Divide encapsulated Pixel Data into Frames; `extended` is the Extended Offset Table, if there is one.

    Raises
    ------
    Fault
        CORRUPT when the fragments do not hold that many Frames, or nothing tells which belongs to which.
    """
    table, offsets, lengths = _fragments(source, pixel_data)
    count = number_of_frames
    if not offsets:
        raise corrupt("the Pixel Data holds no fragment")
    if count > len(offsets):
        raise corrupt(f"Number of Frames is {count}, the Pixel Data holds {len(offsets)} fragments")
    if count == 1:
        first: Sequence[int] | None = (0, len(offsets))
    elif count == len(offsets):
        first = range(count + 1)
    else:
        base = offsets[0] - 8
        starts = _extended_table(source, extended) or _basic_table(source, table)
        first = _by_table(starts, base, offsets, count) or _by_marker(source, offsets, lengths, count)
    if first is None:
        raise corrupt(f"nothing tells how {len(offsets)} fragments make {count} Frames")
    return Frames(offsets, lengths, first)


def _fragments(source: Source, pixel_data: Element) -> tuple[tuple[int, int], Sequence[int], Sequence[int]]:
    """Give offset and length of the Basic Offset Table, and those of all fragments that are not empty."""
    items = fragments(source, pixel_data)
    table = next(items, None)
    if table is None:
        raise corrupt("the Pixel Data holds no item")
    offsets, lengths = array("Q"), array("Q")
    for offset, length in items:
        if length:
            offsets.append(offset)
            lengths.append(length)
    return table, offsets, lengths


def _basic_table(source: Source, table: tuple[int, int]) -> Sequence[int]:
    offset, length = table
    return struct.unpack(f"<{length // 4}L", source.read(offset, length // 4 * 4))


def _extended_table(source: Source, element: Element | None) -> Sequence[int]:
    if element is None:
        return ()
    count = element.length // 8
    return struct.unpack(f"<{count}Q", source.read(element.value, count * 8))


def _by_table(starts: Sequence[int], base: int, offsets: Sequence[int], count: int) -> Sequence[int] | None:
    """Turn the tables' offsets, counted from the first fragment's item, into indices of fragments."""
    if len(starts) != count or starts[0] != 0:
        return None
    places = {offset - 8 - base: index for index, offset in enumerate(offsets)}
    first = [places.get(start, -1) for start in starts]
    if -1 in first or first != sorted(set(first)):
        return None
    return [*first, len(offsets)]


def _by_marker(source: Source, offsets: Sequence[int], lengths: Sequence[int], count: int) -> Sequence[int] | None:
    """Find the fragments that begin as a JPEG or JPEG 2000 codestream does, where each but the first follows one
    that ends as such."""
    first = [
        index
        for index, offset in enumerate(offsets)
        if source.read(offset, min(4, lengths[index]))[:3] in (b"\xff\xd8\xff", b"\xff\x4f\xff")
        and (index == 0 or _ends(source, offsets[index - 1], lengths[index - 1]))
    ]
    if len(first) != count or first[0] != 0:
        return None
    return [*first, len(offsets)]


def _ends(source: Source, offset: int, length: int) -> bool:
    tail = min(16, length)
    return source.read(offset + length - tail, tail).rstrip(b"\x00").endswith(b"\xff\xd9")
