"""The larger corpus, where there is one: `DCMPOOL_CORPUS` names its folder, which holds INDEX.tsv.

INDEX.tsv has, for each file, `path`, `expect` and `sha256`: over the decoded Frames in order, colour by pixel, little
endian, without the padding byte; a beginning of it may be given. `expect` is one of: same (native with those pixels),
lossy (native), refuse (nothing), copy, kept and not-dicom (the source's own bytes), copy-or-refuse, same-or-refuse, any
(nothing, or native Pixel Data of the right length) and look (nothing is known).
"""

import csv
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian

from tests.command import Command, Ended, own_command
from tests.elements import differences
from tests.test_fidelity import ICON, MAY_DIFFER, OF_JPEG_2000

CORPUS = Path(os.environ.get("DCMPOOL_CORPUS", "/nonexistent"))

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not (CORPUS / "INDEX.tsv").is_file(), reason="DCMPOOL_CORPUS names no folder with INDEX.tsv"),
]

command = pytest.fixture(own_command)

Rows = dict[str, dict[str, str]]

LIMIT = 5.0
"""Seconds for one attempt."""


def rows(folder: str) -> Rows:
    """Return the rows of INDEX.tsv on files under `folder`, "" for all, by their paths relative to it."""
    with (CORPUS / "INDEX.tsv").open(newline="", encoding="utf-8") as file:
        found = {row["path"]: row for row in csv.DictReader(file, delimiter="\t")}
    start = f"{folder}/" if folder else ""
    return {path.removeprefix(start): row for path, row in found.items() if path.startswith(start)}


def copy_out(source: Path, target: Path) -> None:
    """Copy files or a tree without their modes: the corpus may be read-only."""
    if source.is_dir():
        for path in source.rglob("*"):
            if path.is_file():
                copy_out(path, target / path.relative_to(source))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def digests(instance: Dataset) -> list[str]:
    """Return the digest that INDEX.tsv defines, of native Pixel Data; for 1 bit also that of its packed form."""
    frames, samples = int(instance.get("NumberOfFrames") or 1), instance.get("SamplesPerPixel", 1)
    pixels, width = instance.Rows * instance.Columns, instance.BitsAllocated // 8
    data = np.frombuffer(instance.PixelData, np.uint8)
    if instance.BitsAllocated == 1:
        packed, single = data[: (frames * pixels + 7) // 8], np.unpackbits(data, bitorder="little")[: frames * pixels]
        return [hashlib.sha256(form.tobytes()).hexdigest() for form in (packed, single)]
    data = data[: frames * pixels * samples * width]
    if samples > 1 and instance.get("PlanarConfiguration", 0) == 1:
        data = data.reshape(frames, samples, pixels, width).transpose(0, 2, 1, 3)
    return [hashlib.sha256(data.tobytes()).hexdigest()]


def problem(path: Path, row: dict[str, str]) -> str:
    """Say what is wrong with a result that must be native with the pixels of the row; empty when nothing is."""
    if not path.is_file():
        return "missing"
    instance = dcmread(path)
    if instance.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        return f"not native: {instance.file_meta.TransferSyntaxUID}"
    if not row["sha256"]:
        return ""
    return "" if any(found.startswith(row["sha256"]) for found in digests(instance)) else "wrong pixels"


def problems(found: Rows, target: Path) -> dict[str, str]:
    """Return what is wrong, by path; in a thread with a deep stack, since some files nest a thousand sequences."""
    judged: dict[str, str] = {}
    in_deep_thread(lambda: judged.update({p: problem(target / p, row) for p, row in found.items()}))
    assert judged.keys() == found.keys()
    return {path: text for path, text in judged.items() if text}


def in_deep_thread(work: Callable[[], None]) -> None:
    """Call `work` in a thread with a deep stack; when it raises, its work is not done."""
    depth = sys.getrecursionlimit()
    threading.stack_size(512 << 20)
    sys.setrecursionlimit(200_000)
    judge = threading.Thread(target=work)
    judge.start()
    judge.join()
    threading.stack_size(0)
    sys.setrecursionlimit(depth)


def slices() -> dict[str, dict[str, str]]:
    found = rows("series")
    assert len(found) == 112
    assert {row["expect"] for row in found.values()} == {"same"}
    assert all(len(row["sha256"]) >= 8 for row in found.values())
    return found


def test_the_series_comes_out_112_of_112(command: Command) -> None:
    copy_out(CORPUS / "series", command.path / "series")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 0, ended
    assert ended.summary["counts"]["decompressed"] == 112
    assert problems(slices(), command.path / "native") == {}


def test_the_series_comes_out_in_place(command: Command) -> None:
    copy_out(CORPUS / "series", command.path / "series")
    ended = command.run("run", "series", "--in-place", "--json")
    assert ended.code == 0, ended
    assert problems(slices(), command.path / "series") == {}


def with_its_end_marker(path: Path) -> None:
    """Put EOI after the codestream of a file that lacks it: then no check before the decoder turns it away."""
    instance = dcmread(path)
    (codestream,) = generate_frames(instance.PixelData, number_of_frames=1)
    instance.PixelData = encapsulate([codestream.rstrip(b"\0") + b"\xff\xd9"])
    instance.save_as(path)


@pytest.mark.parametrize("as_it_is", [True, False])
def test_a_file_on_which_gdcm_spins_for_ever_costs_its_limit(command: Command, as_it_is: bool) -> None:
    """As it is, the file lacks its end marker and may be refused before any decoder; with the marker, GDCM gets it."""
    good = dict(sorted(slices().items())[:100])
    for path in good:
        copy_out(CORPUS / "series" / path, command.path / "series" / path)
    options = ("--engine", "gdcm", "--limit", str(LIMIT), "--json")
    without = command.run("run", "series", "-o", "without", *options)
    assert without.code == 0, without
    name = "57sv6/charls-spin.dcm"
    copy_out(CORPUS / "hostile" / "charls-spin.dcm", command.path / "series" / name)
    if not as_it_is:
        with_its_end_marker(command.path / "series" / name)
    ended = command.run("run", "series", "-o", "native", *options)
    assert ended.code == 1, ended
    assert problems(good, command.path / "native") == {}
    assert ended.failed.keys() == {name}
    assert not (command.path / "native" / name).exists()
    attempts = ended.failed[name]["attempts"]
    assert all(attempt["reason"] in ended.failed[name]["reason"] for attempt in attempts)
    late = [attempt for attempt in attempts if attempt["kind"] == "TIMEOUT"]
    assert all(LIMIT <= attempt["seconds"] <= LIMIT + 1 for attempt in late)
    assert ended.seconds <= without.seconds + LIMIT * len(late) + 2
    if not as_it_is:
        assert (attempts[0]["engine"], attempts[0]["kind"]) == ("gdcm", "TIMEOUT")
        assert attempts[1]["engine"] not in ("gdcm", "")


def assert_no_wrong_picture(command: Command, found: Rows, ended: Ended) -> None:
    native = command.path / "native"
    done = {path for path in found if (native / path).is_file()}
    refused = {path for path, row in found.items() if row["expect"] == "refuse"}
    assert sorted(done & refused) == []
    assert sorted(refused - ended.failed.keys()) == []
    whole = {path: row for path, row in found.items() if row["expect"] == "same"}
    assert problems(whole, native) == {}
    either = {path: row for path, row in found.items() if row["expect"] == "same-or-refuse" and path in done}
    assert problems(either, native) == {}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", [[], ["--engine", "gdcm"]], ids=str)
def test_hostile_files_end_within_their_limit_and_none_is_done_that_must_be_refused(
    command: Command, engine: list[str]
) -> None:
    found = rows("hostile")
    copy_out(CORPUS / "hostile", command.path / "hostile")
    limit = ("--limit", str(LIMIT))
    ended = command.run("run", "hostile", "-o", "native", "--json", *limit, *engine, seconds=800)
    assert ended.code == 1, ended
    assert len(found) == sum(ended.summary["counts"].values())
    late: list[Any] = []
    for item in ended.summary["failed"]:
        assert item["reason"]
        late += [(item["path"], attempt) for attempt in item["attempts"] if attempt["seconds"] > LIMIT + 1]
    assert late == []
    assert_no_wrong_picture(command, found, ended)


JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93, 201, 202, 203))


def header_problem(source: Path, target: Path, transfer_syntax_uid: str) -> str:
    """Say which elements of a native result are not the source's own, but for those that may differ."""
    before = source.read_bytes()
    allowed = MAY_DIFFER | (ICON if b"\x88\x00\x00\x02SQ" in before else set())
    allowed |= OF_JPEG_2000 if transfer_syntax_uid in JPEG_2000 else set()
    wrong = differences(before, target.read_bytes()) - allowed
    return f"differs in {sorted(map(hex, wrong))}" if wrong else ""


def whole_problem(row: dict[str, str], target: Path) -> str:
    """Say what is wrong with what became of one file; empty when nothing is."""
    expect, source = row["expect"], CORPUS / row["path"]
    if not target.is_file():
        return "missing" if expect in ("same", "lossy", "copy", "kept", "not-dicom") else ""
    if expect == "refuse":
        return "done"
    if source.read_bytes() == target.read_bytes():
        return "not native" if expect in ("same", "lossy") else ""
    if expect in ("copy", "kept", "not-dicom", "copy-or-refuse"):
        return "other bytes than the source's"
    try:
        wrong = problem(target, row if expect in ("same", "same-or-refuse") else {**row, "sha256": ""})
    except Exception as error:  # noqa: BLE001 - what cannot be read is one more thing to list
        return f"unreadable: {error!r}"
    return wrong or header_problem(source, target, row["transfer_syntax"])


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, on odd values in the corpus
def test_the_whole_corpus(command: Command) -> None:
    """Pixels, headers, copies and refusals, each file by its row."""
    ended = command.run("run", CORPUS, "-o", "native", "--json", seconds=800)
    assert ended.code == 1, ended
    native = command.path / "native"
    found = rows("")
    judged: dict[str, str] = {}
    in_deep_thread(lambda: judged.update({path: whole_problem(row, native / path) for path, row in found.items()}))
    assert judged.keys() == found.keys()
    assert {path: text for path, text in judged.items() if text} == {}
    missing = {path for path in found if not (native / path).is_file()}
    assert missing == ended.failed.keys()
    assert all(item["reason"] for item in ended.failed.values())
