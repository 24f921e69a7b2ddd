"""A compressed CT series made from the one real CT slice that pydicom ships; for `make demo` and the tests.

    python -m tests.series make DIR            write the series into DIR, the record of its pixels into DIR.json
    python -m tests.series check DIR TARGET    compare what became of DIR with that record

The record holds digests of the native Pixel Data *before* compression, and lies beside the series so that a run
over the series does not meet it.
"""

import copy
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless

from tests.encoders import compressed

SYNTAXES = (JPEGLosslessSV1, JPEGLossless, JPEGLSLossless)
"""The Transfer Syntaxes of a series, in turn."""


def make_series(directory: Path, slices: int = 120, size: int = 512) -> dict[str, str]:
    """Write `slices` compressed SOP Instances of `size` x `size` pixels into `directory`, which is made.

    Returns the record: file name to SHA-256 (hex) of the native Pixel Data before compression.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record = {}
    for index, instance in enumerate(native_series(slices, size)):
        name = f"CT{index + 1:04}.dcm"
        record[name] = pixel_digest(instance)
        syntax = SYNTAXES[index % len(SYNTAXES)]
        encapsulated = compressed(instance, syntax, predictor=index // len(SYNTAXES) % 7 + 1)
        encapsulated.save_as(directory / name, enforce_file_format=True)
    return record


def native_series(slices: int, size: int) -> Iterator[Dataset]:
    """Yield the SOP Instances of one CT series, native, Explicit VR Little Endian.

    The source is pydicom's CT_small.dcm (GE, 128 x 128, 16 bit signed), enlarged; from slice to slice the picture
    grows and moves as anatomy does. Changed elements: Pixel Data, Rows, Columns, Pixel Spacing, Image Position
    (Patient), Slice Location, Instance Number, SOP Instance UID. All others are the source's own.
    """
    source = read_shipped("CT_small.dcm")
    pixels = source.pixel_array
    spacing = [round(float(mm) * source.Rows / size, 6) for mm in source.PixelSpacing]
    for index in range(slices):
        instance = copy.deepcopy(source)
        instance.Rows = instance.Columns = size
        instance.PixelSpacing = spacing
        instance.InstanceNumber = index + 1
        instance.SOPInstanceUID = f"{source.SOPInstanceUID}.{index + 1}"
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
        depth = float(source.SpacingBetweenSlices) * index
        instance.ImagePositionPatient[2] = round(float(source.ImagePositionPatient[2]) - depth, 6)
        instance.SliceLocation = round(float(source.SliceLocation) - depth, 6)
        instance.PixelData = _slice(pixels, size, index, int(source.PixelPaddingValue)).tobytes()
        yield instance


def read_shipped(name: str) -> Dataset:
    """Return the instance `name` out of the installed pydicom package; never downloads.

    Raises FileNotFoundError when the package has no such file.
    """
    path = get_testdata_file(name, download=False)
    if not isinstance(path, str):
        raise FileNotFoundError(name)
    return dcmread(path)


def pixel_digest(instance: Dataset) -> str:
    """Return the SHA-256 of native Pixel Data in hex.

    Raises ValueError where its length contradicts the header.
    """
    return hashlib.sha256(instance.pixel_array.tobytes()).hexdigest()


def check_series(record: dict[str, str], target: Path) -> list[str]:
    """Return one line for each file of `record` that is not native in `target`, with the very same pixels."""
    problems = ((name, _problem(target / name, digest)) for name, digest in record.items())
    return [f"{name}: {problem}" for name, problem in problems if problem]


def _problem(path: Path, digest: str) -> str | None:
    if not path.is_file():
        return "missing"
    instance = dcmread(path)
    syntax = instance.file_meta.TransferSyntaxUID
    if syntax != ExplicitVRLittleEndian:
        return f"not native: {syntax.name}"
    return None if pixel_digest(instance) == digest else "the pixels differ"


def _slice(pixels: NDArray[np.int16], size: int, index: int, padding: int) -> NDArray[Any]:
    """Return slice `index`: `pixels` enlarged to `size` x `size`, with `padding` outside the scanned circle."""
    rows = _sampling(len(pixels), size, zoom=1 + 0.1 * np.sin(index / 20), shift=3 * np.sin(index / 9))
    columns = _sampling(len(pixels), size, zoom=1 + 0.1 * np.sin(index / 25), shift=3 * np.cos(index / 11))
    enlarged = np.rint(rows @ pixels @ columns.T).astype("<i2")
    from_centre = np.arange(size) - (size - 1) / 2
    outside = np.hypot(*np.meshgrid(from_centre, from_centre)) > size / 2
    enlarged[outside] = padding
    return enlarged


def _sampling(before: int, after: int, zoom: float, shift: float) -> NDArray[np.float64]:
    """Return the (after x before) matrix of linear interpolation; `shift` in source pixels, edges repeated."""
    centre = (before - 1) / 2
    at = np.linspace(-centre, centre, after) / zoom + centre + shift
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(np.clip(at, 0, before - 1)[:, None] - np.arange(before)))
    return weights


def main(arguments: list[str]) -> int:
    """Run `make DIR` or `check DIR TARGET`; returns the exit code."""
    match arguments:
        case ["make", directory]:
            record = make_series(Path(directory))
            Path(f"{directory}.json").write_text(json.dumps(record, indent=1))
            print(f"{directory}: {len(record)} compressed CT slices")
            return 0
        case ["check", directory, target]:
            record = json.loads(Path(f"{directory}.json").read_text())
            problems = check_series(record, Path(target))
            print(*problems, sep="\n", end="\n" if problems else "")
            good = len(record) - len(problems)
            print(f"{good} of {len(record)} native, pixel for pixel equal to the slices before compression")
            return 1 if problems else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
