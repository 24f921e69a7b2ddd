"""The event stream says what happened, in a vocabulary that is written down; its reader keeps nobody waiting."""

import json
import os
import selectors
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from dcmpool import _os, events
from dcmpool.config import load
from dcmpool.eventlink import EventLink
from dcmpool.events import (
    AnyEvent,
    Dropped,
    Event,
    FileEnded,
    FileRetried,
    Noticed,
    RunBegun,
    RunEnded,
    Snapshot,
    WorkerDied,
)
from dcmpool.model import FailureKind, Outcome
from dcmpool.progress import Mode, Progress
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task
from tests.command import SLOWLY, TOP, Command, Record, long_series, own_command
from tests.series import make_series
from tests.test_usage import refused

command = pytest.fixture(own_command)

DOCS = TOP / "docs"


@pytest.fixture
def record(command: Command) -> Record:
    """A small series in `series`."""
    return make_series(command.path / "series", slices=6, size=64)


def read(lines: str | bytes) -> list[Any]:
    """Return the events of a stream, each checked against the vocabulary."""
    return [events.decode(line) for line in lines.splitlines()]


def of(stream: Sequence[Event], *kinds: type[Event]) -> list[Any]:
    return [event for event in stream if isinstance(event, kinds)]


def assert_one_run(stream: Sequence[Event]) -> RunEnded:
    """Check what holds for the stream of any run that came to its end, and return that."""
    assert isinstance(stream[0], RunBegun)
    assert isinstance(stream[-1], RunEnded)
    assert len(of(stream, RunBegun, RunEnded)) == 2
    moments = [event.at_seconds for event in stream]
    assert moments == sorted(moments)
    assert [event.time for event in stream] == sorted(event.time for event in stream)
    files = Counter(event.path for event in of(stream, FileEnded))
    assert set(files.values()) <= {1}
    counted = Counter(event.outcome for event in of(stream, FileEnded))
    assert counted == Counter({o: n for o, n in stream[-1].counts.items() if n and o is not Outcome.SETTLED})
    return stream[-1]


# What it says


def test_the_stream_says_of_each_file_what_the_summary_says(command: Command, record: Record) -> None:
    """Good files, a damaged one, one that is not DICOM and one that is no file: each once, with its sizes and times."""
    series = command.path / "series"
    (series / "sub").mkdir()
    (series / "sub" / "broken.dcm").write_bytes((series / "CT0001.dcm").read_bytes()[:-900])
    (series / "notes.txt").write_text("no DICOM")
    os.mkfifo(series / "pipe")
    (series / os.fsdecode(b"odd\xff\n.txt")).write_text("an odd name")
    ended = command.run("run", "series", "-o", "native", "--workers", "2", "--json", "--events", "events.jsonl")
    stream = read((command.path / "events.jsonl").read_bytes())
    end = assert_one_run(stream)
    summary = ended.summary
    assert (end.exit_code, ended.code, end.stopped) == (1, 1, "")
    assert {str(outcome): count for outcome, count in end.counts.items()} == summary["counts"]
    assert (end.by_transfer_syntax, end.native_bytes) == (summary["by_transfer_syntax"], summary["native_bytes"])
    begun = stream[0]
    assert (begun.source, begun.target) == (str(series), str(command.path / "native"))
    assert begun.settings["work"]["workers"] == 2
    assert begun.versions["dcmpool"]
    assert begun.versions["pydicom"]
    files = {event.path: event for event in of(stream, FileEnded)}
    (failed,) = summary["failed"]
    broken = files.pop(failed["path"])
    assert (broken.kind, broken.reason, broken.outcome) == (failed["kind"], failed["reason"], Outcome.FAILED)
    assert [(tried.engine, tried.kind) for tried in broken.attempts] == [
        (tried["engine"], tried["kind"]) for tried in failed["attempts"]
    ]
    assert files.pop("pipe").outcome is Outcome.SKIPPED
    assert {path for path, event in files.items() if event.outcome is Outcome.DECOMPRESSED} == set(record)
    for path, event in files.items():
        assert event.source_bytes == (series / path).stat().st_size
        assert event.bytes == (command.path / "native" / path).stat().st_size
        assert 0 <= event.write_seconds <= event.seconds
        if path in record:
            assert event.native_bytes == 64 * 64 * 2
            assert len(event.digest) == 32
            assert event.engine


def test_a_failed_file_is_told_with_its_transfer_syntax(command: Command, record: Record) -> None:
    """Its header was good, and read; its pixels are not."""
    data = bytearray((command.path / "series" / "CT0001.dcm").read_bytes())
    middle = len(data) - 1000
    data[middle : middle + 200] = bytes(200)
    (command.path / "series" / "worn.dcm").write_bytes(data)
    command.run("run", "series", "-o", "native", "--events", "events.jsonl")
    (worn,) = [e for e in of(read((command.path / "events.jsonl").read_bytes()), FileEnded) if e.path == "worn.dcm"]
    assert (worn.outcome, worn.transfer_syntax_uid) == (Outcome.FAILED, "1.2.840.10008.1.2.4.70")
    assert worn.attempts[0].engine == "turbo"


def test_deaths_and_retries_are_told_with_their_diagnosis(tmp_path: Path) -> None:
    """A file that hangs every engine and one that crashes them: each death, what it was, and where the evidence is."""
    make_series(tmp_path / "series", 2, 64)
    for name in ("hang_in_c", "segfault"):
        (tmp_path / "series" / f"{name}.dcm").write_bytes((tmp_path / "series" / "CT0001.dcm").read_bytes())
    config = load(flags={"work": {"workers": 2}, "limits": {"attempt_seconds": 2.0}})
    task = Task(os.fsencode(tmp_path / "series"), os.fsencode(tmp_path / "native"))
    to = tmp_path / "events.jsonl"
    report = Supervisor(task, config, Progress(Mode.OFF), events=str(to), worker_module="tests.children").run()
    stream = read(to.read_bytes())
    end = assert_one_run(stream)
    assert (end.kills, end.retries) == (report.kills, report.retries)
    deaths = {
        name: [d for d in of(stream, WorkerDied) if d.path == f"{name}.dcm"] for name in ("hang_in_c", "segfault")
    }
    assert {death.kind for death in deaths["segfault"]} == {FailureKind.CRASHED}
    assert "SIGSEGV" in deaths["segfault"][0].reason
    assert {death.kind for death in deaths["hang_in_c"]} == {FailureKind.TIMEOUT}
    assert all(death.cause and death.seconds >= 2.0 == death.limit_seconds for death in deaths["hang_in_c"])
    assert len(deaths["hang_in_c"]) == report.kills
    for death in of(stream, WorkerDied):
        assert (tmp_path / "native" / ".dcmpool" / "evidence" / death.evidence / "diagnosis.json").is_file()
    assert len(of(stream, FileRetried)) == report.retries
    retried = Counter(event.path for event in of(stream, FileRetried))
    for event in of(stream, FileEnded):
        assert len(event.attempts) == retried[event.path] + (event.outcome is Outcome.FAILED)


def test_progress_is_told_once_a_second(command: Command) -> None:
    """With what each worker is on, and the gate."""
    record = long_series(command.path / "series")
    command.run("run", "series", "-o", "native", "--workers", "1", "--bandwidth", "6M", "--events", "events.jsonl")
    stream = read((command.path / "events.jsonl").read_bytes())
    assert_one_run(stream)
    seen = of(stream, Snapshot)
    assert 2 <= len(seen) <= stream[-1].at_seconds + 1
    for snapshot in seen:
        assert snapshot.files == sum(snapshot.counts.values()) <= snapshot.files_found <= len(record)
        assert len(snapshot.workers) <= 1
        assert snapshot.gate.writers <= snapshot.gate.window <= snapshot.gate.max_writers
    assert seen[-1].overall.files_per_second > 0


def test_a_run_that_is_refused_has_an_end_too(command: Command) -> None:
    ended = command.run("run", "nothing", "--events", "events.jsonl")
    end = assert_one_run(read((command.path / "events.jsonl").read_bytes()))
    assert (ended.code, end.exit_code) == (2, 2)
    assert end.stopped in ended.err


def test_a_second_run_adds_to_the_file(command: Command, record: Record) -> None:
    """Even where the first was killed in the middle of a line."""
    to = command.path / "events.jsonl"
    to.write_text('{"event": "fi')
    for _ in range(2):
        assert command.run("run", "series", "-o", "native", "--events", "events.jsonl").code == 0
    lines = to.read_text().splitlines()
    assert lines[0] == '{"event": "fi'
    stream = read("\n".join(lines[1:]))
    middle = next(index for index, event in enumerate(stream) if isinstance(event, RunEnded)) + 1
    assert len(of(stream[:middle], FileEnded)) == len(record)
    assert assert_one_run(stream[:middle]).counts[Outcome.SETTLED] == 0
    assert assert_one_run(stream[middle:]).counts[Outcome.SETTLED] == len(record)


# Where it goes


def test_to_standard_output_the_stream_goes_alone(command: Command, record: Record) -> None:
    """The summary goes to standard error."""
    ended = command.run("run", "series", "-o", "native", "--events", "-")
    assert_one_run(read(ended.out))
    assert "6  decompressed" in ended.err


def test_to_a_descriptor_as_shells_name_it(command: Command, record: Record) -> None:
    """`--events >(gzip > log.gz)`."""
    reading, writing = os.pipe()
    running = command.start(
        "run", "series", "-o", "native", "--quiet", "--events", f"/dev/fd/{writing}", pass_fds=[writing]
    )
    os.close(writing)
    with open(reading, "rb") as file:
        assert_one_run(read(file.read()))
    assert running.end().code == 0


@pytest.mark.parametrize(("to", "stream"), [("/dev/stdout", "out"), ("/dev/stderr", "err"), ("/dev/fd/2", "err")])
def test_to_what_a_run_was_given(command: Command, record: Record, to: str, stream: str) -> None:
    ended = command.run("run", "series", "-o", "native", "--quiet", "--events", to)
    assert_one_run(read(getattr(ended, stream)))


def test_to_a_process_substitution(command: Command, record: Record) -> None:
    under = ("bash", "-c", '"$@" --events >(cat > events.jsonl); wait $!', "bash")
    assert command.run("run", "series", "-o", "native", under=under).code == 0
    assert_one_run(read((command.path / "events.jsonl").read_bytes()))


def test_a_descriptor_of_the_run_itself_is_not_written_to(command: Command, record: Record) -> None:
    """By the time that the command line is read, there are many: to the clerk, to the fork server."""
    for to in [f"/dev/fd/{number}" for number in range(3, 14)] + ["/proc/self/fd/3", "/dev//fd/../fd/3"]:
        ended = command.run("run", "series", "-o", "native", "--events", to)
        assert ended.code == 2, to
        assert ended.lines() == [f"dcmpool: events cannot be written to {to}: Bad file descriptor"]
        assert not (command.path / "native").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--events", "-", "--json"], "both want standard output"),
        (["--events", ""], "a path is empty"),
        (["--events", "series"], "events cannot be written to series: Is a directory"),
        (["--events", "no/such"], "events cannot be written to no/such: No such file or directory"),
        (["--events", "/dev/fd/999"], "events cannot be written to /dev/fd/999: Bad file descriptor"),
    ],
)
def test_a_stream_that_cannot_be_written(command: Command, record: Record, options: list[str], says: str) -> None:
    """One line, and nothing is begun."""
    ended = command.run("run", "series", "-o", "native", *options)
    assert ended.code == 2
    (line,) = ended.lines()
    assert says in line
    assert not (command.path / "native").exists()


@pytest.mark.parametrize("content", ["original", "result", "journal", '{"mine": 1}\n', "["])
def test_a_file_that_holds_something_else_is_left_alone(command: Command, record: Record, content: str) -> None:
    """An original, a result or a journal that was named by mistake, here by a link to it; somebody else's JSON."""
    assert command.run("run", "series", "-o", "native", "--journal", "journal.sqlite").code == 0
    named = command.path / "named"
    match content:
        case "original" | "result":
            os.link(command.path / {"original": "series", "result": "native"}[content] / "CT0001.dcm", named)
        case "journal":
            os.link(command.path / "journal.sqlite", named)
        case _:
            named.write_text(content)
    says = "events cannot be written to named: it holds something else"
    refused(command, "series", "-o", "other", "--events", "named", says=says)


@pytest.mark.parametrize("place", ["series/new", "series/CT0001.dcm", "series/link", "link", "native/.dcmpool/new"])
def test_a_stream_among_the_files_of_a_run_is_refused(command: Command, record: Record, place: str) -> None:
    """A run would take it for a file of SOURCE, or a result would get its name."""
    (command.path / "outside").mkdir()
    (command.path / "series/link").symlink_to(command.path / "outside/new")
    (command.path / "link").symlink_to("native/CT0009.dcm")
    says = f"events cannot be written to {place}: it lies in the source or the target"
    for how in (["-o", "native"], ["--in-place"]) if place.startswith("series") else (["-o", "native"],):
        refused(command, "series", *how, "--events", place, says=says)


@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("kept/new", ("--in-place", "--backup", "kept")),
        ("aside/new", ("-o", "native", "--quarantine", "aside")),
    ],
)
def test_a_stream_among_originals_that_are_kept_is_refused(
    command: Command, record: Record, place: str, how: tuple[str, ...]
) -> None:
    """The next original may have that name."""
    (command.path / place).parent.mkdir()
    says = f"events cannot be written to {place}: it lies in the source or the target, or among"
    refused(command, "series", *how, "--events", place, says=says)


def test_a_stream_beside_a_single_file_is_fine(command: Command, record: Record) -> None:
    ended = command.run("run", "series/CT0001.dcm", "-o", "native", "--events", "series/events.jsonl")
    assert ended.code == 0, ended
    assert_one_run(read((command.path / "series/events.jsonl").read_bytes()))


# Who reads it


def test_a_full_disk_ends_the_stream_and_not_the_run(command: Command, record: Record) -> None:
    ended = command.run("run", "series", "-o", "native", "--events", "/dev/full", "--json")
    assert (ended.code, ended.summary["counts"]["decompressed"]) == (0, len(record))
    assert "no more events go to /dev/full: No space left on device" in ended.err


def test_a_reader_that_never_comes_keeps_nobody(command: Command, record: Record) -> None:
    """A FIFO without a reader cannot even be opened."""
    os.mkfifo(command.path / "fifo")
    ended = command.run("run", "series", "-o", "native", "--events", "fifo", "--json")
    assert (ended.code, ended.summary["counts"]["decompressed"]) == (0, len(record))
    assert "nobody reads the events that go to fifo: the last ones are lost" in ended.err


def test_a_reader_that_leaves_keeps_nobody(command: Command) -> None:
    """In the middle of a run that says more."""
    record = long_series(command.path / "series")
    os.mkfifo(command.path / "fifo")
    running = command.start("run", "series", "-o", "native", "--events", "fifo", "--json", *SLOWLY)
    with (command.path / "fifo").open("rb") as file:
        assert isinstance(events.decode(file.readline()), RunBegun)
    ended = running.end()
    assert (ended.code, ended.summary["counts"]["decompressed"]) == (0, len(record))
    assert "no more events go to fifo: Broken pipe" in ended.err


def test_what_a_slow_reader_misses_is_counted(tmp_path: Path) -> None:
    """A buffer that does not grow, gaps that say how large they are, and an end that comes whatever was dropped."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    notices: list[str] = []
    most = 10_000
    sent = 20_000
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    with selectors.DefaultSelector() as selector, _os.orphans_adopted(5.0):
        link = EventLink(selector, str(fifo), notices.append, most=most)
        link.start()
        link.await_opening()
        for number in range(sent):
            link.send(Noticed(text=str(number)))
            link.flush()
            assert len(link._buffer) < most + 200
        reader.start()
        link.send(Noticed(text="last"), at_any_price=True)
        link.finish(at_once=False)
    reader.join()
    stream = read(got[0])
    numbers = [int(event.text) for event in of(stream, Noticed)[:-1]]
    assert of(stream, Noticed)[-1].text == "last"
    assert numbers == sorted(numbers)
    gaps = of(stream, Dropped)
    assert gaps
    assert len(numbers) + sum(gap.events for gap in gaps) == sent
    assert notices == []


# What is written down


def test_the_schema_is_that_of_the_code() -> None:
    """`docs/events.schema.json` is made by `python -m tests.test_events`."""
    written = json.loads((DOCS / "events.schema.json").read_text(), object_hook=without_names)
    assert written == json.loads(json.dumps(events.schema()), object_hook=without_names)


def without_names(node: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a schema without what msgspec tells from its version 0.23 on: which names a mapping may have."""
    return {key: value for key, value in node.items() if key != "propertyNames"}


def test_every_event_and_field_is_explained() -> None:
    text = (DOCS / "events.md").read_text()
    for kind in get_args(AnyEvent):
        assert f"## `{kind.__struct_config__.tag}`" in text
        section = text.split(f"## `{kind.__struct_config__.tag}`")[1].split("\n## ")[0]
        for name in set(kind.__struct_fields__) - {"time", "at_seconds"}:
            assert f"`{name}`" in section, (kind, name)


def test_the_stream_is_valid_by_its_schema(command: Command, record: Record) -> None:
    """By an independent validator."""
    jsonschema = pytest.importorskip("jsonschema", reason="not installed")
    (command.path / "series" / "broken.dcm").write_bytes((command.path / "series" / "CT0001.dcm").read_bytes()[:-900])
    ended = command.run("run", "series", "-o", "native", "--events", "-")
    validator = jsonschema.Draft202012Validator(json.loads((DOCS / "events.schema.json").read_text()))
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert len(lines) > len(record)
    for line in lines:
        validator.validate(line)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**lines[0], "event": "nonsense"})


if __name__ == "__main__":
    (DOCS / "events.schema.json").write_text(json.dumps(events.schema(), indent=1) + "\n")
