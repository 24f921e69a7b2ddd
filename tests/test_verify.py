"""What was written wrongly does not pass."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dcmpool import engines, native, verify
from dcmpool.errors import Fault
from dcmpool.instance import inspect
from dcmpool.model import FailureKind
from dcmpool.source import open_source
from tests import reference
from tests.reference import element, encoded, real_slice, shipped, write

PRIVATE = element(0x00091010, b"LO", b"A PRIVATE VALUE!")
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
