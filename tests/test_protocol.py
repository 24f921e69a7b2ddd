"""The protocol: what one side sends is what the other gets, and whatever else comes is a `ProtocolError`."""

import itertools
import pickle
import struct
import tracemalloc
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcmpool import protocol
from dcmpool.model import Due, FailureKind, Outcome, Purpose, Stage
from dcmpool.protocol import (
    FROM_CLERK,
    FROM_FORKSERVER,
    FROM_WORKER,
    MAX_FRAME_BYTES,
    ON_BOARD,
    TO_CLERK,
    TO_FORKSERVER,
    TO_WORKER,
    Codec,
    Failed,
    Inspected,
    Message,
    ProtocolError,
    Ready,
    Written,
)

CODECS: dict[str, Codec[Any]] = {
    "ToWorker": TO_WORKER,
    "FromWorker": FROM_WORKER,
    "ToClerk": TO_CLERK,
    "FromClerk": FROM_CLERK,
    "ToForkserver": TO_FORKSERVER,
    "FromForkserver": FROM_FORKSERVER,
}


def messages_of(direction: str) -> tuple[type[Message], ...]:
    """Return the messages of a direction, as the module declares them."""
    union = getattr(protocol, direction)
    return get_args(union) or (union,)


ALL = [(direction, message) for direction in CODECS for message in messages_of(direction)]

BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**63 - 1),
    float: st.floats(0, 1e9),
    str: st.text(max_size=40),
    bytes: st.binary(max_size=60),
    bool: st.booleans(),
    Outcome: st.sampled_from(Outcome),
    Due: st.sampled_from(Due),
    FailureKind: st.sampled_from(FailureKind),
    FailureKind | None: st.none() | st.sampled_from(FailureKind),
    Stage: st.sampled_from(Stage),
    Purpose: st.sampled_from(Purpose),
    dict[str, int]: st.dictionaries(st.text(max_size=5), st.integers(0, 2**63 - 1), max_size=3),
    dict[str, str]: st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    dict[str, tuple[str, ...]]: st.dictionaries(
        st.text(max_size=5), st.lists(st.text(max_size=5), max_size=3).map(tuple), max_size=3
    ),
}
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "digest": st.text("0123456789abcdef", max_size=32),
    "modality": st.text("ABCXYZ09_ ", max_size=16),
    "notes": st.lists(st.text(max_size=30), max_size=16).map(tuple),
    "source_mtime_ns": st.integers(-(2**63), 2**63 - 1),
    "native_bytes": st.integers(0, 2**32 - 2),
}


def values(struct_type: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for a message or a part of one, from its annotations."""
    return st.builds(struct_type, **{name: value(name, hint) for name, hint in get_type_hints(struct_type).items()})


def value(name: str, hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for a field."""
    if name in BY_NAME:
        return BY_NAME[name]
    if hint in BY_TYPE:
        return BY_TYPE[hint]
    if get_origin(hint) in (Union, UnionType):
        return st.one_of(st.none(), *(value("", kind) for kind in get_args(hint) if kind is not NoneType))
    if get_origin(hint) is tuple:
        return st.lists(value("", get_args(hint)[0]), max_size=3).map(tuple)
    return values(hint)


def frame(body: bytes) -> bytes:
    """Return a body with its length."""
    return struct.pack(">I", len(body)) + body


def splits(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return the data cut at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def is_answered_properly(codec: Codec[Any], data: bytes) -> None:
    """Feed the data: messages or a ProtocolError come, and nothing else."""
    try:
        messages = codec.reader().feed(data)
    except ProtocolError:
        return
    assert all(isinstance(message, Message) for message in messages)


@pytest.mark.parametrize(("direction", "message_type"), ALL)
@given(data=st.data())
@settings(max_examples=20)
def test_every_message_comes_out_as_it_went_in(
    direction: str, message_type: type[Message], data: st.DataObject
) -> None:
    """Whatever its fields hold, as one frame."""
    message = data.draw(values(message_type))
    codec = CODECS[direction]
    assert codec.reader().feed(codec.encode(message)) == [message]
    assert codec.decode(codec.pack(message)) == message


@given(
    messages=st.lists(st.one_of([values(message) for message in messages_of("FromWorker")]), max_size=5),
    cuts=st.lists(st.integers(0, 5000), max_size=30),
)
@settings(max_examples=100)
def test_a_stream_may_be_cut_anywhere(messages: list[Message], cuts: list[int]) -> None:
    """The reader gives the same messages in the same order, and holds nothing at the end."""
    stream = b"".join(FROM_WORKER.encode(message) for message in messages)
    reader = FROM_WORKER.reader()
    got = [message for piece in splits(stream, cuts) for message in reader.feed(piece)]
    assert got == messages
    assert reader.feed(FROM_WORKER.encode(Ready())) == [Ready()]


@pytest.mark.parametrize("direction", CODECS)
@given(data=st.one_of(st.binary(max_size=300), st.binary(min_size=1, max_size=300).map(frame)))
@settings(max_examples=100)
def test_random_bytes_are_a_protocol_error_or_messages(direction: str, data: bytes) -> None:
    """Never another exception: the supervisor would die of it."""
    is_answered_properly(CODECS[direction], data)


@pytest.mark.parametrize(("direction", "message_type"), ALL)
@given(data=st.data())
@settings(max_examples=20)
def test_damaged_messages_are_a_protocol_error_or_messages(
    direction: str, message_type: type[Message], data: st.DataObject
) -> None:
    """A body with some bytes changed gets further into the decoder than random ones."""
    body = bytearray(CODECS[direction].pack(data.draw(values(message_type))))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4)):
        body[place % len(body)] = byte
    is_answered_properly(CODECS[direction], frame(bytes(body[: data.draw(st.integers(1, len(body)))])))


@pytest.mark.parametrize("direction", CODECS)
def test_a_message_in_the_wrong_direction_is_refused(direction: str) -> None:
    """Only what is declared for a direction is heard there."""
    for other, codec in CODECS.items():
        for message_type in set(messages_of(other)) - set(messages_of(direction)):
            message = _smallest(message_type)
            with pytest.raises(ProtocolError):
                CODECS[direction].decode(codec.pack(message))


def _smallest(message_type: type[Message]) -> Message:
    """Return a message of this type with the plainest fields."""
    plain: dict[Any, Any] = {int: 0, float: 0.0, str: "", bytes: b"", bool: False, dict[str, str]: {}}
    plain |= {Outcome: Outcome.OTHER, FailureKind: FailureKind.READ, FailureKind | None: None, Stage: Stage.WRITE}
    plain |= {Purpose: Purpose.RUN}

    def field(hint: Any) -> Any:
        if hint in plain:
            return plain[hint]
        if get_origin(hint) in (Union, UnionType):
            return None
        if get_origin(hint) in (tuple, dict):
            return get_origin(hint)()
        return hint(**{name: field(inner) for name, inner in get_type_hints(hint).items()})

    message: Message = field(message_type)
    return message


def test_an_unknown_field_is_refused() -> None:
    """A sender that says more than the protocol has is not one of ours."""
    body = msgspec.msgpack.encode({"type": "Ready", "more": 1})
    with pytest.raises(ProtocolError, match="more"):
        FROM_WORKER.decode(body)


@pytest.mark.parametrize("number", [0, MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_its_bytes_come(number: int) -> None:
    """Nobody can make the reader wait for, or hold, more than the limit."""
    with pytest.raises(ProtocolError, match=f"a frame of {number} bytes"):
        FROM_WORKER.reader().feed(struct.pack(">I", number))


def test_the_longest_frame_is_allowed() -> None:
    """The limit itself is within bounds: it fails for its content alone."""
    with pytest.raises(ProtocolError, match="does not decode"):
        FROM_WORKER.reader().feed(frame(bytes(MAX_FRAME_BYTES)))


class _Trap:
    """Unpickling it would write a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was loaded')",)


@pytest.mark.parametrize("version", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_not_loaded(version: int) -> None:
    """It is no message, whatever it could do."""
    with pytest.raises(ProtocolError):
        FROM_WORKER.decode(pickle.dumps(_Trap(), version))


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\x82\xa4type\xa5Ready\xa1a", b"\xdd\x00\x00\x00\x01"])
def test_deep_nesting_is_a_protocol_error(opening: bytes) -> None:
    """A frame full of opening brackets neither recurses without end nor passes."""
    body = opening * (MAX_FRAME_BYTES // len(opening))
    with pytest.raises(ProtocolError):
        FROM_WORKER.reader().feed(frame(body))
    nested = b"\x82\xa1a" + b"\x91" * (MAX_FRAME_BYTES - 100) + b"\xc0" + b"\xa4type\xa5Ready"
    with pytest.raises(ProtocolError):
        FROM_WORKER.reader().feed(frame(nested))


def test_a_claimed_length_takes_no_memory() -> None:
    """A list said to have four thousand million entries is refused before room is made for it."""
    fields = msgspec.to_builtins(_smallest(Written)) | {"type": "Written"}
    del fields["notes"]
    body = msgspec.msgpack.encode(fields)
    claimed = bytes([body[0] + 1]) + body[1:] + b"\xa5notes\xdd\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            FROM_WORKER.decode(claimed)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_reader_holds_less_than_one_frame() -> None:
    """Fed with frame after frame in pieces, its memory stays under the limit and one length."""
    reader = FROM_WORKER.reader()
    stream = FROM_WORKER.encode(Failed(1, FailureKind.CORRUPT, "x" * 2000, Stage.DECODE, "gdcm")) * 200
    tracemalloc.start()
    try:
        for piece in splits(stream, list(range(0, len(stream), 1013))):
            reader.feed(piece)
        half = frame(bytes(MAX_FRAME_BYTES))[:-1]
        reader.feed(half)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * MAX_FRAME_BYTES + 20_000


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -1.0])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    """An endless one would end in limits and in the JSON report."""
    message = msgspec.structs.replace(_smallest(Written), seconds=seconds)
    with pytest.raises(ProtocolError, match="seconds"):
        FROM_WORKER.decode(FROM_WORKER.pack(message))


@pytest.mark.parametrize(("codec", "message_type"), [(ON_BOARD, Inspected), (FROM_WORKER, Written)])
def test_more_native_bytes_than_a_dicom_file_can_hold_are_refused(
    codec: Codec[Any], message_type: type[Message]
) -> None:
    """The limit of an attempt grows with them; Pixel Data has a 32-bit even length (PS3.5, 7.1)."""
    for size, legal in ((2**32 - 2, True), (2**32 - 1, False), (2**63 - 1, False)):
        message = msgspec.structs.replace(_smallest(message_type), native_bytes=size)
        body = codec.pack(message)
        if legal:
            assert codec.decode(body) == message
        else:
            with pytest.raises(ProtocolError, match="native_bytes"):
                codec.decode(body)


@pytest.mark.parametrize(("name", "text"), [("reason", "x" * 2001), ("engine", "x" * 41)], ids=["reason", "engine"])
def test_texts_have_their_greatest_length(name: str, text: str) -> None:
    """What a child says is shown to the user and journalled."""
    message = msgspec.structs.replace(_smallest(Failed), **{name: text})
    with pytest.raises(ProtocolError, match=name):
        FROM_WORKER.decode(FROM_WORKER.pack(message))
