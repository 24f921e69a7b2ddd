"""GDCM in process, through pydicom's decoder plug-in."""

from collections.abc import Iterator
from pathlib import Path

from dcmpool.engines._pydicom import decode_frames
from dcmpool.engines.frame import Decoded
from dcmpool.instance import Instance
from dcmpool.source import Source


def decode(instance: Instance, source: Source, scratch: Path) -> Iterator[Decoded]:
    """Decode each Frame; `scratch` is not used."""
    del scratch
    return decode_frames("gdcm", instance, source)
