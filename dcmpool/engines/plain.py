"""What needs no codec: Frames that are encapsulated without compression, deflated, or run-length encoded bits."""

from collections.abc import Iterator
from pathlib import Path

from dcmpool import syntaxes
from dcmpool.deflated import inflated
from dcmpool.engines.frame import Decoded
from dcmpool.errors import Fault
from dcmpool.imagepixel import ImagePixel
from dcmpool.instance import Instance
from dcmpool.model import FailureKind
from dcmpool.source import Source


def decode(instance: Instance, source: Source, scratch: Path) -> Iterator[Decoded]:
    """Decode each Frame, whose lengths and runs the inspection has checked; `scratch` is not used.

    Raises
    ------
    Fault
        UNSUPPORTED for run-length encoded samples of more than one bit.
    """
    del scratch
    image, frames = instance.image, instance.frames
    if image is None or frames is None:
        raise ValueError("nothing to decode")
    for index in range(len(frames)):
        held = _decoded(frames.read(source, index), instance.transfer_syntax_uid, image)
        yield Decoded(held[: image.frame_bytes], image.bits_allocated, 0)


def _decoded(data: bytes, uid: str, image: ImagePixel) -> bytes:
    if uid == syntaxes.DEFLATED_IMAGE_FRAME:
        return inflated(data, image.frame_bytes)
    if uid == syntaxes.RLE_LOSSLESS:
        if image.bits_allocated != 1:
            raise Fault(FailureKind.UNSUPPORTED, "run-length encoded samples are for another engine")
        return _runs(data[64:])
    return data


def _runs(segment: bytes) -> bytes:
    """Decode one RLE segment (PS3.5 G.3.2)."""
    parts = []
    position = 0
    while position < len(segment):
        control = segment[position]
        if control < 128:
            parts.append(segment[position + 1 : position + control + 2])
            position += control + 2
        elif control > 128:
            parts.append(segment[position + 1 : position + 2] * (257 - control))
            position += 2
        else:
            position += 1
    return b"".join(parts)
