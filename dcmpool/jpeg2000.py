"""The walk over a JPEG 2000 (T.800) or HTJ2K (T.814) codestream, from tile-part to tile-part."""

import struct
from collections.abc import Iterator
from typing import Final

from dcmpool.codestream import Codestream, TilePart
from dcmpool.dataset import corrupt
from dcmpool.errors import Fault
from dcmpool.model import FailureKind

_SOC: Final = b"\xff\x4f"
_J2K_SIZ, _J2K_COD, _J2K_SOT, _J2K_EOC = 0xFF51, 0xFF52, 0xFF90, 0xFFD9
_OF_ALL_TILES: Final = frozenset({0xFF55, 0xFF57})  # TLM, PLM: lengths that decoders do without (T.800 A.7)
_HARMLESS: Final = frozenset({0xFF58, 0xFF64})  # PLT, COM: what is in the header of a later tile-part, if anything
_PPM: Final = 0xFF60
_PART_2: Final = frozenset({0xFF74, 0xFF75, 0xFF77})  # MCT, MCC, MCO (T.801 A.2)
_JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


def walk_jpeg_2000(data: bytes) -> Codestream:
    """Walk a JPEG 2000 (T.800) or HTJ2K (T.814) codestream from SOC through every tile-part to EOC.

    A JP2 file around it, which PS3.5 8.2.4 does not allow but old archives hold, is stepped over.

    Raises
    ------
    Fault
        CORRUPT when it is not whole, UNSUPPORTED for components of different size or depth.
    """
    start = _codestream_of_jp2(data) if data[:12] == _JP2_SIGNATURE else 0
    if data[start : start + 2] != _SOC:
        raise corrupt("the JPEG 2000 stream does not start with SOC")
    siz, lossless, position = _main_header(data, start + 2)
    frame, tiles = _image_size(siz)
    parts = _tile_parts(data, position, tiles)
    end = parts[-1].stop + 2
    return Codestream(
        frame.kind,
        frame.rows,
        frame.columns,
        frame.components,
        frame.precision,
        frame.signed,
        start=start,
        length=end - start,
        lossless=lossless,
        tile_parts=tuple(parts),
    )


def tiles_alone(data: bytes, found: Codestream) -> Iterator[bytes]:
    """Give each tile as a codestream of its own, in one tile-part.

    Coordinates are those of the whole picture (T.800 B.3), so that a tile decodes to the samples that it has there.

    Raises
    ------
    Fault
        UNSUPPORTED where the packets of a tile cannot be told from those of another, or put one after the other.
    """
    tiles: dict[int, list[TilePart]] = {}
    for part in found.tile_parts:
        tiles.setdefault(part.tile, []).append(part)
    if len(found.tile_parts) == 1:
        yield data[found.start : found.start + found.length]
        return
    segments = _main_segments(data, found)
    for tile, parts in tiles.items():
        header = b"".join(_siz_of(segment, tile) if segment[1] == 0x51 else segment for segment in segments)
        yield b"".join([_SOC, header, _one_part(data, parts), b"\xff\xd9"])


def _one_part(data: bytes, parts: list[TilePart]) -> bytes:
    """Join the tile-parts of one tile (T.800 A.4.2), which is tile 0 from now on."""
    first, *others = parts
    body = data[first.start + 12 : first.stop] + b"".join(
        data[_start_of_packets(data, part) : part.stop] for part in others
    )
    return struct.pack(">HHHLBB", _J2K_SOT, 10, 0, 12 + len(body), 0, 1) + body


def _start_of_packets(data: bytes, part: TilePart) -> int:
    position = part.start + 12
    while data[position : position + 2] != b"\xff\x93":  # SOD
        marker, length = _marker_and_length(data, position)
        if marker not in _HARMLESS:
            raise Fault(FailureKind.UNSUPPORTED, f"a JPEG 2000 stream with {marker:04X} in a later tile-part")
        position += 2 + length
    return position + 2


def _main_segments(data: bytes, found: Codestream) -> list[bytes]:
    """Give the marker segments of the main header that a single tile needs."""
    position, segments = found.start + 2, []
    while position < found.tile_parts[0].start:
        marker, length = _marker_and_length(data, position)
        if marker == _PPM:
            raise Fault(FailureKind.UNSUPPORTED, "a JPEG 2000 stream of several tiles with packed packet headers (PPM)")
        if marker not in _OF_ALL_TILES:
            segments.append(data[position : position + 2 + length])
        position += 2 + length
    return segments


def _siz_of(segment: bytes, tile: int) -> bytes:
    """Give the SIZ segment (T.800 A.5.1) of a picture that is this tile alone."""
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0 = struct.unpack_from(">8L", segment, 6)
    row, column = divmod(tile, -(-(x1 - tile_x0) // tile_x))
    left, top = tile_x0 + column * tile_x, tile_y0 + row * tile_y
    corners = (min(left + tile_x, x1), min(top + tile_y, y1), max(left, x0), max(top, y0))
    return segment[:6] + struct.pack(">8L", *corners, tile_x, tile_y, left, top) + segment[38:]


def _codestream_of_jp2(data: bytes) -> int:
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, position)
        if kind == b"jp2c":
            return position + (16 if length == 1 else 8)
        if length < 8:
            break
        position += length
    raise corrupt("the JP2 file in the Pixel Data holds no codestream")


def _main_header(data: bytes, position: int) -> tuple[bytes, bool | None, int]:
    """Give the SIZ segment, whether the wavelet is reversible, and the position of the first SOT."""
    siz, lossless = b"", None
    while True:
        marker, length = _marker_and_length(data, position)
        if marker == _J2K_SOT:
            break
        segment = data[position + 4 : position + 2 + length]
        if marker in _PART_2:
            raise Fault(FailureKind.UNSUPPORTED, "a JPEG 2000 stream with multiple component transforms (Part 2)")
        if marker == _J2K_SIZ:
            siz = segment
        elif marker == _J2K_COD and len(segment) >= 10:
            lossless = segment[9] == 1  # 5-3 reversible (T.800 table A.20)
        position += 2 + length
    if not siz:
        raise corrupt("the JPEG 2000 stream does not say its size")
    if lossless is None:
        raise corrupt("the JPEG 2000 stream does not say its coding style")
    return siz, lossless, position


def _marker_and_length(data: bytes, position: int) -> tuple[int, int]:
    if position + 4 > len(data):
        raise corrupt("the JPEG 2000 stream ends in its header; the file is truncated")
    marker, length = struct.unpack_from(">HH", data, position)
    if marker < 0xFF00 or length < 2 or position + 2 + length > len(data):
        raise corrupt(f"the JPEG 2000 stream is damaged at byte {position}")
    return marker, length


def _image_size(siz: bytes) -> tuple[Codestream, int]:
    """Read SIZ (T.800 A.5.1): the frame it describes and how many tiles it has."""
    if len(siz) < 36 or len(siz) != 36 + 3 * int.from_bytes(siz[34:36], "big"):
        raise corrupt("the size segment of the JPEG 2000 stream is damaged")
    _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(">H8LH", siz[:36])
    if not tile_x or not tile_y or x1 <= x0 or y1 <= y0 or tile_x0 > x0 or tile_y0 > y0 or not components:
        raise corrupt("the size segment of the JPEG 2000 stream is damaged")
    depths, steps = set(siz[36::3]), set(siz[37::3]) | set(siz[38::3])
    if len(depths) != 1 or steps != {1}:
        raise Fault(FailureKind.UNSUPPORTED, "the components of the JPEG 2000 stream differ in size or depth")
    depth = depths.pop()
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    precision, signed = (depth & 0x7F) + 1, bool(depth & 0x80)
    return Codestream("JPEG 2000", y1 - y0, x1 - x0, components, precision, signed, 0, 0), tiles


def _tile_parts(data: bytes, position: int, tiles: int) -> list[TilePart]:
    """Step over every tile-part (T.800 A.4.2) to EOC."""
    if tiles > len(data) // 14:  # a tile-part takes 14 bytes at the least
        raise corrupt(f"the JPEG 2000 stream claims {tiles} tiles, more than it can hold")
    found: list[TilePart] = []
    while data[position : position + 2] != b"\xff\xd9":
        if len(data) - position < 14:
            raise corrupt("the JPEG 2000 stream ends without EOC; the file is truncated")
        marker, size, tile, length = struct.unpack_from(">HHHL", data, position)
        if marker != _J2K_SOT or size != 10:
            raise corrupt(f"the JPEG 2000 stream holds no tile-part at byte {position} where one is due")
        if length == 0:  # the last tile-part may leave it open: it goes to EOC
            length = _end_of_open_tile(data) - position
        if length < 14 or position + length > len(data):
            raise corrupt("a tile-part of the JPEG 2000 stream is cut; the file is truncated")
        found.append(TilePart(tile, position, position + length))
        position += length
    seen = {part.tile for part in found}
    if seen != set(range(tiles)):
        raise corrupt(f"{tiles - len(seen)} of {tiles} tiles are missing from the JPEG 2000 stream")
    return found


def _end_of_open_tile(data: bytes) -> int:
    end = data.rstrip(b"\x00")
    if not end.endswith(b"\xff\xd9"):
        raise corrupt("the JPEG 2000 stream ends without EOC; the file is truncated")
    return len(end) - 2
