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
JPEG_LOSSY: Final = _numbered(50, 51, 53, 55)
JPEG_LOSSLESS: Final = _numbered(57, 70)
JPEG_LS: Final = _numbered(80, 81)
JPEG_2000: Final = _numbered(90, 91, 92, 93, 201, 202, 203)
JPEG_XL: Final = _numbered(110, 111, 112)
# Video, SMPTE ST 2110 and JPIP: there is no native form.
KEPT: Final = _numbered(*range(100, 109), 94, 95, 204, 205) | {f"1.2.840.10008.1.2.7.{n}" for n in (1, 2, 3)}
# Promised to be lossless: an irreversible codestream under them is reported.
LOSSLESS: Final = _numbered(57, 70, 80, 90, 92, 201, 202, 110) | {RLE_LOSSLESS}
DECODABLE: Final = JPEG_LOSSY | JPEG_LOSSLESS | JPEG_LS | JPEG_2000 | {RLE_LOSSLESS}
