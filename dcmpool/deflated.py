"""A deflated data set (PS3.5 A.5), read by offset as if it were not deflated.

Promises: memory is bounded whatever the stream claims or inflates to; a stream that ends early, goes on after its
end, or is no deflate stream at all is Fault(CORRUPT), found before anything of it is used.
"""

import zlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from dcmpool.dataset import corrupt
from dcmpool.errors import Fault
from dcmpool.model import FailureKind

_PIECE_BYTES: Final = 1 << 20
_INPUT_BYTES: Final = 1 << 16
_MARK_BYTES: Final = 64 << 20  # going back costs at most inflating this much; a mark takes some 50 KiB
_MOST_BYTES: Final = (1 << 32) + (64 << 20)  # the largest native Pixel Data, and a header


def inflated(data: bytes, most: int) -> bytes:
    """Inflate one Frame (RFC 1951); more than `most` + 1 bytes are not taken out.

    Raises
    ------
    Fault
        CORRUPT when it is damaged, cut, followed by more than padding, or holds more.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        held = inflater.decompress(data, most + 2)
    except zlib.error as error:
        raise corrupt("the deflated Frame is damaged") from error
    if len(held) > most + 1:
        raise corrupt(f"the deflated Frame holds more than the {most} bytes that are due")
    if not inflater.eof:
        raise corrupt("the deflated Frame ends early; the file is truncated")
    if len(inflater.unused_data) > 1 or inflater.unused_data.strip(b"\x00"):
        raise corrupt(f"{len(inflater.unused_data)} bytes that are no padding follow the deflated Frame")
    return held


class _Mark(msgspec.Struct, frozen=True):
    """The inflater's state where `position` bytes have come out, `taken` being the offset of the next input."""

    position: int
    taken: int
    inflater: Any


class Inflated:
    """What the bytes from `start` to `end` of a file inflate to: `size` bytes, to be read by offset.

    Reading forward inflates each byte once; reading back starts again from the last mark before.
    """

    def __init__(self, read: Callable[[int, int], bytes], start: int, end: int) -> None:
        self._read = read
        self._end = end
        self._marks = [_Mark(0, start, zlib.decompressobj(-zlib.MAX_WBITS))]
        self._restart(self._marks[0])
        self.size = self._measure()

    def read(self, offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset`, both within `size`."""
        if offset < self._position - len(self._piece):
            self._restart(next(mark for mark in reversed(self._marks) if mark.position <= offset))
        parts = []
        while length > 0:
            begin = offset - (self._position - len(self._piece))
            part = self._piece[begin : begin + length]
            parts.append(part)
            offset += len(part)
            length -= len(part)
            if length and not self._advance():
                raise Fault(FailureKind.CHANGED, "the source changed while it was read")
        return b"".join(parts)

    def _restart(self, mark: _Mark) -> None:
        self._inflater, self._taken, self._position, self._piece = mark.inflater.copy(), mark.taken, mark.position, b""

    def _advance(self) -> bool:
        """Inflate the next piece; return False at the end of the stream."""
        self._piece = b""
        while not self._piece and not self._inflater.eof:
            data = self._inflater.unconsumed_tail
            if not data:
                data = self._read(self._taken, min(_INPUT_BYTES, self._end - self._taken))
                self._taken += len(data)
            try:
                self._piece = self._inflater.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise corrupt("the deflated data set is damaged") from error
            if not self._piece and not data:
                raise corrupt("the deflated data set ends early; the file is truncated")
        self._position += len(self._piece)
        return bool(self._piece)

    def _measure(self) -> int:
        while self._advance():
            if self._position > _MOST_BYTES:
                raise Fault(FailureKind.UNSUPPORTED, f"the data set inflates to more than {_MOST_BYTES} bytes")
            if self._position - self._marks[-1].position >= _MARK_BYTES:
                self._marks.append(_Mark(self._position, self._taken, self._inflater.copy()))
        rest = len(self._inflater.unused_data) + self._end - self._taken
        if rest > 1 or self._inflater.unused_data.strip(b"\x00"):  # PS3.5 A.5: at most one NULL makes it even
            raise corrupt(f"{rest} bytes follow the end of the deflated data set")
        return self._position
