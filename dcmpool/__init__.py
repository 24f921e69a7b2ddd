"""dcmpool: decompress DICOM series and archives; no file can stop the run.

    SOURCE --clerk: walk--> jobs --supervisor--> worker: inspect, decode, write, verify --> temp file
                                                    clerk: rename, sync, journal --> TARGET

From Python: `dcmpool.run(source, target)`, `dcmpool.stream(source, target)`, `dcmpool.scan(source)` (see `api.py`).
See docs/design.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcmpool.api import Report, run, scan, stream
    from dcmpool.errors import DcmpoolError, LaunchError, LockedError, UsageError

__version__ = "0.1.0"
__all__ = ["DcmpoolError", "LaunchError", "LockedError", "Report", "UsageError", "__version__", "run", "scan", "stream"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first asked for: each of our processes imports this package, and none needs it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("dcmpool.api"), name)
