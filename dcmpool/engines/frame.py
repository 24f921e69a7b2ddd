"""From what a decoder gives to a native Frame, checked: size, range of values, sign, layout, colour.

Promises: a native Frame has exactly `instance.frame_bytes` bytes, and no sample lies outside the range that its
codestream's precision allows.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from dcmpool.codestream import Codestream
from dcmpool.dataset import corrupt
from dcmpool.encoded import read_codestream
from dcmpool.imagepixel import ImagePixel, converts_colour
from dcmpool.instance import Instance

_BLOCK_PIXELS: Final = 1 << 18  # colour is converted piece by piece, so that floats never hold a whole Frame


class Decoded(msgspec.Struct, frozen=True):
    """One Frame as a decoder gives it: little endian, `bits` a sample's container, `planar` as Planar Configuration;
    `converted` where lossy YBR is RGB already."""

    buffer: bytes | bytearray | memoryview
    bits: int
    planar: int
    converted: bool = False


def codestream_of(instance: Instance, index: int, data: bytes, image: ImagePixel) -> Codestream:
    """Give what Frame `index` (from 0), whose encoded bytes are `data`, says of itself; the inspection has walked the
    first one."""
    if index == 0 and instance.codestream is not None:
        return instance.codestream
    return read_codestream(data, instance.transfer_syntax_uid, image)


def finished(instance: Instance, frames: Iterator[Decoded]) -> Iterator[memoryview]:
    """Turn every decoded Frame into a native one; raise Fault(CORRUPT) if their number or content is wrong."""
    image, codestream, result = instance.image, instance.codestream, instance.result
    if image is None or codestream is None or result is None:
        raise ValueError("nothing to decode")
    converts = converts_colour(image, instance.transfer_syntax_uid, codestream)
    if codestream.kind == "plain" or image.bits_allocated == 1:
        yield from _packed(image, (frame.buffer for frame in _counted(instance, frames)))
        return
    for number, decoded in enumerate(_counted(instance, frames), 1):
        try:
            yield _native(decoded, result, codestream, converts=converts and not decoded.converted).data.cast("B")
        except _WrongError as error:
            raise corrupt(f"Frame {number} of {instance.number_of_frames}: {error}") from error


def _counted(instance: Instance, frames: Iterator[Decoded]) -> Iterator[Decoded]:
    count = 0
    for count, decoded in enumerate(frames, 1):
        if count > instance.number_of_frames:
            break
        yield decoded
    if count != instance.number_of_frames:
        raise corrupt(f"the engine gave {count} Frames, {instance.number_of_frames} are due")


def _packed(image: ImagePixel, frames: Iterator[bytes | bytearray | memoryview]) -> Iterator[memoryview]:
    """Pass on Frames that are native already; bits that would begin a byte anew in each go on where the last ended."""
    bits = image.rows * image.columns * image.samples_per_pixel
    left = np.zeros(0, "u1")
    for frame in frames:
        if image.bits_allocated > 1 or bits % 8 == 0:
            yield memoryview(frame)
            continue
        found = np.unpackbits(np.frombuffer(frame, "u1"), count=bits, bitorder="little")  # PS3.5 D.2: the lowest first
        left = np.concatenate((left, found))
        whole = len(left) // 8 * 8
        yield np.packbits(left[:whole], bitorder="little").data
        left = left[whole:]
    if len(left):
        yield np.packbits(left, bitorder="little").data


class _WrongError(Exception):
    """A decoded Frame cannot be right."""


def _native(decoded: Decoded, image: ImagePixel, codestream: Codestream, *, converts: bool) -> NDArray[Any]:
    samples = image.rows * image.columns * image.samples_per_pixel
    if len(decoded.buffer) != samples * decoded.bits // 8 or decoded.bits not in (8, 16, 32, 64):
        raise _WrongError(f"the engine gave {len(decoded.buffer)} bytes, {samples * image.bits_allocated // 8} are due")
    array: NDArray[Any] = np.frombuffer(decoded.buffer, f"<u{decoded.bits // 8}")
    if decoded.bits != image.bits_allocated or codestream.precision < decoded.bits:
        array = _conformed(array, image, codestream)
    if image.samples_per_pixel > 1:
        if decoded.planar:
            array = array.reshape(image.samples_per_pixel, -1).T
        array = np.ascontiguousarray(array).reshape(-1, image.samples_per_pixel)
        if converts:
            array = _rgb(array, codestream.precision)
    return np.ascontiguousarray(array).reshape(-1)


def _conformed(array: NDArray[Any], image: ImagePixel, codestream: Codestream) -> NDArray[Any]:
    """Check the samples against the codestream's precision and give them the container and sign of the header.

    The bits up to the precision stay the same. Signed samples fill the rest of their container with their sign,
    also those of a codestream that does not know signs. If its precision is below Bits Stored, its highest bit may
    be a sign that the encoder cut short or may be not: where it is used, the Frame is refused.
    """
    precision, bits = codestream.precision, array.itemsize * 8
    if precision < bits:
        high = array.view(f"<i{array.itemsize}") >> (precision - (1 if codestream.signed else 0))
        wrong = (high != 0) & (high != -1) if codestream.signed else high != 0
        if wrong.any():
            raise _WrongError(f"the engine gave a sample outside the range of {precision} bits")
        signless = image.pixel_representation and not codestream.signed and precision < image.bits_stored
        if signless and (array >> (precision - 1)).any():
            raise _WrongError(f"{precision}-bit samples whose sign cannot be told: Bits Stored is {image.bits_stored}")
        kind = "i" if image.pixel_representation else "u"
        array = (array << (bits - precision)).view(f"<{kind}{array.itemsize}") >> (bits - precision)
    return array.astype(f"<{'i' if image.pixel_representation else 'u'}{image.bits_allocated // 8}", copy=False)


def _rgb(pixels: NDArray[Any], precision: int) -> NDArray[Any]:
    """Convert YBR_FULL to RGB (PS3.3 C.7.6.3.1.2, the inverse of its equations; T.871 clause 7)."""
    out = np.empty_like(pixels)
    half, top = 1 << (precision - 1), (1 << precision) - 1
    for start in range(0, len(pixels), _BLOCK_PIXELS):
        luminance, blue, red = pixels[start : start + _BLOCK_PIXELS].astype(np.float32).T
        blue -= half
        red -= half
        block = np.stack(
            (luminance + 1.402 * red, luminance - 0.344136 * blue - 0.714136 * red, luminance + 1.772 * blue), axis=-1
        )
        out[start : start + _BLOCK_PIXELS] = np.clip(np.rint(block), 0, top)
    return out
