"""What an encoded Frame says of itself.

The modules `jpeg`, `jpeg2000`, `jpegxl` and `rle` each walk one kind and give a `Codestream`. Nothing is decoded
there. Their promises: a codestream that is accepted starts and ends as its syntax says, and its marker segments
lead from the one to the other without a gap. Damage inside entropy-coded data is not seen: that is for the engines
and `completeness`.
"""

import msgspec


class Scan(msgspec.Struct, frozen=True):
    """One scan of a JPEG (T.81) codestream: its entropy-coded data are the bytes from `start` to `stop`.

    `components` are indices into those of the frame header, `dc_tables` and `ac_tables` each one's Huffman tables
    as they stand in their segment (16 counts, then symbols; T.81 B.2.4.2), empty where there is none. `selection`
    and `low` are what the header calls Ss (the predictor) and Al (the point transform), `restart_interval` is
    counted in MCUs, 0 for none.
    """

    start: int
    stop: int
    components: tuple[int, ...]
    dc_tables: tuple[bytes, ...]
    ac_tables: tuple[bytes, ...]
    selection: int
    low: int
    restart_interval: int


class TilePart(msgspec.Struct, frozen=True):
    """One tile-part of a JPEG 2000 codestream (T.800 A.4.2): where its SOT marker lies, bytes up to the next one."""

    tile: int
    start: int
    stop: int


class Codestream(msgspec.Struct, frozen=True):
    """One encoded Frame's own account of itself.

    `kind` is one of baseline, extended, progressive, lossless, JPEG-LS, JPEG 2000, JPEG XL, RLE, plain; `length`
    counts the bytes from the first marker to the last, `start` those before it (the boxes of a JP2 file). `colour` is
    "RGB" or "YBR" where the codestream itself says so, else empty. `lossless` is None where it does not tell.
    `flaw` says in words why whatever a decoder makes of it must not count: a JPEG stream without EOI is truncated.
    `sampling` are the factors of each JPEG component, one byte each (T.81 B.2.2), `scans` its scans;
    `tile_parts` are those of JPEG 2000.
    """

    kind: str
    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    start: int
    length: int
    colour: str = ""
    lossless: bool | None = None
    flaw: str = ""
    sampling: bytes = b""
    scans: tuple[Scan, ...] = ()
    tile_parts: tuple[TilePart, ...] = ()
