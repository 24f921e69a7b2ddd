"""What a source file is, what is due for it, and whether it is whole: reading without decoding.

    Source -> File Meta -> data set walk -> Image Pixel Module -> Frames -> every codestream -> Instance

Promises: an `Instance` that is to be decompressed has all its Frames, each a whole codestream that agrees with
the Image Pixel Module; what the native result will be is decided here, whatever engine comes after.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from dcmpool import syntaxes
from dcmpool.bigendian import Swapped
from dcmpool.codestream import Codestream
from dcmpool.dataset import (
    LONG_VRS,
    PIXEL_DATA,
    SHORT_VRS,
    UNDEFINED,
    Element,
    corrupt,
    name,
    shows_vr,
    walk,
    walk_item,
)
from dcmpool.deflated import Inflated
from dcmpool.encapsulated import Frames, find_frames
from dcmpool.encoded import check_frames
from dcmpool.errors import Fault
from dcmpool.filemeta import TRANSFER_SYNTAX_UID, find_file_meta, is_big_endian
from dcmpool.imagepixel import ROWS, ImagePixel, converts_colour, read_image_pixel, rearranged
from dcmpool.model import FailureKind, Outcome
from dcmpool.source import Source, View

_VRS: Final = LONG_VRS | SHORT_VRS
_SOP_CLASS_UID: Final = 0x00080016
_EXTENDED_OFFSET_TABLE: Final = 0x7FE00001
ICON_GROUP_LENGTH: Final = 0x00880000
ICON_IMAGE_SEQUENCE: Final = 0x00880200
_SOP_INSTANCE_UID: Final = 0x00080018
_KEPT_GROUPS: Final = frozenset({0x0028, 0x7FE0})
_KEPT_TAGS: Final = frozenset({_SOP_CLASS_UID, _SOP_INSTANCE_UID, ICON_GROUP_LENGTH, ICON_IMAGE_SEQUENCE})
PIXEL_ELEMENTS: Final = (0x7FE00008, 0x7FE00009, PIXEL_DATA)
_VIEWS: Final[Mapping[str, Callable[[Callable[[int, int], bytes], int, int], View]]] = {
    syntaxes.EXPLICIT_VR_BIG_ENDIAN: Swapped,
    syntaxes.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Inflated,
}
_MAX_NATIVE_BYTES: Final = 0xFFFFFFFE  # a 32-bit length, and even (PS3.5 7.1.1)


class Layout(msgspec.Struct, frozen=True):
    """Where the parts of the source lie: offsets in bytes from its start.

    `meta` are the elements of the File Meta Information; `data_set` is the offset of the first element after
    them; `elements` are those of the data set that reading or writing needs, by tag.
    """

    preamble: bool
    meta: Mapping[int, Element]
    data_set: int
    elements: Mapping[int, Element]


class Instance(msgspec.Struct, frozen=True):
    """One source file, read and judged.

    `flaw` says in words why the Pixel Data gives no true picture; such an instance is never done, whatever an engine
    makes of it. `image`, `result` (the Image Pixel Module before and after), `frames` and `codestream`, that of the
    first Frame, are there when Frames are to be decoded: `outcome` is DECOMPRESSED, and not the data set alone takes
    another form. Sizes are bytes of native Pixel Data. `icon` is there when that of the Icon Image Sequence must be
    decoded too.
    """

    outcome: Outcome
    transfer_syntax_uid: str = ""
    sop_class_uid: str = ""
    layout: Layout | None = None
    image: ImagePixel | None = None
    result: ImagePixel | None = None
    codestream: Codestream | None = None
    frames: Frames | None = None
    frame_bytes: int = 0
    native_bytes: int = 0
    memory_bytes: int = 0
    notes: tuple[str, ...] = ()
    flaw: str = ""
    icon: "Icon | None" = None

    @property
    def number_of_frames(self) -> int:
        """Frames to be decoded; 0 if there is nothing to decode."""
        return 0 if self.frames is None else len(self.frames)

    @property
    def rounds_colour(self) -> bool:
        """Whether samples have to be converted, YBR to RGB, so that those of the codestream are not in the result."""
        image, found = self.image, self.codestream
        return bool(image and found and converts_colour(image, self.transfer_syntax_uid, found))


class Icon(msgspec.Struct, frozen=True):
    """An encapsulated Icon Image: its own small `instance`, in the one item (offsets `start` to `end`, bytes) of
    the Icon Image Sequence."""

    instance: Instance
    start: int
    end: int


def inspect(source: Source, *, whole: bool = True) -> Instance:
    """Read the header, find the Frames, check that each is whole; without `whole` the header alone is read.

    Raises
    ------
    Fault
        CORRUPT, UNSUPPORTED, READ or CHANGED.
    """
    found = find_file_meta(source)
    if found is None:
        return Instance(Outcome.OTHER)
    preamble, meta, data_set = found
    uid = _text(source, meta.get(TRANSFER_SYNTAX_UID))
    if uid in syntaxes.KEPT:
        return Instance(Outcome.KEPT, uid)
    if not meta and is_big_endian(source, data_set):
        uid = syntaxes.EXPLICIT_VR_BIG_ENDIAN
    view = _VIEWS.get(uid)
    if view is not None:
        source.look_through(view(source.read_raw, data_set, source.size), data_set)
    if whole:
        source.hold()
    explicit = shows_vr(source, data_set)
    elements, notes = _elements(source, data_set, explicit=explicit, tolerant=uid in syntaxes.NATIVE)
    notes = (*_strange_meta(meta, uid), *notes)
    layout = Layout(preamble, meta, data_set, elements)
    pixel_data = next((elements[tag] for tag in PIXEL_ELEMENTS if tag in elements), None)
    sop_class_uid = _text(source, elements.get(_SOP_CLASS_UID))
    if pixel_data is None and ROWS in elements:
        notes = (*notes, "it has Rows, but no Pixel Data: cut short?")
    if uid in syntaxes.RECODED:
        return _recoded(source, uid, sop_class_uid, layout, pixel_data, notes)
    if pixel_data is None or uid in syntaxes.NATIVE or (not uid and pixel_data.length != UNDEFINED):
        notes = notes if pixel_data is None else (*notes, *_check_native(source, elements, pixel_data))
        return Instance(Outcome.COPIED, uid, sop_class_uid, layout, notes=notes)
    if not whole:
        return _promised(source, uid, sop_class_uid, layout, pixel_data)
    return _compressed(source, uid, sop_class_uid, layout, pixel_data, notes)


def _promised(source: Source, uid: str, sop_class_uid: str, layout: Layout, pixel_data: Element) -> Instance:
    """Give what the header promises of encapsulated Pixel Data; no codestream is read."""
    _check_compressed(source, uid, layout, pixel_data)
    image = read_image_pixel(source, layout.elements)
    size = _native_bytes(image)
    return Instance(Outcome.DECOMPRESSED, uid, sop_class_uid, layout, image, native_bytes=size, memory_bytes=size)


def _strange_meta(meta: Mapping[int, Element], uid: str) -> tuple[str, ...]:
    """Name elements of the File Meta Information whose VR is none, unless a decoder is to be chosen by one of them."""
    strange = [element for element in meta.values() if element.vr and element.vr not in _VRS]
    if TRANSFER_SYNTAX_UID in (element.tag for element in strange) and uid not in syntaxes.NATIVE:
        raise corrupt(_unknown_vr(meta[TRANSFER_SYNTAX_UID]))
    return tuple(f"{_unknown_vr(element)}: kept as it is" for element in strange[:1])


def _unknown_vr(element: Element) -> str:
    return f"{name(element.tag)} has the VR {element.vr.decode('ascii', 'replace')}, which PS3.5 6.2 does not know"


def _compressed(
    source: Source, uid: str, sop_class_uid: str, layout: Layout, pixel_data: Element, notes: tuple[str, ...]
) -> Instance:
    """Judge an instance whose Transfer Syntax says that its Pixel Data is encapsulated, and its icon."""
    _check_compressed(source, uid, layout, pixel_data)
    instance = _encapsulated(source, uid, sop_class_uid, layout, pixel_data)
    icon = layout.elements.get(ICON_IMAGE_SEQUENCE)
    if icon is not None and icon.vr == b"UN":
        notes = (*notes, "the Icon Image Sequence is of VR UN: left as it is")
    if notes:
        instance = msgspec.structs.replace(instance, notes=(*notes, *instance.notes))
    decoded = _icon(source, uid, layout.elements)
    if decoded is None:
        return instance
    return msgspec.structs.replace(
        instance, icon=decoded, memory_bytes=instance.memory_bytes + decoded.instance.memory_bytes
    )


def _check_compressed(source: Source, uid: str, layout: Layout, pixel_data: Element) -> None:
    """Raise where the header alone says that there is nothing to decode."""
    if uid not in syntaxes.DECODABLE:
        raise Fault(FailureKind.UNSUPPORTED, f"Transfer Syntax UID {uid}: no engine" if uid else _NO_SYNTAX)
    if not shows_vr(source, layout.data_set):
        raise Fault(FailureKind.UNSUPPORTED, "encapsulated Pixel Data in an Implicit VR data set")
    if pixel_data.length != UNDEFINED:
        raise corrupt("the Transfer Syntax says encapsulated, the Pixel Data is not")


def _native_bytes(image: ImagePixel) -> int:
    """Give the bytes of all native Frames; raise where no file can hold them."""
    if image.native_bytes > _MAX_NATIVE_BYTES:
        reason = f"native Pixel Data of {image.native_bytes} bytes is over the limit of 2^32-2"
        raise Fault(FailureKind.UNSUPPORTED, reason)
    return image.native_bytes


_NO_SYNTAX: Final = "no Transfer Syntax UID says how the Pixel Data is encoded"


def _recoded(
    source: Source,
    uid: str,
    sop_class_uid: str,
    layout: Layout,
    pixel_data: Element | None,
    notes: tuple[str, ...],
) -> Instance:
    """Judge an instance whose data set takes another form as a whole; `source` shows it as it will be."""
    if not shows_vr(source, layout.data_set) and layout.data_set < source.end:
        raise corrupt("the Transfer Syntax says Explicit VR, the data set shows none")
    notes = notes if pixel_data is None else (*notes, *_check_native(source, layout.elements, pixel_data))
    native_bytes = 0 if pixel_data is None else pixel_data.length
    return Instance(
        Outcome.DECOMPRESSED,
        uid,
        sop_class_uid,
        layout,
        native_bytes=native_bytes,
        memory_bytes=source.end,
        notes=notes,
    )


def _encapsulated(source: Source, uid: str, sop_class_uid: str, layout: Layout, pixel_data: Element) -> Instance:
    image = read_image_pixel(source, layout.elements)
    extended = layout.elements.get(_EXTENDED_OFFSET_TABLE)
    frames = find_frames(source, pixel_data, image.number_of_frames, extended)
    first, notes, flaw = check_frames(source, uid, image, frames)
    native_bytes = _native_bytes(image)
    result = rearranged(image, uid, first)
    return Instance(
        Outcome.DECOMPRESSED,
        uid,
        sop_class_uid,
        layout,
        image,
        result,
        first,
        frames,
        frame_bytes=image.frame_bytes,
        native_bytes=native_bytes,
        memory_bytes=_memory_bytes(image, frames, native_bytes),
        notes=notes,
        flaw=flaw,
    )


def _icon(source: Source, uid: str, elements: Mapping[int, Element]) -> Icon | None:
    """Read the Icon Image Sequence (PS3.3 F.7) where its Pixel Data is encapsulated, as PS3.5 A.4 allows."""
    sequence = elements.get(ICON_IMAGE_SEQUENCE)
    if sequence is None or sequence.vr != b"SQ" or sequence.end - sequence.value < 16:
        return None
    try:
        inside, end = walk_item(source, sequence.value)
        pixel_data = next((e for e in inside if e.tag == PIXEL_DATA and e.length == UNDEFINED), None)
        if pixel_data is None:
            return None
        if end < sequence.end - (8 if sequence.length == UNDEFINED else 0):
            raise corrupt("more than one Item, PS3.3 F.7 allows one")
        layout = Layout(preamble=False, meta={}, data_set=sequence.value + 8, elements={e.tag: e for e in inside})
        instance = _encapsulated(source, uid, "", layout, pixel_data)
        if instance.flaw:
            raise corrupt(instance.flaw)
    except Fault as fault:
        raise Fault(fault.kind, f"Icon Image Sequence: {fault.reason}") from fault
    return Icon(instance, sequence.value, end)


def _memory_bytes(image: ImagePixel, frames: Frames, native_bytes: int) -> int:
    """Estimate the peak of a decode that holds all Frames."""
    return native_bytes + 2 * frames.largest_bytes() + image.decoding_bytes


def _elements(
    source: Source, offset: int, *, explicit: bool, tolerant: bool
) -> tuple[dict[int, Element], tuple[str, ...]]:
    """Walk the data set and keep what reading and writing need; give also what is to be told of it.

    `tolerant`: it will be copied as it is, so damage outside of Pixel Data is told and no reason to refuse it.
    """
    kept: dict[int, Element] = {}
    strange: list[Element] = []
    notes: tuple[str, ...] = ()
    try:
        for element in walk(source, offset, explicit=explicit):
            tag, vr = element.tag, element.vr
            used = tag >> 16 in _KEPT_GROUPS or tag in _KEPT_TAGS
            if vr and vr not in _VRS:
                strange.append(element)
                if used and not tolerant:
                    raise corrupt(_unknown_vr(element))
            if used:
                if tag in kept:
                    raise corrupt(f"{name(tag)} is there twice")
                kept[tag] = element
            offset = element.end
        if offset < source.end:
            notes = (f"{source.end - offset} zeros follow the last element",)
    except Fault as fault:
        in_pixel_data = source.end - offset >= 2 and source.read(offset, 2) == b"\xe0\x7f"
        if not tolerant or fault.kind is not FailureKind.CORRUPT or in_pixel_data:
            raise
        notes = (f"copied although damaged: {fault.reason}",)
    return kept, (*(f"{_unknown_vr(element)}: kept as it is" for element in strange[:1]), *notes)


def _check_native(source: Source, elements: Mapping[int, Element], pixel_data: Element) -> tuple[str, ...]:
    """Check that native Pixel Data is not encapsulated and holds the Frames that the header promises."""
    if pixel_data.length == UNDEFINED:
        raise corrupt("the Transfer Syntax says native, the Pixel Data is encapsulated")
    try:
        image = read_image_pixel(source, elements)
    except Fault:
        return ()  # nothing to hold it against: not an image as PS3.3 C.7.6.3 has it
    due = -(-image.rows * image.columns * image.samples_per_pixel * image.bits_allocated * image.number_of_frames // 8)
    if image.photometric_interpretation.endswith("_422"):
        due = due * 2 // 3
    if pixel_data.length >= due:
        return ()
    if source.read(pixel_data.value, min(4, pixel_data.length))[:3] in (b"\xff\xd8\xff", b"\xff\x4f\xff"):
        raise corrupt("the Transfer Syntax says native, the Pixel Data is compressed")
    raise corrupt(f"the Pixel Data is truncated: {pixel_data.length} bytes of {due}")


def _text(source: Source, element: Element | None) -> str:
    if element is None or not 0 < element.length <= 256:
        return ""
    text = source.read(element.value, element.length).decode("ascii", "replace").strip("\x00 ")
    return text if all(c.isdigit() or c == "." for c in text) else ""
