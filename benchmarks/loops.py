"""What is usually written: pydicom with GDCM, in a loop or in a pool of processes; a program of its own.

    python loops.py SOURCE TARGET WORKERS SLEEP_SECONDS

With no workers it is a plain loop, which may sleep after each file: the usual cure against a hang.
"""

import functools
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pydicom
from pydicom.pixels.decoders.base import get_decoder


def decompress(target: Path, path: Path) -> None:
    """Decompress one file into the folder `target`, by GDCM if it can."""
    instance = pydicom.dcmread(path)
    plugins = get_decoder(instance.file_meta.TransferSyntaxUID).available_plugins
    instance.decompress(decoding_plugin="gdcm" if "gdcm" in plugins else "")
    instance.save_as(target / path.name)


def main(source: Path, target: Path, workers: int, sleep_seconds: float) -> None:
    """Decompress every file of `source`."""
    paths = sorted(source.iterdir())
    if workers:
        with ProcessPoolExecutor(workers) as pool:
            for _ in pool.map(functools.partial(decompress, target), paths, chunksize=4):
                pass
        return
    for path in paths:
        decompress(target, path)
        if sleep_seconds:
            time.sleep(sleep_seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
