"""What happens in a run, event by event: what `run --events` writes, `status` shows, and the Python API reads.

One JSON object a line, `docs/events.md` explains each; the field `event` says which it is. Paths are relative to SOURCE
and as `os.fsdecode` has them: bytes that are not UTF-8 come as lone surrogates, in JSON as escapes.
"""

import json
from typing import Annotated, Any

import msgspec

from dcmpool.model import FailureKind, Outcome, Side

SCHEMA = 1
"""The version of this vocabulary: a later one with the same number only adds fields and events."""

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An object inside of an event."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", forbid_unknown_fields=True):
    """The base of all events."""

    time: str = ""
    """When, UTC, as 2026-11-25T11:02:55.123Z."""
    at_seconds: Seconds = 0.0
    """The same, since the run began."""


class Tried(Part, frozen=True, kw_only=True):
    """An attempt that gave no result."""

    engine: str
    kind: FailureKind
    stage: str
    reason: str
    seconds: Seconds


class RunBegun(Event, frozen=True, kw_only=True, tag="begun"):
    """The run begins; whether SOURCE and TARGET can be used is seen next."""

    schema: Count = SCHEMA
    run: str
    """Names the run, in the journal and in the names of evidence."""
    pid: Count
    host: str
    source: str
    """An absolute path; "" for an audit, whose sources are those of TARGET's journal."""
    target: str
    in_place: bool
    audit: bool
    """Whether it is `dcmpool verify`: nothing is written, and results are what is looked at."""
    settings: dict[str, Any]
    """As in config/default.toml, with what this machine makes of each 0."""
    versions: dict[str, str]
    """Of dcmpool, Python and the packages that decode."""


class FileEnded(Event, frozen=True, kw_only=True, tag="file"):
    """A file is over, and the journal has it, or will have it in a moment."""

    path: str
    outcome: Outcome
    kind: FailureKind | None = None
    """Why it failed; null if it did not."""
    reason: str = ""
    transfer_syntax_uid: str = ""
    """Of the source; "" if it is unknown, or the file is not DICOM."""
    engine: str = ""
    """Which decoded it; "" if none did."""
    source_bytes: Count = 0
    bytes: Count = 0
    """The size of the result; 0 if there is none."""
    native_bytes: Count = 0
    """The length of native Pixel Data, decoded; 0 if nothing was."""
    digest: str = ""
    """Of the pixels (XXH3, 128 bits); "" where nothing was decoded."""
    seconds: Seconds = 0.0
    """The successful attempt, from order to checked result."""
    write_seconds: Seconds = 0.0
    """What of it was writing and syncing."""
    confirmed: bool = False
    """Whether a second engine gave the same picture."""
    earlier: bool = False
    """Whether it failed in an earlier run, and was not tried again."""
    notes: tuple[str, ...] = ()
    attempts: tuple[Tried, ...] = ()
    """Those that gave no result, in their order."""


class WorkerDied(Event, frozen=True, kw_only=True, tag="death"):
    """A worker was killed, or died, over a file."""

    path: str
    attempt: Count
    """The number of the attempt at this file, from 1."""
    pid: Count
    kind: FailureKind
    reason: str
    cause: str
    """The diagnosis of a hang or of a lack of memory; "" for other deaths."""
    engine: str
    stage: str
    seconds: Seconds
    limit_seconds: Seconds
    evidence: str
    """The folder in TARGET/.dcmpool/evidence; "" if no more is kept there."""


class FileRetried(Event, frozen=True, kw_only=True, tag="retry"):
    """An attempt gave no result, and the file will be tried again."""

    path: str
    attempt: Tried


class StorageChanged(Event, frozen=True, kw_only=True, tag="storage"):
    """Storage does not answer (said again each time that the wait has doubled), or answers again."""

    stalled: bool
    side: Side | None
    """Whose storage; null if it answers, or nobody can tell."""
    text: str


class Controlled(Event, frozen=True, kw_only=True, tag="control"):
    """`dcmpool control` told the run to do something."""

    command: str
    value: Count | None
    answer: str


class Noticed(Event, frozen=True, kw_only=True, tag="notice"):
    """What the user was told in a line."""

    text: str


class Rate(Part, frozen=True, kw_only=True):
    """How fast it goes."""

    files_per_second: Seconds
    bytes_per_second: Seconds
    """Bytes of SOURCE."""


class Remaining(Part, frozen=True, kw_only=True):
    """How long the rest will take, as far as the pace so far can tell."""

    seconds: Seconds
    low_seconds: Seconds
    high_seconds: Seconds


class GateState(Part, frozen=True, kw_only=True):
    """The write gate."""

    writers: Count
    """How many are writing."""
    window: Count
    """How many may, as things stand."""
    max_writers: Count
    bytes: Count
    """Bytes between decoding and storage."""
    max_bytes: Count
    waiting: Count
    """How many workers wait at the gate."""
    write_seconds: Seconds | None
    """The median of the last writes; null before the first."""


class Doing(Part, frozen=True, kw_only=True):
    """What one worker is on."""

    pid: Count
    path: str
    phase: str
    """busy, waiting (at the gate) or killing."""
    stage: str
    """inspect, decode, write or verify."""
    engine: str
    seconds: Seconds
    """Since it got the file."""
    limit_seconds: Seconds


class Refused(Part, frozen=True, kw_only=True):
    """A file that has failed."""

    path: str
    kind: FailureKind | None
    reason: str


class Snapshot(Event, frozen=True, kw_only=True, tag="progress"):
    """The run at one moment, once a second."""

    state: str
    """running, paused, draining, stalled (storage does not answer), or closed (outside of `--window`)."""
    counts: dict[Outcome, Count]
    """Files by outcome, so far; those settled in earlier runs among them."""
    files: Count
    """How many have ended: the sum of `counts`."""
    files_found: Count
    walk_complete: bool
    source_bytes: Count
    """Of the files that have ended in this run."""
    settled_bytes: Count
    """Of those that had ended before."""
    bytes_found: Count
    native_bytes: Count
    confirmed: Count
    kills: Count
    retries: Count
    now: Rate
    """Over the last half minute."""
    overall: Rate
    remaining: Remaining | None
    """null while that cannot be known."""
    gate: GateState
    workers: tuple[Doing, ...]
    """Those that have a file, at most 64: the ones that take longest."""
    refused: tuple[Refused, ...]
    """The last three files that have failed, the latest first."""
    storage: str
    """What is to be said of storage that does not answer; "" if it does."""

    @property
    def failed(self) -> int:
        """How many files have failed."""
        return self.counts.get(Outcome.FAILED, 0)


class Dropped(Event, frozen=True, kw_only=True, tag="dropped"):
    """The reader was too slow: so many events before this one are missing."""

    events: Count


class RunEnded(Event, frozen=True, kw_only=True, tag="ended"):
    """The run is over. A stream without it is of a run that was killed."""

    exit_code: Count
    stopped: str
    """Why it ended before its work did; "" if it did not."""
    counts: dict[Outcome, Count]
    by_transfer_syntax: dict[str, dict[str, Count]]
    native_bytes: Count
    confirmed: Count
    kills: Count
    retries: Count


AnyEvent = (
    RunBegun
    | FileEnded
    | WorkerDied
    | FileRetried
    | StorageChanged
    | Controlled
    | Noticed
    | Snapshot
    | Dropped
    | RunEnded
)


def encode(event: Event) -> bytes:
    """Return the event as one line, its end included."""
    return json.dumps(msgspec.to_builtins(event)).encode() + b"\n"


def decode(line: str | bytes) -> AnyEvent:
    """Return the event of a line.

    Raises
    ------
    ValueError
        It is no event, or one of a vocabulary that this version does not know.
    """
    return msgspec.convert(json.loads(line), AnyEvent)  # type: ignore[no-any-return]  # a union of structs is Any to mypy


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a line of the stream."""
    return msgspec.json.schema(AnyEvent)
