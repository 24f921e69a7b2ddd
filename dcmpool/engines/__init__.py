"""Engines: encoded Frames in, native Frames out; pixels only, never headers.

    candidates(instance)  ->  names in order
    decode(name, ...)     ->  engine module: encoded Frame -> Decoded  ->  frame.finish -> native Frame

Each engine is a module with `decode(instance, source, scratch) -> Iterator[Decoded]`, loaded when it is used:
this package itself imports no codec.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dcmpool import memory, syntaxes
from dcmpool.errors import Fault
from dcmpool.model import FailureKind

if TYPE_CHECKING:
    from dcmpool.instance import Instance
    from dcmpool.source import Source

_JPEG_2000: Final = ("turbo", "pylibjpeg", "gdcm", "gdcmconv")
_HTJ2K: Final = ("turbo", "pylibjpeg")
_PLAIN: Final = ("plain",)  # nothing that a codec is needed for

# Transfer Syntax UID -> engines, the best first. Every result for JPEG and JPEG 2000 needs the proof of
# `completeness`, so the fastest may stand first although libjpeg-turbo says nothing of what it fills in. Decoding
# a 512 x 512 CT slice of 16 bit took (ms of CPU, proof included): .70 2.7 by turbo, 9.5 by gdcm; .57, predictor 6,
# 4.0 and 11.3; .80 4.0, 8.7 by gdcm, 4.6 by pyjpegls through pydicom; .90 19 by turbo, 20 by pylibjpeg, 25 by gdcm.
# pylibjpeg stands for its OpenJPEG and RLE plug-ins alone: pylibjpeg-libjpeg gets point transforms wrong.
ORDER: Final[Mapping[str, tuple[str, ...]]] = {
    "1.2.840.10008.1.2.4.50": ("turbo", "gdcm", "gdcmconv"),
    # pydicom's gdcm plug-in refuses .51 over 8 bits, gdcmconv does not; neither has .53 and .55.
    "1.2.840.10008.1.2.4.51": ("turbo", "gdcmconv", "gdcm"),
    "1.2.840.10008.1.2.4.53": ("turbo", "gdcmconv"),
    "1.2.840.10008.1.2.4.55": ("turbo", "gdcmconv"),
    "1.2.840.10008.1.2.4.57": ("turbo", "gdcm", "gdcmconv"),
    "1.2.840.10008.1.2.4.70": ("turbo", "gdcm", "gdcmconv"),
    # CharLS 2.4 (in turbo and pyjpegls) refuses what makes GDCM's 2.0 spin.
    "1.2.840.10008.1.2.4.80": ("turbo", "pyjpegls", "gdcm", "gdcmconv"),
    "1.2.840.10008.1.2.4.81": ("turbo", "pyjpegls", "gdcm", "gdcmconv"),
    # libjxl refuses every stream that lost bytes: 3,840 of 3,840, cut short or in the middle.
    "1.2.840.10008.1.2.4.110": ("turbo",),
    "1.2.840.10008.1.2.4.111": ("turbo",),
    "1.2.840.10008.1.2.4.112": ("turbo",),
    # OpenJPEG 2.5 in one thread; GDCM's 2.3 starts one for each CPU.
    "1.2.840.10008.1.2.4.90": _JPEG_2000,
    "1.2.840.10008.1.2.4.91": _JPEG_2000,
    "1.2.840.10008.1.2.4.92": ("turbo",),
    "1.2.840.10008.1.2.4.93": ("turbo",),
    "1.2.840.10008.1.2.4.201": _HTJ2K,
    "1.2.840.10008.1.2.4.202": _HTJ2K,
    "1.2.840.10008.1.2.4.203": _HTJ2K,
    # imagecodecs is the fastest by far, pydicom's own is Python; GDCM gets 16-bit colour wrong.
    "1.2.840.10008.1.2.5": ("turbo", "pylibjpeg", "rle"),
    "1.2.840.10008.1.2.2": _PLAIN,
    "1.2.840.10008.1.2.1.99": _PLAIN,
    "1.2.840.10008.1.2.1.98": _PLAIN,
    "1.2.840.10008.1.2.8.1": _PLAIN,
}
_order: Mapping[str, Sequence[str]] = ORDER
ENGINE_NAMES: Final[tuple[str, ...]] = tuple(dict.fromkeys(engine for order in ORDER.values() for engine in order))

WITHOUT_CODEC: Final = frozenset(_PLAIN)
"""They put bytes in order and decode nothing, so there is no decoder's word to doubt."""
WRITES_FILES: Final = frozenset({"gdcmconv"})
"""Engines that need a directory of their own."""
_SAME_CODECS: Final[Mapping[str, str]] = {"gdcm": "gdcmconv", "gdcmconv": "gdcm"}
"""Engines around the same code: what one fails at while it decodes, the other need not try."""
_MAY_LACK_MEMORY: Final = (FailureKind.CORRUPT, FailureKind.CRASHED)
_CODECS_FAULT: Final = (FailureKind.CORRUPT, FailureKind.TIMEOUT)

VOUCHER: Final = "turbo"
VOUCHED: Final = syntaxes.JPEG_LS | syntaxes.JPEG_2000
"""Transfer Syntaxes of which only a strict decoder can tell whether a stream is as it should be: CharLS 2.4 and
OpenJPEG 2.5 refuse what older releases pass over. What `VOUCHER` refuses is no result, whatever another engine says."""

_ONE_LIBRARY: Final[tuple[frozenset[str], ...]] = (
    frozenset({"gdcm", "gdcmconv"}),  # GDCM: its own IJG libjpeg, CharLS 2.0, OpenJPEG 2.3
    frozenset({"turbo", "pylibjpeg"}),  # OpenJPEG 2.5
    frozenset({"turbo", "pyjpegls"}),  # CharLS 2.4
)
"""Engines whose decoders are one library in one release, for every Transfer Syntax that both of them have. Those of
GDCM are other releases, years apart, of what the rest has, and the only other ones: an error that is as old as both
is not found."""

_ONE_UPSAMPLING: Final = frozenset(bytes.fromhex(factors) for factors in ("11", "111111", "211111", "221111", "411111"))
"""The sampling factors (T.81 B.2.2) of JPEG for which decoders bring chrominance to full size alike. T.81 leaves it
to them: with 4:4:0 GDCM repeats rows where libjpeg-turbo interpolates, and right samples differ by up to 88."""


def use(order: Mapping[str, Sequence[str]]) -> None:
    """From now on, in this process, try these engines in this order, for the Transfer Syntaxes that are in it."""
    global _order  # noqa: PLW0603 - a child is told once, before its first job
    _order = {**ORDER, **order}


def candidates(instance: "Instance", preferred: str | None = None) -> tuple[str, ...]:
    """Give the engines to try in order; `preferred` first if it can do this Transfer Syntax at all."""
    one_bit = instance.image is not None and instance.image.bits_allocated == 1
    order = _PLAIN if one_bit else tuple(_order.get(instance.transfer_syntax_uid, ()))
    if preferred in order:
        return (preferred, *(engine for engine in order if engine != preferred))
    return order


def spared(engine: str, kind: FailureKind, transfer_syntax_uid: str) -> tuple[str, ...]:
    """Give the engines that need not be asked once `engine` has failed so: they would fail too, or not be believed."""
    if kind is FailureKind.CORRUPT and engine == VOUCHER and transfer_syntax_uid in VOUCHED:
        return ORDER[transfer_syntax_uid]
    if kind in _CODECS_FAULT and engine in _SAME_CODECS:
        return (_SAME_CODECS[engine],)
    return ()


def kin(engine: str) -> frozenset[str]:
    """Give the engines that decode by the same library, itself among them: they cannot judge each other's work."""
    return frozenset({engine}).union(*(library for library in _ONE_LIBRARY if engine in library))


def second(instance: "Instance", first: str) -> tuple[str, ...]:
    """Give the engines that can judge what `first` decoded, the best first; none where no other library can.

    `verify.check_second` compares. An engine that refuses the Frames has said nothing: the next one may be asked.
    """
    found = instance.codestream
    if found is None or (instance.transfer_syntax_uid in syntaxes.JPEG_LOSSY and found.sampling not in _ONE_UPSAMPLING):
        return ()
    if found.kind == "JPEG-LS" and found.precision in (6, 7):
        return ()  # GDCM decodes no such stream, and there is no other library
    return tuple(engine for engine in candidates(instance) if engine not in kin(first))


def decode(name: str, instance: "Instance", source: "Source", scratch: Path) -> Iterator[bytes | memoryview]:
    """Give the native Frames in order: little endian, colour by pixel, as `instance.result` says.

    Where `instance.icon` is there, its one Frame comes first. `scratch` is a private directory for engines that need
    files.

    Raises
    ------
    Fault
        CORRUPT when the engine refuses the content or its result cannot be right, UNSUPPORTED when it cannot do it.
    """
    yield from _decode(name, instance, source, scratch, prove=True)


def decode_again(name: str, instance: "Instance", source: "Source", scratch: Path) -> Iterator[bytes | memoryview]:
    """Give the native Frames of codestreams that `decode` by another engine has proved whole: once is enough."""
    yield from _decode(name, instance, source, scratch, prove=False)


def _decode(
    name: str, instance: "Instance", source: "Source", scratch: Path, *, prove: bool
) -> Iterator[bytes | memoryview]:
    if name not in ENGINE_NAMES:
        raise Fault(FailureKind.UNSUPPORTED, f"there is no engine {name}")
    frame = importlib.import_module("dcmpool.engines.frame")
    engine = importlib.import_module(f"dcmpool.engines.{name}")
    proof = importlib.import_module("dcmpool.engines._proof")

    def natives(picture: "Instance") -> Iterator[memoryview]:
        frames = engine.decode(picture, source, scratch)
        uid = picture.transfer_syntax_uid
        if prove and (uid in syntaxes.PROVED or (uid in VOUCHED and name != VOUCHER)):
            frames = proof.proved(picture, source, frames, vouched=name == VOUCHER or uid not in VOUCHED)
        return frame.finished(picture, frames)  # type: ignore[no-any-return]  # by name

    try:
        if instance.icon is not None:
            yield b"".join(natives(instance.icon.instance))
        if instance.frames is not None:
            yield from natives(instance)
    except Fault as fault:
        image = instance.image
        if fault.kind not in _MAY_LACK_MEMORY or image is None or memory.has_room(2 * image.decoding_bytes):
            raise
        # A decoder that is refused memory calls the stream damaged, or is ended by its own library; some take twice
        # what others do.
        raise Fault(FailureKind.MEMORY, f"{fault.reason}; it had little memory (limits.memory_mib)") from fault
