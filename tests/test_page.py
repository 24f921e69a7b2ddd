"""`dcmpool report`: what a person and a script find out about each file, from outside."""

import csv
import html
import io
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dcmpool.advice import MEANING, NEXT_STEP
from dcmpool.config import load
from dcmpool.model import FailureKind
from dcmpool.progress import Mode, Progress
from dcmpool.supervisor import Supervisor
from dcmpool.task import Task
from tests.browser import CHROMIUM, browser
from tests.command import SLOWLY, Command, long_series, own_command, tree, until
from tests.series import make_series
from tests.test_journal import VERSION_1

command = pytest.fixture(own_command)

ODD = '<b>&"quoted"\'' + 12 * "unbroken" + ".dcm"
SECTIONS = ["summary", "next", "failures", "kills", "folders", "time", "syntaxes", "slowest", "others", "runs"]


def supervise(folder: Path, **limits: float) -> dict[str, Any]:
    """Run with children that get stuck as their files say; return the summary."""
    settings = load(flags={"work": {"workers": 2}, "limits": limits})
    task = Task(os.fsencode(folder / "series"), os.fsencode(folder / "native"))
    supervisor = Supervisor(task, settings, Progress(Mode.OFF), worker_module="tests.stuck_children")
    summary: dict[str, Any] = json.loads(supervisor.run().to_json())
    return summary


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with the results of two runs over files that hang, crash and are refused; and the last summary."""
    folder = tmp_path_factory.mktemp("bad")
    series = folder / "series"
    make_series(series / "good", slices=4, size=64)
    (series / "bad & <worse>").mkdir()
    whole = (series / "good" / "CT0001.dcm").read_bytes()
    for name in ("spin.dcm", "refused_memory.dcm", "spin_with_turbo.dcm"):
        (series / "bad & <worse>" / name).write_bytes(whole)
    (series / "bad & <worse>" / ODD).write_bytes(whole[:-900])
    (series / "gone.dcm").write_bytes(whole)
    os.mkfifo(series / "pipe")
    (series / os.fsdecode(b"\xff.txt")).write_text("no DICOM")
    supervise(folder, attempt_seconds=5.0)
    (series / "gone.dcm").unlink()
    return folder, supervise(folder, attempt_seconds=5.0)


@pytest.fixture(scope="module")
def page(bad_day: tuple[Path, dict[str, Any]]) -> Path:
    """The page of the bad day."""
    done = subprocess.run([sys.executable, "-m", "dcmpool", "report", str(bad_day[0] / "native")], check=True)
    assert done.returncode == 0
    return bad_day[0] / "native-report.html"


def rows(text: str) -> dict[str, dict[str, str]]:
    """Return a CSV's rows by path."""
    return {row["path"]: row for row in csv.DictReader(io.StringIO(text))}


def test_every_kind_of_failure_has_a_meaning_and_a_next_step() -> None:
    assert set(MEANING) == set(NEXT_STEP) == set(FailureKind)


def test_the_csv_has_a_row_for_each_file(command: Command, bad_day: tuple[Path, dict[str, Any]]) -> None:
    """Sizes as on disk; what failed with kind, reason and attempts; paths byte by byte."""
    folder, summary = bad_day
    said = command.run("report", folder / "native", "--csv", "files.csv")
    assert (said.code, said.out, said.err) == (0, "", "dcmpool: files.csv\n")
    text = (command.path / "files.csv").read_bytes().decode("utf-8", "surrogateescape")
    found = rows(text)
    walked = {os.fsdecode(path) for path in tree(folder / "series")}
    assert found.keys() == walked | {"gone.dcm", "pipe"}
    for path in walked:
        assert int(found[path]["source_size"]) == (folder / "series" / path).stat().st_size
        result = folder / "native" / path
        assert found[path]["result_size"] == (str(result.stat().st_size) if result.exists() else "")
        assert found[path]["in_source"] == "yes"
    good = found["good/CT0001.dcm"]
    assert (good["outcome"], good["kind"], good["attempts"]) == ("decompressed", "", "1")
    assert (good["transfer_syntax_uid"], good["transfer_syntax"]) == (
        "1.2.840.10008.1.2.4.70",
        "JPEG Lossless SV1 (.70)",
    )
    assert re.fullmatch("[0-9a-f]{32}", good["pixel_digest"])
    assert float(good["seconds"]) >= float(good["write_seconds"]) >= 0
    assert good["ended"].startswith("20")
    assert found["gone.dcm"]["in_source"] == "no"
    assert (found["pipe"]["outcome"], found["pipe"]["reason"]) == ("skipped", "a FIFO, not a file")
    failed = {item["path"]: item for item in summary["failed"]}
    assert {path for path, row in found.items() if row["outcome"] == "failed"} == failed.keys()
    for path, item in failed.items():
        assert (found[path]["kind"], found[path]["reason"]) == (item["kind"], item["reason"])
        assert int(found[path]["attempts"]) == len(item["attempts"]) > 0


def test_json_has_the_same_and_totals_that_add_up(command: Command, bad_day: tuple[Path, dict[str, Any]]) -> None:
    """With the counts of the run itself."""
    folder, summary = bad_day
    report = json.loads(command.run("report", folder / "native", "--json", "-").out)
    table = rows(command.run("report", folder / "native", "--csv", "-").out)
    totals, counts = report["totals"], summary["counts"]
    assert len(report["file_list"]) == totals["files"] == sum(totals["counts"].values()) == len(table)
    named = {os.fsencode(item["path"]).decode("utf-8", "backslashreplace") for item in report["file_list"]}
    assert named == table.keys()  # stdout as `Ended` has it
    assert totals["counts"]["failed"] == counts["failed"] == sum(totals["failures"].values()) == 3
    assert totals["counts"]["skipped"] == counts["skipped"] == 1
    done = sum(totals["counts"][name] for name in ("decompressed", "copied", "other", "kept"))
    assert done == counts["settled"] + totals["gone"] == 7
    assert totals["gone"] == summary["gone"] == 1
    first, last = report["runs"]
    assert first["totals"]["counts"]["decompressed"] == 6
    assert last["totals"]["files"] == 9
    assert last["settings"]["limits"]["attempt_seconds"] == 5.0
    assert last["versions"].keys() >= {"dcmpool", "python", "pydicom", "python-gdcm"}
    assert (last["exit_code"], last["complete"]) == (1, True)
    assert last["begun"] < last["ended"]


def test_the_page_says_what_happened_to_each_bad_file_and_what_to_do(page: Path) -> None:
    """Names are escaped, and nothing is loaded from anywhere."""
    text = page.read_text("utf-8")
    assert re.findall(r'<section id="(\w+)">', text) == SECTIONS
    assert "3 of 11 files failed" in text
    assert ODD not in text
    words = html.unescape(re.sub("<[^>]*>", "", text))
    for name in (ODD, "spin.dcm", "refused_memory.dcm", "pipe", "gone.dcm"):
        assert name in words
    assert "spinning in the decoder" in words
    kills = html.unescape(re.sub("<[^>]*>", "", text[text.index('id="kills"') : text.index('id="folders"')]))
    assert re.search(r"spin_with_turbo\.dcm\s+complete, decompressed by gdcm", kills)
    assert "std::bad_alloc" in words
    assert re.search(r"python -m dcmpool attempt '.*spin\.dcm' --engine gdcm --limit 5 ", words)
    assert "in <module>" in words or "decode" in words  # a stack
    for kind in (FailureKind.TIMEOUT, FailureKind.MEMORY, FailureKind.CORRUPT):
        assert NEXT_STEP[kind].replace("`", "") in words
    assert "JPEG Lossless SV1 (.70)" in words
    assert "limits.attempt_seconds" in words
    assert not re.search(r"""src=|href=(?!"#)|url\(|@import|https?:""", text)


def test_the_command_that_goes_on_is_the_one_that_was_given(command: Command) -> None:
    """Each option may matter: what is done, what keeps the originals. What cannot be said again is not."""
    make_series(command.path / "series", slices=2, size=64)
    (command.path / "list").write_text("CT0001.dcm\nnone.dcm\n")
    for given, code in (
        (("series/CT0001.dcm", "--in-place", "--backup", "kept here"), 0),
        (("series", "--in-place", "--hard-links", "split", "--files-from", "list", "--max-failures", "0"), 75),
        (("series", "--in-place", "--files-from", "list", "--events", "/dev/fd/1"), 1),
    ):
        assert command.run("run", *given).code == code
        assert command.run("report", "series", "--html", "a.html", "--json", "a.json").code == 0
        text = html.unescape((command.path / "a.html").read_text())
        settings = json.loads((command.path / "a.json").read_text())["runs"][-1]["settings"]
        again = "" if "/dev/fd/1" in given else f"cd {command.path} && dcmpool run {shlex.join(given)}"
        assert settings["run"]["command"] == again
        if code:
            assert f"<code>{again or 'the same command as before'}</code>" in text


def test_who_confirmed_a_result_is_known(command: Command) -> None:
    make_series(command.path / "series", slices=2, size=64)
    assert command.run("run", "series", "-o", "native", "--verify", "second").code == 0
    for row in rows(command.run("report", "native", "--csv", "-").out).values():
        assert row["confirmed_by"] not in ("", row["engine"])


def test_evidence_that_cannot_be_understood_is_passed_over(
    command: Command, bad_day: tuple[Path, dict[str, Any]]
) -> None:
    """Whatever somebody has done to it: the page says what the journal knows."""
    shutil.copytree(bad_day[0] / "native", command.path / "native")
    kept = sorted((command.path / "native" / ".dcmpool" / "evidence").iterdir())
    for folder, text in zip(kept, ("[]", '{"file": 5}', "{}", "{", '{"process": {"state": []}}'), strict=False):
        (folder / "diagnosis.json").write_text(text)
        (folder / "stack.txt").unlink(missing_ok=True)
    (kept[-1] / "diagnosis.json").unlink()
    assert command.run("report", "native").code == 0
    assert "spinning in the decoder" in (command.path / "native-report.html").read_text()


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_the_page_in_a_browser(page: Path) -> None:
    """No error, nothing asked for but the page itself, nothing wider than a phone, dark where that is wished for."""
    with browser() as shown:
        grounds = {}
        for width, dark in ((1280, False), (390, False), (390, True)):
            shown.open(page, width, dark=dark)
            assert shown.value("[...document.querySelectorAll('section')].map(s => s.id).join()") == ",".join(SECTIONS)
            assert shown.value("document.querySelectorAll('figure path').length") == 4
            assert shown.value("document.documentElement.scrollWidth") <= width
            shown.value("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert shown.value("document.documentElement.scrollWidth") <= width
            grounds[width, dark] = shown.value("getComputedStyle(document.body).backgroundColor")
        assert grounds[390, False] != grounds[390, True]
        assert shown.errors == []
        assert set(shown.addresses) == {page.as_uri()}


def test_nothing_in_the_target_changes(command: Command, bad_day: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = bad_day
    before = tree(folder / "native", own=True)
    assert command.run("report", folder / "native", "--html", "a.html", "--csv", "a.csv", "--json", "a.json").code == 0
    assert tree(folder / "native", own=True) == before
    assert {path.name for path in command.path.iterdir()} == {"a.html", "a.csv", "a.json"}


@pytest.mark.parametrize("option", ["--html", "--csv", "--json"])
def test_only_a_report_is_replaced(command: Command, bad_day: tuple[Path, dict[str, Any]], option: str) -> None:
    file = command.path / "out"
    file.write_text("mine")
    refused = command.run("report", bad_day[0] / "native", option, "out")
    assert (refused.code, refused.lines()) == (
        2, ["dcmpool: out is there and is no report of dcmpool: --overwrite replaces it"]
    )  # fmt: skip
    assert file.read_text() == "mine"
    assert command.run("report", bad_day[0] / "native", option, "out", "--overwrite").code == 0
    report = file.read_bytes()
    file.write_bytes(report[:300])
    assert command.run("report", bad_day[0] / "native", option, "out").code == 0
    assert len(file.read_bytes()) >= len(report) - 50


def test_a_target_without_a_journal_is_named(command: Command) -> None:
    (command.path / "empty").mkdir()
    (command.path / "text").write_text("no journal, but as long as one " * 50)
    for arguments, said in (
        (("nowhere",), "there is no journal: "),
        (("empty",), "there is no journal: "),
        (("empty", "--journal", "text"), "text is not a journal of dcmpool"),
        (("",), "a path is empty"),
    ):
        refused = command.run("report", *arguments)
        assert refused.code == 2, refused
        assert len(refused.lines()) == 1
        assert said in refused.err


def test_a_journal_of_version_1_is_read_as_it_is(command: Command) -> None:
    """From elsewhere, too; what was not kept then is not known."""
    with closing(sqlite3.connect(command.path / "old.sqlite")) as database:
        database.executescript(VERSION_1)
        row = (b"CT1", 3, 4, "decompressed", None, "", "", "gdcm", "[]", 6, 5, 8, "ab", 1.5, "old", "1.0")
        database.execute(f"INSERT INTO files VALUES ({', '.join('?' * 16)})", row)
        database.execute("INSERT INTO runs VALUES (1, 'old', '1.0', ?, ?, 0, 1)", (b"/source", b"/target"))
        database.commit()
    before = (command.path / "old.sqlite").read_bytes()
    made = command.run("report", "native", "--journal", "old.sqlite", "--csv", "-", "--html", "old.html")
    assert made.code == 0, made
    assert rows(made.out)["CT1"]["pixel_digest"] == "ab"
    text = (command.path / "old.html").read_text()
    assert "All 1 files are complete" in text
    assert "The journal holds no times" in text
    assert (command.path / "old.sqlite").read_bytes() == before


def test_a_run_that_was_killed_is_told_of(command: Command) -> None:
    """With what to do; its log still lies beside the journal."""
    long_series(command.path / "series")
    running = command.start("run", "series", "-o", "native", *SLOWLY)
    running.wait_for(lambda: len(list((command.path / "native").glob("*.dcm"))) > 3)
    running.send(signal.SIGKILL)
    running.end()
    until(lambda: not running.processes())  # its clerk holds the target as long as it lives
    made = command.run("report", "native", "--html", "a.html", "--csv", "-")
    assert made.code == 0, made
    done = {path.name for path in (command.path / "native").glob("*.dcm")}
    assert rows(made.out).keys() <= done
    text = (command.path / "a.html").read_text()
    assert "it is still on, or it was killed" in text
    assert f"cd {command.path} && dcmpool run series -o native --bandwidth 5M" in html.unescape(text)
    assert command.run("run", "series", "-o", "native", "--quiet").code == 0
    assert "All 40 files are complete" in _page(command)


def _page(command: Command) -> str:
    assert command.run("report", "native").code == 0
    return (command.path / "native-report.html").read_text()


def test_memory_does_not_grow_with_the_files(command: Command) -> None:
    """And the page lists some hundreds of failures, and says how many there are."""
    peaks = []
    for number in (500, 50_000):
        make_journal(command.path / f"{number}.sqlite", number)
        code = "from dcmpool.cli import app; app(standalone_mode=False);"
        # Not by getrusage(2): what that calls the peak may be that of the process before exec, which was this one.
        code += "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
        arguments = ["report", "x", "--journal", f"{number}.sqlite", "--html", f"{number}.html", "--csv", "files.csv"]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=command.path, env=command.variables(), text=True,
            capture_output=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 12_000_000
    text = (command.path / "50000.html").read_text()
    assert "and 24,800 more" in text
    assert text.count('class="case"') == 200
    assert (command.path / "files.csv").read_bytes().count(b"\n") == 50_001


def make_journal(path: Path, files: int) -> None:
    """Write a journal of as many files, half of them failed."""
    from dcmpool.journal import COLUMNS, Journal

    Journal(os.fsencode(path), "run", "1").close()
    with closing(sqlite3.connect(path)) as database:
        database.executemany(
            f"INSERT INTO files ({COLUMNS}) VALUES ({', '.join('?' * 19)})",
            (
                (b"series %d/%07d.dcm" % (n // 500, n), 500, 1, "failed", "CORRUPT", "a reason " * 5, "1.2", "gdcm",
                 "[]", None, None, 0, "", 0.5, "run", "1", 1000.0 + n, None, "")
                if n % 2 else
                (b"series %d/%07d.dcm" % (n // 500, n), 500, 1, "decompressed", None, "", "1.2", "gdcm", "[]", 1000, 1,
                 900, "ab", 0.5, "run", "1", 1000.0 + n, 0.01, "")
                for n in range(files)
            ),
        )  # fmt: skip
        database.commit()
