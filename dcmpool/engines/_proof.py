"""The proof that a JPEG or JPEG 2000 Frame was whole, asked of every engine's result: it is about the codestream."""

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
from dcmpool.source import Source


def proved(instance: Instance, source: Source, frames: Iterator[Decoded]) -> Iterator[Decoded]:
    """Pass Frames on, each once its codestream is known to be whole.

    Raises
    ------
    Fault
        What `frames` raises, and CORRUPT for a codestream that lost bytes.
    """
    image, places, uid = instance.image, instance.frames, instance.transfer_syntax_uid
    if image is None or places is None:
        raise ValueError("nothing to decode")
    for index, decoded in enumerate(frames):
        if index < len(places):
            data = places.read(source, index)
            try:
                _check(data, uid, image, codestream_of(instance, index, data, image), decoded)
            except Fault as fault:
                raise Fault(fault.kind, f"Frame {index + 1} of {len(places)}: {fault.reason}") from fault
        yield decoded


def _check(data: bytes, uid: str, image: ImagePixel, found: Codestream, decoded: Decoded) -> None:
    def again(altered: bytes) -> NDArray[Any]:
        return turbo.picture(altered[found.start :], uid, image, found)

    if uid in syntaxes.JPEG_2000:
        completeness.check_jpeg_2000(data, found, again)
    elif uid in syntaxes.JPEG_LOSSY:
        completeness.check_dct(data, found, again)
    elif set(found.sampling) == {0x11}:
        completeness.check_lossless(data, found, _samples(decoded, image, found))


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
