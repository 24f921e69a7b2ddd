"""Every engine on known vectors, in a process of its own (arguments: engine, seconds a vector, Transfer Syntaxes).

The pictures were known before they were compressed, so that an engine is not held against itself. One JSON line a
vector, first its name alone, then what came of it: whoever reads knows at which one the process died.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from dcmpool import engines
from dcmpool.doctor import Finding
from dcmpool.errors import Fault
from dcmpool.instance import inspect
from dcmpool.model import FailureKind
from dcmpool.source import open_source

_SIDE: Final = 256
_PREFIX: Final = "1.2.840.10008.1.2."


class Vector(msgspec.Struct, frozen=True):
    """One known file: `bits` a sample; `error` is what a right decoder may be off by (T.83, T.87), 0 for reversible
    coding."""

    uid: str
    bits: int
    error: int = 0

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.uid.removeprefix(_PREFIX)}.dcm"


VECTORS: Final = (
    Vector(f"{_PREFIX}4.50", 8, error=1),
    Vector(f"{_PREFIX}4.51", 12, error=1),
    Vector(f"{_PREFIX}4.57", 16),
    Vector(f"{_PREFIX}4.70", 16),
    Vector(f"{_PREFIX}4.80", 16),
    Vector(f"{_PREFIX}4.81", 16, error=2),
    *(Vector(f"{_PREFIX}4.{number}", 16) for number in (90, 91, 201, 202, 203, 110, 112)),
    *(Vector(f"{_PREFIX}{number}", 16) for number in ("5", "1.98", "8.1")),
)
"""What an encoder is at hand for. Progressive JPEG, JPEG XL of JPEG and Part 2 of JPEG 2000 go by their kin."""


def picture(vector: Vector) -> NDArray[Any]:
    """Give the Frame of a vector, 256 x 256.

    For DCT coding each block of 8 x 8 is of one value, which quantization by 1 keeps to the bit; else it is a hill
    with noise in its lowest bits, as a scanner gives.
    """
    y, x = np.mgrid[0:_SIDE, 0:_SIDE]
    if vector.bits < 16:
        frame = (x // 8 * 29 + y // 8 * 67) % (1 << vector.bits)
    else:
        hill = 3000 * np.exp(-((x - 120) ** 2 + (y - 140) ** 2) / 9000)
        noise = (x * 7919 + y * 104729 + x * y * 31) % 13
        frame = hill.astype("i8") + noise
    found: NDArray[Any] = frame.astype("u1" if vector.bits <= 8 else "u2")
    return found


def examine(engine: str, vector: Vector, least_seconds: float) -> Finding:
    """Decode a vector by one engine, again and again for `least_seconds`, and hold it against its picture."""
    path = os.fsencode(str(files("dcmpool") / "vectors" / vector.file))
    with tempfile.TemporaryDirectory(prefix="dcmpool-") as scratch, open_source(path) as source:
        instance = inspect(source)

        def decoded() -> bytes:
            return b"".join(engines.decode(engine, instance, source, Path(scratch)))

        try:
            found = decoded()
        except (Fault, ImportError) as error:
            cannot = isinstance(error, ImportError) or error.kind is FailureKind.UNSUPPORTED
            return Finding(engine, vector.uid, "cannot" if cannot else "refused", str(error))
        seconds = _seconds(decoded, least_seconds) if least_seconds else 0.0
    expected = picture(vector)
    if len(found) != expected.nbytes:
        return Finding(engine, vector.uid, "wrong", f"{len(found)} bytes, {expected.nbytes} are due")
    difference = int(np.abs(np.frombuffer(found, expected.dtype).astype("i8") - expected.ravel()).max())
    if difference > vector.error:
        return Finding(engine, vector.uid, "wrong", f"samples differ by {difference}, {vector.error} are allowed")
    return Finding(engine, vector.uid, "right", seconds=seconds)


def _seconds(decode: Callable[[], bytes], least_seconds: float) -> float:
    """Give the CPU time of one call, that of ended grandchildren included."""
    count, end, before = 0, time.monotonic() + least_seconds, os.times()
    while time.monotonic() < end:
        decode()
        count += 1
    return sum(now - then for now, then in zip(os.times()[:4], before[:4], strict=True)) / count


def main() -> None:
    """Examine one engine; print what comes of it, line by line."""
    engine, least_seconds, wanted = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    for vector in VECTORS:
        if vector.uid not in wanted:
            continue
        sys.stdout.write(vector.uid + "\n")
        sys.stdout.flush()
        finding = examine(engine, vector, least_seconds)
        sys.stdout.write(msgspec.json.encode(finding).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
