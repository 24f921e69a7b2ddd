"""Whether the entropy-coded data of a JPEG (T.81), JPEG 2000 or JPEG XL codestream end exactly where its pixels do.

Decoders fill what is missing from a scan that lost bytes in its middle, and most of them say nothing. The proof is
about the codestream, whatever engine decoded it:

- lossless: the pixels determine the differences, these their Huffman codes, and so how many bits the scan must
  have, but for less than a byte of padding. One pass over the pixels, half the time of decoding them.
- DCT: a second decode, with other bytes put in before each marker that ends entropy-coded data, is equal unless a
  decoder ran into the end; a third, with the last byte before each such marker altered, differs there unless a
  decoder ended before it.

- JPEG 2000: OpenJPEG must miss bytes that are taken from the end of a tile.
- JPEG XL: libjxl must miss the last bytes; it passes over what follows a codestream, be it a second one.

What is left to chance: bytes missing from the middle and a decoder that, out of step, ends within the same byte.
"""

import re
import struct
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from dcmpool.codestream import Codestream, Scan
from dcmpool.dataset import corrupt
from dcmpool.errors import Fault

_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
# Begins with a 1: libjpeg fills with zeros. No FF in it.
_OTHER: Final = bytes.fromhex("d55b a6e4 9371 ce2d")
# Bytes to take from the end of a JPEG 2000 tile: of 109 whole streams 103 miss one, each misses 16. The last packets
# of a lossy one may be empty.
_TAKEN: Final = (1, 16, 64)
_BLOCK_SAMPLES: Final = 1 << 18
_MISSING: Final = "its entropy-coded data end before the picture does; bytes are missing"
_OTHER_LENGTH: Final = "its entropy-coded data are longer or shorter than its pixels; bytes are damaged or missing"
_EXCESS: Final = "its entropy-coded data go on after the picture; bytes are missing or too many"


def check_lossless(data: bytes, found: Codestream, samples: NDArray[Any], *, wrapped: bool) -> None:
    """Count the bits that each scan must have; `samples` is Rows x Columns x components, as the codestream has them.

    `wrapped`: samples are known modulo 2^precision alone, since their container has no more bits.

    Raises
    ------
    Fault
        CORRUPT when a scan has less or more.
    """
    for scan in found.scans:
        held = _intervals(data, scan)
        lines = _lines_of_interval(scan, found)
        if len(held) != -(-found.rows // lines):
            raise corrupt(_MISSING if len(held) < -(-found.rows // lines) else _EXCESS)
        used = np.zeros(found.rows, "i8")
        for index, table in zip(scan.components, scan.dc_tables, strict=True):
            used += _bits(samples[:, :, index], table, scan, found.precision, lines)
        for (start, stop), first in zip(held, range(0, found.rows, lines), strict=True):
            there = 8 * (stop - start - _stuffed(data, start, stop))
            due = int(used[first : first + lines].sum())
            if 0 <= there - due < 8:
                continue
            if not wrapped:
                raise corrupt(_OTHER_LENGTH)
            # Some encoders take differences modulo 2^8, and so the pixels do not tell which code there is.
            _check_count(data[start:stop], scan, found, min(lines, found.rows - first) * found.columns)


def check_dct(data: bytes, found: Codestream, decode: Callable[[bytes], NDArray[Any]]) -> None:
    """Decode again with what follows, and what precedes, each end of entropy-coded data altered.

    `decode` is libjpeg's, and gives samples of any colour, Rows x Columns or Rows x Columns x components.

    Raises
    ------
    Fault
        CORRUPT when the one changes the picture, or the other leaves it the same.
    """
    picture = decode(data)
    held = [_intervals(data, scan) for scan in found.scans]
    ends = [stop for intervals in held for _, stop in intervals]
    if not np.array_equal(decode(_with(data, [(stop, stop, _OTHER) for stop in ends])), picture):
        raise corrupt(_MISSING)
    if found.kind == "progressive":  # the last bits of a scan may refine what rounding hides
        return
    changed = decode(_with(data, [_altered_byte(data, stop) for stop in ends])) != picture
    for scan, intervals in zip(found.scans, held, strict=True):
        units = _units(scan, found)
        if len(intervals) != units.intervals:
            raise corrupt(_MISSING if len(intervals) < units.intervals else _EXCESS)
        for number, (start, stop) in enumerate(intervals):
            # Where the picture ends in flat chrominance, and its table has no other code, nothing that is put for
            # the last byte changes it. Then the codes are counted, at ten times the cost.
            if not changed[units.last(number)].any():
                _check_count(data[start:stop], scan, found, units.number_in(number))


def check_jpeg_2000(data: bytes, found: Codestream, decode: Callable[[bytes], NDArray[Any]]) -> None:
    """Take bytes from the end of a tile: OpenJPEG, which reads all packets of a tile before it decodes one, must miss
    them. After a loss in the middle it may take what follows for empty packets, and never come to the end.

    `decode` raises Fault for what it refuses, MemoryError where it may lack memory. `data` has one tile in one
    tile-part; one of a few bytes passes.

    Raises
    ------
    Fault
        CORRUPT when the tile can do without its end.
    """
    part = found.tile_parts[-1]
    room = part.stop - part.start
    if room < 80:
        return
    whole: NDArray[Any] | None = None

    def misses(altered: bytes) -> bool:
        nonlocal whole
        picture = _unless_refused(altered, data, decode)
        if picture is None:
            return True
        whole = decode(data) if whole is None else whole
        return not np.array_equal(picture, whole)

    for count in _TAKEN:
        length = struct.pack(">L", room - count)
        taken = [(part.start + 6, part.start + 10, length), (part.stop - count, part.stop, b"")]
        if count <= room // 4 and misses(_with(data, taken)):
            return
    # Bytes that nobody reads, or packets that hold nothing: at the end of a blank tile there may be hundreds of them.
    # Whoever reads those stumbles over other bytes in their place.
    other = (_OTHER * 8)[: room // 4]
    if not misses(_with(data, [(part.stop - len(other), part.stop, other)])):
        raise corrupt(_EXCESS)


def check_jpeg_xl(data: bytes, shortened: bytes, decode: Callable[[bytes], NDArray[Any]]) -> None:
    """Demand that nothing can be decoded from a stream that has lost its end.

    `decode` raises Fault for what it refuses, MemoryError where it may lack memory.

    Raises
    ------
    Fault
        CORRUPT when the picture does without it: what follows the codestream is no part of it.
    """
    if _unless_refused(shortened, data, decode) is not None:
        raise corrupt(_EXCESS)


def _unless_refused(altered: bytes, data: bytes, decode: Callable[[bytes], NDArray[Any]]) -> NDArray[Any] | None:
    """Decode a stream that was made of `data`; give None where it is refused, be it with little memory left."""
    try:
        return decode(altered)
    except Fault:
        return None
    except MemoryError:
        decode(data)  # where the whole has enough memory it was not for want of it
        return None


def _with(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Give `data` with the bytes from each start to its stop replaced."""
    parts, offset = [], 0
    for start, stop, replacement in changes:
        parts += [data[offset:start], replacement]
        offset = stop
    return b"".join([*parts, data[offset:]])


def _altered_byte(data: bytes, stop: int) -> tuple[int, int, bytes]:
    """Turn the last entropy-coded byte before `stop` into another that needs no stuffing."""
    start = stop - (2 if data[stop - 2 : stop] == b"\xff\x00" else 1)
    return start, stop, bytes([min(data[start] ^ 0xFF, 0xFE)])


class _Units(msgspec.Struct, frozen=True):
    """How the MCUs of a scan cover the picture: `wide` x `high` pixels each, `in_line` of them side by side,
    `number` in all, `interval` of them between two restart markers."""

    wide: int
    high: int
    in_line: int
    number: int
    interval: int

    @property
    def intervals(self) -> int:
        return -(-self.number // self.interval)

    def number_in(self, interval: int) -> int:
        return min(self.interval, self.number - interval * self.interval)

    def last(self, interval: int) -> tuple[slice, slice]:
        """Give the lines and columns of the last MCU in an interval."""
        line, column = divmod(interval * self.interval + self.number_in(interval) - 1, self.in_line)
        return (
            slice(line * self.high, (line + 1) * self.high),
            slice(column * self.wide, (column + 1) * self.wide),
        )


def _units(scan: Scan, found: Codestream) -> _Units:
    """Measure the MCUs of a scan (T.81 A.2); in one of a single component each is a block of that component."""
    wide = 8 * max(factors >> 4 for factors in found.sampling)
    high = 8 * max(factors & 15 for factors in found.sampling)
    if len(scan.components) == 1:
        factors = found.sampling[scan.components[0]]
        wide, high = wide // (factors >> 4), high // (factors & 15)
    in_line = -(-found.columns // wide)
    number = in_line * -(-found.rows // high)
    return _Units(wide, high, in_line, number, scan.restart_interval or number)


def _check_count(data: bytes, scan: Scan, found: Codestream, units: int) -> None:
    """Step over the codes of `units` MCUs of a sequential or lossless scan; they must end within the last byte."""
    data = data.replace(b"\xff\x00", b"\xff")
    windows = _windows(data)
    blocks = []
    for index, dc_table, ac_table in zip(scan.components, scan.dc_tables, scan.ac_tables, strict=True):
        factors = found.sampling[index] if len(scan.components) > 1 else 0x11
        blocks += [(_steps(dc_table), _steps(ac_table))] * ((factors >> 4) * (factors & 15))
    position, first = 0, 64 if found.kind == "lossless" else 1
    try:
        for _ in range(units):
            for dc_steps, ac_steps in blocks:
                position += dc_steps[windows[position]][0]
                place = first
                while place < 64:
                    bits, run = ac_steps[windows[position]]
                    position += bits
                    place += run
    except IndexError:
        raise corrupt(_MISSING) from None
    if not 0 <= 8 * len(data) - position < 8:
        raise corrupt(_MISSING if position > 8 * len(data) else _EXCESS)


def _windows(data: bytes) -> list[int]:
    """Give the 16 bits from each bit on, with ones after the end."""
    padded = np.frombuffer(data + b"\xff\xff\xff", "u1").astype("u4")
    three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    windows: list[int] = (three[:-1, None] >> np.arange(8, 0, -1) & 0xFFFF).reshape(-1).tolist()
    return windows


def _steps(table: bytes) -> list[tuple[int, int]]:
    """Give for each 16 bits the bits of the code that they begin with and of the number after it, and how far the
    code leads in its block (T.81 F.1.2.2); what is no code leads out of the data."""
    steps = [(1 << 62, 64)] * 65536
    code = 0
    length = 0
    for length_, symbol in _codes(table):
        code <<= length_ - length
        length = length_
        low, high = code << (16 - length), (code + 1) << (16 - length)
        run = 64 if symbol == 0 else (symbol >> 4) + 1
        steps[low:high] = [(length + (symbol & 15), run)] * (high - low)
        code += 1
    return steps


def _intervals(data: bytes, scan: Scan) -> list[tuple[int, int]]:
    """Divide a scan at its restart markers, which count from 0 to 7 and begin anew (T.81 B.2.1)."""
    if not scan.restart_interval:
        return [(scan.start, scan.stop)]
    marks = [mark.start() for mark in _RESTART.finditer(data, scan.start, scan.stop)]
    if any(data[mark + 1] & 7 != number & 7 for number, mark in enumerate(marks)):
        raise corrupt("a restart marker is missing from the JPEG stream")
    starts = [scan.start, *(mark + 2 for mark in marks)]
    return list(zip(starts, [*marks, scan.stop], strict=True))


def _stuffed(data: bytes, start: int, stop: int) -> int:
    """Count the bytes 00 that follow an FF (T.81 B.1.1.5) in `data[start:stop]`; ten times as fast as bytes.count."""
    part = np.frombuffer(data, "u1")[start:stop]
    return int(np.count_nonzero((part[:-1] == 0xFF) & (part[1:] == 0)))


def _lines_of_interval(scan: Scan, found: Codestream) -> int:
    lines, rest = divmod(scan.restart_interval or found.columns * found.rows, found.columns)
    if rest or not lines:  # T.81 H.1.1 wants whole lines
        raise corrupt("the restart interval of the JPEG stream is no whole number of lines")
    return lines


def _bits(samples: NDArray[Any], table: bytes, scan: Scan, precision: int, lines: int) -> NDArray[Any]:
    """Give the bits (code and difference) that each line of one component takes (T.81 H.1.2)."""
    shifted = samples >> scan.low if scan.low else samples
    differences = _differences(shifted, scan.selection, 1 << (precision - scan.low - 1), lines)
    costs, bits = _costs(table), np.empty(len(differences), "u4")  # a line has at most 65535 samples of at most 32 bits
    step = max(1, _BLOCK_SAMPLES // differences.shape[1])
    for first in range(0, len(differences), step):  # numpy makes indices of 8 bytes of these, at once of all
        block = slice(first, first + step)
        np.take(costs, differences[block]).sum(axis=1, dtype="u4", out=bits[block])
    return bits


@cache
def _categories() -> NDArray[Any]:
    """Give the category (T.81 table H.2) of each difference modulo 2^16."""
    magnitudes = np.abs(np.arange(65536).astype("u2").view("i2").astype("i4"))
    categories: NDArray[Any] = np.frexp(magnitudes.astype("f8"))[1].astype("intp")
    return categories


@lru_cache(maxsize=8)
def _costs(table: bytes) -> NDArray[Any]:
    """Give the bits that each difference modulo 2^16 takes; 0 for one that has no code. A series has few tables."""
    bits = np.zeros(256, "u1")
    for length, category in _codes(table):
        bits[category] = length + (category if category < 16 else 0)  # 32768 alone is of category 16
    costs: NDArray[Any] = np.take(bits, _categories())
    return costs


def _codes(table: bytes) -> Iterator[tuple[int, int]]:
    """Give length and symbol of each code of a Huffman table, in the codes' order."""
    return zip((length for length, count in enumerate(table[:16], 1) for _ in range(count)), table[16:], strict=True)


def _differences(x: NDArray[Any], selection: int, start: int, lines: int) -> NDArray[Any]:
    """Give each sample's difference from its prediction (T.81 H.1.2.1), modulo 2^16."""
    x = np.ascontiguousarray(x, "u2")
    out = np.empty_like(x)
    if selection == 1:  # in one go, past the ends of lines; what begins a line is made anew below
        np.subtract(x.reshape(-1)[1:], x.reshape(-1)[:-1], out=out.reshape(-1)[1:])
    else:
        np.subtract(x[1:, 1:], _prediction(selection, x[1:, :-1], x[:-1, 1:], x[:-1, :-1]), out=out[1:, 1:])
    np.subtract(x[1:, 0], x[:-1, 0], out=out[1:, 0])
    for first in range(0, len(x), lines):  # a scan and a restart begin as if nothing were above
        np.subtract(x[first, 1:], x[first, :-1], out=out[first, 1:])
        out[first, 0] = (int(x[first, 0]) - start) & 0xFFFF
    return out


def _prediction(selection: int, a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    """Predict from the samples to the left, above, and above to the left (T.81 table H.1)."""
    if selection <= 4:
        prediction: NDArray[Any] = (b, c, a + b - c)[selection - 2]
    elif selection == 5:
        prediction = a + _half_difference(b, c)
    elif selection == 6:
        prediction = b + _half_difference(a, c)
    else:
        prediction = (a & b) + ((a ^ b) >> 1)  # (a + b) >> 1 without the 17th bit
    return prediction


def _half_difference(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Give (a - b) >> 1, rounded down, modulo 2^16, without the 17th bit."""
    half: NDArray[Any] = (a >> 1) - (b >> 1) - (~a & b & 1)
    return half
