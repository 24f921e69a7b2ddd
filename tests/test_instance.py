"""What a file is, and whether it is whole, before any decoder sees it."""

import os
import struct
import time
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

from dcmpool.errors import Fault
from dcmpool.instance import Instance, inspect
from dcmpool.model import FailureKind, Outcome
from dcmpool.source import open_source
from tests import reference
from tests.reference import ENCODERS, Made, decompress, encapsulated, encoded, pixels, real_slice, shipped, write

ALL = list(ENCODERS)


def inspected(path: Path) -> Instance:
    with open_source(os.fsencode(path)) as source:
        return inspect(source)


def refusal(path: Path) -> Fault:
    """Return why the instance is never done: it is refused at once, or known to be truncated."""
    try:
        found = inspected(path)
    except Fault as fault:
        return fault
    assert found.flaw, "not refused"
    return Fault(FailureKind.CORRUPT, found.flaw)


@pytest.mark.parametrize("uid", ALL)
def test_an_encoded_instance_is_measured(uid: str, tmp_path: Path) -> None:
    found = inspected(write(tmp_path, encoded(uid, np.stack([real_slice()] * 3))))
    assert (found.outcome, found.transfer_syntax_uid) == (Outcome.DECOMPRESSED, uid)
    assert (found.number_of_frames, found.frame_bytes, found.native_bytes) == (3, 32768, 98304)
    assert found.memory_bytes > found.native_bytes
    assert found.notes == ()


@pytest.mark.parametrize("uid", ALL)
def test_a_frame_cut_anywhere_is_refused(uid: str, tmp_path: Path) -> None:
    frame = real_slice()[:24, :24]
    stream = ENCODERS[uid](frame)
    for length in range(len(stream) - 2):
        fault = refusal(write(tmp_path, Made(uid, frame[None], [stream[:length]])))
        assert fault.kind is FailureKind.CORRUPT, length


@pytest.mark.parametrize("uid", ALL)
def test_a_file_cut_anywhere_is_refused(uid: str, tmp_path: Path) -> None:
    made = encoded(uid, real_slice()[None, :24, :24])
    whole = made.to_bytes()
    path = tmp_path / "cut.dcm"
    for length in range(len(whole) - len(reference.encapsulated(made.fragments)) + 1, len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(path).kind is FailureKind.CORRUPT, length


@pytest.mark.parametrize("uid", ALL)
def test_a_lost_delimiter_is_named(uid: str, tmp_path: Path) -> None:
    frames = np.stack([real_slice(), real_slice()[::-1]])
    whole = encoded(uid, frames).to_bytes()
    path = tmp_path / "cut.dcm"
    for lost in range(1, 9):
        path.write_bytes(whole[:-lost])
        assert "a Sequence Delimitation Item is due: it is truncated" in refusal(path).reason


@pytest.mark.parametrize("zeros", [1, 2, 7, 8, 9, 4096, 1 << 20])
def test_zeros_after_the_last_element_are_kept(zeros: int, tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None], after=bytes(zeros)))
    assert inspected(path).notes == (f"{zeros} zeros follow the last element",)
    result = decompress(path, tmp_path)
    assert result.read_bytes().endswith(real_slice().tobytes() + bytes(zeros))


def test_gigabytes_of_zeros_are_refused_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None]))
    os.truncate(path, 3 << 30)
    begun = time.process_time()
    assert "bytes that begin with zeros follow the last element" in refusal(path).reason
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("after", [bytes(8) + b"\x01", bytes(9) + b"\xfc\xff\xfc\xff"])
def test_zeros_that_something_follows_are_refused(after: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None], after=after))
    assert "zeros lie where an element is due" in refusal(path).reason


def header(path: Path, tag: int) -> int:
    return int(pydicom.dcmread(path)[tag].value)


STORED, HIGH_BIT, SIGN = 0x00280101, 0x00280102, 0x00280103


@pytest.mark.parametrize("engine", ["turbo", "gdcm", "gdcmconv", "pylibjpeg"])
@pytest.mark.parametrize("top", [1023, 1024])
def test_bits_stored_becomes_what_the_samples_need(top: int, engine: str, tmp_path: Path) -> None:
    frames = np.arange(2 * 16 * 16, dtype=np.uint16).reshape(2, 16, 16)
    frames[1, 15, 15] = top
    path = write(tmp_path, encoded(reference.JPEG_2000, frames, bits_stored=10))
    result = decompress(path, tmp_path, engine)
    assert np.array_equal(pixels(result), frames)
    stored = 10 if top == 1023 else 16
    assert (header(result, STORED), header(result, HIGH_BIT)) == (stored, stored - 1)


@pytest.mark.parametrize(("low", "stored"), [(-512, 10), (-513, 16)])
def test_signed_samples_need_their_sign(low: int, stored: int, tmp_path: Path) -> None:
    frame = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
    frame[0, 0] = low
    result = decompress(write(tmp_path, encoded(reference.JPEG_2000, frame[None], bits_stored=10)), tmp_path)
    assert np.array_equal(pixels(result)[0], frame)
    assert header(result, STORED) == stored


@pytest.mark.parametrize("uid", [reference.JPEG_2000, reference.HTJ2K])
def test_a_signed_codestream_makes_the_result_signed(uid: str, tmp_path: Path) -> None:
    signed = encoded(uid, real_slice()[None])
    path = write(tmp_path, replace(signed, frames=signed.frames.view(np.uint16)))
    result = decompress(path, tmp_path)
    assert header(result, SIGN) == 1
    assert np.array_equal(pixels(result)[0], real_slice())
    assert inspected(path).notes == ("the codestream is signed, Pixel Representation was changed",)


def test_a_codestream_without_signs_leaves_them_to_the_header(tmp_path: Path) -> None:
    unsigned = encoded(reference.JPEG_2000, real_slice()[None].view(np.uint16))
    result = decompress(write(tmp_path, replace(unsigned, frames=real_slice()[None])), tmp_path)
    assert header(result, SIGN) == 1
    assert np.array_equal(pixels(result)[0], real_slice())


@pytest.mark.parametrize("uid", ALL)
@pytest.mark.parametrize("wrong", ["rows", "columns", "bits", "samples"])
def test_a_header_that_contradicts_the_codestream_is_refused(uid: str, wrong: str, tmp_path: Path) -> None:
    made = encoded(uid, real_slice()[None])
    shape = {"rows": (1, 64, 128), "columns": (1, 128, 256), "samples": (1, 128, 128, 3)}.get(wrong, (1, 128, 128))
    kind = "u4" if wrong == "bits" else "u2"
    assert refusal(write(tmp_path, replace(made, frames=np.zeros(shape, kind)))).kind is FailureKind.CORRUPT


@pytest.mark.parametrize("count", [2, 1_000_000, 2_147_483_647])
def test_missing_frames_are_refused(count: int, tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None], number_of_frames=count))
    assert "Number of Frames" in refusal(path).reason


def halves(stream: bytes) -> list[bytes]:
    middle = len(stream) // 4 * 2
    return [stream[:middle], stream[middle:]]


@pytest.mark.parametrize("uid", ALL)
@pytest.mark.parametrize("table", ["basic", "extended", "none", "wrong"])
def test_frames_of_several_fragments_are_found(uid: str, table: str, tmp_path: Path) -> None:
    frames = np.stack([real_slice(), real_slice()[::-1], real_slice()[:, ::-1]])
    parts = [halves(ENCODERS[uid](frame)) for frame in frames]
    starts = [sum(8 + len(reference.even(part)) for parts_ in parts[:n] for part in parts_) for n in range(3)]
    fragments = [part for parts_ in parts for part in parts_]
    basic = struct.pack("<3L", *starts) if table == "basic" else b""
    if table == "wrong":
        basic = struct.pack("<3L", *(start + 2 for start in starts))
    made = Made(uid, frames, fragments, pixel_data=encapsulated(fragments, basic))
    if table == "extended":
        made.tables = reference.element(0x7FE00001, b"OV", struct.pack("<3Q", *starts))
        made.tables += reference.element(0x7FE00002, b"OV", struct.pack("<3Q", 1, 1, 1))
    path = write(tmp_path, made)
    if uid == reference.RLE and table in ("none", "wrong"):  # nothing in an RLE frame marks its start
        assert refusal(path).kind is FailureKind.CORRUPT
    else:
        assert np.array_equal(pixels(decompress(path, tmp_path)), frames)


def test_native_and_other_files_are_told_apart(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_bytes(b"no DICOM at all, and longer than a preamble would be" * 9)
    empty = tmp_path / "empty"
    empty.touch()
    assert inspected(shipped("CT_small.dcm")).outcome is Outcome.COPIED
    assert inspected(shipped("rtplan.dcm")).outcome is Outcome.COPIED
    assert inspected(shipped("ExplVR_LitEndNoMeta.dcm")).outcome is Outcome.COPIED
    assert inspected(other).outcome is Outcome.OTHER
    assert inspected(empty).outcome is Outcome.OTHER


def test_video_is_kept(tmp_path: Path) -> None:
    made = Made("1.2.840.10008.1.2.4.102", real_slice()[None], [b"\x00\x00\x00\x01"])
    assert inspected(write(tmp_path, made)).outcome is Outcome.KEPT


def test_compressed_bytes_labelled_native_are_refused(tmp_path: Path) -> None:
    made = encoded(reference.JPEG_LS, real_slice()[None])
    as_fragments = replace(made, uid=reference.EXPLICIT)
    as_value = replace(as_fragments, pixel_data=reference.element(0x7FE00010, b"OW", made.fragments[0]))
    assert refusal(write(tmp_path, as_fragments)).kind is FailureKind.CORRUPT
    assert refusal(write(tmp_path, as_value)).kind is FailureKind.CORRUPT


def test_truncated_native_pixel_data_is_refused() -> None:
    assert refusal(shipped("MR_truncated.dcm")).kind is FailureKind.CORRUPT


def test_nesting_of_any_depth_is_walked(tmp_path: Path) -> None:
    depth = 100_000
    opening = b"\x40\x00\x60\xa7SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    made = encoded(reference.RLE, real_slice()[None], before=b"")
    made.tables = opening * depth + closing * depth
    made.before = b""
    path = write(tmp_path, made)
    assert np.array_equal(pixels_of(path, tmp_path), real_slice().view("u2"))


def pixels_of(path: Path, folder: Path) -> reference.Array:
    data = decompress(path, folder).read_bytes()
    return np.frombuffer(data[-32768:], "<u2").reshape(128, 128)


def test_a_length_that_no_file_holds_takes_no_memory(tmp_path: Path) -> None:
    made = encoded(reference.RLE, real_slice()[None])
    made.before = b"\x09\x00\x10\x10OB\x00\x00\xf0\xff\xff\xff"
    assert "claims 4294967280 bytes" in refusal(write(tmp_path, made)).reason


def test_a_source_that_cannot_be_opened_is_a_read_fault(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo", "."):
        with pytest.raises(Fault) as caught, open_source(os.fsencode(tmp_path / name)):
            pass
        assert caught.value.kind is FailureKind.READ


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None]))
    with open_source(os.fsencode(path)) as source:
        source.check_unchanged()
        os.utime(path, ns=(0, 0))
        with pytest.raises(Fault) as caught:
            source.check_unchanged()
    assert caught.value.kind is FailureKind.CHANGED


def test_a_missing_tile_is_refused(tmp_path: Path) -> None:
    stream = bytes(imagecodecs.htj2k_encode(real_slice(), reversible=True, tile=(64, 64)))
    first = stream.index(b"\xff\x90\x00\x0a")
    length = int.from_bytes(stream[first + 6 : first + 10], "big")
    assert stream[first + length : first + length + 4] == b"\xff\x90\x00\x0a"
    made = Made(reference.HTJ2K, real_slice()[None], [stream])
    assert np.array_equal(pixels(decompress(write(tmp_path, made), tmp_path))[0], real_slice())
    made.fragments = [stream[:first] + stream[first + length :]]
    assert refusal(write(tmp_path, made)).reason == "Frame 1 of 1: 1 of 4 tiles are missing from the JPEG 2000 stream"


def with_another_syntax(path: Path, uid: str, *, first: bool) -> None:
    """Put a second Transfer Syntax UID into the File Meta Information, before or after the one that is there."""
    data = path.read_bytes()
    start = data.index(b"\x02\x00\x10\x00UI")
    end = data.index(b"\x02\x00\x12\x00UI")
    other = reference.element(0x00020010, b"UI", uid.encode())
    meta = [other, data[start:end]] if first else [data[start:end], other]
    length = int.from_bytes(data[140:144], "little") + len(other)
    path.write_bytes(data[:140] + struct.pack("<L", length) + data[144:start] + b"".join(meta) + data[end:])


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("uid", [reference.EXPLICIT, reference.RLE, reference.JPEG_LS, "1.2.840.10008.1.2.4.102"])
@pytest.mark.parametrize("other", [reference.EXPLICIT, reference.JPEG_2000, "1.2.840.10008.1.2.4.103", "1.2.3"])
def test_two_transfer_syntaxes_contradict_each_other(uid: str, other: str, first: bool, tmp_path: Path) -> None:
    """Readers differ in which one counts: the first, or the last."""
    path = write(tmp_path, Made(uid, real_slice()[None], [b"\x00\x00"]))
    if uid == other:
        return
    with_another_syntax(path, other, first=first)
    assert "two Transfer Syntax UIDs (0002,0010)" in refusal(path).reason


@pytest.mark.parametrize("uid", ALL)
@pytest.mark.parametrize("padded", [False, True])
def test_one_transfer_syntax_may_be_there_twice(uid: str, padded: bool, tmp_path: Path) -> None:
    path = write(tmp_path, encoded(uid, real_slice()[None]))
    with_another_syntax(path, uid + "\0\0" * padded, first=False)
    assert np.array_equal(pixels(decompress(path, tmp_path))[0], real_slice())


@pytest.mark.parametrize("tag", [0x0010, 0x0011, 0x0100, 0x0103])
def test_an_image_attribute_of_no_known_vr_is_refused(tag: int, tmp_path: Path) -> None:
    """Who does not know the VR cannot read the value; here a bit of it was turned over."""
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None]))
    head = struct.pack("<HH", 0x0028, tag)
    path.write_bytes(path.read_bytes().replace(head + b"US", head + b"UW"))
    assert refusal(path).reason == f"(0028,{tag:04X}) has the VR UW, which PS3.5 6.2 does not know"


def test_a_transfer_syntax_of_no_known_vr_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None]))
    path.write_bytes(path.read_bytes().replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x10\x00UK"))
    assert refusal(path).reason == "(0002,0010) has the VR UK, which PS3.5 6.2 does not know"


@pytest.mark.parametrize("name", ["CT_small.dcm", "made"])
def test_an_element_of_no_known_vr_is_kept_and_named(name: str, tmp_path: Path) -> None:
    """It is none that decoding needs: its bytes stay, and the user is told."""
    strange = struct.pack("<HH2sH", 0x0009, 0x1000, b"ZZ", 4) + b"abcd"
    path = write(tmp_path, encoded(reference.RLE, real_slice()[None], before=strange))
    if name != "made":
        data = shipped(name).read_bytes()
        at = data.index(b"\x10\x00\x10\x00PN")
        path.write_bytes(data[:at] + strange + data[at:])
    assert "(0009,1000) has the VR ZZ, which PS3.5 6.2 does not know: kept as it is" in inspected(path).notes
    assert strange in decompress(path, tmp_path).read_bytes()


@pytest.mark.parametrize("uid", [*ALL, reference.EXPLICIT])
def test_a_header_that_ends_before_pixel_data_is_named(uid: str, tmp_path: Path) -> None:
    """A file cut between two elements is a whole data set: it is copied, and the user is told what is missing."""
    made = Made(uid, real_slice()[None], [b"\x00\x00"])
    path = write(tmp_path, made)
    whole = path.read_bytes()
    note = "it has Rows, but no Pixel Data: cut short?"
    for tag, rows in ((0x0002, False), (0x0010, False), (0x0011, True), (0x0103, True)):
        path.write_bytes(whole[: whole.index(struct.pack("<HH", 0x0028, tag))])
        found = inspected(path)
        assert found.outcome is Outcome.COPIED
        assert found.notes == ((note,) if rows else ())
    path.write_bytes(whole[: whole.index(b"\xe0\x7f\x10\x00")])
    assert inspected(path).notes == (note,)
    assert inspected(shipped("rtplan.dcm")).notes == ()
