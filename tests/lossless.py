"""A lossless JPEG encoder (T.81 Annex H) for the tests: what the libraries at hand cannot write, point transform and
restart intervals, is here; every difference category has a Huffman code of five bits."""

import struct
from itertools import pairwise

import numpy as np

from tests.reference import Array

_CATEGORIES = 17


def encode(frame: Array, precision: int, predictor: int, point_transform: int = 0, restart_rows: int = 0) -> bytes:
    """Encode Rows x Columns or Rows x Columns x Components, unsigned, in one interleaved scan.

    A decoder gives `frame` without its lowest `point_transform` bits. `restart_rows`: rows of each restart interval,
    0 for none.
    """
    samples = np.atleast_3d(frame).astype(np.int64) >> point_transform
    rows, columns, components = samples.shape
    step = restart_rows or rows
    starts = [*range(0, rows, step), rows]
    middle = 1 << (precision - point_transform - 1)
    intervals = [_entropy_coded(samples[one:two], middle, predictor) for one, two in pairwise(starts)]
    data = intervals[0] + b"".join(
        bytes((0xFF, 0xD0 + index % 8)) + interval for index, interval in enumerate(intervals[1:])
    )
    of_components = b"".join(bytes((index + 1, 0x11, 0)) for index in range(components))
    of_scan = b"".join(bytes((index + 1, 0)) for index in range(components))
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHB", precision, rows, columns, components) + of_components),
            _segment(0xC4, bytes([0]) + bytes([0, 0, 0, 0, _CATEGORIES] + 11 * [0]) + bytes(range(_CATEGORIES))),
            _segment(0xDD, struct.pack(">H", restart_rows * columns)) if restart_rows else b"",
            _segment(0xDA, bytes([components]) + of_scan + bytes((predictor, 0, point_transform))),
            data,
            b"\xff\xd9",
        ]
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _entropy_coded(samples: Array, middle: int, predictor: int) -> bytes:
    differences = (samples - _predictions(samples, middle, predictor)) % 65536
    bits = "".join(_code(int(value)) for value in differences.reshape(-1))
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return data.replace(b"\xff", b"\xff\x00")


def _code(difference: int) -> str:
    """Give category and additional bits of a difference modulo 2^16 (T.81 H.1.2.2)."""
    if difference == 32768:
        return f"{16:05b}"
    signed = difference - 65536 if difference > 32768 else difference
    category = abs(signed).bit_length()
    if not category:
        return f"{0:05b}"
    additional = signed if signed > 0 else signed + (1 << category) - 1
    return f"{category:05b}{additional:0{category}b}"


def _predictions(samples: Array, middle: int, predictor: int) -> Array:
    """Predict each sample from its neighbours (T.81 H.1.2.1): a on its left, b above it, c above a."""
    a, b, c = np.zeros_like(samples), np.zeros_like(samples), np.zeros_like(samples)
    a[:, 1:], b[1:], c[1:, 1:] = samples[:, :-1], samples[:-1], samples[:-1, :-1]
    found: Array = [a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1][predictor - 1].copy()
    found[:, 0] = b[:, 0]
    found[0] = a[0]
    found[0, 0] = middle
    return found
