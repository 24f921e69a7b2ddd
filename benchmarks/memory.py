"""The peak memory of a child that decodes one file of many Frames: `python -m benchmarks.memory [ENGINE ...]`.

An instance of this size is streamed: however many Frames it has, a few of them lie in memory.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from struct import pack

import numpy as np

from benchmarks.results import Results
from tests import reference
from tests.reference import Made, encoded

FRAMES, SIZE = 2000, 512
SYNTAXES = {"JPEG lossless .70": reference.LOSSLESS_SV1, "JPEG-LS .80": reference.JPEG_LS, "RLE": reference.RLE}
PROBE = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "dcmpool", *sys.argv[1:]], stdout=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def make_file(path: Path, transfer_syntax_uid: str) -> None:
    """Write one instance of FRAMES Frames, SIZE x SIZE, 16 bit; four pictures take turns."""
    slice_ = np.kron(reference.real_slice(), np.ones((SIZE // 128, SIZE // 128), np.int16))
    noise = np.random.default_rng(1).integers(0, 16, slice_.shape, np.int16)
    picture = encoded(transfer_syntax_uid, np.stack([np.roll(slice_, 40 * turn, 0) + noise for turn in range(4)]))
    head = Made(transfer_syntax_uid, picture.frames, [], number_of_frames=FRAMES).to_bytes()[:-8]
    with path.open("wb") as file:
        file.write(head)
        for index in range(FRAMES):
            fragment = reference.even(picture.fragments[index % 4])
            file.write(pack("<HHL", 0xFFFE, 0xE000, len(fragment)) + fragment)
        file.write(pack("<HHL", 0xFFFE, 0xE0DD, 0))


def peak_bytes(source: Path, target: Path, *options: str) -> int:
    """Run the command on `source`; give the greatest resident size (bytes) of any of its processes.

    A process between, since a child counts its parent's size until it has become another program.
    """
    command = [sys.executable, "-c", PROBE, "run", str(source), "-o", str(target), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own command
    code, peak_kib = map(int, done.stdout.split())
    if code:
        raise RuntimeError(f"the run ended with {code}: {done.stderr[-500:]}")
    return peak_kib * 1024


def bench_memory(folder: Path, results: Results, engines: tuple[str, ...] = ("",)) -> None:
    """Give the peak of the largest process for each Transfer Syntax and engine ("" is the one that comes first)."""
    for name, uid in SYNTAXES.items():
        source = folder / "many.dcm"
        make_file(source, uid)
        for engine in engines:
            peak = peak_bytes(source, folder / "native", *(("--engine", engine) if engine else ()))
            section = f"Peak of the largest process, one file of {FRAMES:,} Frames of {SIZE} x {SIZE}"
            results.figure(section, f"{name} {engine}".rstrip(), f"{peak / 2**20:.0f} MiB")
            shutil.rmtree(folder / "native")
        os.unlink(source)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        bench_memory(Path(temporary), Results(), tuple(sys.argv[1:]) or ("",))
