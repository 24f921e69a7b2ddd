"""An encapsulated Icon Image has no place in a native file: it is decoded, with the lengths around it."""

import os
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dcmpool.errors import Fault
from dcmpool.instance import inspect
from dcmpool.source import open_source
from tests import reference
from tests.reference import ENCODERS, Array, Made, decompress, element, encapsulated, encoded, real_colour, real_slice

UNDEFINED = b"\xff\xff\xff\xff"
PRIVATE = element(0x00091010, b"UN", b"\x00\x01private\xff")


def icon_item(uid: str, frame: Array, *, defined: bool, stream: bytes = b"") -> bytes:
    made = Made(uid, frame[None], [])
    body = made.data_set()[made.data_set().index(b"\x28\x00\x02\x00US") :]
    body = PRIVATE + body + encapsulated([stream or ENCODERS[uid](frame)])
    if defined:
        return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(body)) + body
    return b"\xfe\xff\x00\xe0" + UNDEFINED + body + b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"


def icon_sequence(items: bytes, *, defined: bool) -> bytes:
    head = b"\x88\x00\x00\x02SQ\x00\x00"
    if defined:
        return head + struct.pack("<L", len(items)) + items
    return head + UNDEFINED + items + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def with_icon(uid: str, frame: Array, icon: Array, *, item: bool, sequence: bool) -> Made:
    """Make an instance with an Icon Image; `item` and `sequence`: whether their lengths are defined."""
    whole = icon_sequence(icon_item(uid, icon, defined=item), defined=sequence)
    other = element(0x00880140, b"UI", b"1.2.3")
    group_length = element(0x00880000, b"UL", struct.pack("<L", len(other) + len(whole)))
    return encoded(uid, frame[None], tables=group_length + other + whole)


@pytest.mark.parametrize("uid", ENCODERS)
@pytest.mark.parametrize("item", [True, False])
@pytest.mark.parametrize("sequence", [True, False])
def test_the_icon_becomes_native(uid: str, item: bool, sequence: bool, tmp_path: Path) -> None:
    frame, icon = real_slice(), real_slice()[30:61, 20:52]
    made = with_icon(uid, frame, icon, item=item, sequence=sequence)
    result = decompress(reference.write(tmp_path, made), tmp_path)
    data_set = pydicom.dcmread(result)
    inner = data_set.IconImageSequence[0]
    assert np.array_equal(np.frombuffer(inner.PixelData, "<i2").reshape(31, 32), icon)
    assert not inner["PixelData"].is_undefined_length
    assert np.array_equal(data_set.pixel_array, frame)
    assert PRIVATE in result.read_bytes()
    after = result.read_bytes()
    start = after.index(b"\x88\x00\x00\x00UL\x04\x00") + 12
    (length,) = struct.unpack("<L", after[start - 4 : start])
    assert after[start + length :].startswith(b"\xe0\x7f\x10\x00OW")


def test_a_colour_icon_follows_its_own_colour(tmp_path: Path) -> None:
    frame = real_colour()
    whole = with_icon(reference.JPEG_2000, frame, frame[::-1], item=False, sequence=False)
    whole.tables = whole.tables.replace(b"CS\x04\x00RGB ", b"CS\x08\x00YBR_RCT ")
    length = whole.tables[8:12]
    whole.tables = whole.tables[:8] + struct.pack("<L", int.from_bytes(length, "little") + 4) + whole.tables[12:]
    inner = pydicom.dcmread(decompress(reference.write(tmp_path, whole), tmp_path)).IconImageSequence[0]
    assert inner.PhotometricInterpretation == "RGB"
    assert inner.PixelData == frame[::-1].tobytes() + b"\x00"


def test_an_icon_that_is_damaged_is_a_refusal(tmp_path: Path) -> None:
    item = icon_item(reference.JPEG_LS, real_slice()[:9, :9], defined=True, stream=b"\xff\xd8\xff\xf7")
    made = encoded(reference.JPEG_LS, real_slice()[None], tables=icon_sequence(item, defined=True))
    path = reference.write(tmp_path, made)
    with open_source(os.fsencode(path)) as source, pytest.raises(Fault, match=r"^Icon Image Sequence: Frame 1 of 1: "):
        inspect(source)


def test_a_native_icon_stays_as_it_is(tmp_path: Path) -> None:
    native = icon_item(reference.RLE, real_slice()[:9, :8], defined=True)
    native = native[: native.index(b"\xe0\x7f\x10\x00OB")] + element(0x7FE00010, b"OW", bytes(144))
    native = native[:4] + struct.pack("<L", len(native) - 8) + native[8:]
    sequence = icon_sequence(native, defined=False)
    made = encoded(reference.RLE, real_slice()[None], tables=sequence)
    assert sequence in decompress(reference.write(tmp_path, made), tmp_path).read_bytes()
