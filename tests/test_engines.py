"""Every engine gives the pixels that were there before compression, or says that it cannot."""

import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from dcmpool import engines
from dcmpool.errors import Fault
from dcmpool.model import FailureKind
from tests import reference
from tests.reference import ENCODERS, Array, Made, decompress, encoded, pixels, real_colour, real_slice, write

PAIRS = [(uid, engine) for uid in ENCODERS for engine in engines.ORDER[uid]]
IMAGES = {
    "16 bit signed": lambda: np.stack([real_slice(), real_slice()[::-1] - 1000]),
    "16 bit unsigned": lambda: real_slice().astype(np.int32).__add__(2000).astype("u2")[None],
    "8 bit": lambda: (real_slice() >> 4).astype("u1")[None, :99, :101],
    "8 bit colour": lambda: np.stack([real_colour(), real_colour()[::-1], 255 - real_colour()]),
}


@pytest.mark.parametrize(("uid", "engine"), PAIRS)
@pytest.mark.parametrize("kind", IMAGES)
def test_lossless_pixels_are_those_before_compression(uid: str, engine: str, kind: str, tmp_path: Path) -> None:
    frames = IMAGES[kind]()
    assert np.array_equal(pixels(decompress(write(tmp_path, encoded(uid, frames)), tmp_path, engine)), frames)


@pytest.mark.parametrize("engine", ["gdcm", "gdcmconv"])
def test_a_jpeg_that_lost_bytes_in_its_middle_is_refused(engine: str, tmp_path: Path) -> None:
    """libjpeg fills what is missing and returns success; all that GDCM does about it is print."""
    stream = ENCODERS[reference.LOSSLESS_SV1](real_slice())
    cut = stream[: len(stream) // 3] + stream[len(stream) // 2 :]
    path = write(tmp_path, Made(reference.LOSSLESS_SV1, real_slice()[None], [cut]))
    with pytest.raises(Fault) as caught:
        decompress(path, tmp_path, engine)
    assert caught.value.kind is FailureKind.CORRUPT


def smooth_colour() -> Array:
    """Make a colour ramp: lossy coding changes it by little."""
    ramp = np.arange(64, dtype="u1") * 3 + 20
    return np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, "u1")], axis=-1)


@pytest.mark.parametrize("engine", ["gdcm", "gdcmconv"])
@pytest.mark.parametrize("subsampling", ["444", "422"])
def test_lossy_colour_becomes_rgb(engine: str, subsampling: str, tmp_path: Path) -> None:
    frame = smooth_colour()
    stream = bytes(imagecodecs.jpeg8_encode(frame, level=95, subsampling=subsampling))
    made = Made(reference.BASELINE, frame[None], [stream], photometric_interpretation="YBR_FULL_422")
    result = decompress(write(tmp_path, made), tmp_path, engine)
    assert np.abs(pixels(result)[0].astype(int) - frame).mean() < 2
    assert b"CS\x0c\x00RGB         " in result.read_bytes()


def test_a_signed_sample_of_12_bits_keeps_its_sign(tmp_path: Path) -> None:
    """JPEG knows no sign: the 12 bits of a negative sample come out as a positive number."""
    frame = np.clip(real_slice(), -2048, 2047) - 1000
    stream = reference.jpeg_lossless((frame & 0xFFF).astype("u2"), 1, bits=12)
    made = Made(reference.LOSSLESS_SV1, frame.astype("i2")[None], [stream], bits_stored=12)
    assert np.array_equal(pixels(decompress(write(tmp_path, made), tmp_path))[0], frame)


def test_samples_whose_sign_cannot_be_told_are_refused(tmp_path: Path) -> None:
    """12 bits in the codestream, 16 signed ones in the header: is 2049 a number, or -2047 cut short?"""
    frame = np.full((1, 8, 8), 2049, "i2")
    path = write(tmp_path, Made(reference.LOSSLESS_SV1, frame, [reference.jpeg_lossless(frame[0], 1, bits=12)]))
    with pytest.raises(Fault, match="sign cannot be told"):
        decompress(path, tmp_path)
    frame = np.full((1, 8, 8), 2047, "i2")
    path = write(tmp_path, Made(reference.LOSSLESS_SV1, frame, [reference.jpeg_lossless(frame[0], 1, bits=12)]))
    assert np.array_equal(pixels(decompress(path, tmp_path)), frame)


def test_planar_colour_becomes_colour_by_pixel(tmp_path: Path) -> None:
    frame = smooth_colour()
    made = encoded(reference.RLE, frame[None])
    path = write(tmp_path, made)
    path.write_bytes(path.read_bytes().replace(reference.us(0x00280006, 0), reference.us(0x00280006, 1)))
    result = decompress(path, tmp_path)
    assert np.array_equal(pixels(result)[0], frame)
    assert reference.us(0x00280006, 0) in result.read_bytes()


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault) as caught:
        decompress(write(tmp_path, encoded(reference.RLE, real_slice()[None])), tmp_path, "nosuch")
    assert caught.value.kind is FailureKind.UNSUPPORTED


def test_the_registry_loads_no_codec() -> None:
    program = (
        "import sys, dcmpool.engines; print(sorted({'pydicom', 'gdcm', 'numpy', 'imagecodecs'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_gdcmconv_gets_a_few_frames_at_a_time(tmp_path: Path) -> None:
    frame = np.kron(real_slice(), np.ones((16, 16), np.int16))  # 8 MiB, so that five are two batches
    frames = np.stack([np.roll(frame, turn, 0) for turn in range(5)])
    path = write(tmp_path, encoded(reference.JPEG_LS, frames))
    assert np.array_equal(pixels(decompress(path, tmp_path, "gdcmconv")), frames)


SHORT_OF_MEMORY = [
    (reference.LOSSLESS_SV1, "turbo"),
    (reference.LOSSLESS_SV1, "gdcm"),
    (reference.LOSSLESS_SV1, "gdcmconv"),
    (reference.JPEG_LS, "pyjpegls"),
    (reference.JPEG_2000, "turbo"),
    (reference.JPEG_2000, "pylibjpeg"),
    (reference.JPEG_2000, "gdcmconv"),
    (reference.RLE, "rle"),
]


@pytest.mark.parametrize(("uid", "engine"), SHORT_OF_MEMORY)
def test_an_engine_that_is_refused_memory_does_not_call_the_file_damaged(uid: str, engine: str, tmp_path: Path) -> None:
    """Some libraries raise MemoryError, some say that the stream is corrupt, some end the process."""
    frame = np.tile(real_slice(), (12, 12))
    path = write(tmp_path, encoded(uid, frame[None]))
    small = write(tmp_path, encoded(uid, real_slice()[None]), "small.dcm")  # has everything loaded
    program = (
        "import sys, resource; from pathlib import Path; from tests.reference import decompress;"
        "from dcmpool.errors import Fault;"
        "decompress(Path(sys.argv[5]), Path(sys.argv[2]), sys.argv[3]);"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * 4096;"
        "resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[4]),) * 2)\n"
        "try: decompress(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]); print('done')\n"
        "except Fault as fault: print(fault.kind, fault.reason)\n"
        "except MemoryError: print('MEMORY')\n"
    )
    words = [sys.executable, "-c", program, str(path), str(tmp_path), engine]
    seen = set()
    for extra in (1, 4, 8, 12, 16, 20, 24, 32, 40, 64):
        run = subprocess.run([*words, str(extra << 20), str(small)], capture_output=True, text=True, check=False)
        assert run.returncode <= 0, run.stderr
        seen.add("killed" if run.returncode else run.stdout.split()[0])
        assert seen <= {"done", "MEMORY", "killed"}, (extra, run.stdout)
    assert len(seen) > 1
