"""The files that the bench runs over, and what their pixels are.

The pictures are of one real CT slice (512 x 512, 13 bit) that pydicom ships, cropped, tiled and shifted; the header is
that of a real GE CT slice, which pydicom ships too. They are encoded by imagecodecs and pydicom, none of which dcmpool
writes with, so the pixels are known from before compression. A user may give slices of his own instead.
"""

import hashlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.encoders import compressed
from tests.series import read_shipped

SYNTAXES: dict[str, str] = {
    ".70": JPEGLosslessSV1,
    ".57": JPEGLossless,
    ".80": JPEGLSLossless,
    ".90": JPEG2000Lossless,
    "RLE": RLELossless,
    "HTJ2K": HTJ2KLossless,
}
_PREDICTOR = 6
"""Of .57."""
_TURNS = 4
"""How many pictures take turns in a multi-frame instance."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of series: `count` says how many files stand for so many CT slices; `distinct` of them differ."""

    title: str
    rows: int
    columns: int
    frames: int
    distinct: int
    count: Callable[[int], int]


KINDS: dict[str, Kind] = {
    "ct": Kind("CT slices, 512 x 512", 512, 512, 1, 28, lambda files: files),
    "short": Kind("a series of 28 CT slices, 512 x 512", 512, 512, 1, 28, lambda files: min(files, 28)),
    "small": Kind("small slices, 256 x 256", 256, 256, 1, 28, lambda files: files),
    "large": Kind("large pictures, as of CR, 3000 x 2500", 3000, 2500, 1, 2, lambda files: max(2, files // 40)),
    "multi": Kind("multi-frame, 50 Frames of 512 x 512", 512, 512, 50, 1, lambda files: max(2, files // 50)),
}


@dataclass(frozen=True, slots=True)
class Series:
    """A folder of files of one Transfer Syntax; `digests` has the SHA-256 of each one's native Pixel Data, by name.

    Where the pixels are not known from before compression, `digests` is filled by the first who decodes them.
    """

    folder: Path
    trial: Path
    """A few of them, all that differ: what each command must get right before it is measured."""
    names: tuple[str, ...]
    digests: dict[str, str]


def make(folder: Path, kind: Kind, uid: str, files: int, given: list[Path]) -> Series:
    """Make a series in `folder`, which is made: of `given` files, or else of our own pictures."""
    series = Series(folder / "all", folder / "trial", tuple(f"{n:06}.dcm" for n in range(kind.count(files))), {})
    series.folder.mkdir(parents=True)
    series.trial.mkdir()
    distinct = len(given) or min(kind.distinct, len(series.names))
    for number, name in enumerate(series.names):
        path = series.folder / name
        if number >= distinct:
            shutil.copyfile(series.folder / series.names[number % distinct], path)
        elif given:
            shutil.copyfile(given[number], path)
        else:
            series.digests[name] = _write(path, kind, uid, number)
        if number < max(distinct, 4):
            shutil.copyfile(path, series.trial / name)
            series.digests.setdefault(name, series.digests.get(series.names[number % distinct], ""))
    return series


def given_slices(folder: Path | None) -> dict[str, list[Path]]:
    """Return the files below `folder` with encapsulated Pixel Data of the bench's Transfer Syntaxes, by UID."""
    found: dict[str, list[Path]] = {uid: [] for uid in SYNTAXES.values()}
    for path in sorted(folder.rglob("*") if folder else ()):
        if path.is_file():
            found.get(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID, []).append(path)
    return found


def wrong(series: Series, target: Path) -> str:
    """Say which results of the trial in `target` are missing, not native or other pixels; "" if all are right."""
    for name, digest in series.digests.items():
        if not (target / name).is_file():
            return f"{name} is missing"
        instance = dcmread(target / name)
        if instance.file_meta.TransferSyntaxUID.is_compressed:
            return f"{name} is not native"
        found = _digest(instance.PixelData[: _native_bytes(instance)])
        if digest and found != digest:
            return f"the pixels of {name} are wrong"
        series.digests[name] = found
    return ""


def _write(path: Path, kind: Kind, uid: str, turn: int) -> str:
    frames = [_picture(kind.rows, kind.columns, turn + frame % _TURNS) for frame in range(kind.frames)]
    compressed(_instance(kind, turn), uid, frames, _PREDICTOR).save_as(path, enforce_file_format=True)
    return _digest(b"".join(frame.tobytes() for frame in frames))


def _instance(kind: Kind, turn: int) -> Dataset:
    instance = read_shipped("CT_small.dcm")
    instance.Rows, instance.Columns = kind.rows, kind.columns
    instance.InstanceNumber = turn + 1
    instance.SOPInstanceUID = f"{instance.SOPInstanceUID}.{turn + 1}"
    return instance


def _picture(rows: int, columns: int, turn: int) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # header and codestream disagree on the sign: this is a file for tests
        slice_ = read_shipped("J2K_pixelrep_mismatch.dcm").pixel_array.astype("<i2")
    slice_ = np.roll(slice_[128:384, 128:384] if rows < len(slice_) else slice_, (7 * turn, 13 * turn), (0, 1))
    tiles = (-(-rows // len(slice_)), -(-columns // len(slice_)))
    return np.ascontiguousarray(np.tile(slice_, tiles)[:rows, :columns])


def _native_bytes(instance: Dataset) -> int:
    frames = int(instance.get("NumberOfFrames", None) or 1)
    samples = frames * instance.Rows * instance.Columns * instance.SamplesPerPixel
    return int(samples * instance.BitsAllocated // 8)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
