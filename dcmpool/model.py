"""The words that every part of dcmpool shares: pure values, no I/O, no clock.

A *job* is one file of SOURCE in this run. An *attempt* is one try at it, by one child and at most one
engine. An *outcome* is how the job ended. What a file did to a child is a value (`FailureKind`), never an
exception; what follows from it stands in one table (`RETRY`).
"""

from enum import StrEnum
from typing import Final

import msgspec

STATE_DIRECTORY: Final = b".dcmpool"
"""dcmpool's own folder at the top of a TARGET, and so of a SOURCE that is or was one; not walked."""


class Purpose(StrEnum):
    """What a run is for."""

    RUN = "run"
    """Results are to be made."""
    AUDIT = "audit"
    """The results that the journal knows are looked at again; nothing is written."""
    SURVEY = "survey"
    """SOURCE is counted; TARGET is not even looked at, but for the room that it has."""


class Outcome(StrEnum):
    """How a job ended."""

    DECOMPRESSED = "decompressed"
    """The SOP Instance had encapsulated Pixel Data; the result is native."""
    COPIED = "copied"
    """A DICOM file that needs no decoder: native Pixel Data, or none; the source's own bytes."""
    OTHER = "other"
    """Not a DICOM file; the source's own bytes."""
    KEPT = "kept"
    """Encapsulated, with no native form (MPEG, HEVC, JPIP); the source's own bytes."""
    SKIPPED = "skipped"
    """Left out on purpose: a special file, or not DICOM under `--others skip`."""
    SETTLED = "settled"
    """Ended in an earlier run, and its result still stands."""
    FAILED = "failed"
    """No result; the reason is listed."""


WITHOUT_RESULT: Final = (Outcome.FAILED, Outcome.SKIPPED)
"""Outcomes that make none. In place there are others, that leave the file as it is."""


class Due(StrEnum):
    """What a run would do with a file, as far as its name, size and time say."""

    DO = "do"
    """No run has done it."""
    AGAIN = "again"
    """An earlier run had it, but it has to be done anew: source or result changed, or what failed may go well."""
    SETTLED = "settled"
    """Ended in an earlier run, and its result still stands."""
    FAILS = "fails"
    """Failed before, as it would again, or the target's name or the file itself is not to be had."""
    LEAVE = "leave"
    """Left out by design: a special file, a link that leads nowhere."""


class Stage(StrEnum):
    """What a busy child is doing."""

    INSPECT = "inspect"
    DECODE = "decode"
    WRITE = "write"
    VERIFY = "verify"


class Side(StrEnum):
    """Whose storage."""

    SOURCE = "source"
    TARGET = "target"


class FailureKind(StrEnum):
    """Why an attempt gave no result."""

    CORRUPT = "CORRUPT"
    """The file's content is damaged, or contradicts itself."""
    UNSUPPORTED = "UNSUPPORTED"
    """This engine (or no engine) can decode this content."""
    VERIFY = "VERIFY"
    """What was written did not pass its check."""
    CRASHED = "CRASHED"
    """The child died of its own accord."""
    TIMEOUT = "TIMEOUT"
    """The child was killed at its limit."""
    MEMORY = "MEMORY"
    """The child needed more memory than its limit allows."""
    PROTOCOL = "PROTOCOL"
    """The child broke the protocol and was killed."""
    READ = "READ"
    """The source cannot be read (permission, I/O error, gone)."""
    CHANGED = "CHANGED"
    """The source changed while it was read."""
    WRITE = "WRITE"
    """The target cannot be written (permission, I/O error)."""
    EXISTS = "EXISTS"
    """The target holds a file that dcmpool did not write."""
    LINKED = "LINKED"
    """In place: the file has several names (hard links), and replacing one would split it from the others."""
    IRREPLACEABLE = "IRREPLACEABLE"
    """In place: no backup is kept, and the result cannot stand for the original: nobody can confirm it, or its colour
    had to be rounded."""
    NO_SPACE = "NO_SPACE"
    """The target's storage is full."""
    LOST = "LOST"
    """The child cannot be killed (state D): it hangs in the kernel."""


class Then(StrEnum):
    """What follows a failed attempt."""

    NEXT_ENGINE = "next engine"
    AGAIN = "once more"
    LATER = "once more, at the end of the run"
    NEVER = "not in this run"
    STOP = "the run stops, resumable"


class Rule(msgspec.Struct, frozen=True):
    """One row of `RETRY`.

    `retire`: foreign code ran on this content, so the child's memory is no longer trusted.
    `settles`: the content alone decided, so another run need not try it again.
    """

    then: Then
    retire: bool = False
    settles: bool = False


RETRY: dict[FailureKind, Rule] = {
    FailureKind.CORRUPT: Rule(Then.NEXT_ENGINE, retire=True, settles=True),
    FailureKind.UNSUPPORTED: Rule(Then.NEXT_ENGINE, settles=True),
    FailureKind.VERIFY: Rule(Then.NEXT_ENGINE, retire=True, settles=True),
    FailureKind.CRASHED: Rule(Then.NEXT_ENGINE, retire=True, settles=True),
    FailureKind.TIMEOUT: Rule(Then.NEXT_ENGINE, retire=True, settles=True),
    FailureKind.MEMORY: Rule(Then.NEXT_ENGINE, retire=True),
    FailureKind.PROTOCOL: Rule(Then.AGAIN, retire=True),
    FailureKind.READ: Rule(Then.NEVER),
    FailureKind.CHANGED: Rule(Then.LATER),
    FailureKind.WRITE: Rule(Then.AGAIN),
    FailureKind.EXISTS: Rule(Then.NEVER),
    FailureKind.LINKED: Rule(Then.NEVER),
    FailureKind.IRREPLACEABLE: Rule(Then.NEVER),
    FailureKind.NO_SPACE: Rule(Then.STOP),
    FailureKind.LOST: Rule(Then.NEVER, retire=True),
}


def stored_time(mtime_ns: int) -> int:
    """Return a modification time as messages and the journal hold it: 64 bits, which end in the year 2262."""
    return max(-(2**63), min(mtime_ns, 2**63 - 1))
