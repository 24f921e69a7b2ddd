"""A run that is on can be looked at and told what to do, by its user alone, and nobody who connects can disturb it."""

import os
import pwd
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from dcmpool import client, events
from dcmpool.control import Command as Word
from dcmpool.control import Request
from dcmpool.errors import UsageError
from dcmpool.events import Controlled, FileEnded, Noticed, Snapshot
from dcmpool.model import Outcome
from tests.command import PATIENCE, SLOWLY, TOP, Command, Record, Running, long_series, own_command, until
from tests.series import check_series

command = pytest.fixture(own_command)

FILES = 400
"""Forty seconds at the pace of `SLOWLY`: each thing that is asked or told takes a process."""
NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def record(command: Command) -> Record:
    """A series that takes a while at the pace of `SLOWLY`."""
    return long_series(command.path / "series", FILES)


def start(command: Command, *options: str) -> Running:
    """Start a run and wait until it can be asked."""
    running = command.start(
        "run", "series", "-o", "native", "--json", "--workers", "1", "--events", "events.jsonl", *(options or SLOWLY)
    )
    running.wait_for(lambda: answers(command))
    running.wait_for(lambda: any((command.path / "native").glob("*.dcm")))
    return running


def ask(command: Command, *arguments: str) -> str:
    """Control a run; return its answer."""
    ended = command.run("control", "native", *arguments)
    assert ended.code == 0, ended
    return ended.out


def status(command: Command) -> Snapshot:
    """Return the run as it stands, as the command asks for it, but without another process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(command.runtime))
        run = client.ask(str(command.path / "native"), Request(Word.STATUS)).run
    assert run is not None
    return run


def answers(command: Command) -> bool:
    try:
        return bool(status(command))
    except UsageError:
        return False


def is_at_rest(command: Command) -> bool:
    """Whether nobody works, and all that was written has its final name and is counted."""
    native, seen = command.path / "native", status(command)
    underway = list((native / ".dcmpool" / "tmp").glob("*-*-*-*"))
    return not (seen.workers or underway) and seen.files == len(list(native.glob("*.dcm")))


def stream(command: Command) -> list[Any]:
    """Return what is whole of the events, to which more may come."""
    whole = (command.path / "events.jsonl").read_bytes().rpartition(b"\n")[0]
    return [events.decode(line) for line in whole.splitlines()]


# What it can be told


def test_a_paused_run_begins_nothing_until_it_is_resumed(command: Command, record: Record) -> None:
    running = start(command)
    assert "paused" in ask(command, "pause")
    until(lambda: is_at_rest(command))
    before = status(command)
    assert before.state == "paused"
    assert 0 < before.files < FILES
    time.sleep(1.0)
    assert status(command).counts == before.counts
    assert "resumed" in ask(command, "resume")
    until(lambda: status(command).files > before.files)
    ask(command, "drain")
    assert running.end().summary["failed"] == []
    told = [(event.command, event.value) for event in stream(command) if isinstance(event, Controlled)]
    assert told == [("pause", None), ("resume", None), ("drain", None)]


def test_a_drained_run_ends_and_can_be_resumed(command: Command, record: Record) -> None:
    running = start(command)
    ask(command, "drain")
    ended = running.end()
    assert ended.code == 130
    assert ended.summary["stopped"] == "drained"
    done = ended.summary["counts"]["decompressed"]
    assert 0 < done < FILES
    there = [command.path / "series" / path.name for path in (command.path / "native").glob("*.dcm")]
    running = start(command)
    until(lambda: status(command).files_found > done)
    assert status(command).counts[Outcome.SETTLED] == done == len(there)
    assert status(command).settled_bytes == sum(path.stat().st_size for path in there)
    ask(command, "drain")
    running.end()
    assert command.run("run", "series", "-o", "native").code == 0
    assert check_series(record, command.path / "native") == []


def test_the_crew_grows_and_shrinks(command: Command, record: Record) -> None:
    running = start(command)
    before = set(running.workers())
    assert "3 workers" in ask(command, "workers", "3")
    running.wait_for(lambda: len(running.workers()) == 3)
    until(lambda: len(status(command).workers) == 3)
    share = max(1 << 30, psutil.virtual_memory().total * 4 // 5 // 3)
    for pid in set(running.workers()) - before:  # their share of the memory is that of three
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_AS)[0] <= share
    ask(command, "workers", "1")
    running.wait_for(lambda: len(running.workers()) == 1)
    ask(command, "drain")
    assert running.end().summary["failed"] == []


def test_more_workers_than_descriptors_allow_are_refused(command: Command, record: Record) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    running = command.start("run", "series", "-o", "native", "--json", "--workers", "1", *SLOWLY, preexec_fn=few)
    running.wait_for(lambda: answers(command))
    ended = command.run("control", "native", "workers", "50")
    assert (ended.code, ended.out) == (1, "")
    assert "ulimit -n" in ended.err
    ask(command, "workers", "3")
    running.wait_for(lambda: len(running.workers()) == 3)
    ask(command, "drain")
    assert running.end().summary["failed"] == []


def start_without_forks(command: Command, when: str, *options: str) -> Running:
    """Start a run in which the fork server's `when`-th fork fails, as strace(1) counts them."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    inject = f"inject=clone:error=EAGAIN:when={when}"
    under = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=clone", "-e", inject]
    options = (*options, "--events", "events.jsonl", *SLOWLY)
    running = command.start("run", "series", "-o", "native", "--json", *options, under=under)
    running.wait_for(lambda: answers(command))
    return running


def test_more_workers_than_the_kernel_makes_are_given_up(command: Command, record: Record) -> None:
    """The fork server's third fork fails, and all after it: the run goes on with those that there are."""
    running = start_without_forks(command, "3+", "--workers", "1")
    running.wait_for(lambda: status(command).files)
    ask(command, "workers", "8")
    running.wait_for(lambda: any("ulimit -u" in event.text for event in stream(command) if isinstance(event, Noticed)))
    ask(command, "workers", "6")
    running.wait_for(lambda: len(running.workers()) == 2)
    more = status(command).files + 5
    running.wait_for(lambda: status(command).files >= more)
    ask(command, "drain")
    ended = running.end()
    assert (ended.code, ended.summary["failed"], ended.summary["retries"]) == (130, [], 0)


def test_a_worker_that_the_kernel_does_not_make_is_asked_for_again(command: Command, record: Record) -> None:
    """In place of one that died; the other works on meanwhile."""
    running = start_without_forks(command, "3", "--workers", "2")
    running.wait_for(lambda: len(running.workers()) == 2)
    os.kill(running.workers()[0], signal.SIGKILL)
    running.wait_for(
        lambda: any("going on with 1" in told.text for told in stream(command) if isinstance(told, Noticed))
    )
    running.wait_for(lambda: len(running.workers()) == 2)
    ask(command, "drain")
    ended = running.end()
    assert (ended.code, ended.summary["failed"]) == (130, [])


def test_the_gate_is_narrowed_and_widened(command: Command, record: Record) -> None:
    running = start(command)
    ask(command, "writers", "2")
    assert (status(command).gate.window, status(command).gate.max_writers) == (2, 2)
    ask(command, "writers", "5")
    assert (status(command).gate.window, status(command).gate.max_writers) == (5, 5)
    ask(command, "drain")
    running.end()


def test_a_status_is_for_eyes_too_and_finds_a_target_by_any_name(command: Command, record: Record) -> None:
    (command.path / "link").symlink_to("native")
    running = start(command)
    for name in ("link", "../work/native/", str(command.path / "native")):
        ended = command.run("status", name)
        assert ended.code == 0, ended
        assert f"of {FILES:,} files" in ended.out
        assert "files/s" in ended.out
    ended = command.run("status", "native", "--json")
    assert isinstance(events.decode(ended.out), Snapshot)
    ask(command, "drain")
    running.end()


def test_a_status_names_the_engines_at_work(command: Command, record: Record) -> None:
    """They are shown by children that send nothing before they are done."""
    running = start(command)
    until(lambda: any(doing.engine == "turbo" for doing in status(command).workers))
    ask(command, "drain")
    running.end()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["native", "pause"], "no run works on"),
        (["native", "workers"], "workers takes a number"),
        (["native", "pause", "3"], "pause takes no number"),
        (["native", "workers", "0"], "not in the range 1"),
        (["native", "fly"], "is not one of"),
        (["", "pause"], "a path is empty"),
    ],
)
def test_what_makes_no_sense(command: Command, arguments: list[str], says: str) -> None:
    ended = command.run("control", *arguments)
    assert ended.code == 2
    (line,) = ended.lines()
    assert says in line


def test_there_is_no_status_without_a_run(command: Command, record: Record) -> None:
    """Neither before nor after; a run leaves no socket behind."""
    running = start(command)
    ask(command, "drain")
    running.end()
    assert list(command.runtime.iterdir()) == []
    ended = command.run("status", "native")
    assert (ended.code, ended.out) == (2, "")
    assert "no run works on" in ended.err


def test_a_run_that_is_over_leaves_the_next_ones_socket(command: Command, record: Record) -> None:
    """It has given TARGET back and still waits, for a reader of its events that does not come."""
    os.mkfifo(command.path / "fifo")
    (command.path / "list").write_text("CT0001.dcm\n")
    over = command.start("run", "series", "-o", "native", "--files-from", "list", "--events", "fifo")
    over.wait_for((command.path / "native/CT0001.dcm").exists)
    over.wait_for(lambda: not over.processes("dcmpool.clerk"))
    over.send(signal.SIGSTOP)  # it would not wait for long
    running = command.start("run", "series", "-o", "native", "--json", "--workers", "1", *SLOWLY)
    running.wait_for((command.path / "native/CT0002.dcm").exists)
    over.send(signal.SIGCONT)
    assert over.end().code == 0
    assert status(command).state == "running"
    ask(command, "drain")
    assert running.end().code == 130


# Who can tell it


def test_the_socket_is_the_users_alone(command: Command, record: Record) -> None:
    """By the mode of socket and directory; and were both open, the run would not listen to another user."""
    running = start(command)
    (path,) = command.runtime.glob("dcmpool/*.sock")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        for folder in (path, *path.parents[:-2]):
            folder.chmod(0o777 if folder == path else folder.stat().st_mode | 0o711)
        assert as_nobody(path) == b""
    ask_again = command.run("control", "native", "drain")
    assert ask_again.code == 2, "the client trusts a directory that others can enter"
    path.parent.chmod(0o700)
    ask(command, "drain")
    running.end()


def as_nobody(path: Path) -> bytes:
    """Return what another user hears from the socket."""
    code = (
        "import os, socket, sys\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        'try:\n    s.sendall(b\'{"command":"drain"}\\n\'); print(s.recv(1000).decode(), end="")\n'
        "except OSError: pass\n"
    )
    place = path.parent / "s"
    place.symlink_to(path.name)  # an address of 108 bytes at most
    done = subprocess.run([sys.executable, "-c", code, "s"], cwd=path.parent, capture_output=True, check=False)
    place.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("planted", ["link", "open", "file", "foreign"])
def test_a_planted_directory_is_not_used(command: Command, record: Record, tmp_path: Path, planted: str) -> None:
    """The run goes on without `dcmpool status`, and nothing is made there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    place = command.temporary / f"dcmpool-{os.geteuid()}"
    if planted == "link":
        place.symlink_to(elsewhere)
    elif planted == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777 if planted == "open" else 0o700)
        if planted == "foreign":
            if os.geteuid() != 0:
                pytest.skip("only root can give a directory to another user")
            os.chown(place, NOBODY, NOBODY)
    ended = command.run("run", "series", "-o", "native", "--json", environment={"XDG_RUNTIME_DIR": None})
    assert ended.code == 0, ended
    assert "no `dcmpool status` of this run" in ended.err
    assert list(elsewhere.iterdir()) == []
    if place.is_dir() and not place.is_symlink():
        place.rmdir()
    else:
        place.unlink()


def test_without_a_run_directory_there_is_one_of_its_own(command: Command, record: Record) -> None:
    """Of a name that is longer than the address of a socket may be, for good measure."""
    deep = command.path / ("d" * 120)
    deep.mkdir()
    changes = {"XDG_RUNTIME_DIR": None, "TMPDIR": str(deep)}
    running = command.start("run", "series", "-o", "native", "--workers", "1", *SLOWLY, environment=changes)
    running.wait_for(lambda: list(deep.glob("dcmpool-*/*.sock")))
    assert command.run("status", "native", environment=changes).code == 0
    assert command.run("control", "native", "drain", environment=changes).code == 0
    running.end()
    assert list(deep.iterdir()) == []


def test_a_dead_runs_socket_is_in_nobodys_way(command: Command, record: Record) -> None:
    """That of the same TARGET is replaced, that of another is removed; what is no socket of ours is left."""
    running = start(command)
    running.process.kill()
    running.end()
    (stale,) = command.runtime.glob("dcmpool/*.sock")
    other = stale.with_name("0" * 24 + ".sock")
    os.rename(stale, other)
    (stale.parent / "keep").touch()
    running = start(command)
    assert not other.exists()
    assert status(command).state == "running"
    running.process.kill()
    running.end()
    running = start(command)
    assert status(command).state == "running"
    ask(command, "drain")
    running.end()
    assert [path.name for path in stale.parent.iterdir()] == ["keep"]


# Who disturbs it


def connected(path: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        channel.connect(path.name)
    finally:
        os.chdir(here)
    channel.settimeout(PATIENCE)
    return channel


def test_clients_that_say_nothing_or_too_much_disturb_nobody(command: Command, record: Record) -> None:
    """Silence, nonsense, a request without an end: each is dismissed, and the run goes on."""
    running = start(command)
    (path,) = command.runtime.glob("dcmpool/*.sock")
    silent = [connected(path) for _ in range(6)]
    half = connected(path)
    half.sendall(b'{"command":')
    for nonsense in (b"\xff\xfe\n", b"[]\n", b'{"command":"workers","value":-1}\n', b'{"command":"pause","x":1}\n'):
        with connected(path) as channel:
            channel.sendall(nonsense)
            assert b'"ok": false' in channel.recv(10_000)
    with connected(path) as channel, suppress(ConnectionError):
        channel.sendall(b"x" * 100_000)
        assert channel.recv(10) == b""
    for _ in range(100):
        connected(path).close()
    assert status(command).state == "running"
    for channel in [*silent, half]:
        assert channel.recv(10) == b"", "it was dismissed"
        channel.close()
    ask(command, "drain")
    ended = running.end()
    assert (ended.code, ended.summary["failed"], ended.summary["kills"]) == (130, [], 0)
    assert [event for event in stream(command) if isinstance(event, FileEnded)]


@pytest.mark.parametrize("error", ["ENOBUFS", "ECONNABORTED", "EPERM"])
def test_a_client_that_cannot_be_accepted_is_dropped(command: Command, record: Record, error: str) -> None:
    """As the kernel gives it: accept4(2) fails for once, and the run goes on."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    inject = f"inject=accept4:error={error}:when=1"
    under = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=accept4", "-e", inject]
    running = command.start("run", "series", "-o", "native", "--json", "--workers", "1", *SLOWLY, under=under)
    running.wait_for(lambda: answers(command))
    ask(command, "drain")
    assert running.end().code == 130


def test_a_flood_of_clients_does_not_stop_the_run(command: Command, record: Record) -> None:
    """Somebody who connects as fast as he can, without end."""
    running = start(command, "--bandwidth", "30M")
    (path,) = command.runtime.glob("dcmpool/*.sock")
    code = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1])\n"
        "while os.path.exists(sys.argv[2]):\n"
        "    s = socket.socket(socket.AF_UNIX)\n"
        '    try:\n        s.connect(sys.argv[2]); s.sendall(b\'{"command":"status"}\\n\')\n'
        "    except OSError: pass\n"
        "    s.close()\n"
    )
    flood = subprocess.Popen([sys.executable, "-c", code, path.parent, path.name], env={"PYTHONPATH": str(TOP)})
    ended = running.end()
    assert flood.wait(PATIENCE) == 0
    assert ended.code == 0
    assert check_series(record, command.path / "native") == []
