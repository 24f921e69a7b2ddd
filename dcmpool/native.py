"""Writing the result: the source's own bytes, a short list of changes, and the native Frames streamed.

    preamble | File Meta (made from the source's) | data set bytes with the changes | Pixel Data | what follows it

A Big Endian or deflated data set is written as its `Source` shows it.

Promises: nothing is encoded anew but the elements named in `_changes` and the File Meta Information; no more
than one Frame is held, or 64 KiB of smaller ones; the digest is that of the bytes that were handed to the kernel.
"""

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from dcmpool import syntaxes
from dcmpool.dataset import PIXEL_DATA, UNDEFINED, Element
from dcmpool.imagepixel import (
    BITS_STORED,
    HIGH_BIT,
    PHOTOMETRIC_INTERPRETATION,
    PIXEL_REPRESENTATION,
    PLANAR_CONFIGURATION,
)
from dcmpool.instance import ICON_GROUP_LENGTH, ICON_IMAGE_SEQUENCE, PIXEL_ELEMENTS, Icon, Instance, Layout
from dcmpool.source import Source

IMPLEMENTATION_CLASS_UID: Final = "2.25.259636921627969641285463852151505957571"  # PS3.5 B.2: from a UUID
IMPLEMENTATION_VERSION_NAME: Final = "DCMPOOL"
_PIXEL_GROUP_LENGTH: Final = 0x7FE00000
_OFFSET_TABLES: Final = (0x7FE00001, 0x7FE00002)
_CHUNK_BYTES: Final = 1 << 20
_GATHERED_BYTES: Final = 1 << 16
_GATHERED_PARTS: Final = 64
_FLUSH_BYTES: Final = 64 << 20
_FICLONE: Final = 0x40049409  # ioctl_ficlone(2)


class Written(msgspec.Struct, frozen=True):
    """What was written: bytes of the file, bytes of native Pixel Data (without the pad that was added), and the
    xxh3-128 digest (hex) of the latter, or for a copy of the whole file; `icon_digest` is that of a decoded Icon
    Image. `bits_stored` is there when samples are wider than Bits Stored says, and it was changed."""

    size: int
    native_bytes: int
    digest: str
    icon_digest: str = ""
    bits_stored: int = 0


def write_native(fd: int, source: Source, instance: Instance, frames: Iterable[bytes | memoryview]) -> Written:
    """Write the native form of `instance` to an empty file; `frames` are its native Frames as engines give them.

    Raises
    ------
    Fault
        What `frames` raises, or READ and CHANGED from the source.
    OSError
        As the target's storage gives it.
    """
    layout = instance.layout
    if layout is None:
        raise ValueError("nothing to write")
    output = _Output(fd)
    output.write(source.read(0, 128) if layout.preamble else bytes(128))
    output.write(_file_meta(source, layout))
    data_set = output.size
    if instance.frames is None:
        return _write_recoded(output, source, layout)
    frames = iter(frames)
    changes = _changes(source, instance, layout)
    icon_digest = ""
    if instance.icon is not None:
        icon = bytes(next(frames))
        icon_digest = xxhash.xxh3_128_hexdigest(icon)
        changes += _icon_changes(source, instance.icon, layout, icon)
    pixel_data = layout.elements[PIXEL_DATA]
    output.write_all(_spliced(source, layout.data_set, pixel_data.start, changes))
    output.write(_pixel_data_head(instance))
    widths = _Widths(instance)
    digest = _write_frames(output, widths.watched(frames))
    output.write(bytes(instance.native_bytes % 2))
    output.write_all(_chunks(source, pixel_data.end, source.end))
    output.flush()
    if widths.exceeded:  # known only now; nothing before these elements changes its length
        for tag, number in ((BITS_STORED, widths.bits), (HIGH_BIT, widths.bits - 1)):
            if tag in layout.elements and layout.elements[tag].length == 2:
                place = layout.elements[tag].value - layout.data_set + data_set
                os.pwrite(fd, struct.pack("<H", number), place)
    return Written(output.size, instance.native_bytes, digest, icon_digest, widths.bits if widths.exceeded else 0)


class _Widths:
    """Looks whether a sample of a JPEG 2000 codestream needs more bits than Bits Stored: then the header is wrong, and
    `exceeded`; `bits` are those of the codestream. Many encoders write 16 around samples of 12: then it is not."""

    def __init__(self, instance: Instance) -> None:
        image, found = instance.result, instance.codestream
        if image is None or found is None:
            raise ValueError("nothing to write")
        self.bits = min(found.precision, image.bits_allocated)
        self.exceeded = False
        self._image, self._signed = image, found.signed
        self._watches = found.kind == "JPEG 2000" and found.precision > image.bits_stored

    def watched(self, frames: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for frame in frames:
            if self._watches and not self.exceeded:
                self.exceeded = bool((~self._fit(frame)).any())
            yield frame

    def _fit(self, frame: bytes | memoryview) -> NDArray[np.bool_]:
        image = self._image
        kind = f"{'i' if image.pixel_representation else 'u'}{image.bits_allocated // 8}"
        samples: NDArray[Any] = np.frombuffer(frame, f"<{kind}")
        fit: NDArray[np.bool_] = samples >> image.bits_stored == 0
        if not image.pixel_representation:
            return fit
        signs = samples >> (image.bits_stored - 1)
        signed: NDArray[np.bool_] = (signs == 0) | (signs == -1)
        # A codestream without signs: the bits above Bits Stored may hold the sign, or nothing.
        return signed if self._signed else signed | fit


def _write_recoded(output: "_Output", source: Source, layout: Layout) -> Written:
    """Write a data set that `source` shows as it will be, its Pixel Data among the rest."""
    pixel_data = next((layout.elements[tag] for tag in PIXEL_ELEMENTS if tag in layout.elements), None)
    start, end = (source.end, source.end) if pixel_data is None else (pixel_data.value, pixel_data.end)
    output.write_all(_chunks(source, layout.data_set, start))
    digest = _write_frames(output, _chunks(source, start, end))
    output.write_all(_chunks(source, end, source.end))
    output.flush()
    return Written(output.size, end - start, digest)


def write_copy(fd: int, source: Source) -> Written:
    """Write the source's own bytes to an empty file, shared with the source where the file system can.

    Raises
    ------
    Fault
        READ or CHANGED from the source.
    OSError
        As the target's storage gives it.
    """
    shared = _share(fd, source)
    output, digest = _Output(fd), xxhash.xxh3_128()
    for part in _chunks(source, 0, source.size):
        digest.update(part)
        if not shared:
            output.write(part)
    output.flush()
    return Written(source.size, 0, digest.hexdigest())


def _share(fd: int, source: Source) -> bool:
    try:
        fcntl.ioctl(fd, _FICLONE, source.fd)
    except OSError:  # EOPNOTSUPP, EXDEV, EINVAL, ...: whatever it is, writing will meet it or do without
        return False
    return True


class _Output:
    """The file being written, `size` bytes so far: small parts go to the kernel with the next large one, uncopied.

    Asks the kernel to write back every 64 MiB, so that dirty pages stay bounded.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0
        self._parts: list[memoryview] = []
        self._written = 0
        self._synced = 0

    def write(self, data: bytes | memoryview) -> None:
        if not data:
            return
        self._parts.append(memoryview(data))
        self.size += len(data)
        if self.size - self._written >= _GATHERED_BYTES or len(self._parts) == _GATHERED_PARTS:
            self.flush()
        if self._written - self._synced >= _FLUSH_BYTES:
            os.fdatasync(self.fd)
            self._synced = self._written

    def write_all(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self.write(part)

    def flush(self) -> None:
        """Hand all to the kernel."""
        while self._parts:
            written = os.writev(self.fd, self._parts)
            self._written += written
            while self._parts and written >= len(self._parts[0]):
                written -= len(self._parts.pop(0))
            if written:
                self._parts[0] = self._parts[0][written:]


def _write_frames(output: _Output, frames: Iterable[bytes | memoryview]) -> str:
    digest = xxhash.xxh3_128()
    for frame in frames:
        digest.update(frame)
        output.write(frame)
    return digest.hexdigest()


def _chunks(source: Source, start: int, end: int) -> Iterator[bytes]:
    for offset in range(start, end, _CHUNK_BYTES):
        yield source.read(offset, min(_CHUNK_BYTES, end - offset))


def _spliced(source: Source, start: int, end: int, changes: list[tuple[Element, bytes]]) -> Iterator[bytes]:
    """Give the source's bytes from `start` to `end`, but for the elements that have a change."""
    for element, replacement in sorted(changes, key=lambda change: change[0].start):
        yield from _chunks(source, start, element.start)
        yield replacement
        start = element.end
    yield from _chunks(source, start, end)


def _pixel_data_head(instance: Instance) -> bytes:
    """Make tag, VR and length of native Pixel Data, even as PS3.5 8.1.1 wants it."""
    if instance.image is None:
        raise ValueError("nothing to write")
    vr = b"OB" if instance.image.bits_allocated <= 8 else b"OW"  # PS3.5 A.2
    return struct.pack("<HH2s2xL", 0x7FE0, 0x0010, vr, instance.native_bytes + instance.native_bytes % 2)


def _icon_changes(source: Source, icon: Icon, layout: Layout, pixels: bytes) -> list[tuple[Element, bytes]]:
    """Make the Icon Image Sequence anew around its native `pixels`, with the lengths of item, sequence and group."""
    inner = icon.instance.layout
    if inner is None:
        raise ValueError("nothing to write")
    changes = _changes(source, icon.instance, inner)
    value = _pixel_data_head(icon.instance) + pixels + bytes(len(pixels) % 2)
    changes.append((inner.elements[PIXEL_DATA], value))
    item = b"".join(_spliced(source, inner.data_set, icon.end, changes))
    grown = len(item) - (icon.end - inner.data_set)
    sequence = layout.elements[ICON_IMAGE_SEQUENCE]
    parts = [
        source.read(sequence.start, sequence.value - sequence.start - 4),
        _longer(source, sequence.value - 4, grown),
        source.read(icon.start, 4),
        _longer(source, icon.start + 4, grown),
        item,
        source.read(icon.end, sequence.end - icon.end),
    ]
    found = [(sequence, b"".join(parts))]
    group_length = layout.elements.get(ICON_GROUP_LENGTH)
    if group_length is not None and group_length.length == 4:
        found.append((group_length, _with_value(source, group_length, _longer(source, group_length.value, grown))))
    return found


def _longer(source: Source, offset: int, grown: int) -> bytes:
    """Give the 32-bit length at `offset`, `grown` bytes longer unless it is an undefined one."""
    length = int.from_bytes(source.read(offset, 4), "little")
    return struct.pack("<L", length if length == UNDEFINED else length + grown)


def _changes(source: Source, instance: Instance, layout: Layout) -> list[tuple[Element, bytes]]:
    """Name the elements before Pixel Data that differ in the result, each with its new bytes."""
    image, result, elements = instance.image, instance.result, layout.elements
    if image is None or result is None:
        raise ValueError("nothing to write")
    changes = [(elements[tag], b"") for tag in _OFFSET_TABLES if tag in elements]
    colour = elements[PHOTOMETRIC_INTERPRETATION]
    if result.photometric_interpretation != image.photometric_interpretation:
        # Padded to its old length, so that no length around it changes: trailing spaces mean nothing (PS3.5 6.2, CS).
        value = result.photometric_interpretation.encode().ljust(colour.length, b" ")
        changes.append((colour, _with_value(source, colour, value)))
    planar = elements.get(PLANAR_CONFIGURATION)
    if planar is not None and planar.length and result.planar_configuration != image.planar_configuration:
        changes.append((planar, _with_value(source, planar, struct.pack("<H", result.planar_configuration))))
    sign = elements.get(PIXEL_REPRESENTATION)
    if sign is not None and sign.length and result.pixel_representation != image.pixel_representation:
        changes.append((sign, _with_value(source, sign, struct.pack("<H", result.pixel_representation))))
    group_length = elements.get(_PIXEL_GROUP_LENGTH)
    if group_length is not None and group_length.length == 4:
        length = 12 + instance.native_bytes + instance.native_bytes % 2
        changes.append((group_length, _with_value(source, group_length, struct.pack("<L", length))))
    return changes


def _with_value(source: Source, element: Element, value: bytes) -> bytes:
    """Give an element's own tag, VR and length with another value of the same length."""
    if len(value) != element.length:
        raise ValueError("a value of another length")
    return source.read(element.start, element.value - element.start) + value


def _file_meta(source: Source, layout: Layout) -> bytes:
    """Make the File Meta Information (PS3.10 7.1) from the source's: other syntax, implementation and group length."""
    own = {
        0x00020010: _meta_element(0x00020010, b"UI", syntaxes.EXPLICIT_VR_LITTLE_ENDIAN.encode()),
        0x00020012: _meta_element(0x00020012, b"UI", IMPLEMENTATION_CLASS_UID.encode()),
        0x00020013: _meta_element(0x00020013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()),
    }
    kept = {
        tag: source.read(element.start, element.end - element.start)
        for tag, element in layout.meta.items()
        if tag not in own and tag != 0x00020000
    }
    kept.setdefault(0x00020001, _meta_element(0x00020001, b"OB", b"\x00\x01"))
    for tag, origin in ((0x00020002, 0x00080016), (0x00020003, 0x00080018)):
        element = layout.elements.get(origin)
        if tag not in kept and element is not None and element.length <= 64:
            kept[tag] = _meta_element(tag, b"UI", source.read(element.value, element.length))
    body = b"".join(bytes_ for _, bytes_ in sorted((kept | own).items()))
    return b"DICM" + _meta_element(0x00020000, b"UL", struct.pack("<L", len(body))) + body


def _meta_element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b" " if vr == b"SH" else b"\x00") * (len(value) % 2)
    length = struct.pack("<2xL" if vr == b"OB" else "<H", len(value))
    return struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr) + length + value
