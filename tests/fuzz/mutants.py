"""Mutants: small files in every Transfer Syntax, damaged by dice. The same seed and index give the same bytes.

That holds for one version of the encoders; so of a finding the file itself is kept.
"""

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from tests import encoders
from tests.reference import EXPLICIT, JPEG_2000, Made, element, encapsulated, even, real_colour, real_slice
from tests.tiles import tiled

Array = NDArray[Any]

JPEG_XL_LOSSLESS = "1.2.840.10008.1.2.4.110"
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"

_ALIASES = {
    "1.2.840.10008.1.2.4.202": "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.92": "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.93": "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.112": JPEG_XL_LOSSLESS,
}
"""Transfer Syntaxes whose codestreams those of another one are too, or may be."""

_BEFORE = element(0x00100010, b"PN", b"Nobody^Nemo") + element(0x00191010, b"UN", b"private, and of odd length")
_AFTER = element(0xFFFCFFFC, b"OB", bytes(30))
_WORDS = (0, 1, 2, 3, 7, 8, 12, 15, 16, 32, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_IMAGE_PIXEL = (0x0002, 0x0006, 0x0008, 0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103)
"""Elements of group 0028 that say how Pixel Data is laid out."""


@functools.cache
def originals() -> dict[str, bytes]:
    """Return the files that mutants are made of, by "Transfer Syntax UID, what it holds"."""
    found = {f"{uid} {name}": made for uid in encoders.SYNTAXES for name, made in _pictures(uid, _encoder(uid))}
    jpeg_xl = functools.partial(imagecodecs.jpegxl_encode, lossless=True, numthreads=1)
    others: dict[str, Callable[[Array], bytes]] = {
        JPEG_XL_LOSSLESS: lambda frame: bytes(jpeg_xl(frame.view(f"u{frame.itemsize}"))),
        ENCAPSULATED_UNCOMPRESSED: lambda frame: frame.tobytes(),
        DEFLATED_IMAGE_FRAME: lambda frame: zlib.compress(frame.tobytes(), wbits=-15),
    }
    for uid, encode in others.items():
        found |= {f"{uid} {name}": made for name, made in _pictures(uid, encode)}
    tiles = np.ascontiguousarray(real_slice()[32:96, 32:96])
    found[f"{JPEG_2000} 4 tiles"] = _file(JPEG_2000, tiles[None], [tiled(tiles, size=32, parts=2)], table=False)
    for alias, uid in _ALIASES.items():
        of_uid = {name: data for name, data in found.items() if name.split()[0] == uid}
        found |= {name.replace(uid, alias, 1): _relabelled(data, alias) for name, data in of_uid.items()}
    return found | _natives()


def _relabelled(data: bytes, uid: str) -> bytes:
    relabelled = bytearray(data)
    _set_transfer_syntax(relabelled, uid)
    return bytes(relabelled)


def _encoder(uid: str) -> Callable[[Array], bytes]:
    return lambda frame: encoders.encode(frame, uid, _precision(frame, uid), predictor=5)


def _precision(frame: Array, uid: str) -> int:
    return 12 if frame.itemsize == 2 and uid.endswith((".4.50", ".4.51")) else frame.itemsize * 8


def _frames() -> dict[str, Array]:
    ct = real_slice()[40:72, 30:60]
    eight = ((ct - ct.min()) * 255 // max(1, int(np.ptp(ct)))).astype("u1")
    colour = np.ascontiguousarray(np.tile(real_colour(), (4, 4, 1))[:17, :19])
    return {
        "grey 8": eight[None],
        "grey 16": ct[None].astype("<u2"),
        "signed 16": ct[None],
        "colour": colour[None],
        "3 Frames": np.stack([eight, eight[::-1], eight[:, ::-1]]),
    }


def _pictures(uid: str, encode: Callable[[Array], bytes]) -> list[tuple[str, bytes]]:
    made = []
    for name, frames in _frames().items():
        limit = 4095 if _precision(frames[0], uid) == 12 and frames.itemsize == 2 else None
        array = frames if limit is None else np.clip(frames, 0, limit).astype("<u2")
        try:
            codestreams = [encode(np.ascontiguousarray(frame)) for frame in array]
        except ValueError:
            continue  # more bits than the Transfer Syntax has
        made.append((name, _file(uid, array, codestreams, table=name == "3 Frames")))
        if name == "grey 16":
            half = len(codestreams[0]) // 4 * 2
            pieces = [codestreams[0][:half], codestreams[0][half:]]
            made.append(("2 fragments", _file(uid, array, pieces, table=False)))
    return made


def _file(uid: str, frames: Array, fragments: list[bytes], *, table: bool) -> bytes:
    colour = frames.ndim == 4 and uid in encoders.SYNTAXES
    offsets, at = b"", 0
    for fragment in fragments if table else ():
        offsets += struct.pack("<L", at)
        at += 8 + len(even(fragment))
    made = Made(
        uid,
        frames,
        fragments,
        photometric_interpretation=encoders.SYNTAXES[uid].rgb_becomes if colour else "",
        bits_stored=12 if frames.itemsize == 2 and uid.endswith((".4.50", ".4.51")) else 0,
        before=_BEFORE,
        after=_AFTER,
        pixel_data=encapsulated(fragments, offsets),
    )
    return made.to_bytes()


def _natives() -> dict[str, bytes]:
    """Return native files: as they are, Big Endian, Deflated."""
    frames = _frames()["signed 16"]
    pixel_data = element(0x7FE00010, b"OW", frames.tobytes())
    plain = Made(EXPLICIT, frames, [], before=_BEFORE, after=_AFTER, pixel_data=pixel_data).to_bytes()
    found = {f"{EXPLICIT} native": plain}
    for uid in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        instance = pydicom.dcmread(io.BytesIO(plain))
        instance.file_meta.TransferSyntaxUID = uid
        if uid == ExplicitVRBigEndian:
            instance.PixelData = np.frombuffer(instance.PixelData, "<u2").astype(">u2").tobytes()
        file = io.BytesIO()
        pydicom.dcmwrite(file, instance, enforce_file_format=True)
        found[f"{uid} native"] = file.getvalue()
    return found


def mutant(seed: int, index: int) -> tuple[str, bytes]:
    """Return mutant `index` of `seed`, and in words what was done to what."""
    dice = random.Random(f"{seed} {index}")
    name = dice.choice(sorted(originals()))
    data = bytearray(originals()[name])
    done = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        mutation = dice.choice(_MUTATIONS)
        mutation(data, dice)
        done.append(mutation.__name__.strip("_"))
    return f"{name}: {', '.join(done)}", bytes(data)


def _pixel_data(data: bytes | bytearray) -> int:
    """Return where Pixel Data begins; 0 if it is no longer there."""
    return max(0, data.rfind(b"\xe0\x7f\x10\x00"))


def _span(data: bytearray, dice: random.Random, least: int = 0) -> tuple[int, int]:
    start = dice.randrange(least, max(least + 1, len(data)))
    return start, min(len(data), start + dice.choice((1, 2, 3, 4, 8, 16, 64, 256)))


def _flip_bits(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 8)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _flip_in_the_codestream(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 3)):
        data[dice.randrange(_pixel_data(data), len(data))] ^= 1 << dice.randrange(8)


def _flip_in_the_header(data: bytearray, dice: random.Random) -> None:
    data[dice.randrange(128, max(129, min(_pixel_data(data), len(data))))] ^= 1 << dice.randrange(8)


def _set_a_word(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(128, len(data) - 4)
    form = dice.choice(("<H", ">H", "<L", ">L", "<B"))
    value = dice.choice(_WORDS) if form[1] != "L" else dice.choice((*_WORDS, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF))
    struct.pack_into(form, data, at, value & (0xFF if form == "<B" else 0xFFFFFFFF))


def _set_an_image_pixel_element(data: bytearray, dice: random.Random) -> None:
    at = data.find(struct.pack("<HH", 0x0028, dice.choice(_IMAGE_PIXEL)))
    if at >= 0:
        struct.pack_into("<H", data, at + 8, dice.choice(_WORDS))


def _change_a_marker(data: bytearray, dice: random.Random) -> None:
    """Change a JPEG marker behind its FF, or the length after it."""
    start = _pixel_data(data)
    found = [at for at in range(start, len(data) - 3) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    if found:
        at = dice.choice(found)
        data[at + dice.choice((1, 1, 2, 3))] = dice.randrange(256)


def _change_the_transfer_syntax(data: bytearray, dice: random.Random) -> None:
    _set_transfer_syntax(data, dice.choice(sorted(originals())).split()[0])


def _set_transfer_syntax(data: bytearray, uid: str) -> None:
    at = data.find(b"\x02\x00\x10\x00UI")
    if at >= 0:
        length = struct.unpack_from("<H", data, at + 6)[0]
        value = uid.encode() + b"\0" * (len(uid) % 2)
        data[at + 6 : at + 8 + length] = struct.pack("<H", len(value)) + value
        group_length = struct.unpack_from("<L", data, 140)[0]
        struct.pack_into("<L", data, 140, max(0, group_length + len(value) - length))


def _cut_the_end(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(_pixel_data(data), len(data)) :]


def _cut_out(data: bytearray, dice: random.Random) -> None:
    start, end = _span(data, dice, _pixel_data(data))
    del data[start:end]


def _cut_out_of_a_fragment(data: bytearray, dice: random.Random) -> None:
    """Take bytes out of a codestream and have the lengths fit again, as a writer does that was cut off itself."""
    for at in _items(data)[1:]:
        length = struct.unpack_from("<L", data, at + 4)[0]
        if length > 64 and dice.random() < 0.7:
            take = min(2 * dice.choice((1, 2, 4, 8, 32)), length - 32)
            start = at + 8 + dice.randrange(16, length - take)
            del data[start : start + take]
            struct.pack_into("<L", data, at + 4, length - take)
            return


def _repeat(data: bytearray, dice: random.Random) -> None:
    start, end = _span(data, dice)
    data[end:end] = data[start:end]


def _insert(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data))
    data[at:at] = dice.randbytes(dice.choice((1, 2, 4, 16, 64)))


def _blank(data: bytearray, dice: random.Random) -> None:
    start, end = _span(data, dice, 128)
    data[start:end] = bytes([dice.choice((0, 0xFF))]) * (end - start)


def _splice(data: bytearray, dice: random.Random) -> None:
    """Take Pixel Data from another file."""
    other = originals()[dice.choice(sorted(originals()))]
    del data[_pixel_data(data) :]
    data += other[_pixel_data(other) :]


def _change_an_item(data: bytearray, dice: random.Random) -> None:
    """Change the length of a fragment's item."""
    if found := _items(data):
        at = dice.choice(found)
        struct.pack_into("<L", data, at + 4, dice.choice((0, 1, 2, 7, 8, 100, 0xFFFFFFFE, 0xFFFFFFFF)))


def _items(data: bytearray) -> list[int]:
    """Return where the items of encapsulated Pixel Data begin."""
    at, found = _pixel_data(data) + 12, []
    while data[at : at + 4] == b"\xfe\xff\x00\xe0" and at + 8 <= len(data):
        found.append(at)
        at += 8 + int(struct.unpack_from("<L", data, at + 4)[0])
    return found


_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bits,
    _flip_in_the_codestream,
    _flip_in_the_codestream,
    _flip_in_the_header,
    _set_a_word,
    _set_an_image_pixel_element,
    _change_a_marker,
    _change_a_marker,
    _change_the_transfer_syntax,
    _cut_the_end,
    _cut_out,
    _cut_out_of_a_fragment,
    _repeat,
    _insert,
    _blank,
    _splice,
    _change_an_item,
)


def write_mutants(folder: Path, seed: int, indices: range) -> dict[str, str]:
    """Write mutants into `folder`, which is made; return what was done, by file name."""
    folder.mkdir(parents=True)
    made = {}
    for index in indices:
        words, data = mutant(seed, index)
        name = f"{index:06}.dcm"
        (folder / name).write_bytes(data)
        made[name] = words
    return made
