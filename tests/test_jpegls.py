"""JPEG-LS by its preset coding parameters (T.87 C.2.4.1.1): the picture of before compression, or none."""

import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from dcmpool.instance import inspect
from dcmpool.source import open_source
from tests import jpegls, reference
from tests.command import Command, own_command
from tests.jpegls import Preset
from tests.reference import Array, Made, decompress, pixels, real_slice, write

command = pytest.fixture(own_command)

SLICE = real_slice()[:40, :50]
NOISE = np.random.default_rng(1).integers(0, 200, (30, 40)).astype("u1")
PICTURES: dict[str, tuple[Array, int]] = {
    "16 bit": (SLICE.view("u2"), 16),
    "12 bit": (SLICE.clip(0, 4095).astype("u2"), 12),
    "10 bit": (SLICE.clip(0, 2000).astype("u2") >> 1, 10),
    "8 bit": (NOISE, 8),
    "7 bit": (NOISE >> 1, 7),
}


def made(name: str, preset: Preset) -> Made:
    frame, precision = PICTURES[name]
    stream = jpegls.encode(frame, precision, preset)
    return Made(reference.JPEG_LS, frame[None], [stream], bits_stored=precision)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("engine", ["turbo", "pyjpegls"])
def test_presets_that_charls_goes_by(name: str, engine: str, tmp_path: Path) -> None:
    frame, precision = PICTURES[name]
    top = (1 << precision) - 1
    for preset in (Preset(), Preset(top), Preset(top, (9, 9, 9), 31), Preset(0, (1, 2, 3), 3), Preset(0, (5, 20, 50))):
        path = write(tmp_path, made(name, preset))
        assert np.array_equal(pixels(decompress(path, tmp_path, engine))[0], frame), preset


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("less", [1, 2, 3, 7, 50])
def test_a_smaller_maxval_is_refused_since_no_engine_goes_by_it(name: str, less: int, tmp_path: Path) -> None:
    """These streams are right; CharLS decodes them as if MAXVAL were the default: to another picture, or to none."""
    frame, precision = PICTURES[name]
    maximum = max(int(frame.max()), (1 << precision) - 1 - less)
    with open_source(os.fsencode(write(tmp_path, made(name, Preset(maximum))))) as source:
        assert inspect(source).flaw.endswith(f"presets a MAXVAL of {maximum}, which no engine goes by")


def test_a_smaller_maxval_makes_another_picture(tmp_path: Path) -> None:
    """Why: one step from black to white, and CharLS is one off. Should it fail one day, the flaw can go."""
    frame = np.array([[129, 70]], "u1")
    path = write(tmp_path, Made(reference.JPEG_LS, frame[None], [jpegls.encode(frame, 8, Preset(254))]))
    assert np.array_equal(pixels(decompress(path, tmp_path, "turbo"))[0], frame + 1)


def test_a_maxval_below_the_samples_is_refused(tmp_path: Path) -> None:
    """A stream whose MAXVAL was damaged: GDCM's CharLS gave it as if nothing were."""
    whole = made("16 bit", Preset(65535))
    (stream,) = whole.fragments
    for maximum in (1, 513, 2000, 65534):
        whole.fragments = [stream.replace(Preset(65535).segment(), Preset(maximum).segment())]
        with open_source(os.fsencode(write(tmp_path, whole))) as source:
            assert f"MAXVAL of {maximum}" in inspect(source).flaw


def test_a_maxval_beyond_the_precision_is_refused(tmp_path: Path) -> None:
    with open_source(os.fsencode(write(tmp_path, made("12 bit", Preset(4096))))) as source:
        assert "MAXVAL of 4096" in inspect(source).flaw


def damaged(stream: bytes, size: int) -> dict[str, bytes]:
    """Give the stream with each bit of its first `size` bytes turned over."""
    found = {}
    for at in range(2, size):
        for bit in range(8):
            found[f"{at}-{bit}"] = stream[:at] + bytes([stream[at] ^ 1 << bit]) + stream[at + 1 :]
    return found


@pytest.mark.parametrize("name", ["16 bit", "8 bit"])
def test_what_charls_2_4_refuses_is_no_result_although_an_older_one_gives_a_picture(
    command: Command, name: str
) -> None:
    """Every bit of the headers is turned over, and GDCM is heard first."""
    frame, precision = PICTURES[name]
    stream = jpegls.encode(frame, precision, Preset((1 << precision) - 1))
    streams = damaged(stream, stream.index(b"\xff\xda") + 10)
    source = command.path / "source"
    source.mkdir()
    for key, changed in streams.items():
        write(source, Made(reference.JPEG_LS, frame[None], [changed], bits_stored=precision), f"{key}.dcm")
    ended = command.run("run", "source", "-o", "native", "--json", "--limit", "1", "--engine", "gdcm")
    assert ended.code == 1, ended
    done = [key for key in streams if (command.path / "native" / f"{key}.dcm").exists()]
    assert 0 < len(done) < len(streams) // 2
    for key in done:
        found = pixels(command.path / "native" / f"{key}.dcm")[0]
        assert np.array_equal(found, imagecodecs.jpegls_decode(streams[key])), key
