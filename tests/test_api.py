"""dcmpool from Python: as a user's own code calls it, wherever that runs."""

import contextlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import threading
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

import dcmpool
from dcmpool import api, cli
from dcmpool.commands.run import run
from tests.command import Command, Record, Running, all_dead, long_series, own_command, until
from tests.series import check_series, make_series

command = pytest.fixture(own_command)


@pytest.fixture
def source(command: Command, record: Record, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small series, one damaged file, and one that is not DICOM, under a name that is not UTF-8."""
    source = command.path / "series"
    (source / "broken.dcm").write_bytes((source / "CT0001.dcm").read_bytes()[:-900])
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9")).write_text("not DICOM")
    monkeypatch.chdir(command.path)
    return source


@pytest.fixture
def record(command: Command) -> Record:
    return make_series(command.path / "series", slices=6, size=64)


def script(command: Command, *lines: str, **options: Any) -> Running:
    """Start a script of a user, that is a file without a main guard."""
    path = command.path / "script.py"
    path.write_text("\n".join(["import dcmpool", *lines]))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen([sys.executable, path], cwd=command.path, env=command.variables(), **options)
    return Running(process, command.mark)


def test_the_report_is_what_the_command_prints(command: Command, source: Path) -> None:
    found = dcmpool.run("series", "native", workers=2)
    printed = command.run("run", "series", "-o", "other", "--workers", "2", "--json").summary
    assert set(api.Report.__struct_fields__) == printed.keys()
    assert found.exit_code == 1
    assert [(file.path, file.kind) for file in found.failed] == [("broken.dcm", "CORRUPT")]
    assert len(found.failed[0].attempts) == len(printed["failed"][0]["attempts"])
    for name in printed.keys() - {"target", "seconds", "failed"}:
        value = getattr(found, name)
        assert json.loads(json.dumps(value)) == printed[name], name


def test_each_outcome_comes_once(source: Path, record: Record) -> None:
    with dcmpool.stream(source, Path("native")) as outcomes:
        found = {outcome.path: outcome for outcome in outcomes}
        assert outcomes.report.counts == {
            **dict.fromkeys(outcomes.report.counts, 0), "decompressed": len(record), "failed": 1, "other": 1,
        }  # fmt: skip
    assert found.keys() == {*record, "broken.dcm", os.fsdecode(b"caf\xe9")}
    assert {found[name].outcome for name in record} == {"decompressed"}
    assert all(found[name].digest and found[name].engine for name in record)
    assert found["broken.dcm"].kind == "CORRUPT"
    assert check_series(record, Path("native")) == []
    assert outcomes.report.exit_code == 1, "and after the block too"
    assert list(outcomes) == []


def test_a_loop_that_is_slow_misses_nothing(source: Path) -> None:
    """The run does not wait for it, nor does it lose what was said meanwhile."""
    with dcmpool.stream("series", "native") as outcomes:
        first = next(outcomes)
        until(lambda: outcomes._begun is not None and outcomes._begun._process.poll() is not None)
        assert len([first, *outcomes]) == 8


OPTIONS = {param.name: param for param in typer.main.get_command(cli.app).commands["run"].params}  # type: ignore[attr-defined]  # a group, to mypy any command


EXAMPLES = {"SIZE": "80M", "TIME": "8h", "HOURS": "20:00-06:00", "N|P%": "5%"}
"""By metavar; other options take a number, or their first choice."""


def value_for(name: str) -> object:
    """Return a value that this option of the command takes."""
    annotation = get_type_hints(run)[name]
    kind = next(kind for kind in (*get_args(annotation), annotation) if kind is not type(None))
    if issubclass(kind, Enum):
        return next(iter(kind)).value
    return True if kind is bool else EXAMPLES.get(OPTIONS[name].metavar, 7)


def parsed(words: list[str]) -> dict[str, Any]:
    """Return what the command makes of its arguments."""
    context = typer.main.get_command(cli.app).commands["run"].make_context("run", words)  # type: ignore[attr-defined]  # a group, to mypy any command
    params: dict[str, Any] = context.params
    return params


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - {"source", "output", "as_json", "events", "quiet", "help"}))
def test_each_option_of_the_command_is_a_setting(name: str) -> None:
    """By its long name; what the API makes of it, the command takes for what was meant."""
    flag = max(OPTIONS[name].opts, key=len)
    value = value_for(name)
    words = api._words("run", "series", "native", {flag.removeprefix("--").replace("-", "_"): value})
    typed = [flag] if value is True else [flag, str(value)]
    assert parsed(words[1:]) == parsed(["series", "-o", "native", "--json", *typed])
    assert parsed(words[1:]) != parsed(["series", "-o", "native", "--json"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": "nowhere"}, "no such file or directory: "),
        ({"source": "series", "workres": 2}, "No such option: --workres"),
        ({"source": "series", "workers": "many"}, "workers"),
        ({"source": "series", "target": "series"}, "source and target are the same"),
        ({"source": "series", "target": "native", "in_place": True}, "exclude each other"),
        ({"source": "ser\0ies"}, "null byte"),
        ({"source": "series", "json": True}, "json is no setting"),
        ({"source": "--help"}, "no such file or directory: "),
    ],
)
def test_bad_usage_is_the_commands_own_line(source: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(dcmpool.UsageError) as raised:
        dcmpool.run(**arguments)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(dcmpool.UsageError), dcmpool.stream(**arguments) as outcomes:
        list(outcomes)


def test_a_target_that_is_in_use_is_an_error_of_its_own(command: Command, source: Path) -> None:
    long_series(command.path / "long", names=400)
    with dcmpool.stream("long", "native", bandwidth="5M") as outcomes:
        next(outcomes)
        with pytest.raises(dcmpool.LockedError):
            dcmpool.run("long", "native")


def test_without_a_block_there_is_no_run(source: Path) -> None:
    """Else nobody would end it."""
    with pytest.raises(RuntimeError, match="with"):
        next(dcmpool.stream("series", "native"))
    assert not Path("native").exists()


# How it ends


def test_leaving_the_block_ends_the_run(command: Command, source: Path) -> None:
    """Nothing of it is left, what was done is whole, and the next call goes on."""
    record = long_series(command.path / "long", names=400)
    with contextlib.suppress(ZeroDivisionError), dcmpool.stream("long", "native", bandwidth="5M") as outcomes:
        next(outcomes)
        raise ZeroDivisionError
    assert (outcomes.report.exit_code, outcomes.report.stopped) == (130, "interrupted")
    done = outcomes.report.counts["decompressed"]
    assert 0 < done < len(record)
    report = dcmpool.run("long", "native")
    assert (report.exit_code, report.counts["settled"]) == (0, done)
    assert check_series(record, Path("native")) == []


def test_a_run_that_is_killed_says_so(command: Command, source: Path) -> None:
    long_series(command.path / "long", names=400)
    with dcmpool.stream("long", "native", bandwidth="5M") as outcomes:
        next(outcomes)
        assert outcomes._begun is not None
        process = outcomes._begun._process
        words = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        (pipe,) = (word.rpartition("/")[2] for word in words if word.startswith("--events="))
        # As a process may that the caller has forked at an unlucky moment.
        with open(f"/proc/{process.pid}/fd/{pipe}", "wb"):
            process.kill()
            with pytest.raises(dcmpool.DcmpoolError, match="SIGKILL"):
                list(outcomes)
    assert dcmpool.run("long", "native").exit_code == 0, "and the next call goes on"


def test_no_run_outlives_its_caller(command: Command) -> None:
    """Not even where a process that the caller has forked holds all that the caller held."""
    long_series(command.path / "long", names=400)
    begin = "run = dcmpool.stream('long', 'native', bandwidth='100K').__enter__()"
    running = script(command, begin, "import os, time", "os.fork()", "time.sleep(60)")
    running.wait_for(lambda: list((command.path / "native").glob("*.dcm")) and len(running.processes("script.py")) == 2)
    ours, scripts = running.processes("dcmpool."), running.processes("script.py")
    assert len(ours) > 3
    running.process.kill()
    assert all_dead(ours) == []
    for pid in scripts:
        os.kill(pid, signal.SIGKILL)
    running.end()
    assert not (command.path / "native" / ".dcmpool" / "tmp").exists(), "it was not ended in order"
    shutil.rmtree(command.path / "native")  # whose write-ahead log a walk that was on has kept


def test_ctrl_c_ends_the_run_in_order(command: Command) -> None:
    """In the caller it is a KeyboardInterrupt, as everywhere."""
    record = long_series(command.path / "long", names=400)
    running = script(command, "dcmpool.run('long', 'native', bandwidth='5M')", start_new_session=True)
    running.wait_for(lambda: list((command.path / "native").glob("*.dcm")))
    os.killpg(running.process.pid, signal.SIGINT)
    ended = running.end()
    assert ended.err.rstrip().endswith("KeyboardInterrupt"), ended
    names = {path.name for path in (command.path / "native").glob("*.dcm")}
    assert 0 < len(names) < len(record)
    assert check_series({name: record[name] for name in names}, command.path / "native") == []


# Where it is called from


def test_in_a_thread_that_ends_before_its_run(source: Path) -> None:
    """What a thread has begun, another one can end."""
    streams = []

    def begin() -> None:
        streams.append(dcmpool.stream("series", "native").__enter__())

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert len(list(streams[0])) == 8
    streams[0].__exit__(None, None, None)


def test_in_a_folder_of_files_that_are_named_like_modules(command: Command, source: Path, record: Record) -> None:
    """Those that the caller does not import itself."""
    for name in ("typer", "rich", "clerk", "worker", "model", "gdcm", "sqlite3", "numpy"):
        (command.path / f"{name}.py").write_text("raise SystemExit('not me')")
    ended = script(command, "print(dcmpool.run('series', 'native').counts['decompressed'])").end()
    assert (ended.code, ended.out.strip()) == (0, str(len(record))), ended


def test_from_standard_input(command: Command, source: Path, record: Record) -> None:
    """As in a notebook there is no file that could be imported again."""
    text = "import dcmpool\nprint(len(dcmpool.run('series', 'native').by_transfer_syntax))"
    ran = subprocess.run(
        [sys.executable, "-"], input=text, text=True, capture_output=True, cwd=command.path, env=command.variables(),
        check=True,
    )  # fmt: skip
    assert ran.stdout.strip() == "3"


def test_to_import_it_costs_nothing() -> None:
    """Each of our own processes does, and none needs the API."""
    text = "import sys, dcmpool; print([name for name in sys.modules if name.startswith(('dcmpool.', 'msgspec'))])"
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    with pytest.raises(AttributeError):
        dcmpool.nothing_of_that_name  # noqa: B018 - to see that it is not there


def test_no_module_takes_the_name_of_what_is_exported() -> None:
    """To import such a module would put it in the function's place."""
    assert not {module.name for module in pkgutil.iter_modules(dcmpool.__path__)} & set(dcmpool.__all__)
