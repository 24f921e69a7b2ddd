"""The series builder's files are what they claim: decoded here by another library than the one that encoded them."""

import io
import itertools
from pathlib import Path
from typing import Any

import gdcm
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.encoders import NEAR, SYNTAXES, compressed, encode, native_frames
from tests.series import check_series, main, make_series, native_series, pixel_digest, read_shipped

SIGNED = "CT_small.dcm"
"""16 bit signed."""
TWELVE = "examples_overlay.dcm"
"""12 bit in 16."""
COLOUR = "examples_rgb_color.dcm"
"""8 bit RGB."""

LOSSLESS = [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, RLELossless]
LOSSLESS_CASES = [
    (syntax, source)
    for syntax in LOSSLESS
    for source in (SIGNED, TWELVE, COLOUR)
    if (syntax, source) != (HTJ2KLossless, TWELVE)  # its encoder writes whole bytes
]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    directory = tmp_path_factory.mktemp("work") / "series"
    return directory, make_series(directory, slices=24, size=128)


def written(instance: Dataset) -> Dataset:
    """Return `instance` after a trip through the bytes of a file."""
    buffer = io.BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def decoded(instance: Dataset) -> NDArray[Any]:
    """Return the pixels by a decoder that is not the encoder's library.

    Exceptions: CharLS and OpenJPEG have no rival here, so another build of them decodes.
    """
    decoders = dict.fromkeys((HTJ2K, HTJ2KLossless, RLELossless), "pylibjpeg")
    instance.pixel_array_options(decoding_plugin=decoders.get(instance.file_meta.TransferSyntaxUID, "gdcm"))
    return instance.pixel_array


def decoded_by_gdcm_alone(instance: Dataset, path: Path) -> NDArray[Any]:
    """Return 12 bit pixels by GDCM without pydicom, which does not trust it with .51."""
    instance.save_as(path, enforce_file_format=True)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    raw = reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(raw, "<u2").reshape(instance.Rows, instance.Columns)


def codestream(instance: Dataset) -> bytes:
    return next(generate_frames(instance.PixelData, number_of_frames=1))


def test_every_slice_decodes_to_the_pixels_before_compression(series: tuple[Path, dict[str, str]]) -> None:
    directory, record = series
    assert sorted(path.name for path in directory.iterdir()) == sorted(record)
    for name, digest in record.items():
        instance = dcmread(directory / name)
        instance.pixel_array_options(decoding_plugin="gdcm")
        assert pixel_digest(instance) == digest


def test_the_transfer_syntaxes_take_turns_and_the_predictors_vary(series: tuple[Path, dict[str, str]]) -> None:
    directory, record = series
    instances = [dcmread(directory / name) for name in record]
    syntaxes = [instance.file_meta.TransferSyntaxUID for instance in instances]
    assert syntaxes == [JPEGLosslessSV1, JPEGLossless, JPEGLSLossless] * 8
    predictors: dict[str, list[int]] = {JPEGLosslessSV1: [], JPEGLossless: []}
    for instance in instances:
        frame = codestream(instance)
        if instance.file_meta.TransferSyntaxUID in predictors:
            scan = frame.index(b"\xff\xda")  # SOS; byte Ss of a one-component scan is the predictor, ISO 10918-1 B.2.3
            predictors[instance.file_meta.TransferSyntaxUID].append(frame[scan + 7])
            assert b"\xff\xc3" in frame[:scan]  # SOF3: lossless
        else:
            assert frame.startswith(b"\xff\xd8\xff\xf7")  # SOI, SOF55: JPEG-LS
    assert predictors == {JPEGLosslessSV1: [1] * 8, JPEGLossless: [1, 2, 3, 4, 5, 6, 7, 1]}


def test_the_slices_differ_as_those_of_a_series_do(series: tuple[Path, dict[str, str]]) -> None:
    directory, record = series
    instances = [dcmread(directory / name) for name in record]
    assert len(set(record.values())) == len(record)
    assert len({instance.SOPInstanceUID for instance in instances}) == len(record)
    assert len({instance.SeriesInstanceUID for instance in instances}) == 1
    assert [instance.InstanceNumber for instance in instances] == list(range(1, 25))
    depths = [float(instance.ImagePositionPatient[2]) for instance in instances]
    assert [round(a - b, 6) for a, b in itertools.pairwise(depths)] == [5.0] * 23
    assert all(i.file_meta.MediaStorageSOPInstanceUID == i.SOPInstanceUID for i in instances)


def test_all_other_elements_are_the_sources_own(series: tuple[Path, dict[str, str]]) -> None:
    directory, _ = series
    changed = {"PixelData", "PixelSpacing", "ImagePositionPatient", "SliceLocation", "InstanceNumber", "SOPInstanceUID"}
    source, instance = read_shipped(SIGNED), dcmread(directory / "CT0007.dcm")
    assert {element.keyword for element in source if element != instance[element.tag]} <= changed
    assert source.keys() == instance.keys()


def test_the_pixels_are_signed_and_use_the_sign() -> None:
    pixels = next(native_series(slices=1, size=512)).pixel_array
    assert pixels.shape == (512, 512)
    assert pixels.min() == -2000
    assert pixels.max() > 2000


def test_the_check_passes_native_equal_files_only(series: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    directory, record = series
    three = dict(itertools.islice(record.items(), 3))
    for instance, name in zip(native_series(24, 128), three, strict=False):
        instance.save_as(tmp_path / name, enforce_file_format=True)
    assert check_series(three, tmp_path) == []

    (tmp_path / "CT0001.dcm").unlink()
    (tmp_path / "CT0002.dcm").write_bytes((directory / "CT0002.dcm").read_bytes())
    third = dcmread(tmp_path / "CT0003.dcm")
    third.PixelData = b"\x01" + third.PixelData[1:]
    third.save_as(tmp_path / "CT0003.dcm")
    missing, encapsulated, different = check_series(three, tmp_path)
    assert missing == "CT0001.dcm: missing"
    assert encapsulated.startswith("CT0002.dcm: not native: JPEG Lossless")
    assert different == "CT0003.dcm: the pixels differ"


def test_the_command_tells_and_fails_when_a_slice_is_not_native(
    series: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, record = series
    Path(f"{directory}.json").write_text('{"CT0001.dcm": "' + record["CT0001.dcm"] + '"}')
    assert main(["check", str(directory), str(directory)]) == 1
    assert capsys.readouterr().out.endswith("0 of 1 native, pixel for pixel equal to the slices before compression\n")
    assert main([]) == 2


@pytest.mark.parametrize(("syntax", "source"), LOSSLESS_CASES)
def test_lossless_syntaxes_keep_every_bit(syntax: str, source: str) -> None:
    native = read_shipped(source)
    instance = written(compressed(native, syntax, predictor=6))
    assert instance.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(decoded(instance), native.pixel_array)


@pytest.mark.parametrize(
    ("syntax", "photometric_interpretation"),
    [
        (JPEGLossless, "RGB"),
        (JPEGLSLossless, "RGB"),
        (RLELossless, "RGB"),
        (JPEGBaseline8Bit, "YBR_FULL_422"),
        (JPEG2000Lossless, "YBR_RCT"),
        (HTJ2KLossless, "YBR_RCT"),
        (JPEG2000, "YBR_ICT"),
        (HTJ2K, "YBR_ICT"),
    ],
)
def test_colour_is_labelled_as_the_codestream_holds_it(syntax: str, photometric_interpretation: str) -> None:
    instance = written(compressed(read_shipped(COLOUR), syntax))
    assert instance.PhotometricInterpretation == photometric_interpretation
    frame = codestream(instance)
    if photometric_interpretation in ("YBR_RCT", "YBR_ICT"):
        coding_style = frame.index(b"\xff\x52")  # COD; byte 8 says whether a component transformation was used,
        assert frame[coding_style + 8] == 1  # byte 13 which: 1 is reversible (ISO 15444-1 A.6.1)
        assert frame[coding_style + 13] == (photometric_interpretation == "YBR_RCT")


@pytest.mark.parametrize("source", [SIGNED, COLOUR])
def test_near_lossless_stays_within_its_bound(source: str) -> None:
    native = read_shipped(source)
    instance = written(compressed(native, JPEGLSNearLossless))
    difference = np.abs(decoded(instance).astype(int) - native.pixel_array)
    assert 0 < difference.max() <= NEAR


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEG2000, HTJ2K])
def test_lossy_syntaxes_come_close_and_say_that_they_are_lossy(syntax: str, tmp_path: Path) -> None:
    native = read_shipped(TWELVE if syntax == JPEGExtended12Bit else COLOUR)
    instance = written(compressed(native, syntax))
    if syntax == JPEGExtended12Bit:
        pixels = decoded_by_gdcm_alone(instance, tmp_path / "extended.dcm")
    else:
        pixels = decoded(instance)
    assert np.abs(pixels.astype(int) - native.pixel_array).mean() < 3
    assert instance.LossyImageCompression == "01"
    assert instance.LossyImageCompressionMethod == SYNTAXES[syntax].lossy_method


def test_several_frames_are_encapsulated_one_by_one() -> None:
    native = read_shipped(SIGNED)
    frames = [native.pixel_array, np.ascontiguousarray(native.pixel_array[::-1])]
    instance = written(compressed(native, JPEGLossless, frames))
    assert instance.NumberOfFrames == 2
    np.testing.assert_array_equal(decoded(instance), np.stack(frames))


def test_signed_samples_of_12_bits_are_encoded_as_their_bit_pattern() -> None:
    frame = np.array([[-2048, -1, 0, 2047]] * 8, "<i2")
    pattern = np.array([[0x800, 0xFFF, 0, 0x7FF]] * 8, "<u2")
    np.testing.assert_array_equal(imagecodecs.jpegsof3_decode(encode(frame, JPEGLosslessSV1, 12)), pattern)
    np.testing.assert_array_equal(imagecodecs.jpegls_decode(encode(frame, JPEGLSLossless, 12)), pattern)
    np.testing.assert_array_equal(imagecodecs.jpeg2k_decode(encode(frame, JPEG2000Lossless, 12)), frame)


def test_more_bits_than_the_syntax_holds_are_refused() -> None:
    (frame,) = native_frames(read_shipped(SIGNED))
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        with pytest.raises(ValueError, match="16 bits in int16 do not fit"):
            encode(frame, syntax)
    with pytest.raises(KeyError):
        encode(frame, ExplicitVRLittleEndian)
