"""The walk over a JPEG (T.81) or JPEG-LS (T.87) codestream, from marker to marker."""

import re
import struct
from typing import Final

import msgspec

from dcmpool.codestream import Codestream, Scan
from dcmpool.dataset import corrupt
from dcmpool.errors import Fault
from dcmpool.model import FailureKind

# The end of entropy-coded data: JPEG stuffs 00 after FF (T.81 B.1.1.5), JPEG-LS a 0 bit (T.87 A.1).
# One FF, not any number of them: a literal first byte lets `re` search 20 times as fast.
_JPEG_SCAN_END: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_LS_SCAN_END: Final = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_SOF: Final = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", 0xF7: "JPEG-LS"}
_OTHER_SOF: Final = frozenset({0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RSTn
_DHT, _SOI, _EOI, _SOS, _DNL, _DRI, _APP0, _APP14 = 0xC4, 0xD8, 0xD9, 0xDA, 0xDC, 0xDD, 0xE0, 0xEE
_LSE: Final = 0xF8
_CODING_PARAMETERS: Final = 1  # the kind of LSE segment (T.87 C.2.4.1)
# No encoder comes near this; libjpeg-turbo's own advice against scan bombs is 500.
_MAX_SCANS: Final = 500
_RGB_IDS: Final = (b"RGB", b"rgb")


def walk_jpeg(data: bytes) -> Codestream:
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
        self.sampling = b""
        self.scans: list[Scan] = []
        self.tables: dict[int, bytes] = {}
        self.restart_interval = 0
        self.maximum = 0
        self.colour = ""
        self.lossless: bool | None = None
        self.flaw = ""

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
                self._other(marker, segment)
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
            self.flaw = "the JPEG stream ends without EOI; the file is truncated"
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
        self.sampling = segment[7::3]
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
        if self.frame.kind == "lossless":
            self._check_lossless(selection)
        if self.frame.kind == "JPEG-LS":  # NEAR (T.87 C.2.3)
            self.lossless = self.lossless is not False and selection == 0
            self._check_jpeg_ls(header[2 : 2 + 2 * count : 2], (1 << self.frame.precision) - 1)
        if len(self.scans) == _MAX_SCANS:
            raise corrupt(f"the JPEG stream has more than {_MAX_SCANS} scans")
        ends = _JPEG_LS_SCAN_END if self.frame.kind == "JPEG-LS" else _JPEG_SCAN_END
        end = ends.search(self.data, self.position)
        start, self.position = self.position, end.start() if end else len(self.data)
        stop = self.position
        while end and stop > start and self.data[stop - 1] == 0xFF:  # fill bytes, T.81 B.1.1.2
            stop -= 1
        if stop == start:
            raise corrupt("a JPEG scan is empty")
        selectors = header[2 : 2 + 2 * count : 2]
        self.scans.append(
            Scan(
                start=start,
                stop=stop,
                components=tuple(self.ids.index(name) for name in ids),
                dc_tables=tuple(self.tables.get(selector >> 4, b"") for selector in selectors),
                ac_tables=tuple(self.tables.get(0x10 | selector & 15, b"") for selector in selectors),
                selection=selection,
                low=header[3 + 2 * count] & 15,
                restart_interval=self.restart_interval,
            )
        )

    def _check_lossless(self, selection: int) -> None:
        """Refuse what no decoder can do, and take note of what nobody can tell to be whole (PS3.5 8.2.1 has none)."""
        if not 1 <= selection <= 7:
            raise corrupt(f"the JPEG stream uses predictor {selection}; 1 to 7 are defined")
        if len(self.sampling) > 1 and any(factors != 0x11 for factors in self.sampling):
            self.flaw = "the lossless JPEG stream says that its components are subsampled"

    def _check_jpeg_ls(self, tables: bytes, maximum: int) -> None:
        """Take note of what CharLS passes over, the 2.4 or the 2.0 of GDCM: its picture would be another one.

        The coding of each sample depends on MAXVAL (T.87 A.2.1), but both work as if it were `maximum`, the default.
        """
        if self.maximum not in (0, maximum):
            self.flaw = f"the JPEG-LS stream presets a MAXVAL of {self.maximum}, which no engine goes by"
        if any(tables):
            self.flaw = "the JPEG-LS stream has a mapping table, which no engine applies"
        if any(factors != 0x11 for factors in self.sampling):
            self.flaw = "the JPEG-LS stream has subsampled components, which no engine enlarges"

    def _other(self, marker: int, segment: bytes) -> None:
        if marker == _DHT:
            self._huffman_tables(segment)
        elif marker == _DRI and len(segment) == 2:
            self.restart_interval = int.from_bytes(segment, "big")
        elif marker == _LSE and segment[:1] == bytes([_CODING_PARAMETERS]):
            self.maximum = int.from_bytes(segment[1:3], "big")
        else:
            self._application(marker, segment)

    def _huffman_tables(self, segment: bytes) -> None:
        """Keep the tables of one segment by class and name (T.81 B.2.4.2)."""
        while segment:
            end = 17 + sum(segment[1:17])
            if len(segment) < end:
                raise corrupt("a Huffman table of the JPEG stream is damaged")
            self.tables[segment[0]] = segment[1:end]
            segment = segment[end:]

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
        if {index for scan in self.scans for index in scan.components} != set(range(len(self.ids))):
            raise corrupt("a component of the JPEG stream has no scan")
        colour = "RGB" if self.ids in _RGB_IDS else self.colour
        return msgspec.structs.replace(
            frame,
            length=self.position,
            colour=colour if frame.components == 3 else "",
            lossless=self.lossless,
            flaw=self.flaw,
            sampling=self.sampling,
            scans=tuple(self.scans),
        )
