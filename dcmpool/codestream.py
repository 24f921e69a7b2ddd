"""What an encoded Frame says of itself, and whether it is whole: JPEG, JPEG-LS, JPEG 2000 and RLE.

Nothing is decoded here. Promises: a codestream that is accepted starts and ends as its syntax says, and its
marker segments lead from the one to the other without a gap; a cut at any byte before the end marker, or a
piece missing between two JPEG 2000 tile-parts, is Fault(CORRUPT). Damage inside entropy-coded data is not seen
here, but for RLE, whose runs are counted: that is for the engines.
"""

import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from dcmpool.dataset import corrupt
from dcmpool.errors import Fault
from dcmpool.model import FailureKind

# The end of entropy-coded data: JPEG stuffs 00 after FF (T.81 B.1.1.5), JPEG-LS a 0 bit (T.87 A.1).
_JPEG_SCAN_END: Final = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
_JPEG_LS_SCAN_END: Final = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")
_SOF: Final = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", 0xF7: "JPEG-LS"}
_OTHER_SOF: Final = frozenset({0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RSTn
_SOI, _EOI, _SOS, _DNL, _APP0, _APP14, _DRI = 0xD8, 0xD9, 0xDA, 0xDC, 0xE0, 0xEE, 0xDD
# No encoder comes near this; libjpeg-turbo's own advice against scan bombs is 500.
_MAX_SCANS: Final = 500
_RGB_IDS: Final = (b"RGB", b"rgb")


@dataclass(frozen=True, slots=True)
class Codestream:
    """One encoded Frame's own account of itself.

    `kind` is one of baseline, extended, progressive, lossless, JPEG-LS, JPEG 2000, RLE; `length` counts the bytes
    from the first marker to the last, `start` those before it (the boxes of a JP2 file). `colour` is "RGB" or "YBR"
    where the codestream itself says so, else empty. `lossless` is None where the codestream does not tell.
    `ended` is False for a JPEG stream without EOI: truncated, whatever a decoder makes of it.
    """

    kind: str
    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    start: int
    length: int
    colour: str = ""
    lossless: bool | None = None
    ended: bool = True


def jpeg(data: bytes) -> Codestream:
    """Walk a JPEG (T.81) or JPEG-LS (T.87) codestream from SOI to EOI, or to its end if EOI is missing.

    Raises
    ------
    Fault
        CORRUPT when anything else is not whole, UNSUPPORTED for a process that DICOM does not use.
    """
    if data[:2] != b"\xff\xd8":
        raise corrupt("the JPEG stream does not start with SOI")
    return _JpegWalk(data).run()


class _JpegWalk:
    """The walk over one JPEG codestream; `position` is always that of a marker or of bytes before one."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 2
        self.frame: Codestream | None = None
        self.ids = b""
        self.scanned: set[int] = set()
        self.scans = 0
        self.colour = ""
        self.lossless: bool | None = None
        self.ended = True

    def run(self) -> Codestream:
        while (marker := self._marker()) != _EOI:
            if marker in _STANDALONE:
                continue
            if marker == _SOI:
                raise corrupt("the JPEG stream starts anew before its end")
            segment = self._segment()
            if marker in _SOF:
                self._start_of_frame(marker, segment)
            elif marker in _OTHER_SOF:
                raise Fault(FailureKind.UNSUPPORTED, f"JPEG process of SOF marker FF{marker:02X}")
            elif marker == _DNL:
                raise Fault(FailureKind.UNSUPPORTED, "JPEG stream with a DNL segment")
            elif marker == _SOS:
                self._scan(segment)
            else:
                self._application(marker, segment)
        return self._whole()

    def _marker(self) -> int:
        data, position = self.data, self.position
        if data[position : position + 1] == b"\xff":
            while data[position : position + 1] == b"\xff":  # fill bytes, T.81 B.1.1.2
                position += 1
            if position < len(data) and data[position] != 0:
                self.position = position + 1
                return data[position]
        if position >= len(data):
            self.ended = False
            return _EOI
        raise corrupt(f"the JPEG stream holds no marker at byte {self.position} where one is due")

    def _segment(self) -> bytes:
        length = int.from_bytes(self.data[self.position : self.position + 2], "big")
        segment = self.data[self.position + 2 : self.position + length]
        if length < 2 or len(segment) != length - 2:
            raise corrupt("a marker segment of the JPEG stream is cut; the file is truncated")
        self.position += length
        return segment

    def _start_of_frame(self, marker: int, segment: bytes) -> None:
        if self.frame is not None:
            raise corrupt("the JPEG stream holds two frame headers")
        if len(segment) < 6 or len(segment) != 6 + 3 * segment[5]:
            raise corrupt("the JPEG frame header is damaged")
        precision, rows, columns, components = struct.unpack(">BHHB", segment[:6])
        self.ids = segment[6::3]
        kind = _SOF[marker]
        self.frame = Codestream(kind, rows, columns, components, precision, signed=False, start=0, length=0)
        if kind == "lossless":
            self.lossless = True

    def _scan(self, header: bytes) -> None:
        if self.frame is None:
            raise corrupt("the JPEG stream holds a scan before its frame header")
        count = header[0] if header else 0
        if not 1 <= count <= 4 or len(header) != 4 + 2 * count:
            raise corrupt("a JPEG scan header is damaged")
        ids = header[1 : 1 + 2 * count : 2]
        if not set(ids) <= set(self.ids):
            raise corrupt("a JPEG scan names a component that the frame header does not")
        selection = header[1 + 2 * count]
        if self.frame.kind == "lossless" and not 1 <= selection <= 7:
            raise corrupt(f"the JPEG stream uses predictor {selection}; 1 to 7 are defined")
        if self.frame.kind == "JPEG-LS":  # NEAR (T.87 C.2.3)
            self.lossless = self.lossless is not False and selection == 0
        self.scanned.update(ids)
        self.scans += 1
        if self.scans > _MAX_SCANS:
            raise corrupt(f"the JPEG stream has more than {_MAX_SCANS} scans")
        ends = _JPEG_LS_SCAN_END if self.frame.kind == "JPEG-LS" else _JPEG_SCAN_END
        end = ends.search(self.data, self.position)
        stop = end.start() if end else len(self.data)
        if stop == self.position:
            raise corrupt("a JPEG scan is empty")
        self.position = stop

    def _application(self, marker: int, segment: bytes) -> None:
        if marker == _APP0 and segment[:4] == b"JFIF" and not self.colour:
            self.colour = "YBR"
        elif marker == _APP14 and segment[:5] == b"Adobe" and len(segment) >= 12:
            self.colour = "RGB" if segment[11] == 0 else "YBR"

    def _whole(self) -> Codestream:
        frame = self.frame
        if frame is None or not self.scans:
            raise corrupt("the JPEG stream holds no picture")
        if len(set(self.ids)) != len(self.ids):
            raise corrupt("two components of the JPEG stream have the same name")
        if set(self.ids) != self.scanned:
            raise corrupt("a component of the JPEG stream has no scan")
        colour = "RGB" if self.ids in _RGB_IDS else self.colour
        return Codestream(
            frame.kind,
            frame.rows,
            frame.columns,
            frame.components,
            frame.precision,
            signed=False,
            start=0,
            length=self.position,
            colour=colour if frame.components == 3 else "",
            lossless=self.lossless,
            ended=self.ended,
        )


_SOC: Final = b"\xff\x4f"
_J2K_SIZ, _J2K_COD, _J2K_SOT, _J2K_EOC = 0xFF51, 0xFF52, 0xFF90, 0xFFD9
_JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


def jpeg_2000(data: bytes) -> Codestream:
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
    end = _tile_parts(data, position, tiles)
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
    )


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


def _tile_parts(data: bytes, position: int, tiles: int) -> int:
    """Step over every tile-part (T.800 A.4.2) to EOC; give the position after it."""
    if tiles > len(data) // 14:  # a tile-part takes 14 bytes at the least
        raise corrupt(f"the JPEG 2000 stream claims {tiles} tiles, more than it can hold")
    seen: set[int] = set()
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
        seen.add(tile)
        position += length
    if seen != set(range(tiles)):
        raise corrupt(f"{tiles - len(seen)} of {tiles} tiles are missing from the JPEG 2000 stream")
    return position + 2


def _end_of_open_tile(data: bytes) -> int:
    end = data.rstrip(b"\x00")
    if not end.endswith(b"\xff\xd9"):
        raise corrupt("the JPEG 2000 stream ends without EOC; the file is truncated")
    return len(end) - 2


def _rle_segment(data: bytes, position: int, end: int, due: int, segment: int) -> None:
    """Count what one segment decodes to (PS3.5 G.3.2): `due` bytes, and then at most padding."""
    decoded = 0
    while decoded < due and position < end:
        control = data[position]
        if control < 128:
            decoded += control + 1
            position += control + 2
        elif control > 128:
            decoded += 257 - control
            position += 2
        else:
            position += 1
    if decoded < due or position > end:
        raise corrupt(f"RLE segment {segment} ends before its pixels; the file is truncated")
    if decoded > due or data[position:end].strip(b"\x00"):
        raise corrupt(f"RLE segment {segment} holds more pixels than Rows and Columns say")


def rle(data: bytes, rows: int, columns: int, samples: int, bits_allocated: int) -> Codestream:
    """Check an RLE header (PS3.5 G.5) and its segments against the Image Pixel Module, which alone says the size.

    Raises
    ------
    Fault
        CORRUPT when the header is damaged, or a segment does not decode to exactly one byte a pixel.
    """
    due = samples * (-(-bits_allocated // 8))
    pixels = -(-rows * columns // 8) if bits_allocated == 1 else rows * columns  # 1-bit samples are packed first
    if len(data) < 64:
        raise corrupt("the RLE header is cut; the file is truncated")
    count, *offsets = struct.unpack("<16L", data[:64])
    if count != due:
        raise corrupt(f"the RLE header counts {count} segments, {due} are due")
    if due > 15:
        raise corrupt(f"{due} RLE segments are due, the header holds 15 at most")
    used = [*offsets[:count], len(data)]
    if used[0] != 64 or used != sorted(set(used)):
        raise corrupt("the RLE header's offsets are damaged, or the file is truncated")
    for segment, (start, end) in enumerate(pairwise(used), 1):
        _rle_segment(data, start, end, pixels, segment)
    return Codestream(
        "RLE", rows, columns, samples, bits_allocated, signed=False, start=0, length=len(data), lossless=True
    )
