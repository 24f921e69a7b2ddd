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

DONE, COPIED, OTHER = "decompressed", "copied", "other"
SHORT = "the file ends|truncated|is cut|holds no picture"
OF_THE_DECODER = "the decoder says|its entropy-coded data"

TABLE = {
    # what is not DICOM, or native
    "html.dcm": (OTHER, ""),
    "png.dcm": (OTHER, ""),
    "preambleonly.dcm": (OTHER, ""),
    "zero*.dcm": (OTHER, ""),
    "1.minus1.dcm": (COPIED, ""),
    # decompression bombs, and headers that claim what cannot be: before any decoder takes memory
    "*.bomb65500_tags.dcm": ("UNSUPPORTED", "over the limit of 2^32-2"),
    "*.bomb65500.dcm": ("CORRUPT", "the codestream is 65500 x 65500 pixels, the header says"),
    "*.bomb2g.dcm": ("CORRUPT", "the codestream is 2147483647 x 2147483647 pixels, the header says"),
    "*.nf2e9.dcm": ("CORRUPT", "Number of Frames is 2147483647, the Pixel Data holds"),
    "*.nf1e6.dcm": ("CORRUPT", "Number of Frames is 1000000, the Pixel Data holds"),
    "huge-nframes.*": ("CORRUPT", "Number of Frames is 2147483647, the Pixel Data holds"),
    "*.tiles*.dcm": ("CORRUPT", "tiles, more than it can hold"),
    "*.tile0.dcm": ("CORRUPT", "the size segment of the JPEG 2000 stream is damaged"),
    "*.comps16384.dcm": ("CORRUPT", "the size segment of the JPEG 2000 stream is damaged"),
    "*.decomp255.dcm": ("CORRUPT", OF_THE_DECODER),
    "*.layers65535.dcm": ("CORRUPT", OF_THE_DECODER),
    "progressive-bomb-8000.dcm": ("CORRUPT", "more than 500 scans"),
    "vl*.dcm": ("CORRUPT", "the file ends after"),
    "nest100*.dcm": (DONE, ""),
    # a decoder that would spin, print 100 MB, or make up a picture
    "charls-spin.dcm": ("CORRUPT", "without EOI|spinning in the decoder"),
    "output-flood.70.dcm": ("CORRUPT", "predictor 41"),
    "predictor-0.70.dcm": ("CORRUPT", "predictor 0"),
    "tem-marker.57.dcm": ("CORRUPT", "no marker at byte"),
    "tem-marker.70.dcm": (DONE, ""),
    "mod-wrap-12.dcm": ("CORRUPT", "longer or shorter than its pixels"),
    "mod-wrap-8.dcm": (DONE, ""),
    # cut short: the file, a fragment, a codestream
    "57.thead.dcm": (COPIED, ""),  # between two elements: a data set without Pixel Data, and a note says so
    "70.thead.dcm": (COPIED, ""),
    "*.t*.dcm": ("CORRUPT", f"{SHORT}|no padding|holds more pixels"),
    "*.half*.dcm": ("CORRUPT", f"{SHORT}|{OF_THE_DECODER}|ends without|holds more pixels"),
    "*.midcut.dcm": ("CORRUPT", f"{SHORT}|{OF_THE_DECODER}|is damaged|holds more pixels"),
    # CharLS 2.4 spins or raises where bytes are missing, if it is heard at all: where an engine is named
    "80*.short*.dcm": ("CORRUPT|TIMEOUT", ""),
    "*.short*.dcm": ("CORRUPT", f"{SHORT}|{OF_THE_DECODER}|holds no fragment|ends in its header|does not start"),
    "*.empty.dcm": ("CORRUPT", SHORT),
    "*.noop.dcm": ("CORRUPT", SHORT),
    "trunc-half.*": ("CORRUPT", f"{SHORT}|{OF_THE_DECODER}"),
    # fragments and offset tables
    "*.fraghuge.dcm": ("CORRUPT", "an Item claims"),
    "*.fraglong.dcm": ("CORRUPT", "where an Item or its end is due|a Sequence Delimitation Item is due"),
    "*.fragodd.dcm": ("CORRUPT", "where an Item or its end is due"),
    "*.fragundef.dcm": ("CORRUPT", "a fragment of Pixel Data has no length"),
    "*.nofrag.dcm": ("CORRUPT", "holds no fragment"),
    "*.nodelim.dcm": ("CORRUPT", "a Sequence Delimitation Item is due"),
    "*.junkafter.dcm": ("CORRUPT", "the file ends after"),
    "*.emptyfrags.dcm": (DONE, ""),
    "*.badbot.dcm": (DONE, ""),
    "*.bot3.dcm": (DONE, ""),
    "bot-wrong.*": (DONE, ""),
    "extended-offset-table.*": (DONE, ""),
    "multi-fragment-1-frame.*": (DONE, ""),
    # a label that is wrong, a header against its codestream
    "*.asunknown.dcm": ("UNSUPPORTED", "no engine"),
    "*.asLE.dcm": ("CORRUPT", "says native, the Pixel Data is encapsulated"),
    "encapsulated-labelled-native.*": ("CORRUPT", "says native, the Pixel Data is encapsulated"),
    "1.nativeas*.dcm": ("CORRUPT", "says encapsulated, the Pixel Data is not"),
    "53.as50.dcm": (DONE, ""),  # progressive JPEG that is called baseline: every decoder reads both
    "*.as*.dcm": ("CORRUPT", "the Transfer Syntax says otherwise|does not start with SO|the RLE header"),
    "5[03].ba8.dcm": (DONE, ""),
    "*.ba*.dcm": ("CORRUPT", "Bits Allocated is|the RLE header"),
    "53.bs10.dcm": ("CORRUPT", "Bits Stored is 10, Bits Allocated is 8"),
    "*.bs10.dcm": (DONE, ""),
    "*.spp3.dcm": ("CORRUPT", "components, Samples per Pixel is"),
    "*.rows0.dcm": ("CORRUPT", "Rows, Columns or Samples per Pixel is 0"),
    "*.rows*.dcm": ("CORRUPT", f"the header says|holds more pixels|{SHORT}"),
    "*.nf0.dcm": (DONE, ""),
    "*.nfneg.dcm": ("CORRUPT", "Number of Frames is no number"),
    "*.nf2.dcm": ("CORRUPT", "Number of Frames is"),
    "nframes-3-but-1.*": ("CORRUPT", "Number of Frames is"),
    "5.seg*.dcm": ("CORRUPT", "the RLE header"),
    "*.pr.dcm": (DONE, ""),
    "*.ybr422_1f.dcm": (DONE, ""),
    "icon-compressed.*": (DONE, ""),
    "overlay-highbits.*": (DONE, ""),
    # bits turned over anywhere: whether a picture can be told to be another one, `test_corpus` judges
    "*.flip*.dcm": (f"{DONE}|CORRUPT", ""),
    "*.hdr?.dcm": (f"{DONE}|CORRUPT", ""),
    "*.midzero.dcm": (f"{DONE}|CORRUPT", ""),
}
"""Pattern of names (the first that fits counts) to how it ends, or the kind of its failure, and words of the reason;
"|" is between alternatives."""

KILLED = {"spinning in the decoder"}
"""Causes for which a file is killed, as GDCM alone brings them about."""


def due(name: str) -> tuple[list[str], list[str]]:
    """Return how a file may end, and the words of which its reason has one."""
    ends, words = next(verdict for pattern, verdict in TABLE.items() if fnmatchcase(name, pattern))
    return ends.split("|"), words.split("|")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", [(), ("--engine", "gdcm")], ids=str)
def test_each_hostile_file_ends_as_its_kind(command: Command, engine: tuple[str, ...]) -> None:
    """All of them; with the cause where one was killed for it."""
    names = [path.name for path in (CORPUS / "hostile").iterdir()]
    copy_out(CORPUS / "hostile", command.path / "hostile")
    ended = command.run("run", "hostile", "-o", "native", "--json", "--limit", str(LIMIT), *engine, seconds=800)
    assert ended.code == 1, ended
    wrong = {name: text for name in names if (text := wrong_end(command, name, ended.failed.get(name)))}
    assert wrong == {}
    assert {diagnosis["cause"] for diagnosis in diagnoses(command) if diagnosis["kind"] == "TIMEOUT"} <= KILLED


def wrong_end(command: Command, name: str, failed: dict[str, Any] | None) -> str:
    """Say what is wrong with how a file ended; empty when nothing is."""
    ends, words = due(name)
    if failed:
        late = [attempt for attempt in failed["attempts"] if attempt["seconds"] > LIMIT + 1]
        right = failed["kind"] in ends and any(word in failed["reason"] for word in words) and not late
        return "" if right else f"{failed['kind']}: {failed['reason']}"
    result = command.path / "native" / name
    if not result.is_file():
        return "missing"
    same = result.read_bytes() == (CORPUS / "hostile" / name).read_bytes()
    return "" if set(ends) & ({COPIED, OTHER} if same else {DONE}) else "copied" if same else "done"


def diagnoses(command: Command) -> list[dict[str, Any]]:
    """Return what the evidence of a run says of its deaths."""
    files = (command.path / "native" / ".dcmpool" / "evidence").glob("*/diagnosis.json")
    return [json.loads(file.read_text()) for file in sorted(files)]


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
