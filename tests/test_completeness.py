"""A stream that lost bytes is refused, whatever engine decodes it; a whole one is decoded as it was encoded.

A scan that lost a few bytes may, by chance, be the whole scan of another picture: then nothing in it can tell. The
strict reader in `tests.huffman` says where that is so.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcmpool.codestream import TilePart
from dcmpool.errors import Fault
from dcmpool.instance import inspect
from dcmpool.jpeg import walk_jpeg
from dcmpool.jpeg2000 import walk_jpeg_2000
from dcmpool.model import FailureKind
from dcmpool.source import open_source
from tests import huffman, reference
from tests.reference import Array, Made, decompress, pixels, real_colour, real_slice, write
from tests.tiles import tiled

JPEG_XL = "1.2.840.10008.1.2.4.110"
JPEG_XL_LOSSY = "1.2.840.10008.1.2.4.112"
EXTENDED = "1.2.840.10008.1.2.4.51"
once = settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(made: Made, folder: Path, engine: str = "turbo") -> Array | None:
    """Return the pixels of the result, None where it is refused."""
    try:
        return pixels(decompress(write(folder, made), folder, engine))
    except Fault as fault:
        if fault.kind is not FailureKind.CORRUPT:
            raise
        return None


def eight_bit() -> Array:
    return np.asarray((real_slice() >> 3).clip(0, 255), "u1")


def twelve_bit() -> Array:
    return np.asarray((real_slice().astype("i4") + 1024).clip(0, 4095), "u2")


def lossy_colour(subsampling: str) -> bytes:
    planes = [eight_bit(), eight_bit()[::-1], eight_bit()[:, ::-1]]
    return bytes(imagecodecs.jpeg8_encode(np.stack(planes, -1), level=90, subsampling=subsampling))


STREAMS: dict[str, tuple[str, Callable[[], tuple[Array, bytes]]]] = {
    "lossless": (reference.LOSSLESS_SV1, lambda: (real_slice(), reference.jpeg_lossless(real_slice(), 1))),
    "lossless, predictor 4": (reference.LOSSLESS, lambda: (real_slice(), reference.jpeg_lossless(real_slice(), 4))),
    "lossless, 12 bit": (reference.LOSSLESS, lambda: (twelve_bit(), reference.jpeg_lossless(twelve_bit(), 7, 12))),
    "baseline": (reference.BASELINE, lambda: (eight_bit(), bytes(imagecodecs.jpeg8_encode(eight_bit(), level=90)))),
    "baseline 444": (reference.BASELINE, lambda: (np.zeros((128, 128, 3), "u1"), lossy_colour("444"))),
    "baseline 420": (reference.BASELINE, lambda: (np.zeros((128, 128, 3), "u1"), lossy_colour("420"))),
    "extended": (
        EXTENDED,
        lambda: (twelve_bit(), bytes(imagecodecs.jpeg8_encode(twelve_bit(), level=90, bitspersample=12))),
    ),
}
ENGINES = {"turbo": list(STREAMS), "gdcm": ["lossless", "lossless, 12 bit", "baseline", "baseline 444"]}
CASES = [(engine, kind) for engine, kinds in ENGINES.items() for kind in kinds]


def instance(kind: str, stream: bytes) -> Made:
    uid, make = STREAMS[kind]
    frame = make()[0]
    colour = "YBR_FULL_422" if frame.ndim == 3 else ""
    return Made(uid, frame[None], [stream], photometric_interpretation=colour, bits_stored=12 if "12" in kind else 0)


@pytest.mark.parametrize(("engine", "kind"), CASES)
def test_a_whole_stream_is_decoded(engine: str, kind: str, tmp_path: Path) -> None:
    frame, stream = STREAMS[kind][1]()
    assert huffman.is_whole(stream)
    found = outcome(instance(kind, stream), tmp_path, engine)
    assert found is not None
    if "lossless" in kind:
        assert np.array_equal(found[0], frame)


@pytest.mark.parametrize(("engine", "kind"), CASES)
@once
@given(data=st.data())
def test_a_scan_that_lost_bytes_is_refused(engine: str, kind: str, tmp_path: Path, data: st.DataObject) -> None:
    stream = STREAMS[kind][1]()[1]
    scan = walk_jpeg(stream).scans[0]
    lost = data.draw(st.sampled_from((1, 2, 3, 7, 30, 400)))
    start = data.draw(st.integers(scan.start, scan.stop - lost))
    cut = stream[:start] + stream[start + lost :]
    if outcome(instance(kind, cut), tmp_path, engine) is not None:
        assert huffman.is_whole(cut)


@pytest.mark.parametrize(("engine", "kind"), CASES)
@once
@given(data=st.data())
def test_a_scan_cut_short_is_refused(engine: str, kind: str, tmp_path: Path, data: st.DataObject) -> None:
    stream = STREAMS[kind][1]()[1]
    scan = walk_jpeg(stream).scans[0]
    cut = stream[: data.draw(st.integers(scan.start + 1, scan.stop - 1))] + b"\xff\xd9"
    assert outcome(instance(kind, cut), tmp_path, engine) is None


@pytest.mark.parametrize("kind", ["lossless", "lossless, 12 bit", "baseline", "baseline 420"])
@pytest.mark.parametrize("more", [b"\x00\x00", b"\x55\x12\x34\x77"])
def test_a_scan_that_goes_on_is_refused(kind: str, more: bytes, tmp_path: Path) -> None:
    stream = STREAMS[kind][1]()[1]
    assert outcome(instance(kind, stream[:-2] + more + stream[-2:]), tmp_path) is None
    assert outcome(instance(kind, stream[:-2] + b"\xff\xff\xff" + stream[-2:]), tmp_path) is not None  # fill bytes


def test_a_picture_that_ends_in_flat_colour_is_whole(tmp_path: Path) -> None:
    """Its optimised tables have one code for flat chrominance: no byte put for the last one changes the picture."""
    grey = np.repeat(eight_bit()[:100, :100, None], 3, axis=2)
    stream = bytes(imagecodecs.jpeg8_encode(grey, level=90, subsampling="420", optimize=True))
    made = Made(reference.BASELINE, grey[None], [stream], photometric_interpretation="YBR_FULL_422")
    assert outcome(made, tmp_path) is not None
    made.fragments = [stream[:-2] + b"\x00" + stream[-2:]]
    assert outcome(made, tmp_path) is None


@once
@given(
    bits=st.integers(2, 16),
    predictor=st.integers(1, 7),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    colour=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_lossless_jpeg_is_decoded(
    bits: int, predictor: int, shape: tuple[int, int], colour: bool, seed: int, tmp_path: Path
) -> None:
    kind = "u1" if bits <= 8 else "u2"
    size = (*shape, 3) if colour else shape
    frame = np.random.default_rng(seed).integers(0, 1 << bits, size, kind)
    stream = reference.jpeg_lossless(frame, predictor, bits)
    found = outcome(Made(reference.LOSSLESS, frame[None], [stream], bits_stored=bits), tmp_path)
    assert found is not None
    assert np.array_equal(found[0], frame)


def cut_out(stream: bytes, part: TilePart, start: int, lost: int) -> bytes:
    """Take bytes out of a tile-part, and set its length right again."""
    length = struct.pack(">L", part.stop - part.start - lost)
    return stream[: part.start + 6] + length + stream[part.start + 10 : start] + stream[start + lost :]


JPEG_2000_STREAMS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "JPEG 2000": (reference.JPEG_2000, lambda: reference.ENCODERS[reference.JPEG_2000](real_slice())),
    "HTJ2K": (reference.HTJ2K, lambda: reference.ENCODERS[reference.HTJ2K](real_slice())),
    "4 tiles": (reference.JPEG_2000, lambda: tiled(real_slice())),
    "4 tiles of 3 parts": (reference.JPEG_2000, lambda: tiled(real_slice(), parts=3)),
}


@pytest.mark.parametrize("kind", JPEG_2000_STREAMS)
@once
@given(data=st.data())
def test_a_tile_that_lost_bytes_is_refused(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    uid, make = JPEG_2000_STREAMS[kind]
    stream = make()
    part = data.draw(st.sampled_from(walk_jpeg_2000(stream).tile_parts))
    lost = data.draw(st.sampled_from((1, 2, 16, 300)))
    start = data.draw(st.integers(stream.index(b"\xff\x93", part.start) + 2, part.stop - lost))
    found = outcome(Made(uid, real_slice()[None], [cut_out(stream, part, start, lost)]), tmp_path)
    assert found is None or np.array_equal(found[0], real_slice())


@pytest.mark.parametrize("kind", JPEG_2000_STREAMS)
def test_whole_tiles_are_decoded(kind: str, tmp_path: Path) -> None:
    uid, make = JPEG_2000_STREAMS[kind]
    found = outcome(Made(uid, real_slice()[None], [make()]), tmp_path)
    assert found is not None
    assert np.array_equal(found[0], real_slice())


@pytest.mark.parametrize("layers", [1, 20, 300])
@pytest.mark.parametrize("empty", [b"\x00", b"\x80"])
def test_a_blank_picture_is_whole(layers: int, empty: bytes, tmp_path: Path) -> None:
    """Its packets, one for each layer of each resolution, hold nothing (T.800 B.10.3), so that none is missed."""
    frame = np.full((64, 64), 1 << 15, "u2")
    stream = reference.ENCODERS[reference.JPEG_2000](frame)
    style = stream.index(b"\xff\x52")
    header = stream[: style + 6] + struct.pack(">H", layers) + stream[style + 8 : stream.index(b"\xff\x90")]
    body = b"\xff\x93" + (stream[style + 9] + 1) * layers * empty
    part = struct.pack(">HHHLBB", 0xFF90, 10, 0, 12 + len(body), 0, 1)
    found = outcome(Made(reference.JPEG_2000, frame[None], [header + part + body + b"\xff\xd9"]), tmp_path)
    assert found is not None
    assert np.array_equal(found[0], frame)


@pytest.mark.parametrize("uid", [reference.JPEG_LS, JPEG_XL])
@once
@given(data=st.data())
def test_a_stream_that_lost_bytes_is_refused(uid: str, tmp_path: Path, data: st.DataObject) -> None:
    stream = jpeg_xl(real_slice()) if uid == JPEG_XL else reference.ENCODERS[uid](real_slice())
    lost = data.draw(st.sampled_from((16, 30, 400)))
    start = data.draw(st.integers(60, len(stream) - 2 - lost))
    assert outcome(Made(uid, real_slice()[None], [stream[:start] + stream[start + lost :]]), tmp_path) is None


def jpeg_xl(frame: Array) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(reference.unsigned(frame), lossless=True))


@pytest.mark.parametrize("kind", ["16 bit signed", "8 bit", "8 bit colour"])
def test_jpeg_xl_is_decoded(kind: str, tmp_path: Path) -> None:
    frames = {"16 bit signed": real_slice()[None, :99], "8 bit": eight_bit()[None], "8 bit colour": real_colour()[None]}
    frame = frames[kind]
    found = outcome(Made(JPEG_XL, frame, [jpeg_xl(frame[0])]), tmp_path)
    assert found is not None
    assert np.array_equal(found, frame)


@pytest.mark.parametrize("part", [1, 2, 5, 9, 40, 1000, 5000])
def test_a_jpeg_xl_stream_cut_short_is_refused(part: int, tmp_path: Path) -> None:
    stream = jpeg_xl(real_slice())
    assert outcome(Made(JPEG_XL, real_slice()[None], [stream[:part]]), tmp_path) is None
    found = outcome(Made(JPEG_XL, real_slice()[None], [stream[:-part]]), tmp_path)
    assert found is None or (part == 1 and np.array_equal(found[0], real_slice()))  # a pad of 00 may put it right


def jpeg_xl_streams() -> dict[str, bytes]:
    """Return `eight_bit` as JPEG XL in all forms: modular and VarDCT, bare and boxed, and a JPEG that was packed anew.

    The boxes of the last three come in an order of ours: what ISO/IEC 18181-2 allows behind the codestream, the
    codestream in two parts that part in its head, and with nothing in its last part.
    """
    frame = eight_bit()
    bare = bytes(imagecodecs.jpegxl_encode(frame, lossless=True))
    signature, box = bytes.fromhex("0000000c4a584c200d0a870a"), struct.Struct(">L4s")
    kind = box.pack(20, b"ftyp") + b"jxl \0\0\0\0jxl "
    empty, foreign = box.pack(12, b"jxlp") + b"\x80\0\0\1", box.pack(10, b"\xa9nam") + b"\0\1"
    parts = b"".join(
        box.pack(12 + len(part), b"jxlp") + number + part
        for number, part in ((b"\0\0\0\0", bare[:3]), (b"\x80\0\0\1", bare[3:]))
    )
    return {
        "bare": bare,
        "boxed": bytes(imagecodecs.jpegxl_encode(frame, lossless=True, usecontainer=True)),
        "lossy": bytes(imagecodecs.jpegxl_encode(frame, distance=2.0)),
        "of a JPEG": bytes(imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(frame, level=90))),
        "box behind": signature + kind + box.pack(8 + len(bare), b"jxlc") + bare + box.pack(12, b"Exif") + bytes(4),
        "two parts": signature + kind + parts,
        "empty part": signature + kind + box.pack(12 + len(bare), b"jxlp") + bytes(4) + bare + empty + foreign,
    }


JPEG_XL_FORMS = ["bare", "boxed", "lossy", "of a JPEG", "box behind", "two parts", "empty part"]


@pytest.mark.parametrize("form", JPEG_XL_FORMS)
def test_what_follows_a_jpeg_xl_codestream_is_not_passed_over(form: str, tmp_path: Path) -> None:
    """Least of all another one, as where Number of Frames was lost: libjxl decodes the first, without a word."""
    streams = jpeg_xl_streams()
    frame, stream = eight_bit()[None], streams[form]
    uid = JPEG_XL if form not in ("lossy", "of a JPEG") else JPEG_XL_LOSSY
    found = outcome(Made(uid, frame, [stream]), tmp_path)
    assert found is not None
    if uid == JPEG_XL:
        assert np.array_equal(found, frame)
    for more in (*streams.values(), b"\1\2", bytes(40) + b"\1\2"):
        assert outcome(Made(uid, frame, [stream + more]), tmp_path) is None, more[:20]
        assert outcome(Made(uid, frame, [reference.even(stream), more]), tmp_path) is None, more[:20]
    for padding in (b"\0", b"\xff", bytes(6)):
        assert outcome(Made(uid, frame, [stream + padding]), tmp_path) is not None, padding


@pytest.mark.parametrize("engine", ["gdcm", "gdcmconv"])
@pytest.mark.parametrize("bits", [9, 12, 15])
@settings(once, max_examples=15)
@given(data=st.data())
def test_samples_outside_their_range_are_not_hidden(
    engine: str, bits: int, tmp_path: Path, data: st.DataObject
) -> None:
    """A bit turned over in a difference leads out of the range; GDCM cuts such samples down to it, without a word."""
    frame = (twelve_bit()[:32, :32] >> 1) & ((1 << bits) - 1)
    stream = reference.jpeg_lossless(frame, 1, bits)
    scan = walk_jpeg(stream).scans[0]
    at = data.draw(st.integers(scan.start, scan.stop - 3))
    changed = stream[:at] + bytes([stream[at] ^ 1 << data.draw(st.integers(0, 7))]) + stream[at + 1 :]
    made = Made(reference.LOSSLESS, frame[None], [changed], bits_stored=bits)
    found, strict = outcome(made, tmp_path, engine), outcome(made, tmp_path, "turbo")
    assert found is None or (strict is not None and np.array_equal(found, strict))


@pytest.mark.parametrize("engine", ["turbo", "gdcm"])
@pytest.mark.parametrize("precision", [2, 8, 9, 12, 15])
def test_a_precision_that_was_damaged_makes_no_other_picture(engine: str, precision: int, tmp_path: Path) -> None:
    stream = reference.jpeg_lossless(real_slice(), 1)
    at = stream.index(b"\xff\xc3") + 4
    made = Made(reference.LOSSLESS, real_slice()[None], [stream[:at] + bytes([precision]) + stream[at + 1 :]])
    assert outcome(made, tmp_path, engine) is None


def sampled(stream: bytes, *factors: int) -> bytes:
    """Give a lossless stream with these sampling factors in its frame header."""
    at = stream.index(b"\xff\xc3") + 11
    changed = bytearray(stream)
    changed[at : at + 3 * len(factors) : 3] = bytes(factors)
    return bytes(changed)


@pytest.mark.parametrize("factors", [0x21, 0x12, 0x22, 0x44])
def test_sampling_factors_of_one_component_say_nothing(factors: int, tmp_path: Path) -> None:
    """T.81 A.2.2; but a stream that has them must be whole as any other."""
    stream = sampled(reference.jpeg_lossless(real_slice(), 1), factors)
    found = outcome(Made(reference.LOSSLESS, real_slice()[None], [stream]), tmp_path)
    assert found is not None
    assert np.array_equal(found[0], real_slice())
    cut = stream[: len(stream) // 2] + stream[len(stream) // 2 + 64 :]
    assert outcome(Made(reference.LOSSLESS, real_slice()[None], [cut]), tmp_path) is None


@pytest.mark.parametrize("engine", ["turbo", "gdcm", "gdcmconv"])
@pytest.mark.parametrize("factors", [(0x21, 0x11, 0x11), (0x22, 0x11, 0x11), (0x12, 0x11, 0x11), (0x21, 0x21, 0x21)])
def test_lossless_colour_that_says_it_is_subsampled_is_refused(
    engine: str, factors: tuple[int, int, int], tmp_path: Path
) -> None:
    """PS3.5 8.2.1 knows none; libjpeg-turbo makes a picture of it whatever the scan holds."""
    frame = np.stack([eight_bit(), eight_bit()[::-1], eight_bit()[:, ::-1]], -1)
    stream = sampled(reference.jpeg_lossless(frame, 1), *factors)
    made = Made(reference.LOSSLESS, frame[None], [stream], photometric_interpretation="YBR_FULL")
    with open_source(os.fsencode(write(tmp_path, made))) as source:
        assert "subsampled" in inspect(source).flaw
