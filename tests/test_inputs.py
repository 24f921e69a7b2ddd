"""What lies in real trees beside good slices: every file is done, or named with the reason, and the run ends."""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from tests.command import SLOWLY, Command, Ended, Record, long_series, own_command, tree
from tests.encoders import compressed
from tests.series import check_series, make_series, read_shipped

command = pytest.fixture(own_command)

LIMIT = ["--limit", "10"]


@pytest.fixture
def source(command: Command) -> Path:
    make_series(command.path / "series", slices=3, size=64)
    return command.path / "series"


@pytest.fixture
def record(command: Command, source: Path) -> Record:
    """The pixels of the three good slices in `source`."""
    return make_series(command.path / "again", slices=3, size=64)


def named(ended: Ended) -> str:
    """Return all that the summary lists as left out or failed, as text."""
    return json.dumps([ended.summary[key] for key in ("failed", "skipped", "notes")])


def one_slice(syntax: str = JPEGLosslessSV1) -> Dataset:
    return compressed(read_shipped("CT_small.dcm"), syntax)


def stored(instance: Dataset, path: Path) -> bytes:
    instance.save_as(path, enforce_file_format=True)
    return path.read_bytes()


# Files that are no files, and files that may not be read


def test_the_tree_of_the_issue(command: Command, source: Path, record: Record) -> None:
    os.mkfifo(source / "fifo.dcm")
    (source / "zero.dcm").symlink_to("/dev/zero")
    (source / "empty.dcm").touch()
    (source / "text.dcm").write_text("not DICOM\n" * 500)
    (source / "link.dcm").symlink_to("CT0001.dcm")
    locked = source / "locked.dcm"
    locked.write_bytes((source / "CT0001.dcm").read_bytes())
    locked.chmod(0)
    ended = command.run("run", "series", "-o", "native", "--json", powerless=True)
    locked.chmod(0o600)
    assert ended.code == 1, ended
    assert ended.failed.keys() == {"locked.dcm"}
    assert ended.failed["locked.dcm"]["kind"] == "READ"
    assert "ermission" in ended.failed["locked.dcm"]["reason"]
    assert {item["path"] for item in ended.summary["skipped"]} == {"fifo.dcm", "zero.dcm"}
    assert all(item["reason"] for item in ended.summary["skipped"])
    native = command.path / "native"
    assert check_series({**record, "link.dcm": record["CT0001.dcm"]}, native) == []
    assert tree(native).keys() == {os.fsencode(name) for name in (*record, "link.dcm", "empty.dcm", "text.dcm")}
    assert (native / "empty.dcm").read_bytes() == b""
    assert (native / "text.dcm").read_bytes() == (source / "text.dcm").read_bytes()
    assert not (native / "link.dcm").is_symlink()


def test_other_special_files_and_links_that_lead_nowhere(command: Command, source: Path, record: Record) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(source, os.O_PATH)
        server.bind(f"/proc/self/fd/{folder}/socket.dcm")
        os.close(folder)
    (source / "tty.dcm").symlink_to("/dev/ptmx")
    (source / "dangling.dcm").symlink_to("missing")
    (source / "self.dcm").symlink_to("self.dcm")
    (source / "through.dcm").symlink_to("CT0001.dcm/x")
    os.mkfifo(command.path / "pipe")
    (source / "pipe.dcm").symlink_to(command.path / "pipe")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code in (0, 1), ended
    for name in ("socket", "tty", "dangling", "self", "through", "pipe"):
        assert f"{name}.dcm" in named(ended)
    assert tree(command.path / "native").keys() == {os.fsencode(name) for name in record}
    assert check_series(record, command.path / "native") == []


def test_folders_by_links_are_walked_once_and_cycles_end(command: Command, source: Path, record: Record) -> None:
    (source / "up").symlink_to("..")
    (source / "sub").mkdir()
    (source / "sub" / "round").symlink_to("../sub")
    (source / "sub" / "slice.dcm").write_bytes((source / "CT0001.dcm").read_bytes())
    (command.path / "elsewhere").mkdir()
    (command.path / "elsewhere" / "far.dcm").write_bytes((source / "CT0002.dcm").read_bytes())
    (source / "far").symlink_to("../elsewhere")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code in (0, 1), ended
    assert check_series({**record, "sub/slice.dcm": record["CT0001.dcm"]}, command.path / "native") == []
    far = command.path / "native" / "far" / "far.dcm"
    assert far.exists() or "far" in named(ended)
    assert len(tree(command.path / "native")) < 20


@pytest.mark.parametrize("way", ["to", "into", "above"])
def test_a_link_that_leads_to_the_target_does_not_copy_it_into_itself(
    command: Command, source: Path, record: Record, way: str
) -> None:
    """Not even what an earlier run has put there: each run would make the tree deeper."""
    (source / "sub").mkdir()
    (source / "sub" / "slice.dcm").write_bytes((source / "CT0001.dcm").read_bytes())
    path, leads_to = {"to": ("out", "../native"), "into": ("sub/in", "../../native/sub"), "above": ("up", "..")}[way]
    for _ in range(3):
        ended = command.run("run", "series", "-o", "native", "--json")
        assert ended.code == 0, ended
        if not (source / path).is_symlink():
            (source / path).symlink_to(leads_to)
    assert check_series({**record, "sub/slice.dcm": record["CT0001.dcm"]}, command.path / "native") == []
    wanted = set(tree(source))
    if way == "above":
        wanted |= {b"up/" + path for path in tree(command.path) if path.startswith(b"again/")}
        path = "up/native"
    assert tree(command.path / "native").keys() == wanted
    assert "target" in {item["path"]: item["reason"] for item in ended.summary["skipped"]}[path]


def test_links_that_multiply_paths_end(command: Command, source: Path, record: Record) -> None:
    """Every directory is done at its own place; what is left out is named."""
    for number in range(30):
        (source / f"d{number}").mkdir()
        (source / f"d{number}" / "slice.dcm").write_bytes((source / "CT0001.dcm").read_bytes())
        for name in ("a", "b"):
            (source / f"d{number}" / name).symlink_to(f"../d{number + 1}")
    (source / "d30").mkdir()
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code == 0, ended
    slices = {f"d{number}/slice.dcm": record["CT0001.dcm"] for number in range(30)}
    assert check_series({**record, **slices}, command.path / "native") == []
    assert len(tree(command.path / "native")) < 200
    assert {"a link that is followed already"} == {item["reason"].split(",")[0] for item in ended.summary["skipped"]}


def test_a_folder_that_may_not_be_read_is_named_and_the_run_has_failed(
    command: Command, source: Path, record: Record
) -> None:
    """Slices that nobody saw are not done: exit code 0 would say so."""
    for name, mode in (("locked", 0), ("unsearchable", 0o444)):
        (source / name).mkdir()
        (source / name / "slice.dcm").write_bytes((source / "CT0001.dcm").read_bytes())
        (source / name).chmod(mode)
    ended = command.run("run", "series", "-o", "native", "--json", powerless=True)
    for name in ("locked", "unsearchable"):
        (source / name).chmod(0o755)
        assert name in named(ended)
    assert ended.code == 1, ended
    assert check_series(record, command.path / "native") == []


def test_a_sparse_file_of_a_terabyte_costs_no_memory_and_no_run(command: Command, source: Path, record: Record) -> None:
    """DICOM up to Pixel Data, and then nothing for a terabyte: the storage would not hold a copy."""
    with (source / "huge.dcm").open("wb") as file:
        file.write((source / "CT0001.dcm").read_bytes())
        file.truncate(1 << 40)
    ended = command.run("run", "series", "-o", "native", "--json", *LIMIT)
    assert ended.code == 1, ended
    assert ended.failed.keys() == {"huge.dcm"}
    assert check_series(record, command.path / "native") == []


@pytest.mark.parametrize("year", [1901, 2106, 2300])
def test_the_time_of_a_file_may_be_any_that_the_file_system_holds(
    command: Command, source: Path, record: Record, year: int
) -> None:
    """From 2262 on, nanoseconds since 1970 do not fit into 64 bits with a sign."""
    nanoseconds = (year - 1970) * 31_556_952 * 10**9
    os.utime(source / "CT0002.dcm", ns=(nanoseconds, nanoseconds))
    for outcome in ("decompressed", "settled"):
        ended = command.run("run", "series", "-o", "native", "--json")
        assert ended.code == 0, ended
        assert ended.summary["counts"][outcome] == 3
    assert check_series(record, command.path / "native") == []


# Files that lie


def cut_in_the_header(path: Path) -> bytes:
    return stored(one_slice(), path)[:700]


def cut_in_the_file_meta(path: Path) -> bytes:
    return stored(one_slice(), path)[:180]


def only_the_preamble(path: Path) -> bytes:
    return bytes(128) + b"DICM"


def garbage_after_the_preamble(path: Path) -> bytes:
    return bytes(128) + b"DICM" + bytes(range(256)) * 40


def no_pixels_at_all(path: Path) -> bytes:
    instance = one_slice()
    instance.PixelData = encapsulate([bytes(2)])
    return stored(instance, path)


def no_fragment(path: Path) -> bytes:
    data = stored(one_slice(), path)
    start = data.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    return data[:start] + b"\xfe\xff\xdd\xe0" + bytes(4)


def cut_codestream(path: Path) -> bytes:
    return stored(one_slice(), path)[:-2000]


def cut_codestream_with_its_end_put_back(path: Path) -> bytes:
    instance = one_slice()
    (codestream,) = _codestreams(instance)
    instance.PixelData = encapsulate([codestream[: len(codestream) // 2] + b"\xff\xd9"])
    return stored(instance, path)


def cut_jpeg_ls(path: Path) -> bytes:
    instance = one_slice(JPEGLSLossless)
    (codestream,) = _codestreams(instance)
    instance.PixelData = encapsulate([codestream[: len(codestream) // 2] + b"\xff\xd9"])
    return stored(instance, path)


def cut_jpeg_2000(path: Path) -> bytes:
    instance = one_slice(JPEG2000Lossless)
    (codestream,) = _codestreams(instance)
    instance.PixelData = encapsulate([codestream[: len(codestream) // 2]])
    return stored(instance, path)


def cut_rle(path: Path) -> bytes:
    instance = one_slice(RLELossless)
    (codestream,) = _codestreams(instance)
    instance.PixelData = encapsulate([codestream[: len(codestream) // 2]])
    return stored(instance, path)


def another_syntax(path: Path) -> bytes:
    instance = one_slice(JPEG2000Lossless)
    instance.file_meta.TransferSyntaxUID = JPEGLSLossless
    return stored(instance, path)


def an_unknown_syntax(path: Path) -> bytes:
    instance = one_slice()
    instance.file_meta.TransferSyntaxUID = UID("1.2.3.4")
    return stored(instance, path)


def other_rows_than_the_codestream(path: Path) -> bytes:
    instance = one_slice()
    instance.Rows = 256
    return stored(instance, path)


def more_frames_than_there_are(path: Path) -> bytes:
    instance = one_slice()
    instance.NumberOfFrames = 3
    return stored(instance, path)


def two_thousand_million_frames(path: Path) -> bytes:
    instance = one_slice()
    instance.NumberOfFrames = 2**31 - 1
    instance.Rows = instance.Columns = 65535
    return stored(instance, path)


def no_rows(path: Path) -> bytes:
    instance = one_slice()
    del instance.Rows
    return stored(instance, path)


def zero_rows(path: Path) -> bytes:
    instance = one_slice()
    instance.Rows = instance.Columns = 0
    return stored(instance, path)


def a_fragment_of_four_gigabytes(path: Path) -> bytes:
    data = stored(one_slice(), path)
    start = data.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    offset_table = struct.unpack("<I", data[start + 4 : start + 8])[0]
    fragment = start + 8 + offset_table
    return data[: fragment + 4] + b"\xfe\xff\xff\xff" + data[fragment + 8 :]


def an_element_of_four_gigabytes(path: Path) -> bytes:
    data = stored(one_slice(), path)
    start = data.index(b"\xe0\x7f\x10\x00OB")
    return data[:start] + b"\x11\x00\x10\x10OB\0\0\xf0\xff\xff\xff" + data[start:]


def sequences_a_thousand_deep(path: Path) -> bytes:
    data = stored(one_slice(), path)
    start = data.index(b"\xe0\x7f\x10\x00OB")
    nested = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    return data[:start] + nested + data[start:]


def _codestreams(instance: Dataset) -> list[bytes]:
    return list(generate_frames(instance.PixelData, number_of_frames=1))


BAD: list[Callable[[Path], bytes]] = [
    cut_in_the_header,
    cut_in_the_file_meta,
    garbage_after_the_preamble,
    no_pixels_at_all,
    no_fragment,
    cut_codestream,
    cut_codestream_with_its_end_put_back,
    cut_jpeg_ls,
    cut_jpeg_2000,
    cut_rle,
    another_syntax,
    an_unknown_syntax,
    other_rows_than_the_codestream,
    more_frames_than_there_are,
    two_thousand_million_frames,
    no_rows,
    zero_rows,
    a_fragment_of_four_gigabytes,
    an_element_of_four_gigabytes,
    sequences_a_thousand_deep,
]
"""Builders of files of which no picture can be made; each takes a path that it may write."""


def bad_files(folder: Path, builders: list[Callable[[Path], bytes]]) -> None:
    for builder in builders:
        path = folder / f"{builder.__name__}.dcm"
        path.write_bytes(builder(path))


@pytest.mark.parametrize(
    "engine", [[], ["--engine", "gdcm"], ["--engine", "gdcmconv"], ["--engine", "pylibjpeg"]], ids=str
)
def test_no_bad_file_is_done_and_no_good_one_suffers(
    command: Command, source: Path, record: Record, engine: list[str]
) -> None:
    bad_files(source, BAD)
    ended = command.run("run", "series", "-o", "native", "--json", *LIMIT, *engine)
    assert ended.code == 1, ended
    assert check_series(record, command.path / "native") == []
    done = {name for name in tree(command.path / "native") if name.decode() not in record}
    copies = {name for name in done if (source / name.decode()).read_bytes() == tree(command.path / "native")[name]}
    assert done - copies == set()  # no wrong picture
    assert copies <= {b"cut_in_the_file_meta.dcm", b"garbage_after_the_preamble.dcm"}  # may count as not DICOM
    for builder in BAD:
        name = f"{builder.__name__}.dcm"
        if name.encode() not in copies:
            assert ended.failed[name]["reason"], name
            assert "\n" not in ended.failed[name]["reason"], name
            assert "Traceback" not in ended.failed[name]["reason"], name


def test_the_preamble_alone_is_no_trouble(command: Command, source: Path, record: Record) -> None:
    (source / "short.dcm").write_bytes(only_the_preamble(source))
    (source / "one-byte.dcm").write_bytes(b"D")
    ended = command.run("run", "series", "-o", "native", "--json")
    assert ended.code in (0, 1), ended
    assert check_series(record, command.path / "native") == []
    assert (command.path / "native" / "one-byte.dcm").read_bytes() == b"D"


def test_bad_files_in_place_are_not_touched(command: Command, source: Path, record: Record) -> None:
    bad_files(source, BAD)
    before = tree(source)
    ended = command.run("run", "series", "--in-place", "--json", *LIMIT)
    assert ended.code == 1, ended
    after = tree(source)
    assert {name for name in before if before[name] != after[name]} == {name.encode() for name in record}
    assert before.keys() == after.keys()
    assert check_series(record, source) == []


# Files that go


def test_a_file_that_vanishes_is_a_failure_and_no_other_suffers(command: Command) -> None:
    record = long_series(command.path / "long")
    running = command.start("run", "long", "-o", "native", "--workers", "1", "--json", *SLOWLY)
    running.wait_for((command.path / "native" / "CT0001.dcm").exists)
    gone = "CT0040.dcm"
    (command.path / "long" / gone).unlink()
    ended = running.end()
    del record[gone]
    assert check_series(record, command.path / "native") == []
    assert ended.code == 1, ended
    assert ended.failed.keys() == {gone}
    assert ended.failed[gone]["kind"] == "READ"


def test_a_source_that_vanishes_ends_the_run(command: Command) -> None:
    record = long_series(command.path / "long")
    running = command.start("run", "long", "-o", "native", "--workers", "1", "--json", *SLOWLY)
    running.wait_for((command.path / "native" / "CT0001.dcm").exists)
    (command.path / "long").rename(command.path / "moved")
    ended = running.end()
    assert ended.code in (1, 75), ended
    done = {name.decode() for name in tree(command.path / "native")}
    assert check_series({name: record[name] for name in done}, command.path / "native") == []
    (command.path / "moved").rename(command.path / "long")
    assert command.run("run", "long", "-o", "native").code == 0
    assert check_series(record, command.path / "native") == []


def test_a_file_that_changes_meanwhile_is_never_half_old(command: Command) -> None:
    """The last slice is replaced by another while the run is on: the result is one of the two, or a failure."""
    record = long_series(command.path / "long")
    running = command.start("run", "long", "-o", "native", "--workers", "1", "--json", *SLOWLY)
    running.wait_for((command.path / "native" / "CT0001.dcm").exists)
    new = (command.path / "long" / "CT0001.dcm").read_bytes()
    last = command.path / "long" / "CT0040.dcm"
    last.unlink()  # it is a hard link
    last.write_bytes(new)
    ended = running.end()
    assert ended.code in (0, 1), ended
    result = command.path / "native" / "CT0040.dcm"
    if result.exists():
        assert dcmread(result).pixel_array.shape == (512, 512)
        digests = (record["CT0001.dcm"], record["CT0040.dcm"])
        assert any(check_series({"CT0040.dcm": digest}, command.path / "native") == [] for digest in digests)
    else:
        assert "CT0040.dcm" in ended.failed
    again = command.run("run", "long", "-o", "native", "--json")
    assert again.code == 0, again
    record["CT0040.dcm"] = record["CT0001.dcm"]
    assert check_series(record, command.path / "native") == []


def test_a_result_that_is_deleted_meanwhile_stops_nothing(command: Command) -> None:
    record = long_series(command.path / "long")
    running = command.start("run", "long", "-o", "native", "--workers", "1", "--json", *SLOWLY)
    first = command.path / "native" / "CT0001.dcm"
    running.wait_for(first.exists)
    first.unlink()
    ended = running.end()
    assert ended.code in (0, 1), ended
    assert command.run("run", "long", "-o", "native").code == 0
    assert check_series(record, command.path / "native") == []


def test_a_target_that_is_moved_away_ends_the_run(command: Command) -> None:
    """Nothing can be written any more: the run says so and ends, and what was done is whole."""
    record = long_series(command.path / "long")
    running = command.start("run", "long", "-o", "native", "--workers", "1", "--json", *SLOWLY)
    running.wait_for((command.path / "native" / "CT0001.dcm").exists)
    (command.path / "native").rename(command.path / "moved")
    ended = running.end()
    done = {name.decode() for name in tree(command.path / "moved")}
    assert check_series({name: record[name] for name in done}, command.path / "moved") == []
    assert ended.code in (1, 75), ended
    assert "Traceback" not in ended.err
    assert command.run("run", "long", "-o", "native").code == 0
    assert check_series(record, command.path / "native") == []
    assert command.run("run", "long", "-o", "moved").code == 0
    assert check_series(record, command.path / "moved") == []
