"""What becomes of each file of the larger corpus that is made to hang, flood, crash, eat memory or lie.

The corpus is that of `test_corpus`. With `--engine gdcm` GDCM is heard first wherever the header lets a decoder near.
"""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.command import Command, own_command
from tests.test_corpus import CORPUS, copy_out, pytestmark, with_its_end_marker

__all__ = ["pytestmark"]

command = pytest.fixture(own_command)

LIMIT = 4.0

REFUSED = {
    # decompression bombs, and headers that claim what cannot be: before any decoder takes memory
    "*.bomb65500_tags.dcm": ("UNSUPPORTED", "over the limit of 2^32-2"),
    "*.bomb65500.dcm": ("CORRUPT", "the codestream is 65500 x 65500 pixels, the header says"),
    "*.bomb2g.dcm": ("CORRUPT", "the codestream is 2147483647 x 2147483647 pixels, the header says"),
    "*.nf2e9.dcm": ("CORRUPT", "Number of Frames is 2147483647, the Pixel Data holds"),
    "*.nf1e6.dcm": ("CORRUPT", "Number of Frames is 1000000, the Pixel Data holds"),
    "huge-nframes.*.dcm": ("CORRUPT", "Number of Frames is 2147483647, the Pixel Data holds"),
    "*.tiles1x1.dcm": ("CORRUPT", "tiles, more than it can hold"),
    "*.tiles65500x1*.dcm": ("CORRUPT", "tiles, more than it can hold"),
    "*.comps16384.dcm": ("CORRUPT", "the size segment of the JPEG 2000 stream is damaged"),
    "progressive-bomb-8000.dcm": ("CORRUPT", "more than 500 scans"),
    "vl*.dcm": ("CORRUPT", "the file ends after"),
    # a decoder that would print 100 MB, or make up a picture
    "output-flood.70.dcm": ("CORRUPT", "predictor 41"),
    "predictor-0.70.dcm": ("CORRUPT", "predictor 0"),
    # a decoder that would raise
    "*.decomp255.dcm": ("CORRUPT", "the decoder says"),
    "*.layers65535.dcm": ("CORRUPT", "the decoder says"),
    # JPEG-LS of fewer bytes than the picture: CharLS 2.4 spins or raises, whichever its bytes bring about
    "80*.short*.dcm": ("*", ""),
}
"""Pattern of names to the kind of failure and words of its reason; "*" is any kind."""
KEPT = ("html.dcm", "png.dcm", "zero.dcm", "zeros4k.dcm", "preambleonly.dcm")
"""Not DICOM: copied byte for byte."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", [(), ("--engine", "gdcm")], ids=str)
def test_each_hostile_file_ends_as_its_kind(command: Command, engine: tuple[str, ...]) -> None:
    names = [path.name for path in (CORPUS / "hostile").iterdir()]
    wanted = {name: verdict for pattern, verdict in REFUSED.items() for name in names if fnmatchcase(name, pattern)}
    assert len(wanted) > 40
    for name in [*wanted, *KEPT]:
        copy_out(CORPUS / "hostile" / name, command.path / "hostile" / name)
    ended = command.run("run", "hostile", "-o", "native", "--json", "--limit", str(LIMIT), *engine, seconds=250)
    assert ended.code == 1, ended
    assert sorted(ended.failed) == sorted(wanted)
    for name, (kind, words) in wanted.items():
        found = ended.failed[name]
        assert kind in ("*", found["kind"]), found
        assert words in found["reason"]
        assert all(attempt["seconds"] < LIMIT + 1 for attempt in found["attempts"])
    for name in KEPT:
        assert (command.path / "native" / name).read_bytes() == (CORPUS / "hostile" / name).read_bytes()


def diagnoses(command: Command) -> list[dict[str, Any]]:
    """Return what the evidence of a run says of its deaths."""
    folders = (command.path / "native" / ".dcmpool" / "evidence").iterdir()
    return [json.loads((folder / "diagnosis.json").read_text()) for folder in sorted(folders)]


@pytest.mark.parametrize(
    ("engine", "cause"),
    [
        ("gdcm", "spinning in the decoder"),
        ("gdcmconv", "waiting for a program of its own, which is spinning in the decoder"),
    ],
)
def test_a_file_that_makes_a_decoder_spin_says_so(command: Command, engine: str, cause: str) -> None:
    """Killed at its limit, with the cause in the reason and in the evidence; never done."""
    path = command.path / "hostile" / "charls-spin.dcm"
    copy_out(CORPUS / "hostile" / "charls-spin.dcm", path)
    with_its_end_marker(path)
    ended = command.run("run", "hostile", "-o", "native", "--json", "--limit", "2", "--engine", engine)
    assert ended.code == 1, ended
    first = ended.failed["charls-spin.dcm"]["attempts"][0]
    assert (first["engine"], first["kind"], first["stage"]) == (engine, "TIMEOUT", "decode")
    assert cause in first["reason"]
    assert diagnoses(command)[0]["cause"] == cause
