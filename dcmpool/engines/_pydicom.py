"""pydicom's decoder plug-ins, one Frame at a time, through its public API."""

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from dcmpool.codestream import Codestream
from dcmpool.dataset import corrupt
from dcmpool.engines._stderr import Printed, watched
from dcmpool.engines.frame import Decoded, codestream_of
from dcmpool.errors import Fault
from dcmpool.imagepixel import ImagePixel
from dcmpool.instance import Instance
from dcmpool.model import FailureKind
from dcmpool.source import Source

# pydicom logs every exception of a plug-in with its trace; here it is caught and becomes the reason.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def decode_frames(plugin: str, instance: Instance, source: Source) -> Iterator[Decoded]:
    """Decode each Frame by the plug-in of that name.

    Raises
    ------
    Fault
        CORRUPT when it fails or prints anything on fd 2, UNSUPPORTED when it cannot do the Transfer Syntax.
    """
    if instance.image is None or instance.frames is None:
        raise ValueError("nothing to decode")
    uid = instance.transfer_syntax_uid
    decoder = get_decoder(UID(uid))
    if plugin not in decoder.available_plugins:
        raise Fault(FailureKind.UNSUPPORTED, f"{plugin} has no decoder for this Transfer Syntax here")
    for index in range(len(instance.frames)):
        data = instance.frames.read(source, index)
        codestream = codestream_of(instance, index, data, instance.image)
        data = data[codestream.start : codestream.start + codestream.length]
        options = _options(instance.image, codestream)
        try:
            yield _decode_frame(decoder.as_buffer, plugin, data, options)
        except _DecoderError as error:
            raise corrupt(f"Frame {index + 1} of {len(instance.frames)}: the decoder says: {error}") from error


class _DecoderError(Exception):
    """The plug-in failed, or said that something is wrong."""


def _decode_frame(
    as_buffer: Callable[..., tuple[Any, dict[str, Any]]], plugin: str, data: bytes, options: dict[str, Any]
) -> Decoded:
    printed = Printed()
    try:
        with watched(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encapsulated = encapsulate([data], has_bot=False)
            frame, properties = as_buffer(encapsulated, decoding_plugin=plugin, validate=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # codecs raise whatever they like; each means the same here
        raise _DecoderError(printed.text or _reason(error)) from error
    except BaseException as error:
        # Rust's PanicException derives from BaseException; what is no panic is not ours.
        if type(error).__name__ != "PanicException":
            raise
        raise _DecoderError("it panicked") from error
    if printed.text:
        raise _DecoderError(printed.text)
    return Decoded(frame, int(properties["bits_allocated"]), int(properties.get("planar_configuration", 0)))


def _options(image: ImagePixel, codestream: Codestream) -> dict[str, Any]:
    """Describe the Frame by its codestream: pydicom would mask or refuse by the header what the stream holds."""
    options: dict[str, Any] = {
        "rows": image.rows,
        "columns": image.columns,
        "number_of_frames": 1,
        "samples_per_pixel": image.samples_per_pixel,
        "bits_allocated": image.bits_allocated,
        "bits_stored": min(codestream.precision, image.bits_allocated),
        "pixel_representation": int(codestream.signed),
        "photometric_interpretation": image.photometric_interpretation,
        "allow_excess_frames": False,
    }
    if image.samples_per_pixel > 1:
        options["planar_configuration"] = 0
    return options


def _reason(error: Exception) -> str:
    """Give the last line of the decoder's own words, one line."""
    if "'NoneType' object" in str(error):  # the plug-in trips over GDCM, which gave it nothing
        return "no picture comes out"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[-1] if lines else type(error).__name__
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in words)[:200]
