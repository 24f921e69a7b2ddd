"""Reference decoders over results, in a child of the fuzzer's own: it may hang, crash and eat memory.

    python -m tests.fuzz.references SOURCE TARGET REPORT < names, each with the decoders to leave out, by tabs

REPORT gets a line for each name and decoder: name, decoder, and "begun", then a verdict: "same", "differs: ..." or
"refuses: ...". Where the last line says "begun", that decoder has ended this process; the caller goes on after it.
A verdict of the decoder "header" is about all but the pixels.
"""

import contextlib
import os
import resource
import signal
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, generate_fragments, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from dcmpool import _os, sandbox

Array = NDArray[Any]

SECONDS = 10
_MEMORY_BYTES = 3 << 30
_EXPLICIT = "1.2.840.10008.1.2.1"
_REWRITTEN = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
"""Big Endian and Deflated: the bytes of every element change, its value does not."""
_LOSSY = (".4.50", ".4.51", ".4.53", ".4.55", ".4.81", ".4.91", ".4.93", ".4.203", ".4.111", ".4.112")
_MAY_DIFFER = frozenset({0x00280004, 0x00280006, 0x7FE00000, 0x7FE00001, 0x7FE00002, 0x7FE00010})
_JPEG_2000 = tuple(f".4.{number}" for number in (90, 91, 92, 93, 201, 202, 203))
_BY_THE_CODESTREAM = frozenset({0x00280101, 0x00280102, 0x00280103})
"""Bits Stored, High Bit and Pixel Representation, where a JPEG 2000 codestream knows better."""
_BY_LIBRARY = (*_JPEG_2000, *_LOSSY, ".4.57", ".4.70", ".4.80", ".4.110", ".1.98", ".8.1")
_GREY, _COLOUR = 2, 8
"""What a sample may differ by: decoders of lossy syntaxes round differently, and colour conversion once more."""
_PLUGINS = ("gdcm", "pylibjpeg", "pyjpegls", "pydicom")


def decoders(uid: str) -> dict[str, Callable[[Dataset, bool], Array]]:
    """Return the reference decoders of a Transfer Syntax by name; each gives (Frames, Rows, Columns[, Samples])."""
    found: dict[str, Callable[[Dataset, bool], Array]] = {}
    with contextlib.suppress(NotImplementedError):
        for plugin in get_decoder(UID(uid)).available_plugins:
            if plugin in _PLUGINS:
                found[plugin] = _by_plugin(uid, plugin)
    if uid in _REWRITTEN:
        return {"native": lambda source, _: _stacked(source, [source.pixel_array])}
    if decode := _library(uid):
        found["library"] = decode
    return found


def _by_plugin(uid: str, plugin: str) -> Callable[[Dataset, bool], Array]:
    decoder = get_decoder(UID(uid))

    def decode(source: Dataset, to_rgb: bool) -> Array:
        array, _ = decoder.as_array(source, decoding_plugin=plugin, raw=not to_rgb)
        return _stacked(source, [array])

    return decode


def _library(uid: str) -> Callable[[Dataset, bool], Array] | None:
    """Return a decoder that calls imagecodecs, or zlib, on each Frame, with nothing of dcmpool between."""

    def decode(source: Dataset, to_rgb: bool) -> Array:
        frames = int(source.get("NumberOfFrames") or 1)
        streams = generate_frames(source.PixelData, number_of_frames=frames)
        return _stacked(source, [_decoded(stream, uid, source, to_rgb) for stream in streams])

    return decode if uid.endswith(_BY_LIBRARY) else None


def _decoded(stream: bytes, uid: str, source: Dataset, to_rgb: bool) -> Array:
    number = uid.rpartition(".")[2]
    if uid.endswith((".1.98", ".8.1")):
        native = zlib.decompress(stream, wbits=-15) if uid.endswith(".8.1") else stream
        sign = "i" if source.PixelRepresentation else "u"
        count = source.Rows * source.Columns * source.SamplesPerPixel
        return np.frombuffer(native, f"<{sign}{source.BitsAllocated // 8}", count)
    if number in {"80", "81"}:
        return np.asarray(imagecodecs.jpegls_decode(stream))
    if number in {"110", "111", "112"}:
        return np.asarray(imagecodecs.jpegxl_decode(stream, numthreads=1))
    if number in {"50", "51", "53", "55", "57", "70"} and source.SamplesPerPixel == 3:
        colour = "ycbcr" if to_rgb or stream[6:10] == b"JFIF" else "rgb"
        return np.asarray(imagecodecs.jpeg8_decode(stream, colorspace=colour, outcolorspace="rgb"))
    if number in {"50", "51", "53", "55", "57", "70"}:
        return np.asarray(imagecodecs.jpeg8_decode(stream))
    return np.asarray(imagecodecs.jpeg2k_decode(stream, numthreads=1))


def _stacked(source: Dataset, frames: list[Array]) -> Array:
    shape = [int(source.get("NumberOfFrames") or 1), source.Rows, source.Columns, source.SamplesPerPixel]
    return np.concatenate([frame.reshape(-1) for frame in frames]).reshape(shape)


def header_problem(source: Path, target: Path) -> str:
    """Say what is wrong with a result but for its pixels; empty if nothing is."""
    before, after = pydicom.dcmread(source, force=True), pydicom.dcmread(target)
    if after.file_meta.TransferSyntaxUID != _EXPLICIT:
        return f"Transfer Syntax {after.file_meta.TransferSyntaxUID}"
    uid = str(before.file_meta.get("TransferSyntaxUID", ""))
    exempt: frozenset[int] = frozenset() if uid in _REWRITTEN else _MAY_DIFFER
    if uid.endswith(_JPEG_2000):
        exempt |= _BY_THE_CODESTREAM
    tags = {int(tag) for both in (before, after) for tag in both._dict if int(tag) >> 16 > 2} - exempt
    if uid in _REWRITTEN:  # by value: pydicom turns the byte order where it knows the VR
        different = [tag for tag in tags if tag >> 16 != 0x7FE0 and str(before.get(tag)) != str(after.get(tag))]
    else:
        different = [tag for tag in tags if _raw(before, tag) != _raw(after, tag)]
    if not _is_delimited(source):  # what pydicom finds behind Pixel Data lies, by the lengths, inside of it
        different = [tag for tag in different if tag <= 0x7FE00010]
    if different:
        return "elements differ: " + " ".join(f"{tag:08X}" for tag in sorted(different))
    if uid in _REWRITTEN:
        return ""
    _complete(after)
    if "PixelData" not in after:
        return "" if "PixelData" not in before else "no Pixel Data"
    bits = (
        int(after.get("NumberOfFrames") or 1) * after.Rows * after.Columns * after.SamplesPerPixel * after.BitsAllocated
    )
    due = -(-bits // 8)
    if len(after.PixelData) != due + due % 2:
        return f"{len(after.PixelData)} bytes of Pixel Data, {due} are due"
    return ""


def _is_delimited(source: Path) -> bool:
    """Whether the items of encapsulated Pixel Data end in a delimiter, and not with the file."""
    data = source.read_bytes()
    at = data.find(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    while data[at : at + 4] == b"\xfe\xff\x00\xe0" and at + 8 <= len(data):
        at += 8 + _item_length(data[at:])
    return at < len(data)


def _raw(instance: Dataset, tag: int) -> Any:
    element = instance._dict.get(pydicom.tag.Tag(tag))
    return (element.VR, element.value) if isinstance(element, RawDataElement) else element


def pixel_problem(source: Path, target: Path, decode: Callable[[Dataset, bool], Array]) -> str:
    """Compare a result's pixels with those of a reference decoder; return its verdict."""
    before, after = pydicom.dcmread(source, force=True), pydicom.dcmread(target)
    _complete(before)
    _complete(after)
    if before["PixelData"].is_undefined_length:
        _split(before)
    converted = after.PhotometricInterpretation == "RGB" and before.PhotometricInterpretation.startswith("YBR_FULL")
    try:
        wanted = decode(before, converted)
    except BaseException as error:  # noqa: BLE001 - decoders raise whatever they like, and panic
        return f"refuses: {_said(error)}"
    width = after.BitsAllocated // 8
    kind = "i" if after.PixelRepresentation else "u"
    have = np.frombuffer(after.PixelData, f"<{kind}{width}", wanted.size)
    worst = _distance(have, wanted.reshape(-1), min(after.BitsStored, 8 * width))
    lossy = str(before.file_meta.TransferSyntaxUID).endswith(_LOSSY)
    allowed = (_COLOUR if after.SamplesPerPixel == 3 else _GREY) if lossy else 0
    return "same" if worst <= allowed else f"differs: by {worst}"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:300]


def _distance(have: Array, wanted: Array, stored: int) -> int:
    """Return the greatest difference of samples, in their stored bits alone."""
    mask = (1 << stored) - 1
    left, right = (samples.astype("i8") & mask for samples in (have, wanted))
    distance = np.abs(left - right)
    if have.dtype.kind == "i":  # near the end of the range a step of 1 turns the sign
        distance = np.minimum(distance, mask + 1 - distance)
    return int(distance.max(initial=0))


def _complete(instance: Dataset) -> None:
    """Put in what a header may lack and every reader guesses alike, but pydicom."""
    if "SamplesPerPixel" not in instance:
        instance.SamplesPerPixel = 1
    if "PixelRepresentation" not in instance:
        instance.PixelRepresentation = 0
    if "BitsStored" not in instance:
        instance.BitsStored = instance.BitsAllocated


def _split(instance: Dataset) -> None:
    """Have a Frame in each fragment where their numbers agree, whatever an offset table says."""
    try:
        fragments = list(generate_fragments(instance.PixelData[8 + _item_length(instance.PixelData) :]))
    except (struct.error, ValueError, EOFError):
        return
    if len(fragments) == int(instance.get("NumberOfFrames") or 1):
        instance.PixelData = encapsulate(fragments, has_bot=False)
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if name in instance:
                delattr(instance, name)


def _item_length(data: bytes) -> int:
    return int(struct.unpack_from("<L", data, 4)[0])


def _touch(instance: Dataset, *, wanted: bool) -> None:
    """Have pydicom read the pixels, if they are `wanted`, and what describes them, or raise."""
    if wanted and not all(name in instance for name in ("PixelData", "Rows", "Columns", "BitsAllocated")):
        raise EOFError("no Pixel Data comes out")
    names = "Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored PixelRepresentation"
    for name in names.split():
        getattr(instance, name, None)
    int(instance.get("NumberOfFrames") or 1)


def judge(source: Path, target: Path, ended: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Judge one result; give who judges, and the verdict. Those that `ended` the process before are left out."""
    yield "header", "begun"
    try:
        uid = str(pydicom.dcmread(source, force=True, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        _touch(pydicom.dcmread(source, force=True), wanted="PixelData" in pydicom.dcmread(target))
    except Exception as error:  # noqa: BLE001 - what pydicom cannot read at all, no reference can judge
        yield "header", f"unreadable: {_said(error)}"
        return
    try:
        yield "header", header_problem(source, target) or "same"
        after = pydicom.dcmread(target)
        if "PixelData" in after and uid not in _REWRITTEN:
            _complete(after)
    except Exception as error:  # noqa: BLE001 - it reads the source, so it must read the result
        yield "header", f"the result is unreadable: {_said(error)}"
        return
    if "PixelData" not in after or after.BitsAllocated % 8:
        return
    for name, decode in decoders(uid).items():
        if name in ended:
            continue
        yield name, "begun"
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        verdict = pixel_problem(source, target, decode)
        signal.setitimer(signal.ITIMER_REAL, 0)
        yield name, verdict


def main(arguments: list[str]) -> None:
    """Judge all names on stdin."""
    source, target, report = (Path(argument) for argument in arguments)
    _os.die_with_parent(os.getppid())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    with report.open("a", buffering=1) as lines:
        if sandbox.abi():
            sandbox.enter(sandbox.make_rules([os.fsencode(source)], os.fsencode(report.parent)))
        for line in sys.stdin.read().splitlines():
            name, *ended = line.split("\t")
            for who, verdict in judge(source / name, target / name, frozenset(ended)):
                print(name, who, verdict, sep="\t", file=lines)


if __name__ == "__main__":
    main(sys.argv[1:])
