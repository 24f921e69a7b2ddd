"""A DICOM file read again, for `verify`: its elements where they lie, Explicit VR Little Endian.

This module shares no code with `source`, `dataset` and `native`, whose work it is there to check. Memory is bounded by
one window, whatever a length field claims.
"""

import os
import struct
from collections.abc import Iterator
from typing import Final

import msgspec
import xxhash

from dcmpool.errors import Fault
from dcmpool.model import FailureKind

NO_LENGTH: Final = 0xFFFFFFFF
PADDING: Final = 1 << 32
"""Stands for zeros after the last element: after all tags."""
_WINDOW_BYTES: Final = 1 << 16
_CHUNK_BYTES: Final = 1 << 20
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_HEAD: Final = struct.Struct("<HH2sH")
_TWO_BYTE_LENGTH: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_FOUR_BYTE_LENGTH: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


class Part(msgspec.Struct, frozen=True, gc=False):
    """One element: the offsets (bytes) of its tag, of its value, and of what follows it."""

    tag: int
    start: int
    value: int
    length: int
    """As the file has it: `NO_LENGTH` where it is undefined."""
    end: int


class Reread:
    """An open file, read by offset through a window; what it must be is a matter of `demand`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._window = b""
        self._base = 0
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Give up to `length` bytes from `offset`; fewer at the end of the file."""
        if not self._holds(offset, length):
            if length > _WINDOW_BYTES:
                return os.pread(self._fd, length, offset)
            self._window, self._base = os.pread(self._fd, _WINDOW_BYTES, offset), offset
        start = offset - self._base
        return self._window[start : start + length]

    def _holds(self, offset: int, length: int) -> bool:
        """Tell whether these bytes are in the window; a small file is read whole for it, and once."""
        if not self._window and self.size <= _CHUNK_BYTES:
            self._window, self._base = os.pread(self._fd, self.size, 0), 0
        return self._base <= offset and min(offset + length, self.size) <= self._base + len(self._window)

    def elements(self, offset: int, end: int) -> Iterator[Part]:
        """Give the elements from `offset`, not those inside sequences; they must ascend and lead exactly to `end`.

        Zeros up to the end, which the inspection allows, are given as one last part with the tag `PADDING`.

        Raises
        ------
        Fault
            VERIFY where they do not.
        """
        last = -1
        while offset < end:
            window, base = self._window, self._base
            at, stop = offset - base, len(window) - 8
            while 0 <= at <= stop:  # nearly all elements are of these VRs, and worth a short way
                group, number, vr, length = _HEAD.unpack_from(window, at)
                tag, value = group << 16 | number, at + 8
                if vr not in _TWO_BYTE_LENGTH or group == 0xFFFE or tag <= last or base + at >= end:
                    break
                yield Part(tag, base + at, base + value, length, base + value + length)
                last, at = tag, value + length
            offset = base + at
            if offset >= end:
                break
            if not any(self.read(offset, min(8, end - offset))):
                yield Part(PADDING, offset, offset, end - offset, end)
                return
            part = self.element(offset, end)
            if part.tag <= last:
                raise Fault(FailureKind.VERIFY, f"element {part.tag:08X} at byte {offset} is out of order")
            last, offset = part.tag, part.end
            yield part
        demand(offset == end, "the last element does not end where the file does")

    def element(self, offset: int, limit: int) -> Part:
        """Give the element at `offset`; a sequence of undefined length must end before `limit`."""
        tag, value, length = self._head(offset)
        if length == NO_LENGTH and tag not in (_ITEM, _ITEM_END, _SEQUENCE_END):
            return Part(tag, offset, value, length, self._past_sequence(value, limit))
        return Part(tag, offset, value, length, value + length)

    def find(self, start: int, end: int, *tags: int) -> Part | None:
        """Give the first element from `start` to `end` that has one of these tags; None if there is none."""
        return next((part for part in self.elements(start, end) if part.tag in tags), None)

    def item(self, offset: int, limit: int) -> tuple[int, int]:
        """Give start and end of the elements in the sequence item at `offset`, which must end before `limit`."""
        part = self.element(offset, limit)
        demand(part.tag == _ITEM, "the sequence holds no item")
        if part.length != NO_LENGTH:
            return part.value, part.end
        offset = part.value
        while offset < limit:
            inner = self.element(offset, limit)
            if inner.tag == _ITEM_END:
                return part.value, offset
            offset = inner.end
        raise Fault(FailureKind.VERIFY, "the item of a sequence does not end")

    def digest(self, offset: int, length: int) -> str:
        """Give the xxh3-128 digest (hex) of `length` bytes from `offset`."""
        if self._holds(offset, length):
            start = offset - self._base
            held = memoryview(self._window)[start : start + length]
            demand(len(held) == length, "the file is shorter than it should be")
            return xxhash.xxh3_128_hexdigest(held)
        digest, end = xxhash.xxh3_128(), offset + length
        while offset < end:
            data = os.pread(self._fd, min(_CHUNK_BYTES, end - offset), offset)
            demand(bool(data), "the file is shorter than it should be")
            digest.update(data)
            offset += len(data)
        return digest.hexdigest()

    def _head(self, offset: int) -> tuple[int, int, int]:
        """Give tag, offset of the value and length, as PS3.5 7.1 has them; one without a VR is read as Implicit VR."""
        head = self.read(offset, 12)
        if len(head) < 8 or (len(head) < 12 and head[4:6] in _FOUR_BYTE_LENGTH):
            raise Fault(FailureKind.VERIFY, f"the file ends inside an element, at byte {offset}")
        group, number, vr, length = _HEAD.unpack_from(head)
        tag = group << 16 | number
        if vr in _FOUR_BYTE_LENGTH:
            return tag, offset + 12, int.from_bytes(head[8:], "little")
        if vr.isalpha() and vr.isupper() and group != 0xFFFE:
            return tag, offset + 8, length
        return tag, offset + 8, int.from_bytes(head[4:8], "little")

    def _past_sequence(self, offset: int, limit: int) -> int:
        """Give the offset after a sequence of undefined length; the source's own inspection has read its inside."""
        depth = 1
        while depth:
            demand(offset < limit, "a sequence does not end")
            tag, value, length = self._head(offset)
            if tag in (_ITEM_END, _SEQUENCE_END):
                depth -= 1
                offset = value
                continue
            if length == NO_LENGTH:
                depth += 1
                offset = value
            else:
                offset = value + length
        return offset


def same(one: Reread, start: int, other: Reread, begin: int, length: int) -> bool:
    """Tell whether two files hold the same `length` bytes at `start` and at `begin`."""
    for offset in range(0, length, _CHUNK_BYTES):
        count = min(_CHUNK_BYTES, length - offset)
        data = one.read(start + offset, count)
        if len(data) != count or data != other.read(begin + offset, count):
            return False
    return True


def demand(condition: bool, reason: str) -> None:
    """Raise Fault(VERIFY) unless `condition` holds."""
    if not condition:
        raise Fault(FailureKind.VERIFY, reason)
