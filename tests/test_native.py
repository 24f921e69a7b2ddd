"""The result's header is the source's, but for a short list."""

import os
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dcmpool import native
from dcmpool.source import open_source
from tests import reference
from tests.reference import ENCODERS, Made, decompress, element, encoded, pixels, real_slice, shipped, write

PRIVATE = element(0x00091010, b"UN", b"\x00\x01private\xff") + element(0x00100010, b"PN", b"\xc4\xd6^")
UNDEFINED_SEQUENCE = b"\x40\x00\x60\xa7SQ\x00\x00\xff\xff\xff\xff\xfe\xff\xdd\xe0\x00\x00\x00\x00"
TRAILING = element(0xFFFCFFFC, b"OB", bytes(30))


@pytest.mark.parametrize("uid", ENCODERS)
def test_only_file_meta_and_pixel_data_differ(uid: str, tmp_path: Path) -> None:
    frames = real_slice()[None]
    made = encoded(uid, frames, before=PRIVATE, after=TRAILING, tables=UNDEFINED_SEQUENCE)
    result = decompress(write(tmp_path, made), tmp_path).read_bytes()
    value = frames.tobytes()
    pixel_data = element(0x7FE00010, b"OW", value)
    assert result.endswith(made.data_set() + UNDEFINED_SEQUENCE + pixel_data + TRAILING)
    assert result.startswith(bytes(range(128)) + b"DICM")


def test_file_meta_is_kept_but_for_syntax_and_implementation(tmp_path: Path) -> None:
    result = decompress(write(tmp_path, encoded(reference.RLE, real_slice()[None])), tmp_path)
    meta = pydicom.dcmread(result).file_meta
    assert meta.TransferSyntaxUID == reference.EXPLICIT
    assert meta.ImplementationClassUID == native.IMPLEMENTATION_CLASS_UID
    assert (meta.MediaStorageSOPInstanceUID, meta.SourceApplicationEntityTitle) == ("1.2.3.4.5.6.7", "SOMEWHERE")
    start = result.read_bytes().index(b"\x08\x00\x16\x00UI")
    assert meta.FileMetaInformationGroupLength == start - 144


def test_missing_file_meta_is_made_anew(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None]))
    whole = path.read_bytes()
    kept = element(0x00020010, b"UI", reference.RLE.encode())
    path.write_bytes(kept + whole[whole.index(b"\x08\x00\x16\x00UI") :])
    data_set = pydicom.dcmread(decompress(path, tmp_path))
    assert data_set.file_meta.MediaStorageSOPInstanceUID == data_set.SOPInstanceUID
    assert data_set.file_meta.MediaStorageSOPClassUID == data_set.SOPClassUID
    assert np.array_equal(data_set.pixel_array, real_slice())


def test_extended_offset_tables_go_and_the_group_length_is_right(tmp_path: Path) -> None:
    made = encoded(reference.RLE, real_slice()[None])
    made.tables = element(0x7FE00000, b"UL", b"\x01\x02\x03\x04")
    made.tables += element(0x7FE00001, b"OV", bytes(8)) + element(0x7FE00002, b"OV", bytes(8))
    result = decompress(write(tmp_path, made), tmp_path).read_bytes()
    assert b"\xe0\x7f\x01\x00" not in result
    assert b"\xe0\x7f\x02\x00" not in result
    assert element(0x7FE00000, b"UL", struct.pack("<L", 12 + 32768)) in result


def test_odd_pixel_data_is_padded(tmp_path: Path) -> None:
    frame = (real_slice() >> 4).astype("u1")[:3, :3]
    made = Made(reference.RLE, frame[None], [reference.rle_encode(frame)])
    result = decompress(write(tmp_path, made), tmp_path)
    assert np.array_equal(pixels(result)[0], frame)
    assert result.read_bytes()[-22:] == b"\xe0\x7f\x10\x00OB\x00\x00\x0a\x00\x00\x00" + frame.tobytes() + b"\x00"


def test_reversible_colour_transforms_become_rgb(tmp_path: Path) -> None:
    frame = reference.real_colour()
    made = encoded(reference.JPEG_2000, frame[None], photometric_interpretation="YBR_RCT")
    result = decompress(write(tmp_path, made), tmp_path)
    assert np.array_equal(pixels(result)[0], frame)
    assert pydicom.dcmread(result).PhotometricInterpretation == "RGB"


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "rtplan.dcm", "MR_small_implicit.dcm", "README.txt", "SC_rgb_rle.dcm"]
)
def test_a_copy_is_byte_for_byte(name: str, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
    with open_source(os.fsencode(shipped(name))) as source:
        written = native.write_copy(fd, source)
    os.close(fd)
    assert (tmp_path / "copy").read_bytes() == shipped(name).read_bytes()
    assert written.size == shipped(name).stat().st_size


def test_a_full_disk_is_an_oserror(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None]))
    fd = os.open("/dev/full", os.O_RDWR)
    with open_source(os.fsencode(path)) as source, pytest.raises(OSError, match="No space left"):
        native.write_copy(fd, source)
    os.close(fd)
