"""Encoded Frames: each a whole codestream that agrees with the Image Pixel Module.

Promises: what passes starts and ends as its syntax says, is as large and as deep as the header has it, and of one
kind with the first Frame. What is missing inside it is not seen: that is for the engines and `completeness`.
"""

from dcmpool import syntaxes
from dcmpool.codestream import Codestream
from dcmpool.dataset import corrupt
from dcmpool.deflated import inflated
from dcmpool.encapsulated import Frames
from dcmpool.errors import Fault
from dcmpool.imagepixel import ImagePixel, reconcile
from dcmpool.jpeg import walk_jpeg
from dcmpool.jpeg2000 import walk_jpeg_2000
from dcmpool.jpegxl import read_jpeg_xl
from dcmpool.rle import walk_rle
from dcmpool.source import Source


def check_frames(
    source: Source, uid: str, image: ImagePixel, frames: Frames
) -> tuple[Codestream, tuple[str, ...], str]:
    """Check each Frame's codestream against the Image Pixel Module; give the first, what is to be told, the flaw.

    Raises
    ------
    Fault
        CORRUPT or UNSUPPORTED, with the number of the Frame.
    """
    first: Codestream | None = None
    flaw = ""
    notes: dict[str, None] = {}
    for index in range(len(frames)):
        try:
            found = read_codestream(frames.read(source, index), uid, image)
            notes.update(dict.fromkeys(reconcile(image, uid, found)))
            if first is not None and _character(found) != _character(first):
                raise corrupt("its codestream is of another kind than that of Frame 1")
        except Fault as fault:
            raise Fault(fault.kind, f"Frame {index + 1} of {len(frames)}: {fault.reason}") from fault
        if found.flaw and not flaw:
            flaw = f"Frame {index + 1} of {len(frames)}: {found.flaw}"
        first = first or found
    if first is None:
        raise corrupt("the Pixel Data holds no Frame")
    return first, tuple(notes), flaw


def read_codestream(data: bytes, uid: str, image: ImagePixel) -> Codestream:
    """Walk one encoded Frame; only padding may follow its end.

    Raises
    ------
    Fault
        CORRUPT or UNSUPPORTED.
    """
    if uid == syntaxes.RLE_LOSSLESS:
        return walk_rle(data, image.rows, image.columns, image.samples_per_pixel, image.bits_allocated)
    if uid in syntaxes.PLAIN:
        return _plain(data, uid, image)
    if uid in syntaxes.JPEG_XL:
        return read_jpeg_xl(data)
    found = walk_jpeg_2000(data) if uid in syntaxes.JPEG_2000 else walk_jpeg(data)
    # PS3.5 A.4 pads to an even length with one 00; encoders are known to add more, or one FF.
    rest = data[found.start + found.length :]
    if rest.strip(b"\x00") and len(rest) > 1:
        raise corrupt(f"{len(rest)} bytes that are no padding follow the end of the codestream")
    return found


def _plain(data: bytes, uid: str, image: ImagePixel) -> Codestream:
    """Check one Frame of Encapsulated Uncompressed or Deflated Image Frame (PS3.5 A.4.11, A.4.13): its length alone
    can tell anything."""
    held = inflated(data, image.frame_bytes) if uid == syntaxes.DEFLATED_IMAGE_FRAME else data
    if len(held) not in (image.frame_bytes, image.frame_bytes + image.frame_bytes % 2):
        raise corrupt(f"the Frame has {len(held)} bytes, {image.frame_bytes} are due")
    return Codestream(
        kind="plain",
        rows=image.rows,
        columns=image.columns,
        components=image.samples_per_pixel,
        precision=image.bits_allocated,
        signed=bool(image.pixel_representation),
        start=0,
        length=len(data),
        lossless=True,
    )


def _character(found: Codestream) -> tuple[int, bool, str]:
    return found.precision, found.signed, found.colour
