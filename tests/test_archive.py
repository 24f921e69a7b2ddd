"""The trial of an archive, `make archive`, with few files: so that it works when it is wanted."""

from pathlib import Path

from tests.archive import Archive, Originals, Trial


def test_a_small_archive_goes_all_the_way(tmp_path: Path) -> None:
    originals = Originals(tmp_path / "originals")
    trial = Trial(Archive(tmp_path / "archive", originals, 1200), tmp_path / "target")
    trial.run()
    assert trial.problems == []
