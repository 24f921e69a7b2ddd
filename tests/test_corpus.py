"""The larger corpus, where there is one: `DCMPOOL_CORPUS` names its folder, which holds INDEX.tsv.

INDEX.tsv has, for each file, `path`, `expect` (same: native with the pixels of `sha256`; refuse: nothing;
same-or-refuse: one of the two) and `sha256`: over the decoded Frames in order, colour by pixel, little endian,
without the padding byte; a beginning of it may be given.
"""

import csv
import hashlib
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian

from tests.command import Command, Ended, own_command

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
    """Return the rows of INDEX.tsv on files under `folder`, by their paths relative to it."""
    with (CORPUS / "INDEX.tsv").open(newline="", encoding="utf-8") as file:
        found = {row["path"]: row for row in csv.DictReader(file, delimiter="\t")}
    return {path.removeprefix(f"{folder}/"): row for path, row in found.items() if path.startswith(f"{folder}/")}


def copy_out(source: Path, target: Path) -> None:
    """Copy files or a tree without their modes: the corpus may be read-only."""
    if source.is_dir():
        for path in source.rglob("*"):
            if path.is_file():
                copy_out(path, target / path.relative_to(source))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def digest(instance: Dataset) -> str:
    """Return the digest that INDEX.tsv defines, of native Pixel Data."""
    frames, samples = int(instance.get("NumberOfFrames") or 1), instance.get("SamplesPerPixel", 1)
    pixels, width = instance.Rows * instance.Columns, instance.BitsAllocated // 8
    data = np.frombuffer(instance.PixelData, np.uint8)[: frames * pixels * samples * width]
    if samples > 1 and instance.get("PlanarConfiguration", 0) == 1:
        data = data.reshape(frames, samples, pixels, width).transpose(0, 2, 1, 3)
    return hashlib.sha256(data.tobytes()).hexdigest()


def problem(path: Path, row: dict[str, str]) -> str:
    """Say what is wrong with a result that must be native with the pixels of the row; empty when nothing is."""
    if not path.is_file():
        return "missing"
    instance = dcmread(path)
    if instance.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        return f"not native: {instance.file_meta.TransferSyntaxUID}"
    return "" if digest(instance).startswith(row["sha256"]) else "wrong pixels"


def problems(found: Rows, target: Path) -> dict[str, str]:
    """Return what is wrong, by path; in a thread with a deep stack, since some files nest a thousand sequences."""
    judged: dict[str, str] = {}
    depth = sys.getrecursionlimit()
    threading.stack_size(512 << 20)
    sys.setrecursionlimit(200_000)
    judge = threading.Thread(target=lambda: judged.update({p: problem(target / p, row) for p, row in found.items()}))
    judge.start()
    judge.join()
    threading.stack_size(0)
    sys.setrecursionlimit(depth)
    assert judged.keys() == found.keys()
    return {path: text for path, text in judged.items() if text}


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
