"""A lossless JPEG-LS encoder (T.87 Annex A) for the tests: the libraries at hand write no preset coding parameters but
the default ones. One component; a picture of a hundred samples a side takes a tenth of a second."""

import struct
from dataclasses import dataclass, field

from tests.reference import Array

_J = (*[0] * 4, *[1] * 4, *[2] * 4, *[3] * 4, *[4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15])
"""The order of run-length codes (T.87 A.2.1)."""


@dataclass(frozen=True)
class Preset:
    """Preset coding parameters (T.87 C.2.4.1.1): MAXVAL, T1 to T3, RESET; 0 for the default."""

    maximum: int = 0
    thresholds: tuple[int, int, int] = (0, 0, 0)
    reset: int = 0

    def segment(self) -> bytes:
        return _segment(0xF8, struct.pack(">B5H", 1, self.maximum, *self.thresholds, self.reset))


def encode(frame: Array, precision: int, preset: Preset = Preset()) -> bytes:
    """Encode Rows x Columns, unsigned."""
    rows, columns = frame.shape
    data = _Encoder(preset.maximum or (1 << precision) - 1, preset).encode(frame.tolist())
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xF7, struct.pack(">BHHB3B", precision, rows, columns, 1, 1, 0x11, 0)),
            preset.segment() if preset != Preset() else b"",
            _segment(0xDA, bytes([1, 1, 0, 0, 0, 0])),
            data,
            b"\xff\xd9",
        ]
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


class _Bits:
    """Bits, the highest of each byte first; a byte after FF has seven (T.87 A.1)."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self._byte, self._room = 0, 8

    def put(self, value: int, count: int) -> None:
        for at in range(count - 1, -1, -1):
            self._room -= 1
            self._byte |= (value >> at & 1) << self._room
            if not self._room:
                self.bytes.append(self._byte)
                self._room = 7 if self._byte == 0xFF else 8
                self._byte = 0

    def end(self) -> bytes:
        if self._room < 8:
            self.put(0, self._room)
        return bytes(self.bytes)


@dataclass
class _Context:
    a: int
    b: int = 0
    c: int = 0
    n: int = 1
    negative: int = 0

    def k(self, a: int) -> int:
        k = 0
        while self.n << k < a:
            k += 1
        return k

    def halve(self, reset: int) -> None:
        if self.n == reset:
            self.a, self.b, self.n, self.negative = self.a >> 1, self.b >> 1, self.n >> 1, self.negative >> 1


@dataclass
class _Encoder:
    maximum: int
    preset: Preset
    bits: _Bits = field(default_factory=_Bits)
    run_index: int = 0

    def __post_init__(self) -> None:
        self.range = self.maximum + 1
        self.bits_of_error = self.maximum.bit_length()
        self.limit = 2 * (max(2, self.bits_of_error) + max(8, self.bits_of_error))
        start = max(2, (self.range + 32) // 64)
        self.contexts = [_Context(start) for _ in range(367)]
        self.reset = self.preset.reset or 64
        if self.maximum >= 128:  # T.87 C.2.4.1.1.1
            factor = (min(self.maximum, 4095) + 128) // 256
            self.thresholds = (factor + 2, 4 * factor + 3, 17 * factor + 4)
        else:
            factor = 256 // self.range
            self.thresholds = (max(2, 3 // factor), max(3, 7 // factor), max(4, 21 // factor))
        if any(self.preset.thresholds):
            self.thresholds = self.preset.thresholds

    def encode(self, rows: list[list[int]]) -> bytes:
        above, corner = [0] * len(rows[0]), 0
        for row in rows:
            # Before and after the line above: what lies above to the left of the first, and to the right of the last.
            self._line(row, [corner, *above, above[-1]])
            corner, above = above[0], row
        return self.bits.end()

    def _line(self, row: list[int], above: list[int]) -> None:
        at = 0
        while at < len(row):
            left = row[at - 1] if at else above[1]
            corner, up, right = above[at : at + 3]
            if left == corner == up == right:
                at = self._run(row, above, at, left)
                continue
            self._regular(row[at], left, up, corner, right)
            at += 1

    def _regular(self, sample: int, left: int, up: int, corner: int, right: int) -> None:
        index = 0
        for gradient in (right - up, up - corner, corner - left):
            index = 9 * index + self._quantised(gradient)
        sign = -1 if index < 0 else 1
        context = self.contexts[abs(index)]
        low, high = sorted((left, up))
        predicted = low if corner >= high else high if corner <= low else left + up - corner
        predicted = min(max(predicted + sign * context.c, 0), self.maximum)
        error = self._reduced(sign * (sample - predicted))
        k = context.k(context.a)
        if k == 0 and 2 * context.b <= -context.n:
            mapped = 2 * error + 1 if error >= 0 else -2 * (error + 1)
        else:
            mapped = 2 * error if error >= 0 else -2 * error - 1
        self._golomb(mapped, k, self.limit)
        context.b += error
        context.a += abs(error)
        context.halve(self.reset)
        context.n += 1
        _unbias(context)

    def _quantised(self, gradient: int) -> int:
        size = abs(gradient)
        step = sum(size >= threshold for threshold in self.thresholds) + (size > 0)
        return step if gradient > 0 else -step

    def _reduced(self, error: int) -> int:
        """Reduce modulo RANGE (T.87 A.4.5)."""
        error += self.range if error < 0 else 0
        return error - self.range if error >= (self.range + 1) // 2 else error

    def _golomb(self, value: int, k: int, limit: int) -> None:
        zeros, escape = value >> k, limit - self.bits_of_error - 1
        if zeros < escape:
            self.bits.put(1, zeros + 1)
            self.bits.put(value, k)
        else:
            self.bits.put(1, escape + 1)
            self.bits.put(value - 1, self.bits_of_error)

    def _run(self, row: list[int], above: list[int], at: int, left: int) -> int:
        """Code a run from `at` and the sample that ends it (T.87 A.7); give where to go on."""
        end = at
        while end < len(row) and row[end] == left:
            end += 1
        count = end - at
        while count >= 1 << _J[self.run_index]:
            self.bits.put(1, 1)
            count -= 1 << _J[self.run_index]
            self.run_index = min(self.run_index + 1, 31)
        if end == len(row):
            self.bits.put(1, int(count > 0))
            return end
        self.bits.put(0, 1)
        self.bits.put(count, _J[self.run_index])
        self._interruption(row[end], row[end - 1] if end else above[1], above[end + 1])
        self.run_index = max(self.run_index - 1, 0)
        return end + 1

    def _interruption(self, sample: int, left: int, up: int) -> None:
        same = int(left == up)
        context = self.contexts[365 + same]
        error = sample - (left if same else up)
        if not same and left > up:
            error = -error
        error = self._reduced(error)
        k = context.k(context.a + (context.n >> 1) * same)
        often = 2 * context.negative >= context.n
        turned = (k == 0 and error > 0 and not often) or (error < 0 and (often or k != 0))
        mapped = 2 * abs(error) - same - int(turned)
        self._golomb(mapped, k, self.limit - _J[self.run_index] - 1)
        context.negative += error < 0
        context.a += (mapped + 1 - same) >> 1
        context.halve(self.reset)
        context.n += 1


def _unbias(context: _Context) -> None:
    """Keep the bias of the predictions (T.87 A.6.2)."""
    if context.b <= -context.n:
        context.b = max(context.b + context.n, 1 - context.n)
        context.c = max(context.c - 1, -128)
    elif context.b > 0:
        context.b = min(context.b - context.n, 0)
        context.c = min(context.c + 1, 127)
