"""Settings: the shipped files say what the program does, and every wrong one is named in one line."""

import itertools
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dcmpool import _os
from dcmpool.config import Config, load, profiles
from dcmpool.engines import ENGINE_NAMES
from dcmpool.errors import UsageError

SECTIONS: dict[str, dict[str, Any]] = msgspec.to_builtins(Config())
"""The built-in defaults."""


def wrong(**arguments: Any) -> str:
    """Return the one line that refuses these arguments."""
    with pytest.raises(UsageError) as caught:
        load(**arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


def test_default_toml_is_the_built_in_defaults() -> None:
    """Every setting is spelled out there, with this very value and type, and no other."""
    shipped = tomllib.loads(profiles()["default"].read_text())
    assert shipped == SECTIONS
    types = {name: {key: type(value) for key, value in table.items()} for name, table in shipped.items()}
    assert types == {name: {key: type(value) for key, value in table.items()} for name, table in SECTIONS.items()}
    assert load(profile="default") == load() == Config()


def test_default_toml_explains_every_setting() -> None:
    """A comment stands before each."""
    lines = profiles()["default"].read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert before.startswith("# "), line


@pytest.mark.parametrize("name", profiles())
def test_every_shipped_profile_loads(name: str) -> None:
    """And changes what it says, and nothing else."""
    loaded = msgspec.to_builtins(load(profile=name))
    said = tomllib.loads(profiles()[name].read_text())
    assert loaded == {section: values | said.get(section, {}) for section, values in SECTIONS.items()}


def test_the_shipped_profiles_are_these() -> None:
    """`--help` names them."""
    assert list(profiles()) == ["default", "network-share", "slow-disk", "workstation"]


@pytest.mark.parametrize(("section", "name"), [(section, name) for section in SECTIONS for name in SECTIONS[section]])
def test_a_value_of_the_wrong_type_is_refused_by_name(section: str, name: str, tmp_path: Path) -> None:
    """The line names the file and the setting, and what is wrong with it."""
    path = tmp_path / "mine.toml"
    for value in ("[1]", "1979-05-27", "{ a = 1 }", "false" if SECTIONS[section][name] is not True else "1"):
        if isinstance(SECTIONS[section][name], bool) and value == "false":
            continue
        path.write_text(f"[{section}]\n{name} = {value}\n")
        text = wrong(path=path)
        assert text.startswith(f"{path}: {section}.{name}: Expected ")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("work", "workers", "-1"),
        ("work", "workers", "1025"),
        ("work", "workers", "2.5"),
        ("work", "others", '"move"'),
        ("work", "engine", '"magic"'),
        ("work", "scan_ahead", "0"),
        ("limits", "attempt_seconds", "-0.5"),
        ("limits", "floor_seconds", "0"),
        ("limits", "floor_seconds", "nan"),
        ("limits", "grace_seconds", "inf"),
        ("limits", "slowest_mib_per_second", "0.0"),
        ("limits", "memory_mib", "-1"),
        ("limits", "max_lost", "-1"),
        ("gate", "max_writers", "0"),
        ("gate", "max_inflight_mib", "99999999999999999999"),
        ("gate", "grant_mib", "0"),
        ("storage", "stall_seconds", "-1"),
        ("storage", "give_up_seconds", "1e12"),
        ("storage", "durable", '"yes"'),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(section: str, name: str, value: str, tmp_path: Path) -> None:
    """No run begins with a setting that cannot be meant."""
    path = tmp_path / "mine.toml"
    path.write_text(f"[{section}]\n{name} = {value}\n")
    assert wrong(path=path).startswith(f"{path}: {section}.{name}: ")


def test_whole_numbers_are_times_too(tmp_path: Path) -> None:
    """`floor_seconds = 60` is what people write."""
    path = tmp_path / "mine.toml"
    path.write_text("[limits]\nfloor_seconds = 60\n")
    assert load(path=path).limits.floor_seconds == 60.0


def test_an_unknown_setting_is_refused_by_name(tmp_path: Path) -> None:
    """A typing error must not pass for a setting."""
    path = tmp_path / "mine.toml"
    path.write_text("[limits]\nmemory_mb = 5\n")
    assert wrong(path=path) == f"{path}: limits: Object contains unknown field `memory_mb`"


def test_an_unknown_section_is_refused_by_name(tmp_path: Path) -> None:
    """The same for a whole table."""
    path = tmp_path / "mine.toml"
    path.write_text("[limit]\nmemory_mib = 5\n")
    assert wrong(path=path) == f"{path}: Object contains unknown field `limit`"


def test_a_setting_outside_every_section_is_refused_by_name(tmp_path: Path) -> None:
    """The line shows where it belongs."""
    path = tmp_path / "mine.toml"
    path.write_text("workers = 5\n")
    assert wrong(path=path).startswith(f"{path}: workers = ... stands outside a section")


def test_what_is_not_toml_is_refused_with_its_place(tmp_path: Path) -> None:
    """Line and column."""
    path = tmp_path / "mine.toml"
    path.write_text("[work]\nworkers == 5\n")
    text = wrong(path=path)
    assert text.startswith(f"{path} is not TOML: ")
    assert "line 2" in text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a directory, not text."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert wrong(path=binary) == f"cannot read the configuration {binary}: not UTF-8"
    assert wrong(path=tmp_path) == f"cannot read the configuration {tmp_path}: Is a directory"
    missing = tmp_path / "missing.toml"
    assert wrong(path=missing) == f"cannot read the configuration {missing}: No such file or directory"


def test_an_unknown_profile_is_refused_with_those_there_are() -> None:
    """So that nobody has to look them up."""
    assert wrong(profile="fast") == (
        "unknown profile 'fast'; choose one of default, network-share, slow-disk, workstation"
    )


def test_the_error_of_a_profile_is_not_blamed_on_the_users_file(tmp_path: Path) -> None:
    """Each file is checked as it is read."""
    path = tmp_path / "mine.toml"
    path.write_text("[gate]\nmax_writers = 0\n")
    assert wrong(profile="workstation", path=path).startswith(f"{path}: gate.max_writers: ")


def test_flags_win_over_the_file_and_the_file_over_the_profile(tmp_path: Path) -> None:
    """And a flag that was not given leaves what the others say."""
    path = tmp_path / "mine.toml"
    path.write_text("[gate]\nmax_writers = 5\n[work]\nworkers = 6\n")
    flags: dict[str, dict[str, Any]] = {"work": {"workers": 7, "engine": None}, "limits": {"attempt_seconds": None}}
    config = load(profile="network-share", path=path, flags=flags)
    assert config.gate.max_writers == 5
    assert config.work.workers == 7
    assert config.work.engine == ""
    assert config.limits.floor_seconds == 60.0
    assert load(profile="network-share").gate.max_writers == 16


def test_a_flag_out_of_range_is_the_command_lines(tmp_path: Path) -> None:
    """Not the file's, which is fine."""
    path = tmp_path / "mine.toml"
    path.write_text("[work]\nworkers = 6\n")
    text = wrong(path=path, flags={"work": {"workers": 5000}})
    assert text == "the command line: work.workers: Expected `int` <= 1024"


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_every_engine_can_be_asked_for(name: str) -> None:
    """By the name that reports and messages use."""
    assert load(flags={"work": {"engine": name}}).work.engine == name


def test_an_unknown_engine_is_refused_with_those_there_are() -> None:
    """The line names them all."""
    text = wrong(flags={"work": {"engine": "magic"}})
    assert text.startswith("the command line: work.engine: ")
    assert all(name in text for name in ENGINE_NAMES)


def test_zeros_become_numbers_of_this_machine() -> None:
    """After `resolved` nothing is left to be found out, and what was said stays."""
    resolved = Config().resolved()
    assert resolved.work.workers >= _os.available_cpus() + 2  # while some wait for their fsync, others decode
    assert 1024 <= resolved.limits.memory_mib <= 8192
    assert 128 <= resolved.gate.max_inflight_mib <= 4096
    said = load(flags={"work": {"workers": 3}, "limits": {"memory_mib": 2000}, "gate": {"max_inflight_mib": 90}})
    assert said.resolved() == msgspec.structs.replace(said, gate=msgspec.structs.replace(said.gate, grant_mib=30))


def test_every_worker_gets_its_grant_at_once() -> None:
    """What rides with a job is cut to an equal share, and is never nothing."""
    for workers, inflight in ((1, 1), (7, 3), (64, 4096), (1024, 128)):
        flags = {"work": {"workers": workers}, "gate": {"max_inflight_mib": inflight}}
        gate = load(flags=flags).resolved().gate
        assert 1 <= gate.grant_mib <= max(1, inflight // workers)
