"""What the fork server loads once, so that a child is ready in milliseconds instead of a third of a second.

A codec that is missing or broken is not an error here: its engine is reported, and the others do the work.
"""

import importlib
from collections.abc import Iterable

FIRST = (
    "numpy",
    "imagecodecs",
    "imagecodecs._imcd",  # imagecodecs itself loads each library only when it is asked for
    "imagecodecs._jpeg2k",
    "imagecodecs._jpeg8",
    "imagecodecs._jpegls",
    "imagecodecs._jpegxl",
    "xxhash",
    "dcmpool.worker",
    "dcmpool.engines._proof",
    "dcmpool.engines.plain",
)
"""What nearly every job needs."""
THEN = (
    "pydicom",
    "pydicom.pixels",
    "pydicom.encaps",
    "gdcm",
    "openjpeg",
    "rle",
    "jpeg_ls",
    "dcmpool.engines._pydicom",
)
"""What the engines behind the first ones need: a third of all the time, so the first children do not wait for it."""


def load(modules: Iterable[str]) -> dict[str, str]:
    """Import modules; return those that failed, with the reason in one line."""
    missing = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken codec may raise anything at import; the others still work
            missing[name] = f"{type(error).__name__}: {error}"[:500]
    return missing
