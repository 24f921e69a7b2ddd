"""What differs between two data sets, by their bytes: shares no code with dcmpool, nor with pydicom.

Both are taken apart into their outermost elements. A Big Endian data set is turned first, a deflated one inflated.
"""

import struct
import zlib
from collections.abc import Iterator

DEFLATED = b"1.2.840.10008.1.2.1.99"
BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_LONG = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()
_WIDTHS = {1: b"", 2: b"US SS OW AT", 4: b"UL SL FL OF OL", 8: b"FD OD OV SV UV"}
_WIDTH = {vr: width for width, vrs in _WIDTHS.items() for vr in vrs.split()}


def differences(source: bytes, result: bytes) -> set[int]:
    """Give the tags of the outermost elements that are not byte for byte the same, or are in one alone."""
    before, after = dict(elements(data_set(source))), dict(elements(data_set(result)))
    return {tag for tag in before.keys() | after.keys() if before.get(tag) != after.get(tag)}


def data_set(file: bytes) -> bytes:
    """Give what follows the File Meta Information, Explicit VR Little Endian."""
    offset = 132 if file[128:132] == b"DICM" else 4 if file[:4] == b"DICM" else 0
    syntax = b""
    while file[offset : offset + 2] == b"\x02\x00":
        value, length = _value(file, offset, "<")
        if file[offset : offset + 4] == b"\x02\x00\x10\x00":
            syntax = file[value : value + length].strip(b"\x00 ")
        offset = value + length
    if syntax == DEFLATED:
        return zlib.decompressobj(-15).decompress(file[offset:])
    if syntax == BIG_ENDIAN or file[offset : offset + 2] == b"\x00\x08":
        return _turned(file[offset:])
    return file[offset:]


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give each outermost element's tag and all its bytes; zeros at the end have the tag 0."""
    offset = 0
    while offset < len(data):
        if not any(data[offset : offset + 8]):
            yield 0, data[offset:]
            return
        group, number = struct.unpack_from("<HH", data, offset)
        value, length = _value(data, offset, "<")
        end = value + length if length != 0xFFFFFFFF else _past(data, value)
        if end > len(data):
            raise ValueError(f"an element at byte {offset} does not end")
        yield group << 16 | number, data[offset:end]
        offset = end


def _value(data: bytes, offset: int, order: str) -> tuple[int, int]:
    """Give offset and length of the value of the element at `offset`."""
    vr = data[offset + 4 : offset + 6]
    if vr in _LONG:
        return offset + 12, int(struct.unpack_from(order + "L", data, offset + 8)[0])
    if vr.isalpha() and vr.isupper() and struct.unpack_from(order + "H", data, offset)[0] != 0xFFFE:
        return offset + 8, int(struct.unpack_from(order + "H", data, offset + 6)[0])
    return offset + 8, int(struct.unpack_from(order + "L", data, offset + 4)[0])


def _past(data: bytes, offset: int) -> int:
    """Give the offset after the delimiter that closes a sequence of undefined length."""
    depth = 1
    while depth:
        tag = data[offset : offset + 4]
        value, length = _value(data, offset, "<")
        if tag in (b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"):
            depth -= 1
            offset = value
        elif length == 0xFFFFFFFF:
            depth += 1
            offset = value
        else:
            offset = value + length
    return offset


def _turned(data: bytes) -> bytes:
    """Turn a Big Endian data set, or the inside of a sequence, into Little Endian (PS3.5 7.3)."""
    parts = []
    offset = 0
    while offset < len(data):
        value, length = _value(data, offset, ">")
        group, number = struct.unpack_from(">HH", data, offset)
        vr = data[offset + 4 : offset + 6] if group != 0xFFFE else b""
        end = len(data) if length == 0xFFFFFFFF else value + length
        head = struct.pack("<HH", group, number) + vr
        head += struct.pack("<H" if value - offset == 8 and vr else "<2xL" if vr else "<L", length)
        inside = vr == b"SQ" or group == 0xFFFE or length == 0xFFFFFFFF
        # What an undefined length encloses is a run of items and elements up to its delimiter: no level is needed.
        parts += [head, _turned(data[value:end]) if inside else _swapped(data[value:end], _WIDTH.get(vr, 1))]
        offset = end
    return b"".join(parts)


def _swapped(value: bytes, width: int) -> bytes:
    return b"".join(value[start : start + width][::-1] for start in range(0, len(value), width))
