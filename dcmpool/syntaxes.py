"""The Transfer Syntaxes (PS3.6 Annex A) by what is due for them."""

from typing import Final

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
ENCAPSULATED_UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"
DEFLATED_IMAGE_FRAME: Final = "1.2.840.10008.1.2.8.1"
RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"

_PREFIX: Final = "1.2.840.10008.1.2.4."


def _numbered(*numbers: int) -> frozenset[str]:
    return frozenset(f"{_PREFIX}{number}" for number in numbers)


NATIVE: Final = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN})
# The whole data set takes another form, its Pixel Data is native already.
RECODED: Final = frozenset({EXPLICIT_VR_BIG_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN})
JPEG_LOSSY: Final = _numbered(50, 51, 53, 55)
JPEG_LOSSLESS: Final = _numbered(57, 70)
JPEG_LS: Final = _numbered(80, 81)
JPEG_2000: Final = _numbered(90, 91, 92, 93, 201, 202, 203)
JPEG_XL: Final = _numbered(110, 111, 112)
# A Frame's data are known to be whole by proof; CharLS says itself where one is not.
PROVED: Final = JPEG_LOSSY | JPEG_LOSSLESS | JPEG_2000 | JPEG_XL
# Video, SMPTE ST 2110 and JPIP: there is no native form.
KEPT: Final = _numbered(*range(100, 109), 94, 95, 204, 205) | {f"1.2.840.10008.1.2.7.{n}" for n in (1, 2, 3)}
# Promised to be lossless: an irreversible codestream under them is reported.
LOSSLESS: Final = _numbered(57, 70, 80, 90, 92, 201, 202, 110) | {RLE_LOSSLESS}
# Encapsulated, each Frame's bytes as they are, or deflated.
PLAIN: Final = frozenset({ENCAPSULATED_UNCOMPRESSED, DEFLATED_IMAGE_FRAME})
DECODABLE: Final = JPEG_LOSSY | JPEG_LOSSLESS | JPEG_LS | JPEG_2000 | JPEG_XL | PLAIN | {RLE_LOSSLESS}

_NAMES: Final[dict[str, str]] = {
    IMPLICIT_VR_LITTLE_ENDIAN: "Implicit VR Little Endian",
    EXPLICIT_VR_LITTLE_ENDIAN: "Explicit VR Little Endian",
    EXPLICIT_VR_BIG_ENDIAN: "Explicit VR Big Endian",
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: "Deflated Explicit VR Little Endian",
    ENCAPSULATED_UNCOMPRESSED: "Encapsulated Uncompressed",
    DEFLATED_IMAGE_FRAME: "Deflated Image Frame",
    RLE_LOSSLESS: "RLE Lossless",
    f"{_PREFIX}50": "JPEG Baseline",
    f"{_PREFIX}51": "JPEG Extended",
    f"{_PREFIX}53": "JPEG Spectral Selection",
    f"{_PREFIX}55": "JPEG Full Progression",
    f"{_PREFIX}57": "JPEG Lossless",
    f"{_PREFIX}70": "JPEG Lossless SV1",
    f"{_PREFIX}80": "JPEG-LS Lossless",
    f"{_PREFIX}81": "JPEG-LS Near-Lossless",
    f"{_PREFIX}90": "JPEG 2000 Lossless",
    f"{_PREFIX}91": "JPEG 2000",
    f"{_PREFIX}92": "JPEG 2000 Part 2 Lossless",
    f"{_PREFIX}93": "JPEG 2000 Part 2",
    f"{_PREFIX}110": "JPEG XL Lossless",
    f"{_PREFIX}111": "JPEG XL JPEG Recompression",
    f"{_PREFIX}112": "JPEG XL",
    f"{_PREFIX}201": "HTJ2K Lossless",
    f"{_PREFIX}202": "HTJ2K Lossless RPCL",
    f"{_PREFIX}203": "HTJ2K",
}


def syntax_name(uid: str) -> str:
    """Return the name of a Transfer Syntax, as PS3.6 Table A-1 has it in short, with its number."""
    name = _NAMES.get(uid, "")
    if not name:
        return uid
    number = uid.removeprefix(_PREFIX)
    return f"{name} (.{number})" if number != uid else name
