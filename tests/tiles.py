"""JPEG 2000 in tiles and tile-parts (T.800 B.3), which no encoder at hand writes."""

import struct

from tests import reference
from tests.reference import Array


def tiled(frame: Array, *, size: int = 64, parts: int = 1) -> bytes:
    """Encode in tiles of `size` x `size`, each in so many tile-parts: pictures of that size, put side by side.

    `size` is a power of 2. Whether a tile begins at 0 or at a multiple of `size` makes no difference then: the encoder
    takes no more levels of wavelet than let each begin at an even sample (T.800 B.5).
    """
    header, found = b"", []
    rows, columns = frame.shape
    starts = [(row, column) for row in range(0, rows, size) for column in range(0, columns, size)]
    for tile, (row, column) in enumerate(starts):
        stream = reference.ENCODERS[reference.JPEG_2000](frame[row : row + size, column : column + size])
        start = stream.index(b"\xff\x90\x00\x0a")
        header, body = stream[:start], stream[stream.index(b"\xff\x93", start) + 2 : -2]
        step = -(-len(body) // parts)
        for part in range(parts):
            packets = b"\xff\x93" + body[part * step : (part + 1) * step]
            found.append(struct.pack(">HHHLBB", 0xFF90, 10, tile, 12 + len(packets), part, parts) + packets)
    image = bytearray(header)
    struct.pack_into(">8L", image, header.index(b"\xff\x51") + 6, columns, rows, 0, 0, size, size, 0, 0)
    return bytes(image) + b"".join(found) + b"\xff\xd9"
