"""What was written wrongly does not pass."""

import contextlib
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dcmpool import engines, native, verify
from dcmpool.errors import Fault
from dcmpool.instance import inspect
from dcmpool.model import FailureKind
from dcmpool.reread import Reread
from dcmpool.source import open_source
from tests import reference
from tests.reference import element, encoded, real_slice, shipped, write
from tests.test_icon import with_icon

PRIVATE = element(0x00091010, b"LO", b"A PRIVATE VALUE!")
SEQUENCE = (  # its length, and that of its item, undefined
    bytes.fromhex("08004011 5351 0000 FFFFFFFF FEFF00E0 FFFFFFFF")
    + element(0x00081150, b"UI", b"1.2.3")
    + bytes.fromhex("FEFF0DE0 00000000 FEFFDDE0 00000000")
)
COLOUR = element(0x00280004, b"CS", b"MONOCHROME2")


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        assert data.count(old) == 1
        return data.replace(old, new)

    return damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one bit of the Pixel Data": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "the last byte lost": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"\x00",
    "another value": replaced(b"A PRIVATE VALUE!", b"A PRIVATE VALUE?"),
    "an element lost": replaced(PRIVATE, b""),
    "another colour": replaced(COLOUR, element(0x00280004, b"CS", b"MONOCHROME1")),
    "another transfer syntax": replaced(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.5\x00"),
    "another tag order": replaced(PRIVATE, element(0x00051010, b"LO", b"A PRIVATE VALUE!")),
    "no preamble": lambda data: data[128:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("size_too", [False, True])
def test_damage_to_the_written_file_is_seen(damage: str, size_too: bool, tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None], before=PRIVATE))
    result = tmp_path / "result"
    fd = os.open(result, os.O_RDWR | os.O_CREAT)
    with open_source(os.fsencode(path)) as source:
        instance = inspect(source)
        frames = engines.decode("rle", instance, source, tmp_path)
        written = native.write_native(fd, source, instance, frames)
        verify.check(fd, source, instance, written)
        data = DAMAGE[damage](result.read_bytes())
        result.write_bytes(data)
        if size_too:  # as if the writer had counted what it wrongly wrote
            written = native.Written(len(data), written.native_bytes, written.digest)
        with pytest.raises(Fault) as caught:
            verify.check(fd, source, instance, written)
    os.close(fd)
    assert caught.value.kind is FailureKind.VERIFY


def test_damage_to_a_copy_is_seen(tmp_path: Path) -> None:
    result = tmp_path / "result"
    fd = os.open(result, os.O_RDWR | os.O_CREAT)
    with open_source(os.fsencode(shipped("CT_small.dcm"))) as source:
        instance = inspect(source)
        written = native.write_copy(fd, source)
        verify.check(fd, source, instance, written)
        os.pwrite(fd, b"?", 1000)
        with pytest.raises(Fault) as caught:
            verify.check(fd, source, instance, written)
    os.close(fd)
    assert caught.value.kind is FailureKind.VERIFY


def deletions_and_changes(data: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(len(data)):
        for bits in (0x20, 0x01, 0x0C) if at < 400 else (0x20,):  # "UI" becomes "QI", "UL" becomes "UM", ...
            yield at, data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]
    for at in range(0, len(data) - 2, 7):
        yield at, data[:at] + data[at + 2 :]


def plain() -> reference.Made:
    frame = np.random.default_rng(1).integers(0, 256, (1, 5, 5, 3), "u1")
    tables = element(0x7FE00000, b"UL", bytes(4)) + element(0x7FE00001, b"OV", bytes(8))
    return encoded(
        reference.RLE, frame, before=SEQUENCE + PRIVATE, tables=tables, after=element(0xFFFCFFFC, b"OB", b"0123")
    )


def iconic(*, defined: bool) -> reference.Made:
    frame = np.random.default_rng(1).integers(0, 256, (5, 5), "u1")
    return with_icon(reference.RLE, frame, frame[1:4, 1:4], item=defined, sequence=defined)


def poor() -> bytes:
    """A File Meta that does not say what a result's has to: its UIDs are then those of the data set."""
    data = plain().to_bytes()
    start, end = (data.index(struct.pack("<HH", 0x0002, number)) for number in (0x0001, 0x0010))
    (length,) = struct.unpack_from("<L", data, 140)
    return data[:140] + struct.pack("<L", length - (end - start)) + data[144:start] + data[end:]


MADE: dict[str, Callable[[], bytes]] = {
    "plain": lambda: plain().to_bytes(),
    "poor": poor,
    "icon": lambda: iconic(defined=False).to_bytes(),
    "icon of defined length": lambda: iconic(defined=True).to_bytes(),
}


@pytest.mark.parametrize("kind", MADE)
def test_no_byte_of_a_result_can_differ_unseen(kind: str, tmp_path: Path) -> None:
    """Every byte but those that no source decides: our own name in the File Meta, and what pads Pixel Data."""
    path, result = tmp_path / "made.dcm", tmp_path / "result"
    path.write_bytes(MADE[kind]())
    fd = os.open(result, os.O_RDWR | os.O_CREAT)
    unseen = []
    with open_source(os.fsencode(path)) as source:
        instance = inspect(source)
        written = native.write_native(fd, source, instance, engines.decode("rle", instance, source, tmp_path))
        verify.check(fd, source, instance, written)
        whole = result.read_bytes()
        for at, data in deletions_and_changes(whole):
            result.write_bytes(data)
            counted = native.Written(
                len(data), written.native_bytes, written.digest, written.icon_digest, written.bits_stored
            )
            with contextlib.suppress(Fault):
                verify.check(fd, source, instance, counted)
                unseen.append(at)
    os.close(fd)
    free = set()
    for own in (native.IMPLEMENTATION_CLASS_UID.encode(), native.IMPLEMENTATION_VERSION_NAME.encode()):
        at = whole.index(own)
        free |= {*range(at, at + len(own) + len(own) % 2)}
    heads = [match.end() for match in re.finditer(rb"\xe0\x7f\x10\x00O[BW]..(?=....)", whole, re.DOTALL)]
    for head in heads:
        (length,) = struct.unpack_from("<L", whole, head)
        free.add(head + 4 + length - 1)
    assert set(unseen) <= free


def test_the_length_of_an_item_is_not_taken_for_a_vr(tmp_path: Path) -> None:
    """16,708 bytes are "DA" in its first two; an Item shows no VR (PS3.5 7.5)."""
    file = tmp_path / "item"
    file.write_bytes(bytes.fromhex("FEFF00E0") + b"DA\0\0" + bytes(16708))
    fd = os.open(file, os.O_RDONLY)
    reread = Reread(fd)
    assert reread.item(0, reread.size) == (8, 8 + 16708)
    os.close(fd)
