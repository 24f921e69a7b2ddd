"""The main job from outside: a series goes in, every SOP Instance comes out native, and the outside world is odd."""

import ctypes
import json
import os
import pty
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.command import PATIENCE, Command, Record, own_command, temp_files, tree
from tests.encoders import NEAR, compressed
from tests.series import check_series, make_series, read_shipped

command = pytest.fixture(own_command)

LOSSLESS = [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, RLELossless]


@pytest.fixture
def record(command: Command) -> Record:
    """A small series in `series`."""
    return make_series(command.path / "series", slices=6, size=64)


def save(instance: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    instance.save_as(path, enforce_file_format=True)


def put(path: Path | bytes, data: bytes) -> None:
    """Write a file, with the folders above it."""
    path = Path(os.fsdecode(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def cut(record_in: Path) -> bytes:
    """Return the series' first slice without its last 900 bytes."""
    return (record_in / "CT0001.dcm").read_bytes()[:-900]


def one_slice(syntax: str = JPEGLosslessSV1) -> Dataset:
    return compressed(read_shipped("CT_small.dcm"), syntax)


# What comes out


def test_a_series_comes_out_native_with_the_pixels_before_compression(command: Command, record: Record) -> None:
    source = command.path / "series"
    before = tree(source)
    ended = command.run("run", "series", "-o", "native")
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []
    assert tree(source, own=True) == before
    assert tree(command.path / "native").keys() == before.keys()


def test_everything_but_the_pixels_is_the_sources_own(command: Command, record: Record) -> None:
    assert command.run("run", "series", "-o", "native").code == 0
    for name in record:
        before, after = (dcmread(command.path / folder / name) for folder in ("series", "native"))
        assert after.SOPInstanceUID == before.SOPInstanceUID
        assert after.file_meta.MediaStorageSOPInstanceUID == before.SOPInstanceUID
        assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert after["PixelData"].VR == "OW"
        assert not after["PixelData"].is_undefined_length
        for instance in (before, after):
            del instance.PixelData
        assert after == before


def test_the_summary_has_the_keys_and_values_of_the_issue(command: Command, record: Record) -> None:
    summary = command.run("run", "series", "-o", "native", "--json").summary
    assert {"counts", "by_transfer_syntax", "failed", "kept", "skipped", "seconds", "exit_code"} <= summary.keys()
    assert {name: count for name, count in summary["counts"].items() if count} == {"decompressed": 6}
    assert summary["by_transfer_syntax"] == {
        syntax: {"decompressed": 2} for syntax in (JPEGLossless, JPEGLosslessSV1, JPEGLSLossless)
    }
    assert (summary["failed"], summary["kept"], summary["skipped"], summary["exit_code"]) == ([], [], [], 0)
    assert 0 < summary["seconds"] < 60


def test_a_failed_file_is_listed_with_kind_reason_and_attempts(command: Command, record: Record) -> None:
    broken = command.path / "series" / "sub" / "broken.dcm"
    put(broken, cut(command.path / "series"))
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == ended.summary["exit_code"] == 1
    assert ended.summary["counts"]["failed"] == 1
    (item,) = ended.summary["failed"]
    assert item["path"] == "sub/broken.dcm"
    assert item["kind"] == "CORRUPT"
    assert item["reason"]
    for attempt in item["attempts"]:
        assert {"engine", "kind", "seconds"} <= attempt.keys()
        assert attempt["seconds"] >= 0
    assert item["attempts"]
    assert check_series(record, command.path / "native") == []
    assert not (command.path / "native" / "sub" / "broken.dcm").exists()


def test_the_summary_for_people_names_each_failed_file_with_its_reason(command: Command, record: Record) -> None:
    put(command.path / "series" / "[red]broken[/].dcm", cut(command.path / "series"))
    ended = command.run("run", "series")
    assert ended.code == 1
    assert "[red]broken[/].dcm" in ended.out + ended.err
    assert "CORRUPT" in ended.out + ended.err
    assert "\x1b" not in ended.out + ended.err  # no terminal, no escapes


@pytest.mark.parametrize("shipped", ["CT_small.dcm", "examples_rgb_color.dcm"])
def test_every_lossless_syntax_keeps_every_bit(command: Command, shipped: str) -> None:
    native = read_shipped(shipped)
    frames = [native.pixel_array, np.ascontiguousarray(native.pixel_array[::-1])]
    for syntax in LOSSLESS:
        save(compressed(native, syntax, frames), command.path / "series" / f"{syntax}.dcm")
    assert command.run("run", "series", "-o", "native").code == 0
    for syntax in LOSSLESS:
        result = dcmread(command.path / "native" / f"{syntax}.dcm")
        assert result.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert result.NumberOfFrames == 2
        np.testing.assert_array_equal(result.pixel_array, np.stack(frames), err_msg=syntax)
        assert native.SamplesPerPixel == 1 or result.PhotometricInterpretation == "RGB"


def test_near_lossless_stays_within_its_bound(command: Command) -> None:
    native = read_shipped("CT_small.dcm")
    save(compressed(native, JPEGLSNearLossless), command.path / "series" / "near.dcm")
    assert command.run("run", "series", "-o", "native").code == 0
    result = dcmread(command.path / "native" / "near.dcm")
    assert np.abs(result.pixel_array.astype(int) - native.pixel_array).max() <= NEAR
    assert result.LossyImageCompression == "01"


def test_native_video_and_pixel_less_files_keep_their_bytes(command: Command) -> None:
    source = command.path / "series"
    save(read_shipped("CT_small.dcm"), source / "native.dcm")
    report = read_shipped("CT_small.dcm")
    del report.PixelData
    save(report, source / "no-pixels.dcm")
    video = one_slice()
    video.file_meta.TransferSyntaxUID = MPEG2MPML
    video.PixelData = encapsulate([b"\x00\x00\x01\xb3" + bytes(60)])
    save(video, source / "video.dcm")
    (source / "notes.txt").write_text("not DICOM")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 0
    assert tree(command.path / "native") == tree(source)
    counts = {name: count for name, count in ended.summary["counts"].items() if count}
    assert counts == {"copied": 2, "kept": 1, "other": 1}
    assert "video.dcm" in json.dumps(ended.summary["kept"])


def test_others_skip_leaves_out_what_is_not_dicom_and_names_it(command: Command, record: Record) -> None:
    (command.path / "series" / "notes.txt").write_text("not DICOM")
    ended = command.run("run", "series", "-o", "native", "--others", "skip", "--json")
    assert ended.code == 0
    assert tree(command.path / "native").keys() == {os.fsencode(name) for name in record}
    assert ended.summary["counts"]["skipped"] == 1
    assert "notes.txt" in json.dumps(ended.summary["skipped"])


@pytest.mark.parametrize("engine", ["gdcm", "gdcmconv", "pylibjpeg", "pyjpegls"])
def test_any_engine_may_stand_first(command: Command, record: Record, engine: str) -> None:
    ended = command.run("run", "series", "-o", "native", "--engine", engine, "--json")
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []


@pytest.mark.parametrize(
    "options",
    [
        ["--workers", "5", "--max-writers", "1", "--max-inflight", "1M"],
        ["--profile", "network-share"],
        ["--profile", "slow-disk"],
        ["--config", "my.toml", "--profile", "slow-disk", "--workers", "2"],
    ],
)
def test_settings_change_how_and_not_what(command: Command, record: Record, options: list[str]) -> None:
    (command.path / "my.toml").write_text('[work]\nworkers = 1\nothers = "skip"\n')
    ended = command.run("run", "series", "-o", "native", *options)
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []


def test_a_configuration_is_used_and_a_flag_wins_over_it(command: Command, record: Record) -> None:
    (command.path / "series" / "notes.txt").write_text("not DICOM")
    (command.path / "my.toml").write_text('[work]\nothers = "skip"\n')
    assert command.run("run", "series", "-o", "one", "--config", "my.toml").code == 0
    assert command.run("run", "series", "-o", "two", "--config", "my.toml", "--others", "copy").code == 0
    assert not (command.path / "one" / "notes.txt").exists()
    assert (command.path / "two" / "notes.txt").exists()


def test_a_file_larger_than_the_memory_in_flight_still_comes_through(command: Command) -> None:
    record = make_series(command.path / "series", slices=2, size=1024)  # 2 MiB each
    ended = command.run("run", "series", "-o", "native", "--max-inflight", "1M", "--workers", "2")
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []


def test_two_runs_give_the_same_bytes(command: Command, record: Record) -> None:
    for target in ("one", "two"):
        assert command.run("run", "series", "-o", target).code == 0
    assert tree(command.path / "one") == tree(command.path / "two")


# Where it comes out


@pytest.mark.parametrize("source", ["series/", "../work/series/."])
def test_without_a_target_it_lies_beside_the_source(command: Command, record: Record, source: str) -> None:
    assert command.run("run", source).code == 0
    assert check_series(record, command.path / "series-decompressed") == []
    assert sorted(path.name for path in command.path.iterdir()) == ["series", "series-decompressed"]


def test_a_dot_as_source_has_its_target_beside_the_folder(command: Command, record: Record) -> None:
    ended = command.run("run", ".", cwd=command.path / "series")
    assert ended.code == 0, ended
    assert check_series(record, command.path / "series-decompressed") == []


def test_a_link_as_source_is_followed(command: Command, record: Record) -> None:
    (command.path / "link").symlink_to("series")
    assert command.run("run", "link", "-o", "native").code == 0
    assert check_series(record, command.path / "native") == []


def test_a_single_file(command: Command, record: Record) -> None:
    ended = command.run("run", "series/CT0002.dcm", "-o", "native", "--json")
    assert ended.code == 0, ended
    assert ended.summary["counts"]["decompressed"] == 1
    assert check_series({"CT0002.dcm": record["CT0002.dcm"]}, command.path / "native") == []


def test_a_single_file_without_a_target(command: Command, record: Record) -> None:
    ended = command.run("run", "series/CT0002.dcm")
    assert ended.code == 0, ended
    new = [path for path in command.path.rglob("*") if path.is_file() and ".dcmpool" not in path.parts]
    (result,) = [
        path for path in new if path.relative_to(command.path).parts[0] != "series" or path.parent.name != "series"
    ]
    assert dcmread(result).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert "-decompressed" in str(result)


def test_an_empty_folder_is_no_trouble(command: Command) -> None:
    (command.path / "series").mkdir()
    ended = command.run("run", "series", "--json")
    assert ended.code == 0, ended
    assert not any(ended.summary["counts"].values())


def test_a_tree_keeps_its_shape(command: Command) -> None:
    source = command.path / "archive"
    for folder in ("a/b/c", "a/b.dcm", "d"):  # a folder may be named like a file
        save(one_slice(), source / folder / "same-name.dcm")
    assert command.run("run", "archive", "-o", "new/native").code == 0
    assert tree(command.path / "new" / "native").keys() == tree(source).keys()


def test_in_place_replaces_each_file_by_its_result(command: Command, record: Record) -> None:
    source = command.path / "series"
    (source / "notes.txt").write_text("not DICOM")
    broken = cut(source)
    put(source / "broken.dcm", broken)
    ended = command.run("run", "series", "--in-place", "--json")
    assert ended.code == 1
    assert check_series(record, source) == []
    assert (source / "broken.dcm").read_bytes() == broken
    assert (source / "notes.txt").read_text() == "not DICOM"
    assert tree(source).keys() == {os.fsencode(name) for name in (*record, "notes.txt", "broken.dcm")}
    assert [path.name for path in command.path.iterdir()] == ["series"]
    again = command.run("run", "series", "--in-place", "--json")
    assert again.code == 1
    assert again.summary["counts"]["decompressed"] == 0
    assert check_series(record, source) == []


def test_in_place_of_a_single_file_touches_no_other(command: Command, record: Record) -> None:
    before = tree(command.path / "series")
    ended = command.run("run", "series/CT0003.dcm", "--in-place")
    assert ended.code == 0, ended
    assert check_series({"CT0003.dcm": record["CT0003.dcm"]}, command.path / "series") == []
    after = tree(command.path / "series")
    assert {name for name in before if after[name] != before[name]} == {b"CT0003.dcm"}


def test_in_place_a_single_link_is_left_alone_and_named(command: Command, record: Record) -> None:
    """As a link in a tree is: a result renamed over it would break it."""
    (command.path / "link.dcm").symlink_to("series/CT0001.dcm")
    before = (command.path / "series" / "CT0001.dcm").read_bytes()
    ended = command.run("run", "link.dcm", "--in-place", "--json")
    assert ended.code == 0, ended
    assert [item["path"] for item in ended.summary["skipped"]] == ["link.dcm"]
    assert (command.path / "link.dcm").is_symlink()
    assert (command.path / "series" / "CT0001.dcm").read_bytes() == before


def test_in_place_leaves_links_and_what_they_point_to_alone_and_names_them(command: Command, record: Record) -> None:
    save(one_slice(), command.path / "elsewhere.dcm")
    before = (command.path / "elsewhere.dcm").read_bytes()
    (command.path / "series" / "out.dcm").symlink_to("../elsewhere.dcm")
    (command.path / "series" / "in.dcm").symlink_to("CT0001.dcm")
    ended = command.run("run", "series", "--in-place", "--json")
    assert ended.code == 0, ended
    assert (command.path / "elsewhere.dcm").read_bytes() == before
    assert (command.path / "series" / "out.dcm").is_symlink()
    assert (command.path / "series" / "in.dcm").is_symlink()
    assert {item["path"] for item in ended.summary["skipped"]} == {"in.dcm", "out.dcm"}
    assert check_series(record, command.path / "series") == []


def test_a_file_that_dcmpool_did_not_write_is_not_replaced(command: Command, record: Record) -> None:
    target = command.path / "native"
    target.mkdir()
    (target / "CT0002.dcm").write_text("mine")
    (target / "unrelated.txt").write_text("mine")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 1
    assert ended.failed["CT0002.dcm"]["kind"] == "EXISTS"
    assert (target / "CT0002.dcm").read_text() == (target / "unrelated.txt").read_text() == "mine"
    del record["CT0002.dcm"]
    assert check_series(record, target) == []


@pytest.mark.parametrize("made", ["folder", "dangling link", "link to a file"])
def test_nothing_else_that_is_in_the_way_is_replaced(command: Command, record: Record, made: str) -> None:
    target = command.path / "native"
    target.mkdir()
    place, mine = target / "CT0002.dcm", command.path / "mine.txt"
    if made == "folder":
        place.mkdir()
    else:
        place.symlink_to(mine)
    if made == "link to a file":
        mine.write_text("mine")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 1
    assert ended.failed.keys() == {"CT0002.dcm"}
    assert place.is_dir() if made == "folder" else place.is_symlink()
    assert mine.exists() == (made == "link to a file")
    assert made != "link to a file" or mine.read_text() == "mine"


def test_overwrite_replaces_it(command: Command, record: Record) -> None:
    (command.path / "native").mkdir()
    (command.path / "native" / "CT0002.dcm").write_text("old")
    assert command.run("run", "series", "-o", "native", "--overwrite").code == 0
    assert check_series(record, command.path / "native") == []


def test_a_file_where_a_folder_is_due_is_a_failure_and_stays(command: Command, record: Record) -> None:
    save(one_slice(), command.path / "series" / "sub" / "a.dcm")
    (command.path / "native").mkdir()
    (command.path / "native" / "sub").write_text("mine")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 1
    assert ended.failed.keys() == {"sub/a.dcm"}
    assert (command.path / "native" / "sub").read_text() == "mine"
    assert check_series(record, command.path / "native") == []


def unlookable(series: Path, native: Path, how: str) -> str:
    """Have a file in SOURCE whose name in TARGET cannot even be looked at, or not be synced; return its path."""
    name = "sub/a.dcm"
    native.mkdir(parents=True)
    if how == "long":  # for TARGET alone, whose own path is longer than SOURCE's
        room = 4095 - len(os.fsencode(series)) - 1
        name = ("d" * 200 + "/") * (room // 201 - 1) + "f" * (room % 201 + 50)
    else:
        (native / "sub").mkdir(mode={"locked": 0, "unreadable": 0o300}[how])
    (series / name).parent.mkdir(parents=True)
    save(one_slice(), series / name)
    return name


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("how", ["locked", "unreadable", "long"])
def test_a_name_in_the_target_that_cannot_be_looked_at_is_its_files_failure(
    command: Command, record: Record, how: str, overwrite: bool
) -> None:
    """EACCES, ENAMETOOLONG; and a directory that takes a name but cannot be synced. The others are done."""
    native = command.path / ("native" + "x" * 200)
    name = unlookable(command.path / "series", native, how)
    options = ["--json", *["--overwrite"] * overwrite]
    ended = command.run("run", "series", "-o", native, *options, powerless=True)
    if how in ("locked", "unreadable"):
        (native / "sub").chmod(0o700)
    assert ended.code == 1, ended
    assert ended.failed.keys() == {name}
    assert ended.failed[name]["kind"] == "WRITE"
    words = "its directory cannot be read" if how == "unreadable" else "the target's name cannot be looked at: "
    assert words in ended.failed[name]["reason"]
    assert check_series(record, native) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("leads_to", ["../series/sub", "../elsewhere", "other"])
def test_a_link_in_the_target_leads_no_result_elsewhere(
    command: Command, record: Record, leads_to: str, overwrite: bool
) -> None:
    """TARGET/sub leads to SOURCE, where it would overwrite the original, out of TARGET, or to another's place."""
    source, native = command.path / "series", command.path / "native"
    for name in ("sub/a.dcm", "sub/deep/a.dcm", "other/a.dcm"):
        save(one_slice(), source / name)
    before = tree(source)
    (command.path / "elsewhere").mkdir()
    (native / "other").mkdir(parents=True)
    (native / "sub").symlink_to(leads_to)
    ended = command.run("run", "series", "-o", "native", "--json", *["--overwrite"] * overwrite)
    assert tree(source) == before
    assert tree(command.path / "elsewhere") == {}
    assert ended.code == 1, ended
    assert {path: item["kind"] for path, item in ended.failed.items()} == {
        "sub/a.dcm": "EXISTS",
        "sub/deep/a.dcm": "EXISTS",
    }
    assert all("link" in item["reason"] for item in ended.failed.values())
    assert check_series(record, native) == []
    assert (native / "other" / "a.dcm").exists()


@pytest.mark.parametrize("leads_to", ["../elsewhere", "sub"])
def test_in_place_a_list_leads_through_no_link(command: Command, record: Record, leads_to: str) -> None:
    """As the walk does not: what lies behind a link out of SOURCE is not the user's to lose."""
    for folder in ("elsewhere", "series/sub"):
        save(one_slice(), command.path / folder / "a.dcm")
    before = tree(command.path)
    (command.path / "series" / "link").symlink_to(leads_to)
    (command.path / "list").write_text("link/a.dcm\nCT0001.dcm\n")
    ended = command.run("run", "series", "--in-place", "--files-from", "list", "--json")
    assert ended.code == 1, ended
    assert ended.failed.keys() == {"link/a.dcm"}
    assert "link" in ended.failed["link/a.dcm"]["reason"]
    after = tree(command.path)
    assert {path for path in before if after[path] != before[path]} == {b"series/CT0001.dcm"}


# --files-from


def test_only_the_listed_files(command: Command, record: Record) -> None:
    (command.path / "list").write_text("CT0001.dcm\nCT0003.dcm\n")
    ended = command.run("run", "series", "-o", "native", "--files-from", "list", "--json")
    assert ended.code == 0, ended
    assert tree(command.path / "native").keys() == {b"CT0001.dcm", b"CT0003.dcm"}
    assert ended.summary["counts"]["decompressed"] == 2


def test_a_list_without_its_last_newline_with_blanks_and_twice_the_same(command: Command, record: Record) -> None:
    (command.path / "list").write_text("\nCT0001.dcm\n\n./CT0001.dcm\nCT0001.dcm\nCT0003.dcm")
    ended = command.run("run", "series", "-o", "native", "--files-from", "list", "--json")
    assert ended.code == 0, ended
    assert tree(command.path / "native").keys() == {b"CT0001.dcm", b"CT0003.dcm"}
    assert ended.summary["counts"]["decompressed"] == 2  # a path is done once


def test_nonsense_in_a_list_is_named_and_stops_nothing(command: Command, record: Record) -> None:
    secret = command.path / "outside.dcm"
    save(one_slice(), secret)
    (command.path / "series" / "sub").mkdir()
    nonsense = [
        b"missing.dcm",
        b"../outside.dcm",
        os.fsencode(secret),
        b"\xff\xfe.dcm",
        b"a" * 300,
        b"x/" * 2000,
        b"..",
    ]
    nonsense += [b"sub", b"sub/../../outside.dcm", b"nul\0byte.dcm", b"CT0001.dcm/x", b"   ", b"[/red]", b".", b"/"]
    (command.path / "list").write_bytes(b"\n".join([b"CT0001.dcm", *nonsense, b"CT0003.dcm"]))
    before = set(command.path.rglob("*"))
    ended = command.run("run", "series", "-o", "native", "--files-from", "list", "--json")
    assert ended.code == 1, ended
    assert "Traceback" not in ended.err
    assert tree(command.path / "native").keys() == {b"CT0001.dcm", b"CT0003.dcm"}
    made = {path for path in command.path.rglob("*") if path not in before}
    assert all(path.is_relative_to(command.path / "native") for path in made)
    assert "missing.dcm" in ended.failed
    named = json.dumps([ended.summary["failed"], ended.summary["skipped"], ended.summary.get("notes")])
    assert "outside.dcm" in named


@pytest.mark.parametrize(
    "script", ["--files-from /dev/stdin < list", "--files-from <(cat list)", "--files-from - < list"]
)
def test_a_list_from_a_pipe_is_read_or_refused_but_never_taken_as_empty(
    command: Command, record: Record, script: str
) -> None:
    (command.path / "list").write_text("CT0001.dcm\n")
    ended = in_shell(command, f'"$0" -m dcmpool run series -o native {script}')
    assert ended.returncode in (0, 2)
    done = tree(command.path / "native").keys() if ended.returncode == 0 else {b"CT0001.dcm"}
    assert done == {b"CT0001.dcm"}, ended


def test_an_absolute_path_inside_the_source_may_be_listed(command: Command, record: Record) -> None:
    (command.path / "list").write_text(f"{command.path}/series/CT0001.dcm\n")
    ended = command.run("run", "series", "-o", "native", "--files-from", "list", "--json")
    listed = json.dumps(ended.summary)
    assert tree(command.path / "native").keys() == {b"CT0001.dcm"} or "CT0001.dcm" in listed  # done, or named


# Odd surroundings


def odd_names() -> list[bytes]:
    longest = b"n" * 251 + b".dcm"
    return [
        b"not-utf8-\xff\xfe.dcm",
        b"new\nline.dcm",
        b" blank ",
        b"-o.dcm",
        b"tab\tbell\x07esc\x1b[31m.dcm",
        b"[bold]x[/].dcm",
        b"[/red]",
        b"back\\slash\"quote'.dcm",
        "ä€\U0001f4a9.dcm".encode(),
        b".hidden",
        b"~",
        b"%s{0}$HOME.dcm",
        b"CON",
        longest,
    ]


def test_odd_names_come_through(command: Command) -> None:
    source, content = command.path / "series", one_slice()
    save(content, source / "first.dcm")
    data = (source / "first.dcm").read_bytes()
    for name in odd_names():
        put(os.path.join(os.fsencode(source), name), data)
    deep = source / "/".join(["d" * 200] * 12)
    deep.mkdir(parents=True)
    (deep / "deep.dcm").write_bytes(data)
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 0, ended
    assert tree(command.path / "native").keys() == tree(source).keys()
    assert len(set(tree(command.path / "native").values())) == 1


def test_as_many_folders_inside_each_other_as_a_path_can_name(command: Command, record: Record) -> None:
    """Over a thousand: more than Python's functions may call themselves."""
    room = 4095 - len(os.fsencode(command.path / "native")) - len("/a.dcm")
    name = "/".join(["d"] * (room // 2)) + "/a.dcm"
    # Python cannot make nor remove them.
    subprocess.run(["mkdir", "-p", command.path / "series" / os.path.dirname(name)], check=True)
    save(one_slice(), command.path / "series" / name)
    ended = command.run("run", "series", "-o", "native", "--json")
    made = (command.path / "native" / name).exists()
    subprocess.run(["rm", "-rf", command.path / "series" / "d", command.path / "native" / "d"], check=True)
    assert (ended.code, made) == (0, True), (ended.err[-200:], ended.out[-200:])


@pytest.mark.parametrize(("as_json", "locale"), [(True, "ascii"), (False, "ascii"), (False, "C.UTF-8")])
def test_odd_names_that_fail_are_listed(command: Command, as_json: bool, locale: str) -> None:
    source = command.path / "series"
    save(one_slice(), source / "good.dcm")
    data = (source / "good.dcm").read_bytes()[:-3000]
    for name in odd_names():
        put(os.path.join(os.fsencode(source), name), data)
    environment: dict[str, str | None] = {"LC_ALL": locale, "LANG": None}
    if locale == "ascii":
        environment |= {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = command.run("run", "series", "-o", "native", *["--json"] * as_json, environment=environment)
    assert ended.code == 1, ended
    assert "Traceback" not in ended.err
    assert tree(command.path / "native").keys() == {b"good.dcm"}
    if as_json:
        assert sorted(os.fsencode(path) for path in ended.failed) == sorted(odd_names())
    else:
        assert "-o.dcm" in ended.out + ended.err
        assert "\x1b" not in ended.out + ended.err  # a name may not steer the terminal


def test_a_source_with_a_dcmpool_folder_of_its_own(command: Command, record: Record) -> None:
    """The result of an earlier run as SOURCE: its journal is no part of the series, and the new one is not harmed."""
    assert command.run("run", "series", "-o", "one").code == 0
    assert command.run("run", "one", "-o", "two").code == 0
    assert check_series(record, command.path / "two") == []
    again = command.run("run", "one", "-o", "two", "--json")
    assert again.code == 0
    assert again.summary["counts"]["settled"] == len(record)
    assert [item["path"] for item in again.summary["skipped"]] == [".dcmpool"]


def test_what_is_called_like_our_folder_further_down_is_as_any_other(command: Command, record: Record) -> None:
    for name in ("sub/.dcmpool/a.dcm", "sub/deep/.dcmpool"):
        save(one_slice(), command.path / "series" / name)
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 0, ended
    assert ended.summary["counts"]["decompressed"] == len(record) + 2
    assert tree(command.path / "native").keys() == tree(command.path / "series").keys()
    for folder in ("series", "native"):
        shutil.rmtree(command.path / folder / "sub")  # else they look like temp files left behind


@pytest.mark.parametrize("target", [["-o", "two"], ["--in-place"]], ids=str)
def test_a_list_does_not_lead_into_our_folder(command: Command, record: Record, target: list[str]) -> None:
    """A result called .dcmpool/journal.sqlite would take the place of the journal that is in use."""
    assert command.run("run", "series", "-o", "one").code == 0
    save(one_slice(), command.path / "one" / ".dcmpool" / "a.dcm")
    (command.path / "list").write_text(".dcmpool/journal.sqlite\n.dcmpool/a.dcm\n.dcmpool\nCT0001.dcm\n")
    before = (command.path / "one" / ".dcmpool" / "a.dcm").read_bytes()
    for _ in range(2):
        ended = command.run("run", "one", *target, "--overwrite", "--files-from", "list", "--json")
        assert ended.code == 1, ended
        assert ended.failed.keys() == {".dcmpool/journal.sqlite", ".dcmpool/a.dcm", ".dcmpool"}
    assert (command.path / "one" / ".dcmpool" / "a.dcm").read_bytes() == before
    (command.path / "one" / ".dcmpool" / "a.dcm").unlink()
    assert not (command.path / "two" / ".dcmpool" / "a.dcm").exists()


def test_folders_named_like_modules_do_no_harm(command: Command, record: Record) -> None:
    """The user stands in a folder with folders that Python could take for modules of the decoders."""
    for name in ("dl", "gdcm", "numpy", "pydicom", "imagecodecs", "openjpeg", "xxhash"):
        (command.path / name).mkdir()
        (command.path / name / "__init__.py").write_text("raise RuntimeError('imported from the user's folder')\n")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []


def test_no_folder_for_temporary_files_is_needed(command: Command, record: Record) -> None:
    ended = command.run("run", "series", "-o", "native", environment={"TMPDIR": "/nonexistent", "HOME": None})
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []


def test_ignored_signals_that_a_shell_hands_down_change_nothing(command: Command, record: Record) -> None:
    """`nohup` and the background jobs of a script start with some signals ignored."""
    ended = in_shell(command, 'trap "" HUP INT TERM CHLD PIPE ALRM; exec "$0" -m dcmpool run series -o native')
    assert ended.returncode == 0, ended
    assert check_series(record, command.path / "native") == []


def test_storage_that_takes_no_more_stops_the_run_resumable(command: Command, record: Record) -> None:
    """A limit on the size of files stands for a full disk: the results of 512 x 512 do not fit, the journal does."""
    make_series(command.path / "series", slices=3, size=512)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    ended = command.run("run", "series", "-o", "native", preexec_fn=small_files)
    assert ended.code in (1, 75), ended
    assert "Traceback" not in ended.err
    done = {name.decode() for name in tree(command.path / "native")}
    assert done <= record.keys() - {"CT0001.dcm", "CT0002.dcm", "CT0003.dcm"}
    assert command.run("run", "series", "-o", "native").code == 0


def test_owners_that_a_user_namespace_does_not_know_are_left_out(command: Command, record: Record) -> None:
    """As in a container without root: chown(2) says EINVAL there, not EPERM. All else is taken over."""
    clone_newuser, somebody = 0x10000000, 4711
    libc = ctypes.CDLL(None, use_errno=True)

    def alone() -> None:
        user = os.geteuid()
        if libc.unshare(clone_newuser):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")

    try:
        for name in record:
            os.chown(command.path / "series" / name, somebody, somebody)
            os.chmod(command.path / "series" / name, 0o644)
        running = command.start("run", "series", "-o", "native", "--json", preexec_fn=alone)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("this user may neither give files away nor make a namespace")
    ended = running.end()
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []
    for name in record:
        before, after = ((command.path / folder / name).stat() for folder in ("series", "native"))
        assert after.st_uid == os.geteuid()
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_a_working_folder_that_is_gone_is_no_trouble(command: Command, record: Record) -> None:
    (command.path / "gone").mkdir()
    script = f'cd gone; rmdir ../gone; "$0" -m dcmpool run {command.path}/series -o {command.path}/native'
    ended = in_shell(command, script)
    assert ended.returncode == 0, ended
    assert check_series(record, command.path / "native") == []


def test_few_file_descriptors_are_enough(command: Command, record: Record) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    ended = command.run("run", "series", "-o", "native", "--workers", "4", preexec_fn=few)
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []


# What it says, and to whom


def test_quiet_says_nothing_when_all_is_well(command: Command, record: Record) -> None:
    ended = command.run("run", "series", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_quiet_names_failures_alone(command: Command, record: Record) -> None:
    put(command.path / "series" / "broken.dcm", cut(command.path / "series"))
    ended = command.run("run", "series", "--quiet")
    assert ended.code == 1
    assert "broken.dcm" in ended.out + ended.err
    assert "CT0001" not in ended.out + ended.err


def test_json_with_quiet_prints_the_object(command: Command, record: Record) -> None:
    ended = command.run("run", "series", "--quiet", "--json")
    assert ended.code == ended.summary["exit_code"] == 0
    assert ended.err == ""


def test_on_a_terminal_it_ends_as_well(command: Command, record: Record) -> None:
    put(command.path / "series" / "[/red].dcm", cut(command.path / "series"))
    ours, theirs = pty.openpty()
    running = command.start("run", "series", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:
        pass  # EIO: the last holder of the other end is gone
    os.close(ours)
    assert running.end().code == 1, seen
    assert b"[/red].dcm" in seen
    assert b"Traceback" not in seen
    assert check_series(record, command.path / "series-decompressed") == []


@pytest.mark.parametrize(
    "redirection",
    [">&-", "2>&-", "--json >&-", ">&- 2>&- <&-", ">/dev/full", "--json >/dev/full 2>&1"],
    ids=lambda text: text.replace("/", "_"),
)
def test_outputs_that_are_closed_or_full_stop_nothing(command: Command, record: Record, redirection: str) -> None:
    ended = in_shell(command, f'"$0" -m dcmpool run series -o native {redirection}')
    assert check_series(record, command.path / "native") == []
    assert temp_files(command.path) == []
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr


@pytest.mark.parametrize("pipe", ["2>&1 | true", "--json | true"])
def test_a_pipe_without_a_reader_stops_nothing(command: Command, record: Record, pipe: str) -> None:
    put(command.path / "series" / "broken.dcm", cut(command.path / "series"))
    ended = in_shell(command, f'"$0" -m dcmpool run series -o native {pipe}')
    assert b"Traceback" not in ended.stderr
    assert b"BrokenPipe" not in ended.stderr
    assert check_series(record, command.path / "native") == []


def in_shell(command: Command, script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in which "$0" is Python, marked as the command's own runs are."""
    return subprocess.run(
        ["bash", "-c", script, sys.executable],
        cwd=command.path,
        env=command.variables(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
