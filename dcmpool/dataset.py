"""The elements of a data set as they lie in the file: tags, VRs, offsets and lengths, never values re-encoded.

Promises: memory is bounded by what is asked for, never by what a length field claims; sequences are walked
without recursion, so that nesting of any depth is safe; everything that does not fit is Fault(CORRUPT).
"""

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from dcmpool.errors import Fault
from dcmpool.model import FailureKind
from dcmpool.source import Source

_PADDING_BYTES: Final = 1 << 20
UNDEFINED: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_DELIMITATION: Final = 0xFFFEE00D
SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
PIXEL_DATA: Final = 0x7FE00010

# PS3.5 7.1.2: these VRs have two reserved bytes and a 32-bit length.
LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"),
)
SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(),
)
_HEAD: Final = struct.Struct("<HH2sH")
_VRS: Final = LONG_VRS | SHORT_VRS
_SEQUENCE, _FRAGMENTS, _EXPLICIT_ITEM, _IMPLICIT_ITEM, _UNKNOWN_SEQUENCE, _IMPLICIT_SEQUENCE = range(6)


class Element(msgspec.Struct, frozen=True, gc=False):
    """One element; `start` is the offset of its tag, `end` that of the byte after it.

    `vr` is empty where the file does not say it; `length` is `UNDEFINED` where the file says so, and `end`
    then lies after the Sequence Delimitation Item.
    """

    tag: int
    vr: bytes
    start: int
    value: int
    length: int
    end: int


def corrupt(reason: str) -> Fault:
    """Make the fault for content that is damaged or contradicts itself."""
    return Fault(FailureKind.CORRUPT, reason)


def name(tag: int) -> str:
    """Write a tag as the standard does."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def walk(source: Source, offset: int, *, explicit: bool, end: int | None = None) -> Iterator[Element]:
    """Give the elements of the data set from `offset` to `end` (that of the file), not those inside sequences.

    Zeros may follow the last element of the file: it ends before them.

    Raises
    ------
    Fault
        CORRUPT where an element does not fit into the file.
    """
    whole, end = end is None, source.end if end is None else end
    while offset < end:
        held, held_from = source.held, source.held_from
        last = min(held_from + len(held), end) - 8 if explicit else -1
        while held_from <= offset <= last:  # nearly all elements are of these VRs, and worth a short way
            group, number, vr, length = _HEAD.unpack_from(held, offset - held_from)
            value, after = offset + 8, offset + 8 + length
            if vr not in SHORT_VRS or group == 0xFFFE or after > source.end:
                break
            yield Element(group << 16 | number, vr, offset, value, length, after)
            offset = after
        if offset >= end:
            return
        if whole and end - offset < 8 and is_padding(source, offset):
            return
        element = element_at(source, offset, explicit=explicit)
        if whole and element.tag == 0 and is_padding(source, offset):
            return
        if element.length == UNDEFINED:
            kind = _kind(element, explicit=explicit)
            element = msgspec.structs.replace(element, end=_after_sequence(source, element.value, kind))
        yield element
        offset = element.end


def is_padding(source: Source, offset: int) -> bool:
    """Tell whether no element, but zeros to the end of the file, lie at `offset`: writers that allocate in blocks
    leave them. There is no (0000,0000) in a data set (PS3.7 E: group 0000 is that of commands).

    Raises
    ------
    Fault
        CORRUPT where such zeros do not go on to the end, or are more than 1 MiB.
    """
    length = source.end - offset
    if any(source.read(offset, min(length, 8))):
        return False
    if length > _PADDING_BYTES:
        raise corrupt(f"{length} bytes that begin with zeros follow the last element, at byte {offset}")
    if any(source.read(offset, length)):
        raise corrupt(f"zeros lie where an element is due, at byte {offset}")
    return True


def element_at(source: Source, offset: int, *, explicit: bool) -> Element:
    """Read the tag, VR and length at `offset` (PS3.5 7.1); `end` is only right for a defined length.

    An element that shows no VR in an explicit data set is read as an implicit one: real files hold such.
    """
    room = source.end - offset
    head = source.read(offset, min(8, room))
    if room < 8:
        raise corrupt(f"the file ends in the middle of an element, at byte {source.end}")
    group, number, vr, length = _HEAD.unpack(head)
    tag, value = group << 16 | number, offset + 8
    if explicit and vr in LONG_VRS:
        length, value = int.from_bytes(_bytes(source, value, 4), "little"), offset + 12
    elif not explicit or group == 0xFFFE or not (vr in SHORT_VRS or (vr.isalpha() and vr.isupper())):
        vr, length = b"", int.from_bytes(head[4:], "little")
    if length != UNDEFINED and value + length > source.end:
        raise corrupt(f"element {name(tag)} claims {length} bytes, the file ends after {source.end - value}")
    return Element(tag, vr, offset, value, length, value + length)


def walk_item(source: Source, item: int) -> tuple[list[Element], int]:
    """Give the elements of the sequence item whose tag is at `item`, Explicit VR, and the offset after the item.

    Raises
    ------
    Fault
        CORRUPT where no item is there, or it does not hold its elements.
    """
    tag, length = _item(source, item)
    if tag != ITEM:
        raise corrupt(f"a sequence holds {name(tag)} where an Item is due")
    end = source.end if length == UNDEFINED else item + 8 + length
    found: list[Element] = []
    for element in walk(source, item + 8, explicit=True, end=end):
        if element.tag == ITEM_DELIMITATION and length == UNDEFINED:
            return found, element.end
        found.append(element)
    if length == UNDEFINED or (found and found[-1].end != end):
        raise corrupt("an Item of a sequence does not end where it should")
    return found, end


def fragments(source: Source, pixel_data: Element) -> Iterator[tuple[int, int]]:
    """Give offset and length (bytes) of each item's value in encapsulated Pixel Data (PS3.5 A.4), Basic Offset
    Table first."""
    offset = pixel_data.value
    while True:
        tag, length = _item(source, offset)
        if tag == SEQUENCE_DELIMITATION:
            return
        if tag != ITEM:
            raise corrupt(f"Pixel Data holds {name(tag)} where an Item or its end is due")
        yield offset + 8, length
        offset += 8 + length


def shows_vr(source: Source, offset: int) -> bool:
    """Tell whether the element at `offset` shows one of the VRs of PS3.5 6.2."""
    return source.end >= offset + 8 and source.read(offset + 4, 2) in _VRS


def _kind(element: Element, *, explicit: bool) -> int:
    if element.tag == PIXEL_DATA:
        return _FRAGMENTS
    if element.vr == b"UN":  # PS3.5 6.2.2 Note: implicit inside; some writers do otherwise
        return _UNKNOWN_SEQUENCE
    return _SEQUENCE if explicit else _IMPLICIT_SEQUENCE


def _after_sequence(source: Source, offset: int, kind: int) -> int:
    """Give the offset after the Sequence Delimitation Item of the sequence whose first item is at `offset`."""
    stack = bytearray((kind,))  # one byte a level: nesting of 10^5 levels is in no way special
    while stack:
        top = stack[-1]
        if top in (_EXPLICIT_ITEM, _IMPLICIT_ITEM):
            offset = _element_of_item(source, offset, stack)
            continue
        if top == _FRAGMENTS and source.end - offset < 8:
            # All Frames may be there; whether elements stood after them nobody can tell.
            raise corrupt("the file ends where a Sequence Delimitation Item is due: it is truncated")
        tag, length = _item(source, offset)
        if tag == SEQUENCE_DELIMITATION:
            stack.pop()
            offset += 8
        elif tag != ITEM:
            raise corrupt(f"a sequence holds {name(tag)} where an Item or its end is due")
        elif length != UNDEFINED:
            offset += 8 + length
        elif top == _FRAGMENTS:
            raise corrupt("a fragment of Pixel Data has no length")
        else:
            offset += 8
            explicit = top == _SEQUENCE or (top == _UNKNOWN_SEQUENCE and shows_vr(source, offset))
            stack.append(_EXPLICIT_ITEM if explicit else _IMPLICIT_ITEM)
    return offset


def _element_of_item(source: Source, offset: int, stack: bytearray) -> int:
    """Step over one element, or the end, of the item on top of `stack`; enter a sequence of undefined length."""
    explicit = stack[-1] == _EXPLICIT_ITEM
    element = element_at(source, offset, explicit=explicit)
    if element.tag == ITEM_DELIMITATION:
        stack.pop()
        return offset + 8
    if element.length == UNDEFINED:
        stack.append(_kind(element, explicit=explicit))
        return element.value
    return element.end


def _item(source: Source, offset: int) -> tuple[int, int]:
    group, number, length = struct.unpack("<HHL", _bytes(source, offset, 8))
    tag = group << 16 | number
    if tag == ITEM and length != UNDEFINED and offset + 8 + length > source.end:
        raise corrupt(f"an Item claims {length} bytes, the file ends after {source.end - offset - 8}")
    return tag, length


def _bytes(source: Source, offset: int, length: int) -> bytes:
    if offset + length > source.end:
        raise corrupt(f"the file ends in the middle of an element, at byte {source.end}")
    return source.read(offset, length)
