"""What each kind of failure means to the person who has the file, and what to do next. One sentence each."""

from typing import Final

from dcmpool.model import FailureKind, Outcome

OUTCOMES: Final[dict[Outcome, str]] = {
    Outcome.DECOMPRESSED: "decompressed",
    Outcome.COPIED: "copied, native already or without Pixel Data",
    Outcome.OTHER: "copied, not DICOM",
    Outcome.KEPT: "kept as they are, no native form",
    Outcome.SKIPPED: "left out",
    Outcome.SETTLED: "done in an earlier run",
    Outcome.FAILED: "failed",
}
"""Each outcome in words, in the order in which they are listed."""

MEANING: Final[dict[FailureKind, str]] = {
    FailureKind.CORRUPT: "The file is damaged, or its header contradicts its pixels.",
    FailureKind.UNSUPPORTED: "No installed decoder reads this kind of content.",
    FailureKind.VERIFY: "The result did not pass its check, or two decoders gave different pictures.",
    FailureKind.CRASHED: "Each decoder that was tried ended its own process.",
    FailureKind.TIMEOUT: "A decoder gave no result within its limit and was killed.",
    FailureKind.MEMORY: "A decoder needed more memory than one worker may take.",
    FailureKind.PROTOCOL: "A worker said what no sound worker says: its memory was damaged, most likely by a decoder.",
    FailureKind.READ: "The source could not be read.",
    FailureKind.CHANGED: "The source changed while it was read.",
    FailureKind.WRITE: "The target could not be written.",
    FailureKind.EXISTS: "The target holds something of this name that dcmpool did not write.",
    FailureKind.LINKED: "In place: the file has several names (hard links), and a result would replace one of them.",
    FailureKind.IRREPLACEABLE: "In place: the result cannot stand for its original, of which no backup is kept.",
    FailureKind.NO_SPACE: "The target's storage was full.",
    FailureKind.LOST: "A worker hung in the kernel, in a read or write that never ended, and could not be killed.",
}

NEXT_STEP: Final[dict[FailureKind, str]] = {
    FailureKind.CORRUPT: (
        "Fetch the file again from where it came (the PACS, a backup); a file that was damaged at its source stays so."
    ),
    FailureKind.UNSUPPORTED: (
        "Keep the original. `dcmpool doctor` shows which decoders this machine has; a newer dcmpool may read it."
    ),
    FailureKind.VERIFY: "Keep the original and look at it in a viewer: nobody can tell which of two pictures is right.",
    FailureKind.CRASHED: "Keep the original. Repeat one attempt with the command given there, and report the decoder.",
    FailureKind.TIMEOUT: (
        "If the machine was busy, run again with `--retry-failed TIMEOUT --limit SECONDS` and a longer limit; "
        "else take the file for damaged, and fetch it again."
    ),
    FailureKind.MEMORY: "Run again with fewer `--workers`, or with more memory: it is tried again by itself.",
    FailureKind.PROTOCOL: "Run again; if it happens again to the same file, fetch that file anew.",
    FailureKind.READ: "See to permissions and storage of the source, then run again: it is tried again by itself.",
    FailureKind.CHANGED: "Run again once nobody writes to the source.",
    FailureKind.WRITE: "See to permissions and storage of the target, then run again.",
    FailureKind.EXISTS: "Move that file out of the way, or run again with `--overwrite` if it may be replaced.",
    FailureKind.LINKED: "Run again with `--hard-links split` if its names may part, or without `--in-place`.",
    FailureKind.IRREPLACEABLE: "Run again with `--backup DIR`, or without `--in-place`.",
    FailureKind.NO_SPACE: "Make room, then run again: the run goes on where it was.",
    FailureKind.LOST: "See to the storage (the kernel's log, the mount), then run again.",
}
