"""The doctor sees engines that crash, hang and lie, each in its own process, and says which one."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dcmpool import doctor, engines, selftest
from dcmpool.config import load
from tests.command import Command, own_command
from tests.reference import pixels

command = pytest.fixture(own_command)


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes before the packages: what lies there is taken for them."""
    folder = tmp_path / "impostors"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def of_engine(health: doctor.Health, engine: str) -> list[doctor.Finding]:
    return [finding for finding in health.findings if finding.engine == engine]


def test_every_engine_is_right_here(command: Command) -> None:
    done = command.run("doctor", "--json")
    health = json.loads(done.out)
    assert done.code == 0
    assert {finding["result"] for finding in health["findings"]} <= {"right", "refused"}
    found = {(finding["engine"], finding["uid"]) for finding in health["findings"] if finding["result"] == "right"}
    tested = {vector.uid for vector in selftest.VECTORS}
    due = {(name, uid) for uid, order in engines.ORDER.items() for name in order if uid in tested}
    assert due - found == {("gdcm", "1.2.840.10008.1.2.4.51")}  # pydicom's plug-in refuses 12 bits


def test_each_vector_is_shipped() -> None:
    folder = Path(selftest.__file__).parent / "vectors"
    assert sorted(path.name for path in folder.iterdir()) == sorted(vector.file for vector in selftest.VECTORS)


def test_an_engine_that_crashes_is_named_and_the_others_are_asked(impostor: Path) -> None:
    (impostor / "jpeg_ls.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    health = doctor.examine()
    assert [finding.result for finding in of_engine(health, "pyjpegls")] == ["crashed", "crashed"]
    assert [finding.result for finding in of_engine(health, "turbo")] == ["right"] * 14
    assert "pyjpegls crashed at 1.2.840.10008.1.2.4.80: its process died" in health.ailments


def test_an_engine_that_hangs_is_killed_and_leaves_nothing(
    impostor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (impostor / "jpeg_ls.py").write_text("while True: pass")
    monkeypatch.setattr(doctor, "VECTOR_SECONDS", 3.0)
    monkeypatch.setattr(doctor, "ENGINE_NAMES", ("pyjpegls",))
    health = doctor.examine()
    assert [finding.result for finding in health.findings] == ["hung", "hung"]
    assert list(tmp_path.iterdir()) == [impostor]


def test_an_engine_that_lies_is_wrong(impostor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (impostor / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "import imagecodecs._jpegls as codec\n"
        "right = codec.jpegls_decode\n"
        "codec.jpegls_decode = lambda *a, **k: right(*a, **k) ^ 4\n"
    )
    monkeypatch.setattr(doctor, "ENGINE_NAMES", ("turbo",))
    health = doctor.examine()
    wrong = [finding for finding in health.findings if finding.result != "right"]
    assert [finding.uid[-3:] for finding in wrong] == [".80", ".81"]
    assert wrong[0].reason == "samples differ by 4, 0 are allowed"


def test_the_measured_order_is_one_that_a_run_takes(command: Command, tmp_path: Path) -> None:
    written = tmp_path / "order.toml"
    done = command.run("doctor", str(tmp_path), "--bench", "--write", str(written))
    assert done.code == 0
    assert "This machine can do it." in done.out
    order = load(path=written).engines
    assert order["1.2.840.10008.1.2.4.80"][-2:] == ("gdcm", "gdcmconv")
    assert command.run("doctor", "--bench", "--write", str(written)).err.endswith("File exists\n")


def test_a_run_goes_by_the_users_order(command: Command, tmp_path: Path) -> None:
    source = Path(selftest.__file__).parent / "vectors" / "4.80.dcm"
    own = tmp_path / "own.toml"
    own.write_text('[engines]\n"1.2.840.10008.1.2.4.80" = ["gdcm"]\n')
    target = tmp_path / "target"
    done = command.run("run", str(source), "-o", str(target), "--config", str(own), "--verify", "second")
    assert done.code == 0
    assert np.array_equal(pixels(target / "4.80.dcm")[0], selftest.picture(selftest.VECTORS[4]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"1.2.840.10008.1.2.4.80" = ["rle"]', "name engines that decode it, each once: turbo, pyjpegls, gdcm"),
        ('"1.2.3" = ["turbo"]', "there is none"),
        ('"1.2.840.10008.1.2.4.80" = []', "each once"),
    ],
)
def test_an_order_that_cannot_be_is_refused(text: str, words: str, command: Command, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f"[engines]\n{text}\n")
    done = command.run("run", str(tmp_path), "--config", str(own))
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
