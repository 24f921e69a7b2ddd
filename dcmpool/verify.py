"""The last look before a result gets its name: the written file, read again by other code than wrote it.

Promises: what passes is a DICOM file in Explicit VR Little Endian whose elements lead without a gap from the
first byte to the last, whose Pixel Data has the size and the digest of the Frames that were decoded, and whose
other elements are the source's own, byte for byte, but for the named ones. This module shares no code with
`native`, `dataset` and `bigendian`.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Final, NamedTuple

import numpy as np

from dcmpool.byteorder import difference
from dcmpool.errors import Fault
from dcmpool.instance import ICON_GROUP_LENGTH, ICON_IMAGE_SEQUENCE, PIXEL_ELEMENTS, Instance
from dcmpool.model import FailureKind, Outcome
from dcmpool.native import Written
from dcmpool.reread import Part, Reread, demand, same
from dcmpool.source import Source

_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_EXPLICIT: Final = b"1.2.840.10008.1.2.1"
_CHUNK_BYTES: Final = 1 << 20
_PIXELS: Final = frozenset({0x7FE00000, 0x7FE00001, 0x7FE00002, 0x7FE00010})
_STORED: Final = frozenset({0x00280101, 0x00280102})
_OWN_META: Final = {0x00020010: b"UI", 0x00020012: b"UI", 0x00020013: b"SH"}
_LONGEST_UID: Final = 64
_ORIGIN: Final = {0x00020002: 0x00080016, 0x00020003: 0x00080018}
_OF_INTEREST: Final = frozenset(
    {0x00280004, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103}
    | {ICON_GROUP_LENGTH, ICON_IMAGE_SEQUENCE}
    | set(range(0x7FE00000, 0x7FE00011))
)
_ICON: Final = frozenset({ICON_GROUP_LENGTH, ICON_IMAGE_SEQUENCE})


def check(fd: int, source: Source, instance: Instance, written: Written) -> None:
    """Check the file behind `fd` against what should have been written.

    Raises
    ------
    Fault
        VERIFY when anything differs.
    OSError
        As the target's storage gives it.
    """
    file = Reread(fd)
    demand(file.size == written.size, f"{file.size} bytes lie in the file, {written.size} were written")
    if instance.outcome is Outcome.DECOMPRESSED and instance.frames is None:
        _check_recoded(file, source, instance, written)
    elif instance.outcome is Outcome.DECOMPRESSED:
        _check_decoded(file, source, instance, written)
    else:
        demand(file.size == source.size, "the copy has another size than the source")
        demand(file.digest(0, file.size) == written.digest, "the copy's digest differs from the source's")


def check_second(fd: int, instance: Instance, frames: Iterable[bytes | memoryview]) -> None:
    """Compare the native Frames in the file behind `fd` with `frames`, another engine's for the same `instance`.

    `frames` are as `engines.decode` gives them: an icon's first, if `instance.icon` is there.

    Raises
    ------
    Fault
        VERIFY at the first Frame that differs by more than two right decoders may; and what `frames` raises.
    OSError
        As the target's storage gives it.
    """
    iterator, file = iter(frames), Reread(fd)
    pixels = _found(file, 132, file.size, 0x7FE00010)
    if instance.icon is not None:
        sequence = _found(file, 132, file.size, ICON_IMAGE_SEQUENCE)
        icon_pixels = _found(file, *file.item(sequence.value, sequence.end), 0x7FE00010)
        icon = next(iterator, b"")
        data = file.read(icon_pixels.value, icon_pixels.length)[: len(icon)]
        _check_frame(data, icon, instance.icon.instance, "the Icon Image")
    offset = pixels.value
    for number, frame in enumerate(iterator, 1):
        native = file.read(offset, len(frame))
        _check_frame(native, frame, instance, f"Frame {number} of {instance.number_of_frames}")
        offset += len(frame)
    demand(offset == pixels.value + instance.native_bytes, "the second decoder gives less Pixel Data than the first")


def _check_frame(native: bytes, other: bytes | memoryview, instance: Instance, subject: str) -> None:
    if native == other:
        return
    demand(len(native) == len(other), f"{subject}: the second decoder gives another size")
    image, allowed = instance.image, _allowed_error(instance)
    if image is None or not allowed:
        raise Fault(FailureKind.VERIFY, f"{subject}: a second decoder gives other pixels")
    kind = f"<{'i' if image.pixel_representation else 'u'}{image.bits_allocated // 8}"
    one, two = np.frombuffer(native, kind), np.frombuffer(other, kind)
    error = 0
    for start in range(0, len(one), _CHUNK_BYTES):
        block = slice(start, start + _CHUNK_BYTES)
        error = max(error, int(np.abs(one[block].astype(np.int64) - two[block]).max()))
    demand(error <= allowed, f"{subject}: a second decoder gives samples that differ by {error}, {allowed} are allowed")


def _allowed_error(instance: Instance) -> int:
    """Give the greatest difference between samples of two right decoders; 0 for all that T.81, T.87 and T.800 settle
    to the bit, near-lossless JPEG-LS among them.

    A DCT or an irreversible wavelet may be off by 1 in either direction (T.83, T.803), so that two differ by 2; colour
    comes from a difference in chrominance by a factor of up to 1.772, rounded.
    """
    image, found = instance.image, instance.codestream
    if image is None or found is None:
        return 0
    transformed = found.kind in ("baseline", "extended", "progressive", "JPEG XL")
    if not transformed and (found.kind != "JPEG 2000" or found.lossless):
        return 0
    return 2 if image.samples_per_pixel == 1 else 4


def _check_decoded(file: Reread, source: Source, instance: Instance, written: Written) -> None:
    """Check a result whose header is the source's own but for the named elements, and whose Frames were decoded."""
    layout = instance.layout
    if layout is None:
        raise ValueError("nothing was decompressed")
    before = Reread(source.fd)
    exempt = _may_differ(instance)
    exempt |= (_ICON if instance.icon else frozenset()) | (_STORED if written.bits_stored else frozenset())
    found = _survey(file, _check_meta(file, before), file.size, exempt)
    _check_image(file, found.parts, instance, written)
    due = instance.native_bytes
    demand(written.native_bytes == due, f"{written.native_bytes} bytes of Pixel Data were written, {due} are due")
    _check_pixel_data(file, found.parts, before, instance, written.digest)
    _check_kept(before, layout.data_set, source.size, file, found)
    if instance.icon is not None:
        _check_icon(file, found.parts, before, instance, written)


def _may_differ(instance: Instance) -> frozenset[int]:
    """Name the elements of the data set that decoding changes."""
    image, result = instance.image, instance.result
    if image is None or result is None:
        raise ValueError("nothing was decompressed")
    changed = {
        0x00280004: image.photometric_interpretation != result.photometric_interpretation,
        0x00280006: image.planar_configuration != result.planar_configuration,
        0x00280103: image.pixel_representation != result.pixel_representation,
    }
    return _PIXELS | {tag for tag, differs in changed.items() if differs}


def _check_meta(file: Reread, before: Reread) -> int:
    """Check preamble and File Meta Information against those of the source; give the offset after them."""
    head, old_head = file.read(0, 132), before.read(0, 132)
    demand(head[128:] == b"DICM", "the file does not say DICM")
    preamble = old_head[128:] == b"DICM"
    demand(head[:128] == (old_head[:128] if preamble else bytes(128)), "the preamble differs")
    meta, end, elements = _meta(file, 132)
    demand(elements == len(meta), "an element of the File Meta is there twice")
    old, _, _ = _meta(before, 132 if preamble else 4 if old_head[:4] == b"DICM" else 0)
    length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, max(0, end - 144))
    demand(meta.get(0x00020000) == length, "the File Meta group length is wrong")
    demand(meta.get(0x00020010, b"")[8:].rstrip(b"\x00") == _EXPLICIT, "the Transfer Syntax UID is wrong")
    for tag, vr in _OWN_META.items():
        demand(meta.get(tag, b"")[4:6] == vr, f"the VR of element {tag:08X} is wrong")
    for tag in (meta.keys() | old.keys() | {0x00020001} | _ORIGIN.keys()) - _OWN_META.keys() - {0x00020000}:
        due = old.get(tag) or _added(tag, file, end)
        demand(meta.get(tag) == due, f"element {tag:08X} differs from the source's")
    return end


def _added(tag: int, file: Reread, start: int) -> bytes | None:
    """Give the File Meta element that a result has where its source has none (PS3.10 7.1); None if it has none.

    UIDs are those of the data set, which begins at `start` and is held against the source's by itself.
    """
    if tag == 0x00020001:
        return struct.pack("<HH2s2xL", 0x0002, 0x0001, b"OB", 2) + b"\x00\x01"
    part = file.find(start, file.size, _ORIGIN[tag]) if tag in _ORIGIN else None
    if part is None or part.length > _LONGEST_UID:
        return None
    value = file.read(part.value, part.length) + b"\x00" * (part.length % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"UI", len(value)) + value


def _meta(file: Reread, start: int) -> tuple[dict[int, bytes], int, int]:
    """Give the whole elements of group 0002 by tag, the first of each, the offset after them, and their number."""
    found: dict[int, bytes] = {}
    offset, elements = start, 0
    while file.read(offset, 2) == b"\x02\x00":
        part = file.element(offset, file.size)
        found.setdefault(part.tag, file.read(part.start, part.end - part.start))
        offset = part.end
        elements += 1
    return found, offset, elements


class _Survey(NamedTuple):
    """A result's elements from `start` to `end`: those of interest by tag, and the runs (start, end) of those that
    must be the source's, each as long as no exempt element interrupts it."""

    start: int
    end: int
    exempt: frozenset[int]
    parts: dict[int, Part]
    runs: list[tuple[int, int]]


def _survey(file: Reread, start: int, end: int, exempt: frozenset[int]) -> _Survey:
    parts: dict[int, Part] = {}
    runs: list[tuple[int, int]] = []
    since = start
    for part in file.elements(start, end):
        if part.tag in _OF_INTEREST:  # as every exempt one is
            parts[part.tag] = part
            if part.tag in exempt:
                runs.append((since, part.start))
                since = part.end
    runs.append((since, end))
    return _Survey(start, end, exempt, parts, [(begin, stop) for begin, stop in runs if begin < stop])


def _check_recoded(file: Reread, source: Source, instance: Instance, written: Written) -> None:
    """Compare a data set that took another form as a whole; its Pixel Data is hashed besides."""
    if instance.layout is None:
        raise ValueError("nothing was decompressed")
    start, before = _check_meta(file, Reread(source.fd)), instance.layout.data_set
    found = _survey(file, start, file.size, frozenset()).parts
    pixels = next((found[tag] for tag in PIXEL_ELEMENTS if tag in found), None)
    if pixels is not None:
        demand(file.digest(pixels.value, pixels.length) == written.digest, "the digest of the Pixel Data differs")
    size = file.size - start
    demand(size == source.end - before, "the data set has another size than the source's")
    if instance.transfer_syntax_uid == _BIG_ENDIAN:
        differs = difference(
            lambda offset, length: source.read_raw(before + offset, length),
            lambda offset, length: file.read(start + offset, length),
            size,
        )
        demand(not differs, f"{differs} differs from the source's")
        return
    for offset in range(0, size, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, size - offset)
        equal = file.read(start + offset, length) == source.read(before + offset, length)
        demand(equal, "the data set differs from the source's")


def _check_image(file: Reread, found: dict[int, Part], instance: Instance, written: Written) -> None:
    image, result = instance.image, instance.result
    if image is None or result is None:
        raise ValueError("nothing was decompressed")
    values = {tag: file.read(part.value, part.length) for tag, part in found.items() if part.length < 65}
    demand(not {0x7FE00001, 0x7FE00002} & found.keys(), "an Extended Offset Table was left behind")
    colour = values.get(0x00280004, b"").strip(b" \x00").decode("ascii", "replace")
    demand(colour == result.photometric_interpretation, "Photometric Interpretation is wrong")
    for tag, number in ((0x00280010, image.rows), (0x00280011, image.columns), (0x00280100, image.bits_allocated)):
        demand(values.get(tag) == struct.pack("<H", number), "Rows, Columns or Bits Allocated are wrong")
    planar = values.get(0x00280006) or struct.pack("<H", result.planar_configuration)
    demand(planar == struct.pack("<H", result.planar_configuration), "Planar Configuration is wrong")
    sign = values.get(0x00280103) or b"\x00\x00"
    demand(sign == struct.pack("<H", result.pixel_representation), "Pixel Representation is wrong")
    if written.bits_stored:
        stored = values.get(0x00280101), values.get(0x00280102, struct.pack("<H", written.bits_stored - 1))
        due = struct.pack("<H", written.bits_stored), struct.pack("<H", written.bits_stored - 1)
        demand(stored == due, "Bits Stored or High Bit is wrong")


def _check_pixel_data(file: Reread, found: dict[int, Part], before: Reread, instance: Instance, digest: str) -> None:
    due, part, group_length, image = instance.native_bytes, found.get(0x7FE00010), found.get(0x7FE00000), instance.image
    if part is None or image is None:
        raise Fault(FailureKind.VERIFY, "there is no Pixel Data")
    demand(part.length == due + due % 2, f"Pixel Data has {part.length} bytes, {due} are due")
    head = struct.pack("<HH2s2x", 0x7FE0, 0x0010, b"OB" if image.bits_allocated <= 8 else b"OW")  # PS3.5 A.2
    demand(file.read(part.start, 8) == head, "the VR of the Pixel Data is wrong")
    demand(file.digest(part.value, due) == digest, "the digest of the Pixel Data differs from the decoder's")
    if group_length is not None and group_length.length == 4:
        length = int.from_bytes(file.read(group_length.value, 4), "little")
        demand(length == 12 + part.length, "the group length of the Pixel Data is wrong")
        _check_head(file, group_length, before, instance)


def _check_head(file: Reread, part: Part, before: Reread, instance: Instance) -> None:
    """Check tag, VR and length of an element whose value alone may differ."""
    old = instance.layout.elements.get(part.tag) if instance.layout else None
    if old is not None:
        kept = same(before, old.start, file, part.start, part.value - part.start)
        demand(kept, f"the head of element {part.tag:08X} differs from the source's")


def _check_kept(before: Reread, start: int, end: int, file: Reread, found: _Survey) -> None:
    """Check that the source's elements from `start` to `end` are those of the result, but for the exempt ones.

    A run that lies byte for byte in the source, where an element begins, holds the same elements there.
    """
    offset = start
    for begin, stop in found.runs:
        offset = _past_exempt(before, offset, end, found.exempt)
        if not same(before, offset, file, begin, stop - begin):
            _compare(before, start, end, file, found)
            return
        offset += stop - begin
    if _past_exempt(before, offset, end, found.exempt) != end:
        _compare(before, start, end, file, found)


def _past_exempt(file: Reread, offset: int, end: int, exempt: frozenset[int]) -> int:
    while end - offset >= 8 and (part := file.element(offset, end)).tag in exempt:
        offset = part.end
    return offset


def _compare(before: Reread, start: int, end: int, file: Reread, found: _Survey) -> None:
    """Compare element by element, and say which one differs."""

    def kept(elements: Iterator[Part]) -> Iterator[Part]:
        return (part for part in elements if part.tag not in found.exempt)

    for old, new in zip_longest(kept(before.elements(start, end)), kept(file.elements(found.start, found.end))):
        tag = (old or new).tag
        demand(old is not None and new is not None and old.tag == new.tag, f"element {tag:08X} was lost or added")
        length = old.end - old.start
        demand(length == new.end - new.start, f"element {tag:08X} has another length than the source's")
        equal = same(before, old.start, file, new.start, length)
        demand(equal, f"element {tag:08X} differs from the source's")


def _check_icon(file: Reread, parts: dict[int, Part], before: Reread, instance: Instance, written: Written) -> None:
    """Check the Icon Image Sequence: native, with the digest of what was decoded, all else in it the source's."""
    icon, layout = instance.icon, instance.layout
    sequence, group_length = parts.get(ICON_IMAGE_SEQUENCE), parts.get(ICON_GROUP_LENGTH)
    if sequence is None or icon is None or layout is None:
        raise Fault(FailureKind.VERIFY, "the Icon Image Sequence was lost")
    whole = layout.elements[ICON_IMAGE_SEQUENCE]
    found = _survey(file, *file.item(sequence.value, sequence.end), _may_differ(icon.instance))
    old_start, old_end = before.item(icon.start, icon.end)
    _check_kept(before, old_start, old_end, file, found)
    for old, new, length in (
        (whole.start, sequence.start, sequence.value - 4 - sequence.start),
        (old_end, found.end, max(whole.end - old_end, sequence.end - found.end)),
    ):
        demand(same(before, old, file, new, length), "the head or the end of the Icon Image Sequence differs")
    _check_pixel_data(file, found.parts, before, icon.instance, written.icon_digest)
    if group_length is not None and group_length.length == 4:
        old = layout.elements[ICON_GROUP_LENGTH].value
        grown = (sequence.end - sequence.start) - (whole.end - whole.start)
        lengths = (before.read(old, 4), file.read(group_length.value, 4))
        was, now = (int.from_bytes(length, "little") for length in lengths)
        demand(now == was + grown, "the group length of the Icon Image Sequence is wrong")
        _check_head(file, group_length, before, instance)


def _found(file: Reread, start: int, end: int, tag: int) -> Part:
    part = file.find(start, end, tag)
    if part is None:
        raise Fault(FailureKind.VERIFY, f"element {tag:08X} is missing")
    return part
