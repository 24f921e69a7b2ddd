"""Mutants of frames through `FrameReader` and `decode`: messages come out, or a ProtocolError, and nothing else."""

import random
import sys
from typing import Any

from dcmpool import protocol
from dcmpool.model import FailureKind, Outcome, Stage
from dcmpool.protocol import Codec, ProtocolError

_WRITTEN = protocol.Written(
    7, Outcome.DECOMPRESSED, "turbo", "1.2.840.10008.1.2.4.70", 10, 1, 20, 2, 20, "0" * 32, 0.5, 0.1, ("a note",)
)
FRAMES: tuple[tuple[Codec[Any], Any], ...] = (
    (protocol.FROM_WORKER, protocol.Ready()),
    (protocol.ON_BOARD, protocol.Inspected(7, "1.2.840.10008.1.2.4.70", 512, "turbo")),
    (protocol.FROM_WORKER, protocol.Wants(7, 1 << 30)),
    (protocol.FROM_WORKER, _WRITTEN),
    (protocol.FROM_WORKER, protocol.Failed(7, FailureKind.CORRUPT, "a reason", Stage.DECODE, "gdcm")),
    (protocol.FROM_CLERK, protocol.Found((protocol.Item(b"a/b", 10, 20), protocol.Item(b"a/c", 11, 21)))),
    (protocol.FROM_CLERK, protocol.Committed((1, 2, 3))),
    (protocol.TO_CLERK, protocol.Commit((protocol.Result(7, b"a/b", b"t", _WRITTEN),))),
    (protocol.FROM_FORKSERVER, protocol.Exited(3, -9)),
)
"""Messages of each direction, with their codecs."""


def mutant(seed: int, index: int) -> tuple[Codec[Any], list[bytes]]:
    """Return a stream of frames that was damaged, in the pieces in which it comes."""
    dice = random.Random(f"protocol {seed} {index}")
    codec, message = dice.choice(FRAMES)
    data = bytearray(b"".join(codec.encode(message) for _ in range(dice.randint(1, 3))))
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data))
        match dice.randrange(6):
            case 0:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                data[at] = dice.choice((0, 1, 0x7F, 0x80, 0x90, 0x91, 0xC1, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF))
            case 2:
                data[at:at] = dice.randbytes(dice.choice((1, 2, 5, 60)))
            case 3:
                del data[at : min(at + dice.choice((1, 2, 5)), len(data) - 1)]
            case 4:
                data[at:at] = dice.choice((b"\x91", b"\x81\xa1", b"\xdd\xff\xff\xff\xff")) * dice.choice((1, 100, 3000))
            case 5:
                data[at : at + 4] = dice.randbytes(4)
    pieces, start = [], 0
    while start < len(data):
        end = start + dice.choice((1, 3, 100, len(data)))
        pieces.append(bytes(data[start:end]))
        start = end
    return codec, pieces


def try_mutant(seed: int, index: int) -> str:
    """Feed one mutant; say what is wrong, or nothing."""
    codec, pieces = mutant(seed, index)
    reader = codec.reader()
    try:
        for piece in pieces:
            for message in reader.feed(piece):
                codec.encode(message)
    except ProtocolError as error:
        return "" if len(str(error)) < 2000 else f"an error of {len(str(error))} characters"
    except Exception as error:  # noqa: BLE001 - whatever else comes is the finding
        return f"{type(error).__name__}: {error}"
    held = len(reader._buffer)
    return "" if held < codec.limit + 4 else f"it holds {held} bytes"


def fuzz_protocol(number: int, seed: int) -> int:
    """Try mutants; print and count the findings."""
    problems = {index: problem for index in range(number) if (problem := try_mutant(seed, index))}
    for index, problem in problems.items():
        print(f"FINDING protocol seed {seed} {index}: {problem}")
    print(f"{number} mutants of the protocol; findings: {len(problems)}")
    sys.stdout.flush()
    return len(problems)
