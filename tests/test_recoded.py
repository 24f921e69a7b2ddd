"""Big Endian and deflated data sets become Explicit VR Little Endian, element by element the same."""

import os
import struct
import zlib
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dcmpool import deflated, native, verify
from dcmpool.errors import Fault
from dcmpool.instance import inspect
from dcmpool.model import FailureKind, Outcome
from dcmpool.source import open_source
from tests import reference
from tests.reference import Made, decompress, element, encapsulated, pixels, real_colour, real_slice

BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
FORMATS = {"AT": ">HH", "US": ">H", "SS": ">h", "UL": ">L", "SL": ">l", "FL": ">f", "FD": ">d"}
# One element of each kind, as its bytes are in either order.
BOTH = [
    (0x00080005, "CS", b"ISO_IR 100", b"ISO_IR 100"),
    (0x00091010, "UL", b"\x04\x03\x02\x01\x08\x07\x06\x05", b"\x01\x02\x03\x04\x05\x06\x07\x08"),
    (0x00091011, "FD", struct.pack("<d", -1.5), struct.pack(">d", -1.5)),
    (0x00091012, "UN", b"\x01\x02\x03\x04", b"\x01\x02\x03\x04"),
    (0x00280009, "AT", b"\x18\x00\x63\x10", b"\x00\x18\x10\x63"),
    (0x00281201, "OW", b"\x01\x02\x03\x04", b"\x02\x01\x04\x03"),
    (0x00540001, "OV", bytes(range(8)), bytes(range(7, -1, -1))),
    (0x00540002, "OF", bytes(range(4)), bytes(range(3, -1, -1))),
    (0x7FE00010, "OW", b"\x10\x11\x12\x13", b"\x11\x10\x13\x12"),
]
LONG = ("OB", "OW", "OV", "OF", "UN", "SQ")


def one(order: str, tag: int, vr: str, value: bytes) -> bytes:
    head = struct.pack(f"{order}HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + struct.pack(f"{order}2xL" if vr in LONG else f"{order}H", len(value)) + value


def nested(order: str, inner: bytes, *, defined: bool) -> bytes:
    item = struct.pack(f"{order}HHL", 0xFFFE, 0xE000, len(inner) if defined else 0xFFFFFFFF) + inner
    if not defined:
        item += struct.pack(f"{order}HHL", 0xFFFE, 0xE00D, 0)
    if defined:
        return one(order, 0x00081140, "SQ", item)
    head = struct.pack(f"{order}HH2s2xL", 0x0008, 0x1140, b"SQ", 0xFFFFFFFF)
    return head + item + struct.pack(f"{order}HHL", 0xFFFE, 0xE0DD, 0)


def data_set(order: str, *, defined: bool) -> bytes:
    parts = [one(order, tag, vr, little if order == "<" else big) for tag, vr, little, big in BOTH]
    inside = nested(order, b"".join(parts[:3]), defined=not defined)
    return parts[0] + nested(order, inside + parts[1], defined=defined) + b"".join(parts[1:])


def file_of(uid: str, body: bytes) -> bytes:
    meta = element(0x00020010, b"UI", uid.encode())
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<L", len(meta))) + meta + body


def refusal(path: Path) -> Fault:
    with open_source(os.fsencode(path)) as source, pytest.raises(Fault) as caught:
        inspect(source)
    return caught.value


@pytest.mark.parametrize("defined", [True, False])
def test_a_big_endian_data_set_becomes_little_endian(defined: bool, tmp_path: Path) -> None:
    path = tmp_path / "big.dcm"
    path.write_bytes(file_of(BIG, data_set(">", defined=defined)))
    result = decompress(path, tmp_path).read_bytes()
    assert result.endswith(data_set("<", defined=defined))
    assert b"1.2.840.10008.1.2.1\x00" in result[:300]


def test_big_endian_without_file_meta_is_known_by_its_first_element(tmp_path: Path) -> None:
    path = tmp_path / "big.dcm"
    path.write_bytes(data_set(">", defined=True))
    assert decompress(path, tmp_path).read_bytes().endswith(data_set("<", defined=True))


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_big_endian_data_set_cut_anywhere_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "big.dcm"
    body = data_set(">", defined=True)
    lengths = [len(one(">", tag, vr, big)) for tag, vr, _, big in reversed(BOTH)]
    path.write_bytes(file_of(BIG, body[:-cut]))
    if cut not in accumulate(lengths):  # between two elements nothing is missed
        assert refusal(path).kind is FailureKind.CORRUPT


def test_every_range_of_a_view_is_the_same(tmp_path: Path) -> None:
    body, want = data_set(">", defined=False), data_set("<", defined=False)
    path = tmp_path / "big.dcm"
    path.write_bytes(file_of(BIG, body))
    start = len(file_of(BIG, b""))
    with open_source(os.fsencode(path)) as source:
        inspect(source)
        source.held = b""
        for first in range(0, len(want), 7):
            for last in range(first, len(want) + 1, 5):
                view = source._view
                assert view is not None
                assert view.read(first, last - first) == want[first:last]
    assert start == 132 + 12 + 28


@pytest.mark.parametrize("at", range(len(data_set("<", defined=True))))
def test_a_wrong_byte_in_a_recoded_result_is_seen(at: int, tmp_path: Path) -> None:
    path, result = tmp_path / "big.dcm", tmp_path / "result.dcm"
    path.write_bytes(file_of(BIG, data_set(">", defined=True)))
    fd = os.open(result, os.O_RDWR | os.O_CREAT)
    try:
        with open_source(os.fsencode(path)) as source:
            instance = inspect(source)
            written = native.write_native(fd, source, instance, ())
            verify.check(fd, source, instance, written)
            place = written.size - len(data_set("<", defined=True)) + at
            (byte,) = os.pread(fd, 1, place)
            os.pwrite(fd, bytes([byte ^ 1]), place)
            with pytest.raises(Fault):
                verify.check(fd, source, instance, written)
    finally:
        os.close(fd)


def deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def test_a_deflated_data_set_is_inflated(tmp_path: Path) -> None:
    native_file = Made(
        reference.EXPLICIT, real_slice()[None], [], pixel_data=element(0x7FE00010, b"OW", real_slice().tobytes())
    )
    body = native_file.data_set() + native_file.pixel_data
    path = tmp_path / "deflated.dcm"
    path.write_bytes(file_of(DEFLATED, reference.even(deflate(body))))
    result = decompress(path, tmp_path)
    assert result.read_bytes().endswith(body)
    assert np.array_equal(pixels(result)[0], real_slice())


def test_a_deflated_data_set_without_pixels_is_inflated(tmp_path: Path) -> None:
    path = tmp_path / "deflated.dcm"
    body = element(0x00080016, b"UI", b"1.2.3") + element(0x00100010, b"PN", b"A^B")
    path.write_bytes(file_of(DEFLATED, deflate(body)))
    with open_source(os.fsencode(path)) as source:
        found = inspect(source)
    assert (found.outcome, found.native_bytes, found.sop_class_uid) == (Outcome.DECOMPRESSED, 0, "1.2.3")
    assert decompress(path, tmp_path).read_bytes().endswith(body)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_deflated_data_set_that_is_cut_is_refused(part: float, tmp_path: Path) -> None:
    body = deflate(element(0x00080016, b"UI", b"1.2.3") + element(0x7FE00010, b"OW", os.urandom(5000)))
    path = tmp_path / "deflated.dcm"
    path.write_bytes(file_of(DEFLATED, body[: int(len(body) * part)]))
    assert refusal(path).kind is FailureKind.CORRUPT
    path.write_bytes(file_of(DEFLATED, body + b"more"))
    assert "follow the end" in refusal(path).reason


def test_a_large_deflated_data_set_is_read_in_bounded_memory(tmp_path: Path) -> None:
    size = 200 << 20
    head = element(0x00080016, b"UI", b"1.2.3") + struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OB", size)
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [deflater.compress(head)]
    parts += [deflater.compress(bytes([n]) * (1 << 20)) for n in range(200)]
    data = b"".join(parts) + deflater.flush()
    view = deflated.Inflated(lambda offset, length: data[offset : offset + length], 0, len(data))
    assert view.size == len(head) + size
    for n in (199, 3, 150, 70, 0, 120):  # forwards and back again
        assert view.read(len(head) + (n << 20), 1 << 20) == bytes([n]) * (1 << 20)
    assert len(view._marks) < 6
    assert len(view._piece) <= 1 << 20


@pytest.mark.parametrize("uid", [UNCOMPRESSED, DEFLATED_FRAME])
@pytest.mark.parametrize("kind", ["16 bit signed", "colour"])
def test_frames_that_need_no_codec(uid: str, kind: str, tmp_path: Path) -> None:
    frames = np.stack([real_slice(), real_slice()[::-1]]) if kind != "colour" else np.stack([real_colour()] * 3)
    pack = deflate if uid == DEFLATED_FRAME else bytes
    made = Made(uid, frames, [pack(frame.tobytes()) for frame in frames])
    assert np.array_equal(pixels(decompress(reference.write(tmp_path, made), tmp_path)), frames)


@pytest.mark.parametrize("uid", [UNCOMPRESSED, DEFLATED_FRAME, reference.RLE])
@pytest.mark.parametrize("columns", [16, 13])
def test_bits_of_several_frames_go_on_within_a_byte(uid: str, columns: int, tmp_path: Path) -> None:
    bits = np.random.default_rng(3).integers(0, 2, (3, 5, columns), "u1")
    packed = [np.packbits(frame, bitorder="little").tobytes() for frame in bits]
    packers: dict[str, Callable[[bytes], bytes]] = {UNCOMPRESSED: bytes, DEFLATED_FRAME: deflate}
    encode = packers.get(uid, rle_of_bytes)
    made = Made(uid, bits, [encode(frame) for frame in packed])
    path = reference.write(tmp_path, made)
    data = path.read_bytes()
    for tag in (0x00280100, 0x00280101):
        data = data.replace(reference.us(tag, 8), reference.us(tag, 1))
    path.write_bytes(data.replace(reference.us(0x00280102, 7), reference.us(0x00280102, 0)))
    found = pydicom.dcmread(decompress(path, tmp_path))
    assert np.array_equal(found.pixel_array, bits)
    assert found.PixelData == reference.even(np.packbits(bits, bitorder="little").tobytes())


def rle_of_bytes(data: bytes) -> bytes:
    literal = b"".join(bytes([len(data[n : n + 128]) - 1]) + data[n : n + 128] for n in range(0, len(data), 128))
    return struct.pack("<16L", 1, 64, *[0] * 14) + literal


@pytest.mark.parametrize("uid", [UNCOMPRESSED, DEFLATED_FRAME])
def test_a_plain_frame_of_another_length_is_refused(uid: str, tmp_path: Path) -> None:
    pack: Callable[[bytes], bytes] = deflate if uid == DEFLATED_FRAME else bytes
    whole = real_slice().tobytes()
    for wrong in (whole[:-2], whole + bytes(2)):
        made = Made(uid, real_slice()[None], [pack(wrong)])
        assert "are due" in refusal(reference.write(tmp_path, made)).reason
    stream = pack(real_slice().tobytes())
    made = Made(uid, real_slice()[None], [], pixel_data=encapsulated([stream[: len(stream) // 2]]))
    assert refusal(reference.write(tmp_path, made)).kind is FailureKind.CORRUPT
