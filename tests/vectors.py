"""Makes the known vectors that the self-test ships: `python -m tests.vectors`, into dcmpool/vectors.

The pictures are those of `dcmpool.selftest.picture`, known before compression.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np

from dcmpool import selftest
from tests import encoders
from tests.reference import Array, Made, rle_encode


def jpeg_xl(frame: Array) -> bytes:
    """Encode reversibly by libjxl."""
    return bytes(imagecodecs.jpegxl_encode(frame, lossless=True, numthreads=1))


def deflate(frame: Array) -> bytes:
    """Deflate one Frame (RFC 1951), as PS3.5 A.4.13 has it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(frame.tobytes()) + packer.flush()


def by_syntax(uid: str, bits: int) -> Callable[[Array], bytes]:
    """Give the encoder of the tests for a Transfer Syntax."""
    return lambda frame: encoders.encode(frame, uid, bits)


ENCODERS: dict[str, Callable[[Array], bytes]] = {
    "1.2.840.10008.1.2.4.110": jpeg_xl,
    "1.2.840.10008.1.2.4.112": jpeg_xl,
    "1.2.840.10008.1.2.4.91": by_syntax("1.2.840.10008.1.2.4.90", 16),
    "1.2.840.10008.1.2.4.202": by_syntax("1.2.840.10008.1.2.4.201", 16),
    "1.2.840.10008.1.2.4.203": by_syntax("1.2.840.10008.1.2.4.201", 16),
    "1.2.840.10008.1.2.5": rle_encode,
    "1.2.840.10008.1.2.1.98": lambda frame: frame.tobytes(),
    "1.2.840.10008.1.2.8.1": deflate,
}


def made(vector: selftest.Vector) -> bytes:
    """Encode one vector, the whole file."""
    frame = selftest.picture(vector)
    encode = ENCODERS.get(vector.uid) or by_syntax(vector.uid, vector.bits)
    return Made(vector.uid, np.stack([frame]), [encode(frame)], bits_stored=vector.bits).to_bytes()


if __name__ == "__main__":
    folder = Path(selftest.__file__).parent / "vectors"
    for vector in selftest.VECTORS:
        (folder / vector.file).write_bytes(made(vector))
