"""GDCM's gdcmconv as a grandchild process: its output is read for its pixels alone.

It gets a minimal file of our own around the encoded Frames, so that no header can lead it astray and no
element of the patient's reaches its scratch directory.
"""

import importlib.util
import os
import struct
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from dcmpool import _os
from dcmpool.codestream import Codestream
from dcmpool.dataset import PIXEL_DATA, corrupt, walk
from dcmpool.engines._stderr import complaint
from dcmpool.engines.frame import Decoded, codestream_of
from dcmpool.errors import Fault
from dcmpool.imagepixel import BITS_ALLOCATED, PLANAR_CONFIGURATION, ImagePixel
from dcmpool.instance import Instance
from dcmpool.model import FailureKind
from dcmpool.source import Source, open_source

_UID: Final = b"1.2.826.0.1.3680043.8.498.1"  # under pydicom's root; never leaves the scratch directory
# Ultrasound Multi-frame Image: GDCM does not write several signed Frames as Secondary Capture.
_SOP_CLASS: Final = b"1.2.840.10008.5.1.4.1.1.3.1"
_FILE_META_END: Final = 132 + 12
_BATCH_BYTES: Final = 32 << 20
"""Native bytes of the Frames that one process gets: it takes more than three times as much."""
_SAID_BYTES: Final = 1 << 16


def decode(instance: Instance, source: Source, scratch: Path) -> Iterator[Decoded]:
    """Run gdcmconv --raw on a few Frames at a time, since it holds all it is given; read its output Frame by Frame.

    Raises
    ------
    Fault
        CORRUPT when it fails, prints anything, or gives Pixel Data of another size; UNSUPPORTED when it is missing.
    """
    binary = _binary()
    count = max(1, _BATCH_BYTES // instance.frame_bytes)
    for first in range(0, instance.number_of_frames, count):
        batch = range(first, min(first + count, instance.number_of_frames))
        with (scratch / "in.dcm").open("wb") as file:
            _write_input(file, instance, source, batch)
        _convert(binary, scratch)
        with open_source(os.fsencode(scratch / "out.dcm")) as result:
            yield from _read_output(result, instance, len(batch))


def _convert(binary: Path, scratch: Path) -> None:
    given, made, said = scratch / "in.dcm", scratch / "out.dcm", scratch / "said.txt"
    with said.open("wb") as output:
        # No session of its own: a kill of the worker's process group must reach it. Its output goes to a file,
        # since a pipe that nobody drains is one cause of the famous hang.
        done = subprocess.run(  # noqa: S603 - the package's own binary, no shell
            [binary, "--raw", given, made],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(binary, scratch),
            check=False,
            preexec_fn=partial(_os.die_with_parent, os.getpid()),
        )
    with said.open("rb") as printed:
        words = complaint(printed.read(_SAID_BYTES)).replace(f"{scratch}/", "")
    if done.returncode < 0:
        raise Fault(FailureKind.CRASHED, f"gdcmconv was killed by signal {-done.returncode}")
    if done.returncode or words:
        raise corrupt(f"gdcmconv exits {done.returncode}" + (f" and says: {words}" if words else ""))


def _binary() -> Path:
    """Find the real binary: the script of that name that pip installs is a wrapper that always exits 0."""
    spec = importlib.util.find_spec("_gdcm")
    for folder in spec.submodule_search_locations or () if spec else ():
        binary = Path(folder) / "gdcmconv"
        if binary.is_file():
            return binary
    raise Fault(FailureKind.UNSUPPORTED, "gdcmconv is not installed")


def _environment(binary: Path, scratch: Path) -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str(binary.parent), "TMPDIR": str(scratch)}


def _write_input(file: BinaryIO, instance: Instance, source: Source, batch: range) -> None:
    """Write a minimal image around the Frames of these indices, one fragment each, with an empty offset table."""
    image, frames, codestream = instance.image, instance.frames, instance.codestream
    if image is None or frames is None or codestream is None:
        raise ValueError("nothing to decode")
    uid = instance.transfer_syntax_uid
    meta = (
        _element(0x00020001, b"OB", b"\x00\x01")
        + _element(0x00020002, b"UI", _SOP_CLASS)
        + _element(0x00020003, b"UI", _UID)
        + _element(0x00020010, b"UI", uid.encode())
        + _element(0x00020012, b"UI", _UID)
    )
    file.write(bytes(128) + b"DICM" + _element(0x00020000, b"UL", struct.pack("<L", len(meta))) + meta)
    file.write(_header(image, codestream, len(batch)))
    file.write(struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0))
    for index in batch:
        data = frames.read(source, index)
        found = codestream_of(instance, index, data, image)
        data = data[found.start : found.start + found.length]
        data += bytes(len(data) % 2)
        file.write(struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data)
    file.write(struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))


def _header(image: ImagePixel, codestream: Codestream, number_of_frames: int) -> bytes:
    stored = min(codestream.precision, image.bits_allocated)
    colour = image.photometric_interpretation
    numbers = {
        BITS_ALLOCATED: image.bits_allocated,
        0x00280101: stored,
        0x00280102: stored - 1,
        0x00280103: int(codestream.signed),
    }
    parts = [
        _element(0x00080016, b"UI", _SOP_CLASS),
        _element(0x00080018, b"UI", _UID),
        _element(0x00280002, b"US", struct.pack("<H", image.samples_per_pixel)),
        _element(0x00280004, b"CS", colour.encode()),
    ]
    if image.samples_per_pixel > 1:
        parts.append(_element(PLANAR_CONFIGURATION, b"US", struct.pack("<H", 0)))
    parts += [
        _element(0x00280008, b"IS", str(number_of_frames).encode()),
        _element(0x00280010, b"US", struct.pack("<H", image.rows)),
        _element(0x00280011, b"US", struct.pack("<H", image.columns)),
        *(_element(tag, b"US", struct.pack("<H", number)) for tag, number in numbers.items()),
    ]
    return b"".join(parts)


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\x00" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<2xL", len(value)) if vr == b"OB" else struct.pack("<H", len(value))) + value


def _read_output(result: Source, instance: Instance, number_of_frames: int) -> Iterator[Decoded]:
    image, due = instance.image, number_of_frames * instance.frame_bytes
    if image is None:
        raise ValueError("nothing to decode")
    meta_bytes = int.from_bytes(result.read(_FILE_META_END - 4, 4), "little")
    found = {element.tag: element for element in walk(result, _FILE_META_END + meta_bytes, explicit=True)}
    pixel_data = found.get(PIXEL_DATA)
    if pixel_data is None or pixel_data.length not in (due, due + 1):
        raise corrupt("gdcmconv gives Pixel Data of another size than is due")
    planar = found.get(PLANAR_CONFIGURATION)
    by_plane = image.samples_per_pixel > 1 and planar is not None and result.read(planar.value, 2) == b"\x01\x00"
    for index in range(number_of_frames):
        data = result.read(pixel_data.value + index * instance.frame_bytes, instance.frame_bytes)
        yield Decoded(data, image.bits_allocated, int(by_plane))
