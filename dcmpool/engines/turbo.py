"""The libraries in imagecodecs: libjpeg-turbo 3 for JPEG, CharLS for JPEG-LS, OpenJPEG for JPEG 2000 and HTJ2K,
libjxl for JPEG XL, its own for RLE; one thread each.

libjpeg-turbo fills what is missing from a scan, and imagecodecs keeps its warnings to itself: what it gives is
believed only with the proof of `completeness`. Of RLE the inspection has counted every run. The others raise.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dcmpool import memory, syntaxes
from dcmpool.codestream import Codestream
from dcmpool.dataset import corrupt
from dcmpool.engines.frame import Decoded, codestream_of
from dcmpool.errors import Fault
from dcmpool.imagepixel import ImagePixel, converts_colour
from dcmpool.instance import Instance
from dcmpool.source import Source


def decode(instance: Instance, source: Source, scratch: Path) -> Iterator[Decoded]:
    """Decode each Frame; `scratch` is not used.

    Raises
    ------
    Fault
        CORRUPT when a library refuses it, or gives a picture of another shape.
    """
    del scratch
    image, frames, uid = instance.image, instance.frames, instance.transfer_syntax_uid
    if image is None or frames is None:
        raise ValueError("nothing to decode")
    for index in range(len(frames)):
        data = frames.read(source, index)
        found = codestream_of(instance, index, data, image)
        try:
            samples = picture(data[found.start : found.start + found.length], uid, image, found)
        except Fault as fault:
            raise Fault(fault.kind, f"Frame {index + 1} of {len(frames)}: {fault.reason}") from fault
        converted = converts_colour(image, uid, found)
        yield Decoded(samples.data.cast("B"), 8 * samples.itemsize, 0, converted=converted)


def picture(data: bytes, uid: str, image: ImagePixel, found: Codestream) -> NDArray[Any]:
    """Decode one codestream to Rows x Columns x Samples per Pixel; RGB where the result must be.

    Raises
    ------
    Fault
        CORRUPT when the library refuses it, or gives another shape.
    """
    samples = decoded(data, uid, image, found)
    shape = (image.rows, image.columns, image.samples_per_pixel)
    if samples.ndim == 3 and samples.shape != shape and samples.shape == (shape[2], *shape[:2]):
        samples = np.moveaxis(samples, 0, 2)  # JPEG-LS by plane
    if samples.shape != shape and samples.shape != shape[: 2 if shape[2] == 1 else 3]:
        raise corrupt(f"the decoder gives a picture of shape {samples.shape}, {shape} is due")
    return np.ascontiguousarray(samples).reshape(shape)


def decoded(data: bytes, uid: str, image: ImagePixel, found: Codestream) -> NDArray[Any]:
    """Decode one codestream to whatever shape it has.

    Raises
    ------
    Fault
        CORRUPT when the library refuses it.
    MemoryError
        Where that may be for want of memory, which not every library tells apart.
    """
    try:
        return _decoded(data, uid, image, found)
    except MemoryError:
        raise
    except Exception as error:
        # OpenJPEG's samples take 32 bits, those of its wavelet too; the others do with less.
        if not memory.has_room(8 * image.rows * image.columns * image.samples_per_pixel):
            raise MemoryError from error
        words = str(error).partition("\n")[0] or type(error).__name__
        raise corrupt(
            "the decoder says: " + "".join(c if c.isprintable() and c.isascii() else "?" for c in words)[:200]
        ) from error


def _decoded(data: bytes, uid: str, image: ImagePixel, found: Codestream) -> NDArray[Any]:
    samples: NDArray[Any]
    if uid in syntaxes.JPEG_2000:
        samples = imagecodecs.jpeg2k_decode(data, numthreads=1)
    elif uid in syntaxes.JPEG_LS:
        samples = imagecodecs.jpegls_decode(data)
    elif uid in syntaxes.JPEG_XL:
        samples = imagecodecs.jpegxl_decode(data, numthreads=1)
    elif uid == syntaxes.RLE_LOSSLESS:
        kind = f"<u{image.bits_allocated // 8}"
        planes = np.frombuffer(imagecodecs.dicomrle_decode(data, kind), kind)
        samples = np.moveaxis(planes.reshape(image.samples_per_pixel, image.rows, image.columns), 0, 2)
    elif image.samples_per_pixel == 1:
        samples = imagecodecs.jpeg8_decode(data)
    else:  # as the header has it: libjpeg guesses by markers and names
        colour = "ycbcr" if converts_colour(image, uid, found) else "rgb"
        samples = imagecodecs.jpeg8_decode(data, colorspace=colour, outcolorspace="rgb")
    return samples
