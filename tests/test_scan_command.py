"""`dcmpool scan`: it counts what lies in SOURCE, says what a run will need, and leaves nothing anywhere."""

import csv
import io
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    UltrasoundImageStorage,
)

import dcmpool
from dcmpool.config import load
from dcmpool.forecast import Forecast
from dcmpool.model import Purpose
from dcmpool.progress import Mode, Progress
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task
from tests.command import Command, long_series, own_command, tree
from tests.encoders import compressed
from tests.series import SYNTAXES, make_series, read_shipped

command = pytest.fixture(own_command)

COMPRESSED, SERIES = 6, 2


@pytest.fixture
def archive(command: Command) -> Path:
    """An archive of all kinds of content in `archive`; `expected` says what becomes of it."""
    folder = command.path / "archive"
    make_series(folder / "ct", COMPRESSED, size=64)
    source = read_shipped("CT_small.dcm")
    source.save_as(folder / "native.dcm")
    source.StudyInstanceUID, source.SeriesInstanceUID, source.Modality = "1.2.3.4", "1.2.3.4.5", "US"
    source.SOPClassUID = UltrasoundImageStorage
    compressed(source, RLELossless).save_as(folder / "rle.dcm", enforce_file_format=True)
    video = compressed(source, JPEGLosslessSV1)
    video.file_meta.TransferSyntaxUID = MPEG2MPML
    video.save_as(folder / "video.dcm", enforce_file_format=True)
    (folder / "text.txt").write_text("not DICOM\n" * 500)
    (folder / "cut.dcm").write_bytes((folder / "native.dcm").read_bytes()[:-900])
    locked = folder / "locked.dcm"
    locked.write_bytes((folder / "native.dcm").read_bytes())
    locked.chmod(0)
    os.mkfifo(folder / "fifo.dcm")
    return folder


OUTCOMES = {"decompressed": COMPRESSED + 1, "copied": 1, "kept": 1, "other": 1, "failed": 2}


def everything(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return all that is below a folder with what changes when it is written to (not when it is read)."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def classes(summary: dict[str, Any], group: str) -> dict[str, dict[str, Any]]:
    return {entry["value"]: entry for entry in summary["classes"][group]}


def test_counts_by_class_add_up_and_nothing_is_written(command: Command, archive: Path) -> None:
    before = everything(command.path)
    ended = command.run("scan", "archive", "-o", "native", "--json", "--workers", "2", powerless=True)
    assert everything(command.path) == before
    assert ended.code == 1, ended
    summary = ended.summary
    assert {name: count for name, count in summary["counts"].items() if count} == OUTCOMES | {"skipped": 1}
    assert ended.failed.keys() == {"cut.dcm", "locked.dcm"}
    assert "ermission" in ended.failed["locked.dcm"]["reason"]
    assert "the file ends" in ended.failed["cut.dcm"]["reason"]
    assert [item["path"] for item in summary["skipped"]] == ["fifo.dcm"]
    outcomes = classes(summary, "outcome")
    assert {outcome: entry["files"] for outcome, entry in outcomes.items()} == OUTCOMES
    files = [path for path in archive.rglob("*") if path.is_file()]
    assert sum(entry["bytes"] for entry in outcomes.values()) == sum(path.stat().st_size for path in files)
    by_syntax = {uid: entry["files"] for uid, entry in classes(summary, "transfer_syntax").items()}
    in_series = dict.fromkeys(SYNTAXES, COMPRESSED // len(SYNTAXES))
    assert by_syntax == {ExplicitVRLittleEndian: 1, RLELossless: 1, MPEG2MPML: 1, **in_series}
    assert {m: e["files"] for m, e in classes(summary, "modality").items()} == {"CT": COMPRESSED + 1, "US": 2}
    read = sum(OUTCOMES.values()) - OUTCOMES["other"] - OUTCOMES["failed"]
    for group in ("transfer_syntax", "modality", "sop_class"):
        assert sum(entry["files"] for entry in summary["classes"][group]) == read, group
    assert (summary["studies"], summary["series"]) == (SERIES, SERIES)


def test_what_it_promises_is_what_a_run_makes(command: Command, archive: Path) -> None:
    promised = command.run("scan", "archive", "-o", "native", "--json").summary
    made = command.run("run", "archive", "-o", "native", "--json").summary
    assert {**promised["counts"], "settled": 0} == made["counts"]
    size = sum(len(content) for content in tree(command.path / "native").values())
    assert abs(promised["result_bytes"] - size) < 300 * made["counts"]["decompressed"]
    assert promised["decompression"]["trials"] >= 3
    before = everything(command.path)
    again = command.run("scan", "archive", "-o", "native", "--json").summary
    assert everything(command.path) == before
    assert again["counts"] == promised["counts"]


def test_a_uid_is_not_printed(command: Command, archive: Path) -> None:
    said = [command.run("scan", "archive", *how).out for how in ((), ("--json",), ("--csv", "-"))]
    source = read_shipped("CT_small.dcm")
    for value in (source.StudyInstanceUID, source.SeriesInstanceUID, "1.2.3.4.5", str(source.PatientName)):
        assert not any(re.search(rf"{re.escape(value)}(?![.\d])", text) for text in said), value


def test_json_and_csv_agree(command: Command, archive: Path) -> None:
    summary = command.run("scan", "archive", "--json", "--csv", "classes.csv").summary
    assert command.run("scan", "archive", "--csv", "-").out == (command.path / "classes.csv").read_text()
    rows = list(csv.DictReader(io.StringIO((command.path / "classes.csv").read_text())))
    listed = [
        {"group": group, **{name: str(value) for name, value in entry.items()}}
        for group, entries in summary["classes"].items()
        for entry in entries
    ]
    assert rows == listed
    again = command.run("scan", "archive", "--csv", "classes.csv")
    assert (again.code, again.lines()) == (2, ["dcmpool: classes.csv exists, and is not replaced"])
    both = command.run("scan", "archive", "--json", "--csv", "-")
    assert (both.code, len(both.lines())) == (2, 1)


def test_the_table_names_classes_failures_room_and_time(command: Command, archive: Path) -> None:
    ended = command.run("scan", "archive", "-o", "native", powerless=True)
    lines = ended.out.splitlines()
    assert lines[0].startswith("archive: 12 files, ")
    assert f"{COMPRESSED + 1:>10}  to decompress" in lines
    assert "2 studies, 2 series" in lines
    for name in ("RLE Lossless", "CT Image", "Ultrasound Image", "US", "locked.dcm", "cut.dcm", "fifo.dcm"):
        assert any(name in line for line in lines), name
    (room,) = (line for line in lines if line.startswith("The results will need "))
    assert room.endswith(" free: that is enough")
    (time,) = (line for line in lines if line.startswith("Decompression: about "))
    assert re.search(r", from .* to .* workers on \d+ CPUs: an estimate from \d+ timed files", time), time


def test_a_target_without_room_is_warned_of(command: Command, archive: Path) -> None:
    """/proc has no room for anything, on any machine."""
    ended = command.run("scan", "archive", "-o", "/proc/native")
    assert re.search(r"^The results will need .* \(proc\) has 0 B free: .* are missing$", ended.out, re.MULTILINE), (
        ended
    )
    summary = command.run("scan", "archive", "-o", "/proc/native", "--json").summary
    assert summary["missing_bytes"] == summary["result_bytes"] > 0


def test_only_the_listed_files(command: Command, archive: Path) -> None:
    (command.path / "list").write_text("rle.dcm\ntext.txt\n")
    ended = command.run("scan", "archive", "--files-from", "list", "--json")
    assert ended.code == 0, ended
    assert {name: count for name, count in ended.summary["counts"].items() if count} == {"decompressed": 1, "other": 1}


def test_settings_count_as_in_a_run_but_not_its_hours(command: Command, archive: Path) -> None:
    work, schedule = '[work]\nothers = "skip"', '[schedule]\nmax_failures = "0"'
    own = f'{work}\n{schedule}\n[engines]\n"{JPEGLosslessSV1}" = ["gdcmconv", "gdcm"]'
    (command.path / "own.toml").write_text(own)
    ended = command.run("scan", "archive", "--config", "own.toml", "--json", powerless=True)
    assert (ended.code, ended.summary["stopped"]) == (1, "")
    assert ended.summary["counts"]["other"] == 0
    outcomes = classes(ended.summary, "outcome")
    assert (outcomes["skipped"]["files"], outcomes["skipped"]["result_bytes"]) == (1, 0)
    assert ended.summary["notes"] == []
    assert ended.summary["decompression"]["untried_native_bytes"] == 0  # an engine that needs files is passed over


def test_python_gets_what_the_command_prints(command: Command, archive: Path) -> None:
    found = dcmpool.scan(archive, command.path / "native", workers=2)
    printed = command.run("scan", "archive", "-o", "native", "--json").summary
    assert found.keys() == printed.keys()
    assert [found[name] for name in ("classes", "counts")] == [printed[name] for name in ("classes", "counts")]


def test_a_wrong_source_is_one_line(command: Command) -> None:
    ended = command.run("scan", "nowhere")
    assert (ended.code, ended.lines()) == (2, [f"dcmpool: no such file or directory: {command.path}/nowhere"])


def test_ctrl_c_ends_it_at_once_in_one_line(command: Command) -> None:
    """Not even a worker that does not get on is waited for."""
    long_series(command.path / "series", 20_000)
    running = command.start("scan", "series", "--workers", "1", "--json")
    (worker,) = running.wait_for(running.workers)
    os.kill(worker, signal.SIGSTOP)
    running.send(signal.SIGINT)
    ended = running.end(15)  # less than the limit that the worker has
    assert (ended.code, ended.lines()) == (130, ["dcmpool: interrupted: the scan is not complete"])
    assert sorted(path.name for path in command.path.iterdir()) == ["series"]


def test_files_that_hang_or_crash_their_worker_are_named_and_the_rest_is_counted(tmp_path: Path) -> None:
    """In the header, which says what a file is; in a trial, which is tried once and is no verdict on the file."""
    source = tmp_path / "series"
    make_series(source, COMPRESSED, size=64)
    for name in ("spin_in_the_header", "crash_in_the_header"):
        shutil.copy(source / "CT0001.dcm", source / f"{name}.dcm")
    stuck = compressed(read_shipped("CT_small.dcm"), JPEG2000Lossless)
    stuck.save_as(source / "spin.dcm", enforce_file_format=True)
    config = load(flags={"work": {"workers": 2}, "limits": {"attempt_seconds": 5.0}})
    task = Task(os.fsencode(source), os.fsencode(tmp_path / "native"), purpose=Purpose.SURVEY)
    supervisor = Supervisor(task, config, Progress(Mode.OFF), worker_module="tests.stuck_children")
    report = supervisor.run()
    assert supervisor.survey is not None
    summary = json.loads(Forecast(report, *supervisor.survey, 2, 2).to_json())
    failed = {item["path"]: item["kind"] for item in summary["failed"]}
    assert failed == {"crash_in_the_header.dcm": "CRASHED", "spin_in_the_header.dcm": "TIMEOUT"}
    assert summary["counts"]["decompressed"] == COMPRESSED + 1
    (note,) = summary["notes"]
    assert note["path"] == "spin.dcm"
    assert "TIMEOUT" in note["reason"]
    assert summary["decompression"]["untried_native_bytes"] == np.prod(stuck.pixel_array.shape) * 2
    assert not (tmp_path / "native").exists()
