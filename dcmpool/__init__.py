"""dcmpool: decompress DICOM series and archives; no file can stop the run.

    SOURCE --clerk: walk--> jobs --supervisor--> worker: inspect, decode, write, verify --> temp file
                                                    clerk: rename, sync, journal --> TARGET

See docs/design.md.
"""

__version__ = "0.1.0"
