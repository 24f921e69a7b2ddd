"""The list of `--files-from`: read once, whatever it comes from and whoever dies; no list ends in a traceback."""

import os
import signal
from pathlib import Path

import pytest

from tests.command import SLOWLY, Command, Record, all_dead, long_series, of_process, own_command, tree
from tests.series import check_series, make_series

command = pytest.fixture(own_command)

RUN = ["run", "series", "-o", "native", "--json"]


@pytest.fixture
def record(command: Command) -> Record:
    return make_series(command.path / "series", slices=3, size=32)


def pipe_with(content: bytes) -> int:
    """Return the reading end of a pipe that holds this (64 KiB at most) and then ends."""
    ours, theirs = os.pipe()
    assert os.write(theirs, content) == len(content)
    os.close(theirs)
    return ours


@pytest.mark.parametrize("kind", ["-", "/dev/fd", "file that is gone"])
def test_a_clerk_that_dies_loses_no_file_of_the_list(command: Command, kind: str) -> None:
    """The next clerk walks from the beginning, when a pipe has long been read to its end."""
    record = long_series(command.path / "series")
    content = "".join(f"{name}\n" for name in record).encode()
    (command.path / "list").write_bytes(content)
    (command.path / "my.toml").write_text("[work]\nworkers = 1\nscan_ahead = 4\n")
    pipe = pipe_with(content)
    path = {"-": "-", "/dev/fd": f"/dev/fd/{pipe}"}.get(kind, "list")
    options = ["--files-from", path, "--config", "my.toml"]
    running = command.start(*RUN, *SLOWLY, *options, stdin=pipe, pass_fds=[pipe])
    os.close(pipe)
    running.wait_for((command.path / "native" / "CT0001.dcm").exists)
    (command.path / "list").unlink()
    (clerk,) = running.processes("dcmpool.clerk")
    os.kill(clerk, signal.SIGKILL)
    assert all_dead([clerk]) == []
    ended = running.end()
    assert ended.code == 0, ended
    assert check_series(record, command.path / "native") == []
    assert ended.summary["counts"]["decompressed"] == len(record)


@pytest.mark.parametrize("kind", ["-", "/dev/fd"])
def test_a_list_from_a_pipe_is_read(command: Command, record: Record, kind: str) -> None:
    pipe = pipe_with(b"CT0001.dcm\r\n\nCT0003.dcm")
    os.set_blocking(pipe, False)  # as some programs hand it down; it must not look like the end
    ended = command.run(*RUN, "--files-from", "-" if kind == "-" else f"{kind}/{pipe}", stdin=pipe, pass_fds=[pipe])
    os.close(pipe)
    assert ended.code == 0, ended
    assert tree(command.path / "native").keys() == {b"CT0001.dcm", b"CT0003.dcm"}


def test_a_pipe_that_is_empty_for_a_while_has_not_ended(command: Command, record: Record) -> None:
    """Not even one that does not block."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    running = command.start(*RUN, "--files-from", "-", stdin=ours)
    os.close(ours)
    running.wait_for(lambda: is_reading_a_list(running.process.pid))
    os.write(theirs, b"CT0002.dcm\n")
    os.close(theirs)
    assert running.end().code == 0
    assert tree(command.path / "native").keys() == {b"CT0002.dcm"}


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"CT0001.dcm\n" + b"x" * 5_000_000 + b"\nCT0002.dcm\n", 2),
        (b"\n\n" + b"x" * 4097, 3),
        (b"CT0001.dcm\0" * 1000, 1),
        (None, 1),
    ],
    ids=["5 MB", "4097 bytes", "separated by NUL", "/dev/zero"],
)
def test_a_line_that_is_longer_than_any_path_is_refused(
    command: Command, record: Record, content: bytes | None, number: int
) -> None:
    """It is no list of paths; the line's number helps to see what it is."""
    (command.path / "list").write_bytes(content or b"")
    ended = command.run(*RUN, "--files-from", "list" if content else "/dev/zero")
    assert ended.code == 2, ended
    assert len(ended.lines()) == 1, ended.err
    assert f"line {number} " in ended.err
    assert not (command.path / "native").exists()


def test_the_longest_path_that_there_can_be_is_one_failure(command: Command, record: Record) -> None:
    """Alone: its file is not there."""
    (command.path / "list").write_bytes(b"CT0001.dcm\n" + b"x/" * 2048 + b"\nCT0002.dcm")
    ended = command.run(*RUN, "--files-from", "list")
    assert ended.code == 1, ended
    assert ended.summary["counts"]["failed"] == 1
    assert tree(command.path / "native").keys() == {b"CT0001.dcm", b"CT0002.dcm"}


def test_a_list_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has taken all memory."""
    from dcmpool import pathlist
    from dcmpool.errors import UsageError

    monkeypatch.setattr(pathlist, "MAX_BYTES", 1000)
    (tmp_path / "list").write_bytes(b"CT0001.dcm\n" * 90)
    os.close(pathlist.hold(os.fspath(tmp_path / "list")))
    (tmp_path / "list").write_bytes(b"CT0001.dcm\n" * 91)
    with pytest.raises(UsageError, match="list of files"):
        pathlist.hold(os.fspath(tmp_path / "list"))


def test_interrupted_while_the_list_comes(command: Command, record: Record) -> None:
    """Its writer may never end."""
    ours, theirs = os.pipe()
    running = command.start(*RUN, "--files-from", "-", stdin=ours)
    os.write(theirs, b"CT0001.dcm\n")
    running.wait_for(lambda: is_reading_a_list(running.process.pid))
    running.send(signal.SIGINT)
    ended = running.end()
    os.close(theirs)
    os.close(ours)
    assert ended.code == 130, ended
    assert "Traceback" not in ended.err
    assert not (command.path / "native").exists()


def test_a_list_from_a_stdin_that_is_closed(command: Command, record: Record) -> None:
    ended = command.run(*RUN, "--files-from", "-", stdin=None, preexec_fn=lambda: os.close(0))
    assert ended.code == 2, ended
    assert len(ended.lines()) == 1, ended.err
    assert not (command.path / "native").exists()


def is_reading_a_list(pid: int) -> bool:
    """Whether a process holds the copy of a list and, by its kernel's word, sleeps."""
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    asleep = b") S " in of_process(pid, "stat")
    return asleep and any(link.startswith("/memfd:files-from") for link in links)
