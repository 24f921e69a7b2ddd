"""Encoders for the tests: one Frame to one codestream, native Pixel Data to encapsulated.

Nothing here decodes: what a test expects is known before compression.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import jpeg_ls
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

Frame = NDArray[Any]
"""Rows x Columns, or Rows x Columns x 3 for RGB; 8 or 16 bit integers, signed where Pixel Representation is 1."""

NEAR = 2
"""What a sample may differ by after JPEG-LS near-lossless (.81); the encoder's and decoder's bound, ISO 14495-1."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """How one Transfer Syntax is made.

    `encode` takes the Frame, Bits Stored and the predictor. `rgb_becomes` is the Photometric Interpretation of
    RGB once encoded. `lossy_method` is the term for Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1).
    """

    encode: Callable[[Frame, int, int], bytes]
    rgb_becomes: str = "RGB"
    lossy_method: str | None = None


def encode(frame: Frame, transfer_syntax_uid: str, bits_stored: int | None = None, predictor: int = 1) -> bytes:
    """Return `frame` as one codestream of `transfer_syntax_uid`.

    `bits_stored` is the precision to encode with (all bits of the array when left out); `predictor` (1 to 7,
    ISO 10918-1 table H.1) counts for .57 alone.

    Raises KeyError for a Transfer Syntax that nothing here can make, ValueError for a precision it cannot hold.
    """
    return SYNTAXES[transfer_syntax_uid].encode(frame, bits_stored or frame.dtype.itemsize * 8, predictor)


def compressed(
    instance: Dataset, transfer_syntax_uid: str, frames: Sequence[Frame] | None = None, predictor: int = 1
) -> Dataset:
    """Return a copy of `instance` with `frames` (its own, when left out) encapsulated in `transfer_syntax_uid`.

    File Meta is made anew; Rows, Columns, Number of Frames, Photometric Interpretation, Planar Configuration and
    the Lossy Image Compression elements follow the codestreams; all other elements are the instance's own. Write
    it with `save_as(path, enforce_file_format=True)`.
    """
    if frames is None:
        frames = native_frames(instance)
    codestreams = [encode(frame, transfer_syntax_uid, instance.BitsStored, predictor) for frame in frames]
    result = copy.deepcopy(instance)
    result.file_meta = _file_meta(instance, transfer_syntax_uid)
    result.add_new("PixelData", "OB", encapsulate(codestreams))
    result.Rows, result.Columns = frames[0].shape[:2]
    if len(frames) > 1 or "NumberOfFrames" in instance:
        result.NumberOfFrames = len(frames)
    if instance.SamplesPerPixel == 3:
        result.PlanarConfiguration = 0
        result.PhotometricInterpretation = SYNTAXES[transfer_syntax_uid].rgb_becomes
    _mark_lossy(result, SYNTAXES[transfer_syntax_uid].lossy_method, frames, codestreams)
    return result


def native_frames(instance: Dataset) -> list[Frame]:
    """Return the Frames of an instance with native Pixel Data."""
    pixels = instance.pixel_array
    return list(pixels) if int(instance.get("NumberOfFrames", 1)) > 1 else [pixels]


def _file_meta(instance: Dataset, transfer_syntax_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = instance.SOPClassUID
    meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return meta


def _mark_lossy(instance: Dataset, method: str | None, frames: Sequence[Frame], codestreams: Sequence[bytes]) -> None:
    """Set the Lossy Image Compression elements (PS3.3 C.7.6.1.1.5); nothing without a lossy `method`."""
    if method is None:
        return
    ratio = sum(frame.nbytes for frame in frames) / sum(map(len, codestreams))
    instance.LossyImageCompression = "01"
    instance.LossyImageCompressionRatio = f"{ratio:.2f}"
    instance.LossyImageCompressionMethod = method


def _pattern(frame: Frame, bits: int) -> Frame:
    """Return the samples' low `bits` as unsigned numbers: codestreams of JPEG and JPEG-LS know no sign (PS3.5 8.2)."""
    unsigned: Frame = frame.copy().view(f"u{frame.dtype.itemsize}")
    unsigned &= unsigned.dtype.type((1 << bits) - 1)
    return unsigned


def _jpeg_dct(frame: Frame, bits: int, most: int) -> bytes:
    """Encode with 8 bits a sample, or with 12 where the array has 16; `most` is what the Transfer Syntax allows."""
    precision = 8 if frame.dtype.itemsize == 1 else 12
    if max(bits, precision) > most:
        raise ValueError(f"{bits} bits in {frame.dtype} do not fit into JPEG of {most} bits")
    rgb = frame.ndim == 3
    codestream = imagecodecs.jpeg8_encode(
        _pattern(frame, bits),
        level=95,
        bitspersample=precision,
        colorspace="rgb" if rgb else None,
        outcolorspace="ycbcr" if rgb else None,
        subsampling="422" if rgb else None,
    )
    return bytes(codestream)


def _jpeg_lossless(frame: Frame, bits: int, predictor: int) -> bytes:
    rgb = "rgb" if frame.ndim == 3 else None
    codestream = imagecodecs.jpeg8_encode(
        _pattern(frame, bits),
        lossless=True,
        predictor=predictor,
        bitspersample=bits,
        colorspace=rgb,
        outcolorspace=rgb,
    )
    return bytes(codestream)


def _jpeg_ls(frame: Frame, bits: int, near: int) -> bytes:
    codestream = jpeg_ls.encode_pixel_data(
        _pattern(frame, bits).tobytes(),
        near,
        bits_stored=bits,
        planar_configuration=0,
        rows=frame.shape[0],
        columns=frame.shape[1],
        samples_per_pixel=3 if frame.ndim == 3 else 1,
    )
    return bytes(codestream)


def _jpeg_2000(frame: Frame, bits: int, quality: int | None) -> bytes:
    """Encode with OpenJPEG: a raw codestream, as PS3.5 A.4.4 wants; `quality` in dB, None for reversible."""
    return bytes(
        imagecodecs.jpeg2k_encode(
            frame, level=quality, codecformat="j2k", reversible=quality is None, bitspersample=bits, numthreads=1
        )
    )


def _htj2k(frame: Frame, bits: int, step: float | None) -> bytes:
    """Encode with OpenJPH; `step` is the quantization step, None for reversible."""
    if bits != frame.dtype.itemsize * 8:
        raise ValueError(f"this encoder of HTJ2K writes whole bytes, not {bits} bits")
    return bytes(imagecodecs.htj2k_encode(frame, level=step, reversible=step is None, rgb=frame.ndim == 3))


def _rle(frame: Frame, bits: int, _predictor: int) -> bytes:
    return get_encoder(RLELossless).encode(
        frame,
        encoding_plugin="pydicom",
        number_of_frames=1,
        bits_allocated=frame.dtype.itemsize * 8,
        bits_stored=bits,
        pixel_representation=int(frame.dtype.kind == "i"),
        photometric_interpretation="RGB" if frame.ndim == 3 else "MONOCHROME2",
        planar_configuration=0,
        rows=frame.shape[0],
        columns=frame.shape[1],
        samples_per_pixel=3 if frame.ndim == 3 else 1,
    )


SYNTAXES: dict[str, Syntax] = {
    JPEGBaseline8Bit: Syntax(lambda frame, bits, _: _jpeg_dct(frame, bits, 8), "YBR_FULL_422", "ISO_10918_1"),
    JPEGExtended12Bit: Syntax(lambda frame, bits, _: _jpeg_dct(frame, bits, 12), "YBR_FULL_422", "ISO_10918_1"),
    JPEGLossless: Syntax(_jpeg_lossless),
    JPEGLosslessSV1: Syntax(lambda frame, bits, _: _jpeg_lossless(frame, bits, 1)),
    JPEGLSLossless: Syntax(lambda frame, bits, _: _jpeg_ls(frame, bits, 0)),
    JPEGLSNearLossless: Syntax(lambda frame, bits, _: _jpeg_ls(frame, bits, NEAR), "RGB", "ISO_14495_1"),
    JPEG2000Lossless: Syntax(lambda frame, bits, _: _jpeg_2000(frame, bits, None), "YBR_RCT"),
    JPEG2000: Syntax(lambda frame, bits, _: _jpeg_2000(frame, bits, 90), "YBR_ICT", "ISO_15444_1"),
    HTJ2KLossless: Syntax(lambda frame, bits, _: _htj2k(frame, bits, None), "YBR_RCT"),
    HTJ2K: Syntax(lambda frame, bits, _: _htj2k(frame, bits, 0.0001), "YBR_ICT", "ISO_15444_15"),
    RLELossless: Syntax(_rle),
}
"""The Transfer Syntaxes that can be made here."""
