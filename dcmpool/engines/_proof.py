"""The proof that a JPEG, JPEG-LS, JPEG 2000 or JPEG XL Frame is whole, asked of every engine's result.

It is about the codestream. Of JPEG-LS it is the word of a strict decoder alone; of JPEG 2000 that is a part of it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpool import completeness, syntaxes
from dcmpool.codestream import Codestream
from dcmpool.dataset import corrupt
from dcmpool.engines import turbo
from dcmpool.engines.frame import Decoded, codestream_of
from dcmpool.errors import Fault
from dcmpool.imagepixel import ImagePixel
from dcmpool.instance import Instance
from dcmpool.jpeg2000 import tiles_alone, walk_jpeg_2000
from dcmpool.jpegxl import without_end
from dcmpool.model import FailureKind
from dcmpool.source import Source


def proved(instance: Instance, source: Source, frames: Iterator[Decoded], *, vouched: bool) -> Iterator[Decoded]:
    """Pass Frames on, each once its codestream is known to be whole.

    `vouched`: `frames` are the strict decoder's own, or nobody has to vouch for this Transfer Syntax.

    Raises
    ------
    Fault
        What `frames` raises; CORRUPT for a codestream that lost bytes, or that the strict decoder refuses; VERIFY
        where that gives other pixels and the Transfer Syntax settles them to the bit.
    """
    image, places, uid = instance.image, instance.frames, instance.transfer_syntax_uid
    if image is None or places is None:
        raise ValueError("nothing to decode")
    for index, decoded in enumerate(frames):
        if index < len(places):
            data = places.read(source, index)
            try:
                found = codestream_of(instance, index, data, image)
                if not vouched:
                    _check_strictly(data, uid, image, found, decoded)
                _check(data, uid, image, found, decoded)
            except Fault as fault:
                raise Fault(fault.kind, f"Frame {index + 1} of {len(places)}: {fault.reason}") from fault
        yield decoded


def _check_strictly(data: bytes, uid: str, image: ImagePixel, found: Codestream, decoded: Decoded) -> None:
    try:
        picture = turbo.picture(data[found.start : found.start + found.length], uid, image, found)
    except Fault as fault:
        raise Fault(fault.kind, f"turbo, which is strict, refuses it: {fault.reason}") from fault
    if found.kind == "JPEG 2000" and not found.lossless:
        return  # right decoders round differently
    whole = picture.view(f"u{picture.itemsize}") & ((1 << found.precision) - 1)
    if not np.array_equal(whole, _samples(decoded, image, found)):
        raise Fault(FailureKind.VERIFY, "turbo, which is strict, gives other pixels")


def _check(data: bytes, uid: str, image: ImagePixel, found: Codestream, decoded: Decoded) -> None:
    def again(altered: bytes) -> NDArray[Any]:
        return turbo.picture(altered[found.start :], uid, image, found)

    if uid in syntaxes.JPEG_2000:
        for tile in tiles_alone(data, found):
            completeness.check_jpeg_2000(
                tile, walk_jpeg_2000(tile), lambda altered: turbo.decoded(altered, uid, image, found)
            )
    elif uid in syntaxes.JPEG_XL:
        completeness.check_jpeg_xl(data, without_end(data), again)
    elif uid in syntaxes.JPEG_LOSSY:
        completeness.check_dct(data, found, again)
    elif uid in syntaxes.JPEG_LOSSLESS:
        # GDCM cuts samples down to the precision, whatever led out of it. That is a right reading of the stream only
        # where every decoder's arithmetic does the same; and where the header does not say that the precision is wrong.
        wrapped = found.precision == image.bits_allocated == 8
        completeness.check_lossless(data, found, _samples(decoded, image, found), wrapped=wrapped)


def _samples(decoded: Decoded, image: ImagePixel, found: Codestream) -> NDArray[Any]:
    """Give the samples as the codestream has them: without the bits above its precision, which may hold a sign."""
    shape = (image.rows, image.columns, image.samples_per_pixel)
    samples: NDArray[Any] = np.frombuffer(decoded.buffer, f"<u{decoded.bits // 8}")
    if samples.size != image.rows * image.columns * image.samples_per_pixel:
        raise corrupt("the engine gave a Frame of another size")
    if found.precision < decoded.bits:
        samples = samples & samples.dtype.type((1 << found.precision) - 1)
    if decoded.planar and image.samples_per_pixel > 1:
        return np.moveaxis(samples.reshape(shape[2], *shape[:2]), 0, 2)
    return samples.reshape(shape)
