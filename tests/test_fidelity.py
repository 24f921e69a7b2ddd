"""The promise of docs/fidelity.md through the command line: pixels as before compression, headers as in the source,
and never a wrong picture from a stream that lost bytes. Many files in one run each."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

from tests import huffman, lossless, reference
from tests.command import Command, own_command
from tests.elements import differences
from tests.reference import ENCODERS, Array, Made, pixels, shipped, unsigned, write

command = pytest.fixture(own_command)

JPEG_XL = "1.2.840.10008.1.2.4.110"
UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.112")
MAY_DIFFER = {0x00280004, 0x00280006, 0x7FE00000, 0x7FE00001, 0x7FE00002, 0x7FE00010}
ICON = {0x00880000, 0x00880200}
OF_JPEG_2000 = {0x00280101, 0x00280102, 0x00280103}
MEAN_ERROR = 3.0
"""What lossy samples may differ by on average, of 256: sharp edges with halved chrominance cost the most."""
RANDOM_FILES, CUT_FILES = 60, 8

Encoder = Callable[[Array], bytes]


def deflate(frame: Array) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(frame.tobytes()) + packer.flush()


ALL_ENCODERS: dict[str, Encoder] = {
    **ENCODERS,
    JPEG_XL: lambda frame: bytes(imagecodecs.jpegxl_encode(unsigned(frame), lossless=True)),
    UNCOMPRESSED: lambda frame: frame.tobytes(),
    DEFLATED_FRAME: deflate,
    NEAR_LOSSLESS: lambda frame: bytes(imagecodecs.jpegls_encode(unsigned(frame), level=2)),
    LOSSY[0]: lambda frame: bytes(imagecodecs.jpeg8_encode(frame, level=95)),
    LOSSY[1]: lambda frame: bytes(imagecodecs.jpeg8_encode(frame, level=95, bitspersample=12)),
    LOSSY[2]: lambda frame: bytes(imagecodecs.jpeg2k_encode(frame, level=60, codecformat="J2K", reversible=False)),
    LOSSY[3]: lambda frame: bytes(imagecodecs.jpegxl_encode(frame, distance=0.5)),
}


def native(name: str) -> Array:
    """Give the pixels that lie in a file of pydicom's, (rows, columns[, 3]), a part of it where it is large."""
    data_set = pydicom.dcmread(shipped(name))
    array = data_set.pixel_array
    frame: Array = array[0] if int(data_set.get("NumberOfFrames", 1)) > 1 else array
    return np.ascontiguousarray(frame[:100, :120])


CT, MR, RGB = native("CT_small.dcm"), native("MR_small.dcm"), native("SC_rgb_small_odd.dcm")
TWELVE = (MR >> 4).clip(0, 4095).astype(np.uint16)
# Photometric Interpretation, Bits Stored, Frame: real pictures, of which the table makes one or three Frames each.
PICTURES: dict[str, tuple[str, int, Array]] = {
    "CT 16 signed": ("MONOCHROME2", 16, CT),
    "MR 16 signed": ("MONOCHROME1", 16, MR),
    "MR 12": ("MONOCHROME2", 12, TWELVE),
    "MR 8": ("MONOCHROME1", 8, (TWELVE >> 4).astype(np.uint8)),
    "CT odd": ("MONOCHROME2", 16, np.ascontiguousarray(CT[:63, :61])),
    "palette 8": ("PALETTE COLOR", 8, native("examples_palette.dcm")),
    "RGB 8 odd": ("RGB", 8, RGB),
    "RGB 8": ("RGB", 8, native("examples_rgb_color.dcm")),
    "RGB 16": ("RGB", 16, RGB.astype(np.uint16) * 257),
}
DOSE = native("rtdose.dcm")
REVERSIBLE = (*ENCODERS, JPEG_XL, UNCOMPRESSED, DEFLATED_FRAME)


def made(uid: str, colour: str, stored: int, frames: Sequence[Array]) -> Made:
    transformed = {reference.JPEG_2000: "YBR_RCT", LOSSY[2]: "YBR_ICT", LOSSY[0]: "YBR_FULL"}
    if colour == "RGB":
        colour = transformed.get(uid, colour)
    streams = [ALL_ENCODERS[uid](np.ascontiguousarray(frame)) for frame in frames]
    return Made(uid, np.stack(frames), streams, photometric_interpretation=colour, bits_stored=stored)


def rows() -> dict[str, tuple[Made, int]]:
    """Make the table: Transfer Syntax x Photometric Interpretation x bits x Frames, and what a sample may differ by;
    -1 where the encoder is lossy without a bound."""
    table: dict[str, tuple[Made, int]] = {}
    for name, (colour, stored, frame) in PICTURES.items():
        for uid in REVERSIBLE:
            if uid == reference.HTJ2K and stored == 12:
                continue  # its encoder writes whole bytes
            for frames in ([frame], [frame, frame[::-1], frame[:, ::-1]]):
                table[f"{uid} {name} {len(frames)}"] = made(uid, colour, stored, frames), 0
        if colour != "RGB":
            table[f"{NEAR_LOSSLESS} {name}"] = made(NEAR_LOSSLESS, colour, stored, [frame]), 2
    for name in ("MR 8", "RGB 8"):
        colour, stored, frame = PICTURES[name]
        for uid in (LOSSY[0], LOSSY[2], LOSSY[3]):
            table[f"{uid} {name}"] = made(uid, colour, stored, [frame]), -1
    table["extended 12"] = made(LOSSY[1], "MONOCHROME2", 12, [TWELVE]), -1
    for uid in (UNCOMPRESSED, DEFLATED_FRAME):
        table[f"{uid} dose 32"] = made(uid, "MONOCHROME2", 32, [DOSE, DOSE[::-1]]), 0
    return table


def result_of(command: Command, name: str) -> Path:
    return command.path / "native" / f"{name}.dcm"


def run(command: Command, files: dict[str, Made]) -> set[str]:
    """Decompress all in one run; give the names of those that were refused, each with its reason."""
    (command.path / "source").mkdir()
    for name, instance in files.items():
        write(command.path / "source", instance, f"{name}.dcm")
    ended = command.run("run", "source", "-o", "native", "--json")
    refused = {path.removesuffix(".dcm") for path in ended.failed}
    assert all(item["reason"] for item in ended.failed.values())
    done = {path.stem for path in (command.path / "native").glob("*.dcm")}
    assert done | refused == set(files)
    assert not done & refused
    return refused


def test_the_reference_table(command: Command) -> None:
    table = rows()
    assert run(command, {name: instance for name, (instance, _) in table.items()}) == set()
    wrong = {}
    for name, (instance, allowed) in table.items():
        found, due = pixels(result_of(command, name)), instance.frames
        error = np.abs(found.astype(np.int64) - due) if found.shape == due.shape else np.array([1 << 32])
        good = error.max() <= allowed if allowed >= 0 else error.mean() < MEAN_ERROR
        source = (command.path / "source" / f"{name}.dcm").read_bytes()
        other = differences(source, result_of(command, name).read_bytes()) - MAY_DIFFER
        if not good or other:
            wrong[name] = (error.max(), error.mean(), other)
    assert wrong == {}


def random_file(random: np.random.Generator) -> tuple[Made, Array]:
    """Draw one instance; give also the pixels due."""
    uid = str(random.choice([*REVERSIBLE, "T.81"]))
    bits = int(random.choice([8, 16] if uid == reference.HTJ2K else [8, 12, 16]))
    colour = bool(random.integers(2))
    shape = (*map(int, random.integers(1, 40, 2)), *([3] if colour else []))
    if uid in (reference.JPEG_2000, reference.HTJ2K):  # OpenJPEG and OpenJPH write no wavelet over one sample or so
        shape = (shape[0] + 32, shape[1] + 32, *shape[2:])
    signed = bool(random.integers(2)) and not colour and bits == 16
    frame = random.integers(0, 1 << int(random.integers(1, bits + 1)), shape).astype("u1" if bits == 8 else "u2")
    frame = frame.view("i2") if signed else frame
    if uid != "T.81":
        return made(uid, "RGB" if colour else "MONOCHROME2", bits, [frame]), frame
    transform = int(random.integers(0, 3))
    stream = lossless.encode(
        unsigned(frame), bits, int(random.integers(1, 8)), transform, int(random.integers(0, frame.shape[0] + 1))
    )
    due = (unsigned(frame) >> transform << transform).view(frame.dtype)
    return Made(reference.LOSSLESS, frame[None], [stream], bits_stored=bits), due


@pytest.mark.parametrize("seed", [1, 2])
def test_random_pixels_come_back(command: Command, seed: int) -> None:
    random = np.random.default_rng(seed)
    drawn = {f"{number:03}": random_file(random) for number in range(RANDOM_FILES)}
    assert run(command, {name: instance for name, (instance, _) in drawn.items()}) == set()
    wrong = [name for name, (_, due) in drawn.items() if not np.array_equal(pixels(result_of(command, name))[0], due)]
    assert [(name, drawn[name][0].uid) for name in wrong] == []


MARKER = {reference.RLE: 0, UNCOMPRESSED: 0, DEFLATED_FRAME: 0, JPEG_XL: 0}
"""Bytes of the end marker of a codestream; 2 where it is not named here."""


def cut(random: np.random.Generator, stream: bytes, marker: int) -> bytes:
    """Take 16 bytes or more from a stream: from its end, its end marker put back or not, or from its middle."""
    way = int(random.integers(3))
    start = int(random.integers(len(stream) // 8, len(stream) - 24))
    if way == 0:
        return stream[:start]
    if way == 1:
        return stream[:start] + stream[len(stream) - marker :]
    return stream[:start] + stream[min(start + int(random.integers(16, 200)), len(stream) - marker) :]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_stream_that_lost_bytes_is_never_another_picture(command: Command, seed: int) -> None:
    random = np.random.default_rng(seed)
    grey, colour = CT[40:80, 40:80], PICTURES["RGB 8"][2][:40, :40]
    files: dict[str, Made] = {}
    for uid in (*ALL_ENCODERS,):
        eight = uid in (LOSSY[0], LOSSY[3])
        frame = (unsigned(grey) >> 4).astype(np.uint8) if eight else TWELVE[:40, :40] if uid == LOSSY[1] else grey
        stored = 12 if uid == LOSSY[1] else frame.itemsize * 8
        for picture, (name, bits) in ((frame, ("MONOCHROME2", stored)), (colour, ("RGB", 8))):
            if picture is colour and uid == LOSSY[1]:
                continue
            whole = made(uid, name, bits, [np.ascontiguousarray(picture)])
            files[f"{uid} {name} whole"] = whole
            for number in range(CUT_FILES):
                lost = cut(random, whole.fragments[0], MARKER.get(uid, 2))
                files[f"{uid} {name} {number}"] = replace(whole, fragments=[lost])
    refused = run(command, files)
    assert [name for name in refused if name.endswith("whole")] == []
    done = [name for name in files if name not in refused and not name.endswith("whole")]
    for name in done:
        if files[name].uid == LOSSY[0] and huffman.is_whole(files[name].fragments[0]):
            continue  # by chance a whole scan of another picture: nothing in it can tell
        due = pixels(result_of(command, f"{name.rpartition(' ')[0]} whole"))
        assert np.array_equal(pixels(result_of(command, name)), due), name
    assert len(done) < len(files) // 20


def test_more_pictures_than_frames_are_refused(command: Command) -> None:
    """Where Number of Frames is too small nobody can tell which of the pictures is due, and none may be dropped."""
    files: dict[str, Made] = {}
    for uid in ALL_ENCODERS:
        frame = TWELVE if uid == LOSSY[1] else (TWELVE >> 4).astype(np.uint8)
        stored = 12 if uid == LOSSY[1] else 8
        one, two = (made(uid, "MONOCHROME2", stored, count * [frame]) for count in (1, 2))
        (stream,) = one.fragments
        files[f"{uid} in one fragment"] = replace(one, fragments=[stream + stream])
        files[f"{uid} in two fragments"] = replace(one, fragments=[stream, stream])
        files[f"{uid} in two fragments of 1 and 2"] = replace(two, fragments=[stream, stream + stream])
        files[f"{uid} in three fragments"] = replace(two, fragments=[stream, stream, stream])
    assert run(command, files) == files.keys()


TWINS = {
    "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_bigendian.dcm": "MR_small.dcm",
    "MR_small_jp2klossless.dcm": "MR_small.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "rtdose_rle.dcm": "rtdose.dcm",
    "SC_rgb_small_odd_big_endian.dcm": "SC_rgb_small_odd.dcm",
}
"""Files that pydicom ships beside their native originals."""


def test_the_files_that_pydicom_ships_keep_their_headers(command: Command) -> None:
    folder = shipped("CT_small.dcm").parent
    ended = command.run("run", folder, "-o", "native", "--json")
    decompressed = 0
    for source in (path for path in folder.rglob("*") if path.is_file()):
        result = command.path / "native" / source.relative_to(folder)
        before, after = source.read_bytes(), result.read_bytes() if result.exists() else b""
        if not after or before == after:
            continue
        decompressed += 1
        allowed = MAY_DIFFER | (ICON if b"\x88\x00\x00\x02SQ" in before else set())
        allowed |= OF_JPEG_2000 if b"1.2.840.10008.1.2.4.9" in before else set()
        assert differences(before, after) <= allowed, source.name
    for encoded, native_one in TWINS.items():
        found = pixels(command.path / "native" / encoded)
        assert np.array_equal(found, pydicom.dcmread(shipped(native_one)).pixel_array.reshape(found.shape)), encoded
    assert decompressed == ended.summary["counts"]["decompressed"] > 30
