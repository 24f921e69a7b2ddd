"""The last look before a result gets its name: the written file, read again by other code than wrote it.

Promises: what passes is a DICOM file in Explicit VR Little Endian whose elements lead without a gap from the
first byte to the last, whose Pixel Data has the size and the digest of the Frames that were decoded, and whose
other elements are the source's own, byte for byte, but for the named ones. This module shares no code with
`native`, `dataset` and `bigendian`.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from itertools import takewhile, zip_longest
from typing import Final, NamedTuple

import numpy as np
import xxhash

from dcmpool.byteorder import difference
from dcmpool.errors import Fault
from dcmpool.instance import Instance
from dcmpool.model import FailureKind, Outcome
from dcmpool.native import Written
from dcmpool.source import Source

_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_EXPLICIT: Final = b"1.2.840.10008.1.2.1"
_PADDING: Final = 1 << 32  # after all tags
_CHUNK_BYTES: Final = 1 << 20
_NO_LENGTH: Final = 0xFFFFFFFF
_MAY_DIFFER: Final = frozenset({0x00280004, 0x00280006, 0x7FE00000, 0x7FE00001, 0x7FE00002, 0x7FE00010})
_STORED: Final = frozenset({0x00280101, 0x00280102})
_ICON: Final = frozenset({0x00880000, 0x00880200})
_FOUR_BYTE_LENGTH: Final = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()


def check(fd: int, source: Source, instance: Instance, written: Written) -> None:
    """Check the file behind `fd` against what should have been written.

    Raises
    ------
    Fault
        VERIFY when anything differs.
    OSError
        As the target's storage gives it.
    """
    size = os.fstat(fd).st_size
    _demand(size == written.size, f"{size} bytes lie in the file, {written.size} were written")
    if instance.outcome is Outcome.DECOMPRESSED and instance.frames is None:
        _check_recoded(fd, size, source, instance, written)
    elif instance.outcome is Outcome.DECOMPRESSED:
        _check_native(fd, size, instance, written)
        _check_kept(fd, size, source, instance, written)
        if instance.icon is not None:
            _check_icon(fd, size, source, instance, written)
    else:
        _demand(size == source.size, "the copy has another size than the source")
        _demand(_digest(fd, 0, size) == written.digest, "the copy's digest differs from the source's")


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
    iterator = iter(frames)
    if instance.icon is not None:
        sequence = _found(_elements(fd, 132, os.fstat(fd).st_size), 0x00880200)
        pixels = _found(_elements(fd, *_item(fd, sequence.value, sequence.end)), 0x7FE00010)
        icon = next(iterator, b"")
        data = os.pread(fd, pixels.length, pixels.value)[: len(icon)]
        _check_frame(data, icon, instance.icon.instance, "the Icon Image")
    begin = offset = _found(_elements(fd, 132, os.fstat(fd).st_size), 0x7FE00010).value
    for number, frame in enumerate(iterator, 1):
        native = os.pread(fd, len(frame), offset)
        _check_frame(native, frame, instance, f"Frame {number} of {instance.number_of_frames}")
        offset += len(frame)
    _demand(offset == begin + instance.native_bytes, "the second decoder gives less Pixel Data than the first")


def _check_frame(native: bytes, other: bytes | memoryview, instance: Instance, subject: str) -> None:
    if native == other:
        return
    _demand(len(native) == len(other), f"{subject}: the second decoder gives another size")
    image, allowed = instance.image, _allowed_error(instance)
    if image is None or not allowed:
        raise Fault(FailureKind.VERIFY, f"{subject}: a second decoder gives other pixels")
    kind = f"<{'i' if image.pixel_representation else 'u'}{image.bits_allocated // 8}"
    one, two = np.frombuffer(native, kind), np.frombuffer(other, kind)
    error = 0
    for start in range(0, len(one), _CHUNK_BYTES):
        block = slice(start, start + _CHUNK_BYTES)
        error = max(error, int(np.abs(one[block].astype(np.int64) - two[block]).max()))
    _demand(
        error <= allowed, f"{subject}: a second decoder gives samples that differ by {error}, {allowed} are allowed"
    )


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


def _demand(condition: bool, reason: str) -> None:
    if not condition:
        raise Fault(FailureKind.VERIFY, reason)


def _check_meta(fd: int, size: int) -> int:
    """Check preamble and File Meta Information; give the offset after them."""
    _demand(os.pread(fd, 4, 128) == b"DICM", "the file does not say DICM")
    found = dict(takewhile(lambda item: item[0] >> 16 == 2, ((part.tag, part) for part in _elements(fd, 132, size))))
    values = {tag: os.pread(fd, part.length, part.value) for tag, part in found.items() if part.length < 65}
    _demand(values.get(0x00020010, b"").rstrip(b"\x00") == _EXPLICIT, "the Transfer Syntax UID is wrong")
    end = max(part.end for part in found.values())
    _demand(values.get(0x00020000) == struct.pack("<L", end - 144), "the File Meta group length is wrong")
    return end


def _check_recoded(fd: int, size: int, source: Source, instance: Instance, written: Written) -> None:
    """Compare a data set that took another form as a whole; its Pixel Data is hashed besides."""
    if instance.layout is None:
        raise ValueError("nothing was decompressed")
    start = _check_meta(fd, size)
    found = {part.tag: part for part in _elements(fd, start, size)}
    pixels = next((found[tag] for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010) if tag in found), None)
    if pixels is not None:
        _demand(_digest(fd, pixels.value, pixels.length) == written.digest, "the digest of the Pixel Data differs")
    _demand(size - start == source.end - instance.layout.data_set, "the data set has another size than the source's")
    before = instance.layout.data_set
    if instance.transfer_syntax_uid == _BIG_ENDIAN:
        differs = difference(
            lambda offset, length: source.read_raw(before + offset, length),
            lambda offset, length: os.pread(fd, length, start + offset),
            size - start,
        )
        _demand(not differs, f"{differs} differs from the source's")
        return
    for offset in range(0, size - start, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, size - start - offset)
        same = os.pread(fd, length, start + offset) == source.read(before + offset, length)
        _demand(same, "the data set differs from the source's")


def _check_native(fd: int, size: int, instance: Instance, written: Written) -> None:
    image, result = instance.image, instance.result
    if image is None or result is None:
        raise ValueError("nothing was decompressed")
    start = _check_meta(fd, size)
    found = {part.tag: part for part in _elements(fd, start, size)}
    values = {tag: os.pread(fd, min(part.length, 64), part.value) for tag, part in found.items() if part.length < 65}
    _demand(not {0x7FE00001, 0x7FE00002} & found.keys(), "an Extended Offset Table was left behind")
    colour = values.get(0x00280004, b"").strip(b" \x00").decode("ascii", "replace")
    _demand(colour == result.photometric_interpretation, "Photometric Interpretation is wrong")
    for tag, number in ((0x00280010, image.rows), (0x00280011, image.columns), (0x00280100, image.bits_allocated)):
        _demand(values.get(tag) == struct.pack("<H", number), "Rows, Columns or Bits Allocated are wrong")
    sign = values.get(0x00280103) or b"\x00\x00"
    _demand(sign == struct.pack("<H", result.pixel_representation), "Pixel Representation is wrong")
    if written.bits_stored:
        stored = values.get(0x00280101), values.get(0x00280102, struct.pack("<H", written.bits_stored - 1))
        due = struct.pack("<H", written.bits_stored), struct.pack("<H", written.bits_stored - 1)
        _demand(stored == due, "Bits Stored or High Bit is wrong")
    _check_pixel_data(fd, found.get(0x7FE00010), instance, written)


def _check_pixel_data(fd: int, part: "_Part | None", instance: Instance, written: Written) -> None:
    due = instance.native_bytes
    if part is None:
        raise Fault(FailureKind.VERIFY, "the file has no Pixel Data")
    _demand(written.native_bytes == due, f"{written.native_bytes} bytes of Pixel Data were written, {due} are due")
    _demand(part.length == due + due % 2, f"Pixel Data has {part.length} bytes, {due} are due")
    _demand(_digest(fd, part.value, due) == written.digest, "the digest of the Pixel Data differs from the decoder's")


def _check_kept(fd: int, size: int, source: Source, instance: Instance, written: Written) -> None:
    """Compare the data set's elements with the source's: the same in the same order, but for the named ones."""
    if instance.layout is None:
        raise ValueError("nothing was decompressed")
    exempt = _MAY_DIFFER | (_ICON if instance.icon else frozenset()) | (_STORED if written.bits_stored else frozenset())
    if instance.result != instance.image:
        exempt |= {0x00280103}
    before = _elements(source.fd, instance.layout.data_set, source.size)
    after = (part for part in _elements(fd, 132, size) if part.tag >> 16 != 2)
    _compare(source.fd, before, fd, after, exempt)


def _compare(fd: int, before: Iterator["_Part"], other: int, after: Iterator["_Part"], exempt: frozenset[int]) -> None:
    for old, new in zip_longest((p for p in before if p.tag not in exempt), (p for p in after if p.tag not in exempt)):
        tag = (old or new).tag
        _demand(old is not None and new is not None and old.tag == new.tag, f"element {tag:08X} was lost or added")
        _demand(old.end - old.start == new.end - new.start, f"element {tag:08X} has another length than the source's")
        same = _digest(fd, old.start, old.end - old.start) == _digest(other, new.start, new.end - new.start)
        _demand(same, f"element {tag:08X} differs from the source's")


def _check_icon(fd: int, size: int, source: Source, instance: Instance, written: Written) -> None:
    """Check the Icon Image Sequence: native, with the digest of what was decoded, its other elements the source's."""
    icon, layout = instance.icon, instance.layout
    parts = {part.tag: part for part in _elements(fd, 132, size)}
    sequence, group_length = parts.get(0x00880200), parts.get(0x00880000)
    if sequence is None or icon is None or layout is None:
        raise Fault(FailureKind.VERIFY, "the Icon Image Sequence was lost")
    start, end = _item(fd, sequence.value, sequence.end)
    before = _elements(source.fd, *_item(source.fd, icon.start, icon.end))
    _compare(source.fd, before, fd, _elements(fd, start, end), _MAY_DIFFER)
    pixels = {part.tag: part for part in _elements(fd, start, end)}[0x7FE00010]
    due = icon.instance.native_bytes
    _demand(pixels.length == due + due % 2, f"the Icon Image has {pixels.length} bytes, {due} are due")
    _demand(_digest(fd, pixels.value, due) == written.icon_digest, "the digest of the Icon Image differs")
    if group_length is not None and group_length.length == 4:
        old, whole = layout.elements[0x00880000], layout.elements[0x00880200]
        grown = (sequence.end - sequence.start) - (whole.end - whole.start)
        lengths = (os.pread(source.fd, 4, old.value), os.pread(fd, 4, group_length.value))
        was, now = (int.from_bytes(length, "little") for length in lengths)
        _demand(now == was + grown, "the group length of the Icon Image Sequence is wrong")


def _item(fd: int, offset: int, limit: int) -> tuple[int, int]:
    """Give start and end of the elements in the sequence item at `offset`."""
    part = _part(fd, offset)
    _demand(part.tag == 0xFFFEE000, "the Icon Image Sequence holds no item")
    if part.length != _NO_LENGTH:
        return part.value, part.value + part.length
    offset = part.value
    while offset < limit:
        inner = _part(fd, offset)
        if inner.tag == 0xFFFEE00D:
            return part.value, offset
        offset = inner.value + inner.length if inner.length != _NO_LENGTH else _past_sequence(fd, inner, limit)
    raise Fault(FailureKind.VERIFY, "the item of the Icon Image Sequence does not end")


class _Part(NamedTuple):
    tag: int
    start: int
    value: int
    length: int
    end: int = 0


def _elements(fd: int, offset: int, size: int) -> Iterator[_Part]:
    """Give the elements of the file from `offset`; they must ascend and end exactly where the file does."""
    last = -1
    while offset < size:
        if not any(os.pread(fd, 8, offset)):  # padding, which the inspection allows; compared like an element
            yield _Part(_PADDING, offset, offset, size - offset, size)
            return
        part = _part(fd, offset)
        _demand(part.tag > last, f"element {part.tag:08X} at byte {offset} is out of order")
        last = part.tag
        offset = part.value + part.length if part.length != _NO_LENGTH else _past_sequence(fd, part, size)
        yield part._replace(end=offset)
    _demand(offset == size, "the last element does not end where the file does")


def _found(parts: Iterator[_Part], tag: int) -> _Part:
    part = next((part for part in parts if part.tag == tag), None)
    if part is None:
        raise Fault(FailureKind.VERIFY, f"element {tag:08X} is missing")
    return part


def _part(fd: int, offset: int) -> _Part:
    head = os.pread(fd, 12, offset)
    _demand(len(head) >= 8, f"the file ends inside an element, at byte {offset}")
    group, number = struct.unpack_from("<HH", head)
    tag = group << 16 | number
    if head[4:6] in _FOUR_BYTE_LENGTH:
        _demand(len(head) == 12, f"the file ends inside an element, at byte {offset}")
        return _Part(tag, offset, offset + 12, int.from_bytes(head[8:], "little"))
    if head[4:6].isalpha() and head[4:6].isupper() and group != 0xFFFE:
        return _Part(tag, offset, offset + 8, int.from_bytes(head[6:8], "little"))
    return _Part(tag, offset, offset + 8, int.from_bytes(head[4:8], "little"))


def _past_sequence(fd: int, sequence: _Part, size: int) -> int:
    """Give the offset after a sequence of undefined length; the source's own inspection has read its inside."""
    depth, offset = 1, sequence.value
    while depth:
        if sequence.tag == 0x7FE00010 and size - offset < 8:
            return size  # a source without its last delimiter; what is written has a length
        _demand(offset + 8 <= size, "a sequence does not end")
        part = _part(fd, offset)
        if part.tag in (0xFFFEE00D, 0xFFFEE0DD):
            depth -= 1
            offset += 8
        elif part.length == _NO_LENGTH:
            depth += 1
            offset = part.value
        else:
            offset = part.value + part.length
    return offset


def _digest(fd: int, offset: int, length: int) -> str:
    digest, end = xxhash.xxh3_128(), offset + length
    while offset < end:
        data = os.pread(fd, min(_CHUNK_BYTES, end - offset), offset)
        _demand(bool(data), "the file is shorter than it should be")
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()
