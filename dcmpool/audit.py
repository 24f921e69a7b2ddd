"""A result of an earlier run, looked at again: it is what the journal says, and still the picture of its source.

The journal holds size and digest of a result. What else `verify.check` asks of a fresh one is taken from the result
itself; a second engine, which decodes the source anew, is what holds it to account (`verify.check_second`).
"""

import struct
from typing import Final

from dcmpool import verify
from dcmpool.instance import ICON_IMAGE_SEQUENCE, PIXEL_ELEMENTS, Icon, Instance
from dcmpool.model import Outcome
from dcmpool.native import Written
from dcmpool.protocol import Recorded
from dcmpool.reread import Reread, demand
from dcmpool.source import Source

_BITS_STORED: Final = 0x00280101


def check_recorded(fd: int, recorded: Recorded, source: Source, instance: Instance) -> None:
    """Check the result behind `fd` against its source and the journal.

    Raises
    ------
    Fault
        VERIFY when anything differs.
    OSError
        As the target's storage gives it.
    """
    demand(instance.outcome is recorded.outcome, f"its source is {instance.outcome} today, not {recorded.outcome}")
    file = Reread(fd)
    icon_digest = _icon_digest(file, instance.icon) if instance.icon else ""
    bits_stored = _bits_stored(file, instance)
    verify.check(
        fd, source, instance, Written(recorded.size, recorded.native_bytes, recorded.digest, icon_digest, bits_stored)
    )


def check_alone(fd: int, recorded: Recorded) -> None:
    """Check a result whose source is not there any more; raises as `check_recorded` does."""
    file = Reread(fd)
    demand(file.size == recorded.size, f"{file.size} bytes lie in the file, {recorded.size} were written")
    if recorded.outcome is not Outcome.DECOMPRESSED:
        demand(file.digest(0, file.size) == recorded.digest, "its digest is another one than when it was written")
        return
    pixels = file.find(132, file.size, *PIXEL_ELEMENTS)
    if recorded.native_bytes:
        demand(pixels is not None, "the file has no Pixel Data")
    if pixels is not None:
        due = recorded.native_bytes
        demand(pixels.length == due + due % 2, f"Pixel Data has {pixels.length} bytes, {due} are due")
        same = file.digest(pixels.value, due) == recorded.digest
        demand(same, "the digest of the Pixel Data is another one than when it was written")


def _icon_digest(file: Reread, icon: Icon) -> str:
    sequence = file.find(132, file.size, ICON_IMAGE_SEQUENCE)
    if sequence is None:
        return ""
    pixels = file.find(*file.item(sequence.value, sequence.end), *PIXEL_ELEMENTS)
    return file.digest(pixels.value, min(pixels.length, icon.instance.native_bytes)) if pixels else ""


def _bits_stored(file: Reread, instance: Instance) -> int:
    """Give Bits Stored of the result where it may have been changed: samples of JPEG 2000 may need more bits than the
    source's header says."""
    image, found = instance.image, instance.codestream
    if image is None or found is None or found.kind != "JPEG 2000" or found.precision <= image.bits_stored:
        return 0
    part = file.find(132, file.size, _BITS_STORED)
    if part is None or file.read(part.value, part.length) == struct.pack("<H", image.bits_stored):
        return 0
    return min(found.precision, image.bits_allocated)
