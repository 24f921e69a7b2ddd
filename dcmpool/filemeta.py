"""Where a DICOM file begins: preamble, File Meta Information (PS3.10 7.1) and the first element after them."""

from typing import Final

from dcmpool.dataset import UNDEFINED, Element, corrupt, element_at, name, shows_vr
from dcmpool.errors import Fault
from dcmpool.source import Source

TRANSFER_SYNTAX_UID: Final = 0x00020010


def find_file_meta(source: Source) -> tuple[bool, dict[int, Element], int] | None:
    """Find the File Meta Information (PS3.10 7.1): whether a preamble is there, its elements, the offset after.

    A file without "DICM" is DICOM when it starts as a data set does; None when it is not DICOM at all. Of elements that
    are there twice the first counts.

    Raises
    ------
    Fault
        CORRUPT where it is cut, or names two Transfer Syntaxes.
    """
    preamble = source.size >= 132 and source.read(128, 4) == b"DICM"
    offset = 132 if preamble else 0
    if not preamble and source.end >= 8 and source.read(0, 4) == b"DICM":
        offset = 4
    if not _starts_data_set(source, offset) and not is_big_endian(source, offset):
        return None
    meta: dict[int, Element] = {}
    while source.end - offset >= 8 and source.read(offset, 2) == b"\x02\x00":
        element = element_at(source, offset, explicit=True)
        if element.length == UNDEFINED:
            raise corrupt(f"{name(element.tag)} in the File Meta Information has no length")
        first = meta.setdefault(element.tag, element)
        if element.tag == TRANSFER_SYNTAX_UID and _uid(source, first) != _uid(source, element):
            raise corrupt(f"two Transfer Syntax UIDs {name(element.tag)} that differ: the file contradicts itself")
        offset = element.end
    return preamble, meta, offset


def _uid(source: Source, element: Element) -> bytes:
    return source.read(element.value, element.length).rstrip(b"\x00 ")


def is_big_endian(source: Source, offset: int) -> bool:
    """Tell whether a Big Endian data set without File Meta starts here: an element of group 0008 that shows a VR."""
    return shows_vr(source, offset) and source.read(offset, 2) == b"\x00\x08"


def _starts_data_set(source: Source, offset: int) -> bool:
    """Tell whether three elements in ascending order, or all there are, lie at `offset`, group 0002 or 0008 first."""
    tag = -1
    for _ in range(3):
        if source.end - offset < 8:
            return tag > 0 and offset == source.end
        group = int.from_bytes(source.read(offset, 2), "little")
        if tag >> 16 == 0x0002 and group != 0x0002:
            return True  # the data set after a File Meta Information may be deflated, or Big Endian
        try:
            element = element_at(source, offset, explicit=shows_vr(source, offset))
        except Fault:
            return False
        if element.tag <= tag or (tag < 0 and group not in (0x0002, 0x0008)):
            return False
        if element.length == UNDEFINED:
            return tag > 0
        tag, offset = element.tag, element.end
    return True
