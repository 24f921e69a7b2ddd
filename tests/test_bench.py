"""`make bench` works: a race of three files, from the command line to the tables, and how figures become a chart."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from benchmarks import chart, results
from benchmarks.peers import PEERS
from benchmarks.results import BEGIN, END, Results, Row
from benchmarks.series import KINDS, SYNTAXES, make, wrong
from tests.command import TOP
from tests.reference import decompress


def test_a_race_is_written_into_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    options = ["--files", "3", "--rounds", "1", "--only", "ct/.70/floor ct/.70/loop stages/.70", "--write", str(page)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", *options], cwd=TOP, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| dcmpool | " in text
    assert "no figure" not in done.stdout, done.stdout
    assert {row.split("/")[2].split()[0] for row in done.stdout.splitlines() if row.startswith("ct/")} == {
        "dcmpool", "floor", "loop",
    }  # fmt: skip
    bars = ET.parse(tmp_path / "page.svg").getroot().findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 3


def test_every_peer_is_known_by_its_syntaxes() -> None:
    assert all(set(peer.syntaxes) <= set(SYNTAXES) and set(peer.kinds) <= set(KINDS) for peer in PEERS)


def test_a_result_with_other_pixels_or_none_is_no_result(tmp_path: Path) -> None:
    series = make(tmp_path, KINDS["small"], SYNTAXES[".80"], 2, [])
    target = tmp_path / "target"
    target.mkdir()
    assert wrong(series, target) == "000000.dcm is missing"
    for name in series.digests:
        decompress(series.trial / name, tmp_path).rename(target / name)
    assert wrong(series, target) == ""
    altered = bytearray((target / "000001.dcm").read_bytes())
    altered[len(altered) // 2] ^= 1
    (target / "000001.dcm").write_bytes(altered)
    assert wrong(series, target) == "the pixels of 000001.dcm are wrong"
    (target / "000001.dcm").write_bytes((series.trial / "000001.dcm").read_bytes())
    assert wrong(series, target) == "000001.dcm is not native"


def test_pixels_that_nobody_knows_are_those_of_the_first(tmp_path: Path) -> None:
    ours = make(tmp_path / "ours", KINDS["small"], SYNTAXES[".70"], 2, [])
    given = sorted(ours.folder.iterdir())
    series = make(tmp_path / "given", KINDS["small"], SYNTAXES[".70"], 4, given)
    assert [(series.folder / name).read_bytes() for name in series.names] == [p.read_bytes() for p in given] * 2
    target = tmp_path / "target"
    target.mkdir()
    for name in series.digests:
        decompress(series.trial / name, tmp_path).rename(target / name)
    assert wrong(series, target) == ""
    assert list(series.digests.values()) == list(ours.digests.values()) * 2


def test_a_row_that_is_lost_is_named() -> None:
    measured = Results()
    measured.row(Row("ct", ".70", "dcmpool", 10, [0.02], [0.03]))
    measured.row(Row("ct", ".70", "loop", 10, [0.08], [0.08]))
    measured.row(Row("ct", ".70", "pool", 10, [0.01], [0.02]))
    measured.row(Row("ct", ".70", "floor", 10, [0.005], [0.01]))
    measured.row(Row("ct", ".70", "xargs", 10, why_not="000003.dcm is missing"))
    text = results.markdown(measured, ["a machine"])
    assert "| pydicom + gdcm, a loop | 8.0 (4.00) |" in text
    assert "- CT slices, 512 x 512, .70, pool: 1.0 against 2.0 ms." in text
    assert "- CT slices, 512 x 512, .70, xargs: 000003.dcm is missing." in text
    assert "floor:" not in text
    ET.fromstring(chart.svg(measured))
