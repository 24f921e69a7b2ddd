"""A slow and strict reader of JPEG entropy-coded data (T.81 Annexes F and H): how many bits a scan's picture takes.

Written from the standard for the tests alone: it decodes no pixels and shares nothing with dcmpool.
"""

import struct


class OutOfBitsError(Exception):
    """The scan ends before its picture does, or holds bits that are no code."""


class Bits:
    """The bits of one restart interval, unstuffed."""

    def __init__(self, data: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in data.replace(b"\xff\x00", b"\xff"))
        self.used = 0

    def symbol(self, codes: dict[str, int]) -> int:
        for length in range(1, 17):
            symbol = codes.get(self.text[self.used : self.used + length])
            if symbol is not None and self.used + length <= len(self.text):
                self.used += length
                return symbol
        raise OutOfBitsError

    def skip(self, count: int) -> None:
        self.used += count
        if self.used > len(self.text):
            raise OutOfBitsError


def _tables(segment: bytes) -> dict[int, dict[str, int]]:
    found = {}
    while segment:
        counts, symbols = segment[1:17], iter(segment[17:])
        code, codes = 0, {}
        for length, count in enumerate(counts, 1):
            for _ in range(count):
                codes[f"{code:0{length}b}"] = next(symbols)
                code += 1
            code <<= 1
        found[segment[0]] = codes
        segment = segment[17 + sum(counts) :]
    return found


def is_whole(stream: bytes) -> bool:
    """Tell whether a sequential or lossless stream of one scan without restarts is whole: its picture takes its bits
    but for less than a byte."""
    tables: dict[int, dict[str, int]] = {}
    position, frame, kind = 2, b"", 0
    while True:
        marker, length = stream[position + 1], struct.unpack_from(">H", stream, position + 2)[0]
        segment = stream[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xC4:
            tables |= _tables(segment)
        elif marker in (0xC0, 0xC1, 0xC3):
            frame, kind = segment, marker
        elif marker == 0xDA:
            break
    bits = Bits(stream[position : stream.rindex(b"\xff\xd9")])
    try:
        _picture(bits, frame, segment, tables, lossless=kind == 0xC3)
    except OutOfBitsError:
        return False
    return len(bits.text) - bits.used < 8


def _picture(bits: Bits, frame: bytes, scan: bytes, tables: dict[int, dict[str, int]], *, lossless: bool) -> None:
    rows, columns = struct.unpack_from(">HH", frame, 1)
    factors = [(byte >> 4, byte & 15) for byte in frame[7::3]]
    across, down = (max(part) for part in zip(*factors, strict=True))
    size = 1 if lossless else 8
    if len(factors) == 1:
        across = down = 1
        factors = [(1, 1)]
    units = -(-columns // (size * across)) * -(-rows // (size * down))
    selectors = scan[2 : 1 + 2 * scan[0] : 2]
    for _ in range(units):
        for (wide, high), selector in zip(factors, selectors, strict=True):
            for _ in range(wide * high):
                category = bits.symbol(tables[selector >> 4])
                bits.skip(0 if category == 16 else category)
                if not lossless:
                    _coefficients(bits, tables[0x10 | selector & 15])


def _coefficients(bits: Bits, codes: dict[str, int]) -> None:
    place = 1
    while place < 64:
        symbol = bits.symbol(codes)
        if symbol == 0:
            return
        place += (symbol >> 4) + 1
        bits.skip(symbol & 15)
