"""What the processes say to each other: strict, size-limited frames, and no I/O.

    supervisor --Assign, Check, Survey, Grant-----------> worker
               <-Ready, Wants, Written, Left, Checked, Surveyed, Failed-; on its board: Inspected
    supervisor --Open, More, Begin, Commit, Settle, Discard, Finish--> clerk
               <-Opened, Refused, Found, Noted, Earlier, Scanned, Committed, Stopped, Finished-
    supervisor --Launch (with file descriptors)---------> fork server
               <-Warmed, Launched (with a pidfd), Exited--------

A frame is a four-byte big-endian length and that many bytes of MessagePack. Never pickle: a worker parses
hostile files, and what it sends must not be able to make the supervisor run code. Whatever does not decode
to one of the messages allowed in that direction is a `ProtocolError`, the sender's fault.
"""

import struct
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from dcmpool.errors import DcmpoolError, LockedError, UsageError
from dcmpool.model import Due, FailureKind, Outcome, Purpose, Stage

MAX_FRAME_BYTES = 64 * 1024
"""The largest frame a worker may send."""
MAX_CLERK_FRAME_BYTES = 16 * 1024 * 1024
"""The largest frame between supervisor and clerk: a batch of 64 paths of 4,096 bytes, with all that was tried."""
BATCH = 64
"""The most items in one message between supervisor and clerk."""
ALL_KINDS = "all"
"""Instead of one FailureKind: each."""

_LENGTH = struct.Struct(">I")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
NativeBytes = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)]
"""The length of native Pixel Data: 32 bits and even (PS3.5, 7.1). A limit grows with it, so it has to have an end."""
Line = Annotated[str, msgspec.Meta(max_length=2000)]
Uid = Annotated[str, msgspec.Meta(max_length=64)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{0,32}$")]
Name = Annotated[str, msgspec.Meta(max_length=40)]


class ProtocolError(Exception):
    """The other side sent what the protocol does not allow; the text says what."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The base of every message: immutable, tagged with its class's name, no field more than declared."""


# --- supervisor -> worker


class Assign(Message, frozen=True):
    """Do this job. What is granted with it need not be asked for."""

    job: Count
    attempt: Count
    source: bytes
    temp: bytes
    """Where the result goes: a name of this attempt alone, in TARGET/.dcmpool/tmp."""
    engine: str
    """The engine to prefer, or ""."""
    tried: tuple[str, ...]
    """The engines of earlier attempts, not to be used again."""
    skip_others: bool
    in_place: bool
    durable: bool
    alarm_seconds: Seconds
    """When the child's own alarm ends it, should nobody else."""
    granted_bytes: Count
    granted_writer: bool
    split_links: bool = False
    """In place: whether one name of several that the file has may be replaced."""
    may_round: bool = True
    """Whether a result may be made whose colour had to be rounded: not where the original will be gone."""
    ahead: bool = False
    """Whether it is sent while the child is at its last order. It is taken back as soon as that order asks for
    anything or fails; else it is begun when that order has ended, with what was granted to it."""


class Recorded(msgspec.Struct, frozen=True):
    """What the journal holds of a result."""

    outcome: Outcome
    engine: Name
    source_size: Count
    source_mtime_ns: Nanoseconds
    size: Count
    native_bytes: NativeBytes
    digest: Digest


class Check(Message, frozen=True):
    """Decode the source by another engine and compare with the result: a second opinion."""

    job: Count
    source: bytes
    result: bytes
    first: str
    """The engine that made the result."""
    asked: tuple[str, ...]
    """The engines that could not give an opinion."""
    alarm_seconds: Seconds
    granted_bytes: Count
    recorded: Recorded | None = None
    """For a result of an earlier run: it is to be what it was, and its source may be gone."""


class Survey(Message, frozen=True):
    """Say what this file is and what it would become, by its header; nothing is written."""

    job: Count
    source: bytes
    trial: bool
    """Whether a decompression may be tried, to learn how long it takes."""
    enough: tuple[Uid, ...]
    """The Transfer Syntaxes of which no more trials are wanted for now."""
    skip_others: bool
    alarm_seconds: Seconds
    granted_bytes: Count


class Grant(Message, frozen=True):
    """What was asked for with `Wants`."""

    job: Count
    alarm_seconds: Seconds


# --- worker -> supervisor


class Ready(Message, frozen=True):
    """The child is up and can take a job."""


class Inspected(Message, frozen=True):
    """The header up to Pixel Data is read; `engine` will decode it. This is shown (`board.py`), and not sent."""

    job: Count
    transfer_syntax_uid: Uid
    native_bytes: NativeBytes
    engine: Name


class Wants(Message, frozen=True):
    """The child lacks bytes (before it decodes) or a writer's place (before it writes), and waits."""

    job: Count
    bytes: Count = 0
    writer: bool = False


class Written(Message, frozen=True):
    """The result is complete in its temp file, synced and checked."""

    job: Count
    outcome: Outcome
    engine: Name
    transfer_syntax_uid: Uid
    source_size: Count
    source_mtime_ns: Nanoseconds
    size: Count
    mtime_ns: Nanoseconds
    native_bytes: NativeBytes
    digest: Digest
    seconds: Seconds
    write_seconds: Seconds
    notes: Annotated[tuple[Line, ...], msgspec.Meta(max_length=16)] = ()


class Left(Message, frozen=True):
    """There is nothing to write for this job, by design."""

    job: Count
    outcome: Outcome
    transfer_syntax_uid: Uid
    source_size: Count
    source_mtime_ns: Nanoseconds
    reason: Line


class Checked(Message, frozen=True):
    """The second engine gives the same picture; for a result of an earlier run, `note` says what was not looked at."""

    job: Count
    engine: Name
    note: Line = ""


class Trial(msgspec.Struct, frozen=True):
    """One decompression that was tried and thrown away."""

    engine: Name
    seconds: Seconds
    cpu_seconds: Seconds


class Surveyed(Message, frozen=True):
    """What a header says. Studies and Series are told apart by digests of their UIDs, which identify no patient."""

    job: Count
    outcome: Outcome
    """What a run is expected to make of it."""
    transfer_syntax_uid: Uid = ""
    sop_class_uid: Uid = ""
    modality: Annotated[str, msgspec.Meta(pattern="^[A-Z0-9_ ]{0,16}$")] = ""
    study: Count = 0
    series: Count = 0
    """0 where the header has no such UID."""
    native_bytes: NativeBytes = 0
    result_bytes: Count = 0
    """How large its result will be, but for a few elements that are changed."""
    trial: Trial | None = None


class Failed(Message, frozen=True):
    """This attempt gives no result."""

    job: Count
    kind: FailureKind
    reason: Line
    stage: Stage
    engine: Name
    exhausted: bool = False
    """No engine is left that was not tried: this is not an attempt, and the job is over."""


ToWorker = Assign | Check | Survey | Grant
FromWorker = Ready | Wants | Written | Left | Checked | Surveyed | Failed


# --- supervisor -> clerk


class Open(Message, frozen=True):
    """Check SOURCE and TARGET, take the lock, open the journal and begin to walk."""

    source: bytes
    target: bytes
    in_place: bool
    listed: bool
    """Whether the paths to take are those of the list that is the clerk's stdin, not all of SOURCE."""
    overwrite: bool
    durable: bool
    run: str
    again: bool
    """Whether an earlier clerk of this run died: results may be committed while the walk meets their files again."""
    judge: str
    """The version and the settings that decide what fails: failures are settled for them alone."""
    looks: bool = False
    """Whether that clerk wrote nothing, for want of room."""
    purpose: Purpose = Purpose.RUN
    retry: str = ""
    """The FailureKind of earlier runs that is done again, whatever decided it; ALL_KINDS, or "" for none."""
    settings: str = ""
    """The configuration as JSON, for the journal."""
    split_links: bool = False
    backup: bytes = b""
    """In place: the folder where originals are kept."""
    journal: bytes = b""
    """Where the user wants the journal; b"" for its usual place."""
    quarantine: bytes = b""
    """The folder where originals that fail are copied; b"" for none."""


class More(Message, frozen=True):
    """The supervisor can take so many more jobs."""

    jobs: Count


class Begun(msgspec.Struct, frozen=True):
    """An attempt that has run long enough to be worth remembering, should everything die."""

    path: bytes
    engine: str


class Begin(Message, frozen=True):
    """Attempts to remember until they end."""

    attempts: tuple[Begun, ...]


class Attempt(msgspec.Struct, frozen=True):
    """How one try ended."""

    engine: str
    kind: FailureKind
    reason: str
    stage: str
    seconds: float


class Result(msgspec.Struct, frozen=True):
    """A complete temp file that may now get its final name."""

    job: Count
    path: bytes
    temp: bytes
    written: Written
    attempts: tuple[Attempt, ...] = ()
    """Those that failed before."""
    confirmed_by: str = ""
    """The engine whose second opinion it was; "" if none was asked, or none could be had."""


class Commit(Message, frozen=True):
    """Rename, sync the directories, then journal."""

    results: tuple[Result, ...]


class Ending(msgspec.Struct, frozen=True):
    """A job that ended without a file of its own: failed, or left as it is."""

    job: Count
    path: bytes
    size: Count
    mtime_ns: Nanoseconds
    outcome: Outcome
    transfer_syntax_uid: str
    kind: FailureKind | None
    reason: str
    attempts: tuple[Attempt, ...]


class Settle(Message, frozen=True):
    """Journal these endings."""

    endings: tuple[Ending, ...]


class Discard(Message, frozen=True):
    """Remove what a dead child left in TARGET/.dcmpool/tmp."""

    names: tuple[bytes, ...]


class KeptFile(msgspec.Struct, frozen=True):
    """A small file of evidence."""

    name: str
    text: bytes


class Keep(Message, frozen=True):
    """Keep what is known of a death, in a folder of this name in TARGET/.dcmpool/evidence."""

    name: str
    files: tuple[KeptFile, ...]
    copy: bytes
    """The source, if a copy of it is to be kept too."""


class Totals(msgspec.Struct, frozen=True):
    """What a run has seen and done, for the journal."""

    files: Count = 0
    """Those that the walk met."""
    bytes: Count = 0
    counts: dict[str, Count] = {}
    """By outcome."""
    kills: Count = 0
    retries: Count = 0
    gone: Count = 0
    stopped: str = ""
    """Why it ended before its work did."""


class Finish(Message, frozen=True):
    """All is sent: write what is left, close the journal and end."""

    exit_code: int
    complete: bool
    totals: Totals = Totals()


# --- clerk -> supervisor


class Room(msgspec.Struct, frozen=True):
    """What a file system has left (statvfs(3)), for a user without privileges."""

    free_bytes: Count
    free_files: Count | None
    """Inodes; None where the file system does not count them."""
    file_system: str
    """Its type, as the kernel names it (ext4, nfs4, fuse.sshfs); "" where that is unknown."""


class Opened(Message, frozen=True):
    """SOURCE and TARGET can be used and the journal is ours."""

    base: bytes
    """The directory to which all paths are relative: SOURCE, or the one that holds it if it is a file."""
    target: bytes
    real: bytes
    """TARGET without symlinks: what runs on it are known by."""
    temp: bytes = b""
    """Where workers write, TARGET/.dcmpool/tmp; b"" where nothing is to be written."""
    notices: tuple[str, ...] = ()
    """What the user should know of TARGET, a line each."""
    room: Room | None = None
    """What TARGET's file system has left; told of a survey alone."""


class Refused(Message, frozen=True):
    """The run cannot begin; nothing was written."""

    reason: str
    exit_code: int

    def error(self) -> DcmpoolError:
        """Return it as the exception that says so."""
        return (LockedError if self.exit_code == LockedError.exit_code else UsageError)(self.reason)


class Item(msgspec.Struct, frozen=True):
    """A file of SOURCE to be done."""

    path: bytes
    size: Count
    mtime_ns: Nanoseconds
    interrupted: Count = 0
    """How many attempts in earlier runs died with their run."""
    exists: str = ""
    """Why the target's file of this name must not be replaced."""
    recorded: Recorded | None = None
    """In an audit: the result that is to be checked."""


class Found(Message, frozen=True):
    """Files to be done, in the order of the walk."""

    items: tuple[Item, ...]


class Noted(Message, frozen=True):
    """A path that cannot be a job: a special file (no `kind`), or one that, or whose result, cannot be looked at."""

    path: bytes
    kind: FailureKind | None
    reason: str


class Earlier(Message, frozen=True):
    """A file that failed in an earlier run, in a way that another run cannot change."""

    ending: Ending


class Scanned(Message, frozen=True):
    """Totals of the walk so far; `complete` at its end."""

    files: Count
    bytes: Count
    settled: Count
    complete: bool
    settled_bytes: Count = 0
    gone: Count = 0
    """Files of earlier runs that are no longer in SOURCE: known at the end of a walk over all of it."""


class CommitFailure(msgspec.Struct, frozen=True):
    """A result that could not get its final name."""

    job: Count
    kind: FailureKind
    reason: str


class Committed(Message, frozen=True):
    """These jobs are durable, or failed to be."""

    jobs: tuple[Count, ...]
    failures: tuple[CommitFailure, ...] = ()


class Said(Message, frozen=True):
    """Something that the user should know, and that nothing follows from."""

    text: str


class Plan(msgspec.Struct, frozen=True):
    """What a run would do with a path of SOURCE; `reason` where it would fail, or be left."""

    due: Due
    path: bytes
    size: Count = 0
    reason: str = ""


class Planned(Message, frozen=True):
    """The next paths of a rehearsal."""

    plans: tuple[Plan, ...]


class Stopped(Message, frozen=True):
    """The run cannot go on (the journal's storage is full, the target is gone); if `fatal`, the clerk cannot either."""

    reason: str
    fatal: bool


class Finished(Message, frozen=True):
    """The journal is closed."""


ToClerk = Open | More | Begin | Commit | Settle | Discard | Keep | Finish
FromClerk = Opened | Refused | Found | Noted | Earlier | Scanned | Committed | Planned | Said | Stopped | Finished


# --- supervisor <-> fork server


class Launch(Message, frozen=True):
    """Fork a child; its file descriptors (channel, output, trace, board) come with this message."""

    child: Count
    memory_bytes: Count
    scratch: bytes
    """The child's private folder, in TARGET/.dcmpool/tmp; b"" where nothing is to be written."""
    readable: tuple[bytes, ...]
    """What a child in a sandbox may read, beside programs and libraries; empty for one without."""
    engines: dict[str, tuple[str, ...]] = {}
    """The order of engines, for Transfer Syntaxes where it is the user's own."""


class Warmed(Message, frozen=True):
    """The codecs are loaded; `missing` names those that are not, with the reason."""

    missing: dict[str, str]


class Launched(Message, frozen=True):
    """The child exists; a pidfd of it comes with this message."""

    child: Count
    pid: Count


class NotMade(Message, frozen=True):
    """The kernel made no child: `errno` says why (fork(2))."""

    child: Count
    errno: Count


class Exited(Message, frozen=True):
    """The child is dead and reaped; `code` as `subprocess.Popen.returncode` has it."""

    child: Count
    code: int


ToForkserver = Launch
FromForkserver = Warmed | Launched | NotMade | Exited


M = TypeVar("M", bound=Message)


class Codec(Generic[M]):
    """The messages of one direction, and the largest frame they may take."""

    def __init__(self, messages: Any, limit: int = MAX_FRAME_BYTES) -> None:
        self._decoder = msgspec.msgpack.Decoder(messages)
        self._encoder = msgspec.msgpack.Encoder()
        self.limit = limit

    def encode(self, message: M) -> bytes:
        """Return the message as one frame, for a stream."""
        body = self.pack(message)
        return _LENGTH.pack(len(body)) + body

    def pack(self, message: M) -> bytes:
        """Return the message without a length, for a socket that keeps packets apart."""
        return self._encoder.encode(message)

    def decode(self, body: bytes) -> M:
        """Return the message of a frame's body; raise `ProtocolError` for anything else."""
        try:
            return self._decoder.decode(body)  # type: ignore[no-any-return]  # msgspec types a union of structs as Any
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"a frame that does not decode: {error}") from error

    def reader(self) -> "FrameReader[M]":
        """Return a reader for one stream of such frames."""
        return FrameReader(self)


class FrameReader(Generic[M]):
    """Turns whatever bytes are there into whole messages; never waits for the rest of one.

    Invariant: between two calls it holds less than one frame, which is never longer than the codec's limit.
    """

    def __init__(self, codec: Codec[M]) -> None:
        self._codec = codec
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """Take what was read and return the messages that are now whole.

        Raises
        ------
        ProtocolError
            A frame is empty, over the limit, or does not decode. What came before it in `data` is dropped
            with it: the sender is killed anyway.
        """
        self._buffer += data
        messages = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if not 0 < length <= self._codec.limit:
                raise ProtocolError(f"a frame of {length} bytes (1 to {self._codec.limit} are allowed)")
            end = start + _LENGTH.size + length
            if end > len(self._buffer):
                break
            messages.append(self._codec.decode(bytes(memoryview(self._buffer)[start + _LENGTH.size : end])))
            start = end
        del self._buffer[:start]
        return messages


TO_WORKER: Codec[Any] = Codec(ToWorker)
FROM_WORKER: Codec[Any] = Codec(FromWorker)
ON_BOARD: Codec[Inspected] = Codec(Inspected)
TO_CLERK: Codec[Any] = Codec(ToClerk, MAX_CLERK_FRAME_BYTES)
FROM_CLERK: Codec[Any] = Codec(FromClerk, MAX_CLERK_FRAME_BYTES)
TO_FORKSERVER: Codec[Any] = Codec(ToForkserver)
FROM_FORKSERVER: Codec[Any] = Codec(FromForkserver)
