"""The floor: what no program that decompresses durably can be faster than, on these decoders. It checks nothing.

    python floor.py SOURCE TARGET WORKERS

For each file one read, the fastest decoder of its Transfer Syntax, one write of the source's own header and the
pixels, one fsync; on every core, the files dealt out beforehand. A header that it cannot patch in place, a table of
offsets, a codestream in several fragments, colour: nothing of that is looked at. It prints the seconds that all this
takes once everything is imported.
"""

import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs

ENCAPSULATED = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
NATIVE = b"\xe0\x7f\x10\x00OW\x00\x00"
EXPLICIT = b"1.2.840.10008.1.2.1"
DECODERS: dict[bytes, Callable[[bytes], Any]] = {
    b"1.2.840.10008.1.2.4.70": imagecodecs.jpeg8_decode,
    b"1.2.840.10008.1.2.4.57": imagecodecs.jpeg8_decode,
    b"1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    b"1.2.840.10008.1.2.4.90": lambda data: imagecodecs.jpeg2k_decode(data, numthreads=1),
    b"1.2.840.10008.1.2.4.201": imagecodecs.htj2k_decode,
    b"1.2.840.10008.1.2.5": lambda data: imagecodecs.dicomrle_decode(data, dtype="<u2"),
}


def fragments(data: bytes, offset: int) -> Iterator[bytes]:
    """Give the items of encapsulated Pixel Data (PS3.5 A.4) but the first, which is the Basic Offset Table."""
    first = True
    while data[offset : offset + 4] == b"\xfe\xff\x00\xe0":
        (length,) = struct.unpack_from("<L", data, offset + 4)
        offset += 8 + length
        if not first:
            yield data[offset - length : offset]
        first = False


def decompress(path: Path, result: Path) -> None:
    """Write one file native; the Transfer Syntax UID is padded to the length of the old one."""
    data = path.read_bytes()
    at = data.rindex(ENCAPSULATED)
    uid = next(uid for uid in sorted(DECODERS, reverse=True) if uid in data[132:1024])
    frames = [DECODERS[uid](fragment) for fragment in fragments(data, at + len(ENCAPSULATED))]
    header = data[:at].replace(uid, EXPLICIT.ljust(len(uid), b"\0"), 1)
    pixels = [memoryview(frame).cast("B") for frame in frames]
    length = sum(map(len, pixels))
    fd = os.open(result, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.writev(fd, [header, NATIVE + struct.pack("<L", length), *pixels])
    os.fsync(fd)
    os.close(fd)


def main(source: Path, target: Path, workers: int) -> None:
    """Decompress every file of `source`, every `workers`-th in one process."""
    begun = time.monotonic()
    paths = sorted(source.iterdir())
    for first in range(workers):
        if not os.fork():
            for path in paths[first::workers]:
                decompress(path, target / path.name)
            os._exit(0)
    for _ in range(workers):
        if os.wait()[1]:
            sys.exit("a process of the floor failed")
    print(time.monotonic() - begun)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
