"""SOP Instances for the tests, made from arrays: the pixels are known before any encoder saw them.

The files are built by hand or by pydicom and encoded by imagecodecs or pydicom, none of which dcmpool writes with.
"""

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.pixels.encoders.base import RLELosslessEncoder

from dcmpool import engines, native, verify
from dcmpool.instance import inspect
from dcmpool.model import Outcome
from dcmpool.source import open_source

Array = NDArray[Any]

LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
HTJ2K = "1.2.840.10008.1.2.4.201"
RLE = "1.2.840.10008.1.2.5"
BASELINE = "1.2.840.10008.1.2.4.50"
EXPLICIT = "1.2.840.10008.1.2.1"


def shipped(name: str) -> Path:
    """Give the path of a file that the pydicom package itself brings along."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), name
    return Path(path)


def real_slice() -> Array:
    """Give the pixels of a real CT slice, 128 x 128, 16 bit signed."""
    return pydicom.dcmread(shipped("CT_small.dcm")).pixel_array


def real_colour() -> Array:
    """Give the pixels of a real colour image, 8 bit RGB."""
    return pydicom.dcmread(shipped("SC_rgb_small_odd.dcm")).pixel_array


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Encode one element, Explicit VR Little Endian (PS3.5 7.1.2)."""
    value += (b"\x00" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"OV", b"UN", b"SQ"):
        return head + struct.pack("<2xL", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def us(tag: int, value: int) -> bytes:
    """Encode one US element."""
    return element(tag, b"US", struct.pack("<H", value))


def encapsulated(fragments: Sequence[bytes], table: bytes = b"") -> bytes:
    """Encode encapsulated Pixel Data from its fragments (PS3.5 A.4)."""
    items = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item for item in (table, *map(even, fragments)))
    return b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff" + items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def even(data: bytes) -> bytes:
    """Pad to an even length."""
    return data + bytes(len(data) % 2)


@dataclass
class Made:
    """One SOP Instance to be encoded: frames is (n, rows, columns) or (n, rows, columns, 3)."""

    uid: str
    frames: Array
    fragments: Sequence[bytes]
    photometric_interpretation: str = ""
    bits_stored: int = 0
    before: bytes = b""
    after: bytes = b""
    pixel_data: bytes = b""
    tables: bytes = b""
    number_of_frames: int = 0
    group_length: bool = False

    def data_set(self) -> bytes:
        """Encode all elements but Pixel Data and what follows it."""
        frames = self.frames
        bits = frames.itemsize * 8
        colour = frames.ndim == 4
        stored = self.bits_stored or bits
        return b"".join(
            [
                element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.7"),
                element(0x00080018, b"UI", b"1.2.3.4.5.6.7"),
                self.before,
                us(0x00280002, 3 if colour else 1),
                element(
                    0x00280004,
                    b"CS",
                    (self.photometric_interpretation or ("RGB" if colour else "MONOCHROME2")).encode(),
                ),
                us(0x00280006, 0) if colour else b"",
                element(0x00280008, b"IS", str(self.number_of_frames or len(frames)).encode()),
                us(0x00280010, frames.shape[1]),
                us(0x00280011, frames.shape[2]),
                us(0x00280100, bits),
                us(0x00280101, stored),
                us(0x00280102, stored - 1),
                us(0x00280103, int(frames.dtype.kind == "i")),
            ]
        )

    def to_bytes(self) -> bytes:
        """Encode the whole file."""
        meta = b"".join(
            [
                element(0x00020001, b"OB", b"\x00\x01"),
                element(0x00020002, b"UI", b"1.2.840.10008.5.1.4.1.1.7"),
                element(0x00020003, b"UI", b"1.2.3.4.5.6.7"),
                element(0x00020010, b"UI", self.uid.encode()),
                element(0x00020012, b"UI", b"1.2.3.4"),
                element(0x00020016, b"AE", b"SOMEWHERE"),
            ]
        )
        head = bytes(range(128)) + b"DICM" + element(0x00020000, b"UL", struct.pack("<L", len(meta))) + meta
        pixel_data = self.pixel_data or encapsulated(self.fragments)
        return head + self.data_set() + self.tables + pixel_data + self.after


def write(folder: Path, made: Made, name: str = "made.dcm") -> Path:
    """Write an instance into a file."""
    path = folder / name
    path.write_bytes(made.to_bytes())
    return path


def rle_encode(frame: Array) -> bytes:
    """Encode one Frame by pydicom's own RLE encoder."""
    colour = frame.ndim == 3
    return RLELosslessEncoder.encode(
        np.ascontiguousarray(frame),
        rows=frame.shape[0],
        columns=frame.shape[1],
        samples_per_pixel=3 if colour else 1,
        bits_allocated=frame.itemsize * 8,
        bits_stored=frame.itemsize * 8,
        pixel_representation=0,
        photometric_interpretation="RGB" if colour else "MONOCHROME2",
        planar_configuration=0,
        number_of_frames=1,
        encoding_plugin="pydicom",
    )


def unsigned(frame: Array) -> Array:
    """Give the same bits as unsigned numbers: JPEG and JPEG-LS know no sign."""
    return np.ascontiguousarray(frame).view(f"u{frame.itemsize}")


def jpeg_lossless(frame: Array, predictor: int, bits: int = 0) -> bytes:
    """Encode by libjpeg-turbo; `bits` is the precision, by default that of the container."""
    bits = bits or frame.itemsize * 8
    return bytes(imagecodecs.jpeg8_encode(unsigned(frame), lossless=True, predictor=predictor, bitspersample=bits))


ENCODERS: dict[str, Callable[[Array], bytes]] = {
    LOSSLESS_SV1: lambda frame: jpeg_lossless(frame, 1),
    LOSSLESS: lambda frame: jpeg_lossless(frame, 6),
    JPEG_LS: lambda frame: bytes(imagecodecs.jpegls_encode(unsigned(frame))),
    JPEG_2000: lambda frame: bytes(imagecodecs.jpeg2k_encode(frame, level=0, codecformat="J2K", reversible=True)),
    HTJ2K: lambda frame: bytes(imagecodecs.htj2k_encode(frame, reversible=True)),
    RLE: lambda frame: rle_encode(unsigned(frame)),
}


def encoded(uid: str, frames: Array, **changes: Any) -> Made:
    """Make an instance whose Frames, (n, rows, columns[, 3]), are encoded for the Transfer Syntax `uid`."""
    return Made(uid, frames, [ENCODERS[uid](frame) for frame in frames], **changes)


def decompress(path: Path, folder: Path, engine: str = "") -> Path:
    """Do what a worker does with one file; give the result's path."""
    result = folder / "result.dcm"
    fd = os.open(result, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with open_source(os.fsencode(path)) as source:
            instance = inspect(source)
            if instance.outcome is Outcome.DECOMPRESSED:
                name = engine or engines.candidates(instance)[0]
                frames = engines.decode(name, instance, source, folder)
                written = native.write_native(fd, source, instance, frames)
            else:
                written = native.write_copy(fd, source)
            verify.check(fd, source, instance, written)
            source.check_unchanged()
    finally:
        os.close(fd)
    return result


def pixels(path: Path) -> Array:
    """Read native Pixel Data of a result as it lies there, (n, rows, columns[, 3])."""
    data_set = pydicom.dcmread(path)
    kind = "i" if data_set.PixelRepresentation else "u"
    shape = [int(data_set.get("NumberOfFrames", 1)), data_set.Rows, data_set.Columns, data_set.SamplesPerPixel]
    size = int(np.prod(shape)) * data_set.BitsAllocated // 8
    assert len(data_set.PixelData) == size + size % 2
    array = np.frombuffer(data_set.PixelData[:size], f"<{kind}{data_set.BitsAllocated // 8}")
    return array.reshape(shape if shape[-1] > 1 else shape[:-1])
