"""A second decoder's opinion: the same pixels pass, others do not, and who may judge whom."""

import os
from pathlib import Path

import imagecodecs
import jpeg_ls
import numpy as np
import pytest

from dcmpool import engines, verify
from dcmpool.errors import Fault
from dcmpool.instance import inspect
from dcmpool.model import FailureKind
from dcmpool.source import open_source
from tests import reference
from tests.reference import Made, decompress, encoded, real_colour, real_slice, write
from tests.test_icon import with_icon

NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"
EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.91"
SLICE = real_slice()
UNSIGNED = (SLICE.astype(np.int32) + 1024).clip(0, 4095).astype(np.uint16)
COLOUR = real_colour()


def near_lossless() -> Made:
    return Made(NEAR_LOSSLESS, UNSIGNED[None], [bytes(imagecodecs.jpegls_encode(UNSIGNED, level=3))])


def lossy_colour(subsampling: str) -> Made:
    noise = np.random.default_rng(3).integers(0, 256, (61, 77, 3), dtype=np.uint8)
    stream = imagecodecs.jpeg8_encode(noise, level=80, colorspace="rgb", outcolorspace="ycbcr", subsampling=subsampling)
    return Made(reference.BASELINE, noise[None], [bytes(stream)], photometric_interpretation="YBR_FULL")


def irreversible() -> Made:
    stream = imagecodecs.jpeg2k_encode(UNSIGNED, level=40, codecformat="J2K", reversible=False)
    return Made(JPEG_2000_LOSSY, UNSIGNED[None], [bytes(stream)])


def judge(path: Path, folder: Path, change: dict[int, int]) -> None:
    """Decompress by the first engine, add `change` to bytes of the result's Pixel Data, ask the second."""
    result = decompress(path, folder)
    with open_source(os.fsencode(path)) as source, result.open("r+b") as file:
        instance = inspect(source)
        start = result.stat().st_size - instance.native_bytes - instance.native_bytes % 2
        for offset, by in change.items():
            (byte,) = os.pread(file.fileno(), 1, start + offset)
            os.pwrite(file.fileno(), bytes([byte + by if byte + by < 256 else byte - by]), start + offset)
        first, *_ = engines.candidates(instance)
        other, *_ = engines.second(instance, first)
        assert other != first
        verify.check_second(file.fileno(), instance, engines.decode_again(other, instance, source, folder))


MADE = {
    **{uid: encoded(uid, np.stack([SLICE, SLICE[::-1]])) for uid in reference.ENCODERS if uid != reference.HTJ2K},
    NEAR_LOSSLESS: near_lossless(),
    reference.BASELINE: lossy_colour("420"),
    JPEG_2000_LOSSY: irreversible(),
    "colour": encoded(reference.JPEG_LS, COLOUR[None]),
    "icon": with_icon(reference.LOSSLESS, SLICE, SLICE[30:61, 20:52], item=True, sequence=True),
}


@pytest.mark.parametrize("name", MADE)
def test_a_second_decoder_agrees(name: str, tmp_path: Path) -> None:
    judge(write(tmp_path, MADE[name]), tmp_path, {})


@pytest.mark.parametrize("name", [uid for uid in MADE if uid not in (reference.BASELINE, JPEG_2000_LOSSY)])
def test_one_bit_is_seen(name: str, tmp_path: Path) -> None:
    frames = len(MADE[name].fragments)
    last = MADE[name].frames.nbytes - 1
    with pytest.raises(Fault, match=f"Frame {frames} of {frames}: a second decoder gives other pixels") as caught:
        judge(write(tmp_path, MADE[name]), tmp_path, {last: 1})
    assert caught.value.kind is FailureKind.VERIFY


@pytest.mark.parametrize(("name", "allowed"), [(reference.BASELINE, 4), (JPEG_2000_LOSSY, 2)])
def test_lossy_samples_may_differ_by_what_right_decoders_do(name: str, allowed: int, tmp_path: Path) -> None:
    path = write(tmp_path, MADE[name])
    judge(path, tmp_path, {100: allowed - 1})
    with pytest.raises(Fault, match="Frame 1 of 1: a second decoder gives samples that differ by"):
        judge(path, tmp_path, {100: 2 * allowed})


def test_nobody_judges_by_the_same_library(tmp_path: Path) -> None:
    kin = {"turbo": "pylibjpeg", "pylibjpeg": "turbo", "gdcm": "gdcmconv", "gdcmconv": "gdcm"}
    with open_source(os.fsencode(write(tmp_path, MADE[reference.JPEG_2000]))) as source:
        instance = inspect(source)
    for first, same in kin.items():
        others = engines.second(instance, first)
        assert first not in others
        assert same not in others
        assert len(others) == 2


def seven_bits() -> Made:
    frame = (UNSIGNED >> 5).astype(np.uint8)
    size = {"rows": 128, "columns": 128, "samples_per_pixel": 1, "bits_stored": 7, "planar_configuration": 0}
    stream = jpeg_ls.encode_pixel_data(frame.tobytes(), 0, **size)
    return Made(reference.JPEG_LS, frame[None], [bytes(stream)], bits_stored=7)


ALONE = {
    "4:4:0": lossy_colour("440"),
    "HTJ2K": encoded(reference.HTJ2K, SLICE[None]),
    "JPEG-LS of 7 bits": seven_bits(),
}


@pytest.mark.parametrize("made", ALONE.values(), ids=ALONE)
def test_where_nobody_can_judge_nobody_is_asked(made: Made, tmp_path: Path) -> None:
    with open_source(os.fsencode(write(tmp_path, made))) as source:
        assert engines.second(inspect(source), "turbo") == ()
