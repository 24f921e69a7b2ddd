"""The Image Pixel Module (PS3.3 C.7.6.3) before and after decoding, and how it goes with a codestream.

Promises: a codestream that contradicts the header in size, components or depth is Fault(CORRUPT); what decoding
changes (Photometric Interpretation, Planar Configuration) follows from header and codestream alone.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from dcmpool import syntaxes
from dcmpool.codestream import Codestream
from dcmpool.dataset import Element, corrupt, name
from dcmpool.errors import Fault
from dcmpool.model import FailureKind
from dcmpool.source import Source

SAMPLES_PER_PIXEL: Final = 0x00280002
PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
PLANAR_CONFIGURATION: Final = 0x00280006
NUMBER_OF_FRAMES: Final = 0x00280008
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
BITS_ALLOCATED: Final = 0x00280100
BITS_STORED: Final = 0x00280101
HIGH_BIT: Final = 0x00280102
PIXEL_REPRESENTATION: Final = 0x00280103

_ONE_SAMPLE: Final = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
_THREE_SAMPLES: Final = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "XYB"})
# What each Transfer Syntax may hold. Practice is wider than PS3.5 8.2: every decoder of the lossy family reads all
# three processes, so a progressive stream labelled Baseline is decoded, and reported.
_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "1.2.840.10008.1.2.4.50": ("baseline",),
    "1.2.840.10008.1.2.4.51": ("baseline", "extended"),
    "1.2.840.10008.1.2.4.53": ("progressive",),
    "1.2.840.10008.1.2.4.55": ("progressive",),
}
_LOSSY_KINDS: Final = frozenset({"baseline", "extended", "progressive"})


class ImagePixel(msgspec.Struct, frozen=True):
    """The attributes that say how Pixel Data is laid out, under their names of PS3.6."""

    samples_per_pixel: int
    photometric_interpretation: str
    planar_configuration: int
    number_of_frames: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int

    @property
    def frame_bytes(self) -> int:
        """Native bytes of one Frame, no component subsampled; 1-bit samples rounded up to whole bytes."""
        return -(-self._frame_bits // 8)

    @property
    def native_bytes(self) -> int:
        """Native bytes of all Frames: no byte is begun anew for a Frame of 1-bit samples (PS3.5 8.1.1)."""
        return -(-self._frame_bits * self.number_of_frames // 8)

    @property
    def decoding_bytes(self) -> int:
        """What the decoding of one Frame may take: codecs work on 32-bit samples, plug-ins copy twice."""
        return 4 * self.rows * self.columns * self.samples_per_pixel + 4 * self.frame_bytes

    @property
    def _frame_bits(self) -> int:
        return self.rows * self.columns * self.samples_per_pixel * self.bits_allocated


def read_image_pixel(source: Source, elements: Mapping[int, Element]) -> ImagePixel:
    """Read the module from a data set's elements.

    Raises
    ------
    Fault
        CORRUPT when a value is missing, or makes no sense.
    """
    samples = _unsigned(source, elements, SAMPLES_PER_PIXEL, 1)
    bits_allocated = _unsigned(source, elements, BITS_ALLOCATED)
    image = ImagePixel(
        samples_per_pixel=samples,
        photometric_interpretation=_string(source, elements, PHOTOMETRIC_INTERPRETATION),
        planar_configuration=_unsigned(source, elements, PLANAR_CONFIGURATION, 0) if samples > 1 else 0,
        number_of_frames=_number_of_frames(source, elements),
        rows=_unsigned(source, elements, ROWS),
        columns=_unsigned(source, elements, COLUMNS),
        bits_allocated=bits_allocated,
        bits_stored=_unsigned(source, elements, BITS_STORED, bits_allocated),
        pixel_representation=_unsigned(source, elements, PIXEL_REPRESENTATION, 0),
    )
    if not image.rows or not image.columns or not image.samples_per_pixel:
        raise corrupt("Rows, Columns or Samples per Pixel is 0")
    if image.bits_allocated != 1 and image.bits_allocated not in (8, 16, 24, 32, 40, 48, 56, 64):
        raise corrupt(f"Bits Allocated is {image.bits_allocated}")
    if not 0 < image.bits_stored <= image.bits_allocated:
        raise corrupt(f"Bits Stored is {image.bits_stored}, Bits Allocated is {image.bits_allocated}")
    if image.pixel_representation > 1 or image.planar_configuration > 1:
        raise corrupt("Pixel Representation or Planar Configuration is neither 0 nor 1")
    return image


def reconcile(image: ImagePixel, uid: str, found: Codestream) -> Iterator[str]:
    """Hold a codestream against the header; give what the user should be told.

    Raises
    ------
    Fault
        CORRUPT where they contradict each other, UNSUPPORTED where no engine can follow.
    """
    if (found.rows, found.columns) != (image.rows, image.columns):
        raise corrupt(
            f"the codestream is {found.rows} x {found.columns} pixels, the header says {image.rows} x {image.columns}"
        )
    if found.components != image.samples_per_pixel:
        raise corrupt(
            f"the codestream has {found.components} components, Samples per Pixel is {image.samples_per_pixel}"
        )
    _check_colour(image)
    if found.kind in ("RLE", "plain"):
        _check_packed(image, found)
        return
    _check_depth(image, found)
    yield from _check_kind(uid, found)
    yield from _differences(image, uid, found)


def _differences(image: ImagePixel, uid: str, found: Codestream) -> Iterator[str]:
    """Name what decoders settle by the codestream, the header notwithstanding."""
    if found.signed != bool(image.pixel_representation) and found.kind == "JPEG 2000":
        changed = "signed, Pixel Representation was changed" if found.signed else "unsigned, Pixel Representation is 1"
        yield f"the codestream is {changed}"
    if found.precision > image.bits_stored and found.kind == "JPEG 2000":
        kept = f"Bits Stored is {image.bits_stored} unless a sample needs more"
        yield f"the codestream has {found.precision} bits a sample, {kept}"
    if uid in syntaxes.LOSSLESS and found.lossless is False:
        yield "the Transfer Syntax is a lossless one, the codestream is lossy"
    if found.colour == "RGB" and image.photometric_interpretation.startswith("YBR"):
        yield "the codestream says RGB, Photometric Interpretation says otherwise"
    if found.colour == "YBR" and image.photometric_interpretation == "RGB":
        yield "the codestream says YBR, Photometric Interpretation says RGB"


def rearranged(image: ImagePixel, uid: str, found: Codestream) -> ImagePixel:
    """Give the module of the native result: colour by pixel, RGB where the colour was transformed, signed where a JPEG
    2000 codestream is. Whether Bits Stored is too small for a sample only the samples tell: see `native`."""
    colour = image.photometric_interpretation
    if found.kind == "plain":
        return image
    # An encoder that writes signs knew of them, and the codestream's account is what counts (PS3.5 8.2.4). One that
    # writes none may not have known, as with JPEG: then the bits are what Pixel Representation says.
    signed = image.pixel_representation or int(found.signed and found.kind == "JPEG 2000")
    if converts_colour(image, uid, found) or colour in ("YBR_RCT", "YBR_ICT", "XYB"):
        colour = "RGB"
    elif image.samples_per_pixel == 3 and uid in syntaxes.JPEG_XL and uid not in syntaxes.LOSSLESS:
        colour = "RGB"  # libjxl turns back whatever transform it finds in a lossy stream, or one made from JPEG
    elif colour == "YBR_FULL_422":  # the decoders give every pixel its own chrominance
        colour = "YBR_FULL"
    return msgspec.structs.replace(
        image, photometric_interpretation=colour, planar_configuration=0, pixel_representation=signed
    )


def converts_colour(image: ImagePixel, uid: str, found: Codestream) -> bool:
    """Tell whether samples come out of the decoder as YBR and must become RGB: lossy JPEG in colour, unless the
    codestream itself says RGB."""
    if image.samples_per_pixel != 3 or uid not in syntaxes.JPEG_LOSSY:
        return False
    return found.colour == "YBR" or (found.colour == "" and image.photometric_interpretation != "RGB")


def _check_colour(image: ImagePixel) -> None:
    colour = image.photometric_interpretation
    known = {1: _ONE_SAMPLE, 3: _THREE_SAMPLES}.get(image.samples_per_pixel)
    if known is None:
        raise Fault(FailureKind.UNSUPPORTED, f"{image.samples_per_pixel} Samples per Pixel")
    if colour in known:
        return
    if colour in _ONE_SAMPLE | _THREE_SAMPLES:
        raise corrupt(
            f"Photometric Interpretation {colour} does not go with {image.samples_per_pixel} Samples per Pixel"
        )
    raise Fault(FailureKind.UNSUPPORTED, "a Photometric Interpretation that no engine knows")


def _check_packed(image: ImagePixel, found: Codestream) -> None:
    if image.bits_allocated == 1 and image.samples_per_pixel > 1:
        raise Fault(FailureKind.UNSUPPORTED, "1-bit Pixel Data in colour")
    if found.kind == "plain" and image.photometric_interpretation == "YBR_FULL_422":
        raise Fault(FailureKind.UNSUPPORTED, "YBR_FULL_422 that is encapsulated without compression")


def _check_depth(image: ImagePixel, found: Codestream) -> None:
    if not 2 <= found.precision <= 16 and not (found.kind == "JPEG 2000" and found.precision <= 32):
        raise corrupt(f"the codestream has {found.precision} bits a sample")
    holds = 8 if found.precision <= 8 else 16 if found.precision <= 16 else 32
    # Bits Allocated 16 around 8-bit samples is common (PS3.5 8.1.1 does not forbid it); any wider is a wrong header.
    if image.bits_allocated != holds and (image.bits_allocated, holds) != (16, 8):
        raise corrupt(f"the codestream has {found.precision} bits a sample, Bits Allocated is {image.bits_allocated}")


def _check_kind(uid: str, found: Codestream) -> Iterator[str]:
    if uid in syntaxes.JPEG_LOSSY:
        fits = found.kind in _LOSSY_KINDS
    elif uid in syntaxes.JPEG_LOSSLESS:
        fits = found.kind == "lossless"
    else:
        fits = (found.kind == "JPEG-LS") == (uid in syntaxes.JPEG_LS)
    if not fits:
        raise corrupt(f"the codestream is {found.kind}, the Transfer Syntax says otherwise")
    if uid in _KINDS and found.kind not in _KINDS[uid]:
        yield f"the codestream is JPEG {found.kind}, the Transfer Syntax says otherwise"


def _unsigned(source: Source, elements: Mapping[int, Element], tag: int, default: int | None = None) -> int:
    element = elements.get(tag)
    if element is None or element.length == 0:
        if default is None:
            raise corrupt(f"{name(tag)} is missing")
        return default
    if element.length != 2:
        raise corrupt(f"{name(tag)} is {element.length} bytes long, 2 are due")
    return int.from_bytes(source.read(element.value, 2), "little")


def _string(source: Source, elements: Mapping[int, Element], tag: int) -> str:
    element = elements.get(tag)
    if element is None or not 0 < element.length <= 64:
        raise corrupt(f"{name(tag)} is missing")
    return source.read(element.value, element.length).decode("ascii", "replace").strip("\x00 ")


def _number_of_frames(source: Source, elements: Mapping[int, Element]) -> int:
    """Read Number of Frames; where it is missing or 0, which the standard does not allow, there is one."""
    element = elements.get(NUMBER_OF_FRAMES)
    if element is None or element.length == 0:
        return 1
    text = source.read(element.value, min(element.length, 64)).strip(b"\x00 ")
    if not text.lstrip(b"+").isdigit():
        raise corrupt("Number of Frames is no number")
    return int(text) or 1
