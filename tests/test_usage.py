"""What cannot be used: one clear line, exit code 2, nothing written."""

import os
import resource
import shutil
import socket
from pathlib import Path

import pytest

from tests.command import Command, Ended, own_command
from tests.series import make_series

command = pytest.fixture(own_command)


@pytest.fixture
def source(command: Command) -> Path:
    make_series(command.path / "series", slices=1, size=16)
    return command.path / "series"


def everything(folder: Path) -> dict[Path, bytes | str | None]:
    """Return all that lies under `folder`: content of files, where links lead, None for the rest."""
    found: dict[Path, bytes | str | None] = {}
    for path in folder.rglob("*"):
        found[path] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def refused(command: Command, *arguments: str, says: str = "", powerless: bool = False) -> Ended:
    """Run, and assert: exit code 2, one line on stderr with `says`, nothing on stdout, nothing written."""
    before = everything(command.path)
    ended = command.run("run", *arguments, powerless=powerless)
    assert everything(command.path) == before
    assert ended.code == 2, ended
    assert ended.out == ""
    assert len(ended.lines()) == 1, ended.err
    assert says in ended.err
    return ended


@pytest.mark.parametrize("descriptors", [6, 7, 8, 9, 10, 12, 14, 18])
def test_too_few_descriptors_are_named_with_what_to_do(command: Command, source: Path, descriptors: int) -> None:
    """Wherever the last one goes."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    ended = command.run("run", "series", "-o", "native", preexec_fn=few)
    assert ended.code == 70, ended
    assert "Traceback" not in ended.err
    assert "ulimit -n" in ended.lines()[-1]


def test_too_few_processes_are_named_with_what_to_do(command: Command, source: Path) -> None:
    """The fork server is made by vfork(2), as programs are, and its children by fork(2)."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    inject = "inject=clone:error=EAGAIN"
    under = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=clone", "-e", inject]
    ended = command.run("run", "series", "-o", "native", under=under)
    assert ended.code == 70, ended
    assert "workers cannot be launched" in ended.lines()[-1]
    assert "ulimit -u" in ended.lines()[-1]


@pytest.mark.parametrize("setting", ["start_seconds", "floor_seconds", "attempt_seconds", "lost_seconds"])
def test_limits_may_be_as_long_as_they_can_be(command: Command, source: Path, setting: str) -> None:
    """Eleven days, three of which the loop could not wait for in one call of epoll_wait(2)."""
    (command.path / "slow.toml").write_text(f"[limits]\n{setting} = 1000000.0\n")
    ended = command.run("run", "series", "-o", "native", "--config", "slow.toml", "--quiet")
    assert ended.code == 0, ended
    assert ended.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "0"],
        ["--workers", "many"],
        ["--limit", "0"],
        ["--limit", "nan"],
        ["--max-writers", "0"],
        ["--max-inflight", "-5M"],
        ["--max-inflight", "lots"],
        ["--others", "burn"],
        ["--engine", "nonsense"],
        ["--profile", "nonsense"],
        ["--config", "missing.toml"],
        ["--files-from", "missing.txt"],
        ["--nonsense"],
        ["second"],
    ],
    ids=" ".join,
)
def test_bad_arguments(command: Command, source: Path, arguments: list[str]) -> None:
    ended = refused(command, "series", *arguments)
    assert any(argument.lstrip("-") in ended.err for argument in arguments)


def test_a_limit_without_end_is_no_limit(command: Command, source: Path) -> None:
    """An infinite limit is refused, or it is taken as said; it may not be a traceback."""
    ended = command.run("run", "series", "--limit", "inf")
    assert ended.code in (0, 2)
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("profile", ["../default", "default.toml"])
def test_a_profile_is_a_name_and_no_path(command: Command, source: Path, profile: str) -> None:
    refused(command, "series", "--profile", profile, says="profile")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[work\nworkers = 1", "my.toml"),
        (b"[work]\nwrkers = 1", "wrkers"),
        (b'[work]\nworkers = "two"', "workers"),
        (b"[limits]\nattempt_seconds = nan", "attempt_seconds"),
        (b"[limits]\nfloor_seconds = -1", "floor_seconds"),
        (b"[gate]\nmax_writers = 0", "max_writers"),
        (b'[work]\nengine = "nonsense"', "engine"),
        (b"work = 1", "work"),
        (b"\xff\xfe\x00binary", "my.toml"),
    ],
    ids=lambda value: value.decode("latin-1").replace("\n", " ") if isinstance(value, bytes) else None,
)
def test_a_configuration_that_is_wrong(command: Command, source: Path, text: bytes, says: str) -> None:
    (command.path / "my.toml").write_bytes(text)
    refused(command, "series", "--config", "my.toml", says=says)


def test_a_folder_as_configuration_or_list(command: Command, source: Path) -> None:
    refused(command, "series", "--config", "series", says="series")
    refused(command, "series", "--files-from", "series", says="series")


def test_no_source(command: Command) -> None:
    refused(command, says="SOURCE")


@pytest.mark.parametrize("target", [[], ["-o", "native"], ["--in-place"]], ids=str)
def test_a_source_that_is_not_there(command: Command, target: list[str]) -> None:
    refused(command, "missing", *target, says="missing")


@pytest.mark.parametrize("name", ["", "x" * 300, "mis\nsing", "mis[/red]sing", "series/CT0001.dcm/x"], ids=ascii)
def test_an_odd_source_that_is_not_there(command: Command, source: Path, name: str) -> None:
    refused(command, name)


def test_a_source_that_is_a_special_file(command: Command) -> None:
    os.mkfifo(command.path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(command.path, os.O_PATH)
        server.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
    (command.path / "zero").symlink_to("/dev/zero")
    (command.path / "nowhere").symlink_to("missing")
    for name in ("pipe", "socket", "zero", "nowhere"):
        assert command.run("run", name, "-o", "native").code == 2
    assert not (command.path / "native").exists()


def test_a_source_that_may_not_be_read(command: Command, source: Path) -> None:
    source.chmod(0)
    before = sorted(command.path.iterdir())
    ended = command.run("run", "series", powerless=True)
    source.chmod(0o755)
    assert sorted(command.path.iterdir()) == before
    assert ended.code == 2, ended
    assert len(ended.lines()) == 1, ended.err


@pytest.mark.parametrize("target", ["series/", "./series/../series", "link"])
def test_the_target_is_the_source(command: Command, source: Path, target: str) -> None:
    (command.path / "link").symlink_to("series")
    refused(command, "series", "-o", target, says="--in-place")


def test_the_target_is_the_source_by_its_other_name(command: Command, source: Path) -> None:
    (command.path / "link").symlink_to("series")
    refused(command, "link", "-o", "series", says="--in-place")


@pytest.mark.parametrize("target", ["series/a/b/c", "link/native", "series/CT0001.dcm"])
def test_the_target_is_inside_the_source(command: Command, source: Path, target: str) -> None:
    (command.path / "link").symlink_to("series")
    refused(command, "series", "-o", target)


def test_the_target_is_inside_the_source_through_a_link_in_its_path(command: Command, source: Path) -> None:
    (source / "sub").mkdir()
    (command.path / "aside").symlink_to("series/sub")
    refused(command, "series", "-o", "aside/native")


def test_the_target_is_the_source_file(command: Command, source: Path) -> None:
    refused(command, "series/CT0001.dcm", "-o", "series/CT0001.dcm")


def test_a_single_file_into_its_own_folder_would_replace_it(command: Command, source: Path) -> None:
    before = (source / "CT0001.dcm").read_bytes()
    command.run("run", "series/CT0001.dcm", "-o", "series")
    assert (source / "CT0001.dcm").read_bytes() == before


def test_in_place_and_a_target(command: Command, source: Path) -> None:
    refused(command, "series", "--in-place", "-o", "native", says="--in-place")


def test_a_target_that_is_a_file(command: Command, source: Path) -> None:
    (command.path / "file").write_text("mine")
    refused(command, "series", "-o", "file", says="file")
    refused(command, "series", "-o", "file/native", says="file")


def test_a_target_that_cannot_be_made(command: Command, source: Path) -> None:
    refused(command, "series", "-o", "/proc/native", says="/proc/native")
    refused(command, "series", "-o", "x" * 300)
    refused(command, "series", "-o", "")
    (command.path / "nowhere").symlink_to("missing/target")
    refused(command, "series", "-o", "nowhere", says="nowhere")


def test_a_target_that_may_not_be_written(command: Command, source: Path) -> None:
    (command.path / "locked").mkdir(mode=0o555)
    refused(command, "series", "-o", "locked", says="locked", powerless=True)
    refused(command, "series", "-o", "locked/new", says="locked", powerless=True)


def test_a_folder_beside_the_source_that_may_not_be_written(command: Command, source: Path) -> None:
    command.path.chmod(0o555)
    refused(command, "series", says="series-decompressed", powerless=True)
    command.path.chmod(0o755)


def test_a_source_that_may_not_be_written_in_place(command: Command, source: Path) -> None:
    source.chmod(0o555)
    refused(command, "series", "--in-place", says="series", powerless=True)
    source.chmod(0o755)


def test_a_target_that_is_made_and_then_refused_is_not_left(command: Command, source: Path) -> None:
    """Parents of TARGET count as written too."""
    refused(command, "missing", "-o", "new/deep/native", says="missing")
    refused(command, "series", "-o", "new/deep/native", "--engine", "nonsense")


def test_help_is_no_error(command: Command) -> None:
    for arguments in ([], ["run"]):
        ended = command.run(*arguments, "--help")
        assert ended.code == 0
        assert "run" in ended.out
        assert ended.err == ""


@pytest.mark.parametrize("name", ["run", "scan", "status", "control", "report", "verify", "attempt", "doctor"])
def test_help_fits_one_screen_and_has_examples(command: Command, name: str) -> None:
    """Of 80 columns and 40 lines."""
    lines = command.run(name, "--help", environment={"COLUMNS": "80"}).out.splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines) <= 80
    assert any("python -m dcmpool" in line for line in lines)
