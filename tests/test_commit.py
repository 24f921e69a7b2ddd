"""Final names in TARGET, on real directories: nothing foreign is replaced, nothing is lost, whenever it all dies."""

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dcmpool import _os, replica
from dcmpool.backup import Backup
from dcmpool.commit import is_as_written
from dcmpool.journal import Journal
from dcmpool.model import FailureKind
from dcmpool.protocol import CommitFailure, Result
from tests.results import MTIME_NS, Place

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""A file system on which nothing waits for a disk, and mostly another than that of `tmp_path`."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "target")


@pytest.fixture
def journal(place: Place) -> Iterator[Journal]:
    with closing(place.journal()) as journal:
        yield journal


def failed(place: Place, journal: Journal, *results: Result) -> list[tuple[FailureKind, str]]:
    """Commit and return how that failed; nothing else may have happened."""
    before = place.files()
    done, failures = place.target.commit(list(results), journal)
    assert done == []
    assert place.files() == before
    assert place.temps() == [], "the temp file of a failure is removed"
    assert journal.intents() == []
    return [(failure.kind, failure.reason) for failure in failures]


def test_results_get_their_names_and_their_rows(place: Place, journal: Journal) -> None:
    """With the directories that they need, and no trace in the temp folder."""
    results = [place.result("CT1", "one", 1), place.result("a/b/CT2", "two", 2), place.result("a/CT3", "three", 3)]
    assert place.target.commit(results, journal) == ([1, 2, 3], [])
    assert place.files() == {"CT1": "one", "a/b/CT2": "two", "a/CT3": "three"}
    for result in results:
        row = journal.find(result.path)
        assert row is not None
        assert is_as_written(os.lstat(place.target.final(result.path)), row)
        assert place.target.obstacle(result.path, row) is None
    assert (place.temps(), journal.intents()) == ([], [])


@pytest.mark.parametrize("name", [b"caf\xe9", b"new\nline", b"x" * 255, b"-rf", b"%s"])
def test_any_name_can_be_given(place: Place, journal: Journal, name: bytes) -> None:
    """As the source has it, byte by byte."""
    result = place.result(os.fsdecode(name), "pixels")
    assert place.target.commit([result], journal) == ([1], [])
    assert name in os.listdir(place.target.root)


def test_a_commit_whose_answer_was_lost_may_be_repeated(place: Place, journal: Journal) -> None:
    """It is done, and counts as done; twice in one batch as well."""
    results = [place.result("CT1", "one", 1), place.result("CT2", "two", 2)]
    assert place.target.commit([results[0]], journal) == ([1], [])
    assert place.target.commit([*results, results[1]], journal) == ([1, 2], [])
    assert place.target.commit(results, journal) == ([1, 2], [])
    assert place.files() == {"CT1": "one", "CT2": "two"}


@pytest.mark.parametrize("stands", ["as written", "changed", "gone"])
def test_that_an_earlier_run_had_the_same_result_does_not_make_this_one_done(tmp_path: Path, stands: str) -> None:
    """Its temp file is gone, who knows why: nothing was renamed in this run, so the worker makes it once more."""
    place = Place(tmp_path, overwrite=True)
    with closing(place.journal("run0")) as journal:
        assert place.target.commit([place.result("CT", "pixels", 1)], journal) == ([1], [])
    if stands == "gone":
        (tmp_path / "CT").unlink()
    elif stands == "changed":
        place.put("CT", "edited")
    with closing(place.journal("run1")) as journal:
        result = place.result("CT", "pixels", 2)
        os.unlink(result.temp)
        assert [kind for kind, _ in failed(place, journal, result)] == [FailureKind.WRITE]


@pytest.mark.parametrize("stands", ["changed", "gone"])
def test_a_commit_whose_answer_was_lost_is_done_only_if_the_result_stands(tmp_path: Path, stands: str) -> None:
    """Somebody was at it between the death of one clerk and the next."""
    place = Place(tmp_path, overwrite=True)
    with closing(place.journal()) as journal:
        result = place.result("CT", "pixels")
        assert place.target.commit([result], journal) == ([1], [])
        if stands == "gone":
            (tmp_path / "CT").unlink()
        else:
            place.put("CT", "edited")
            os.utime(tmp_path / "CT", ns=(MTIME_NS, MTIME_NS + 1))
        assert [kind for kind, _ in failed(place, journal, result)] == [FailureKind.WRITE]


def test_a_result_may_replace_what_we_wrote(place: Place, journal: Journal) -> None:
    """A source that changed is done again."""
    place.target.commit([place.result("CT", "old", 1)], journal)
    assert place.target.commit([place.result("CT", "newer", 2)], journal) == ([2], [])
    assert place.files() == {"CT": "newer"}


def test_a_result_that_is_gone_is_written_again(place: Place, journal: Journal) -> None:
    """That the journal knows the very same digest does not make it stand there."""
    place.target.commit([place.result("CT", "pixels", 1)], journal)
    (place.root / "CT").unlink()
    assert place.target.commit([place.result("CT", "pixels", 2)], journal) == ([2], [])
    assert place.files() == {"CT": "pixels"}
    assert place.temps() == []


def test_a_foreign_file_is_never_replaced(place: Place, journal: Journal) -> None:
    """Even with the size and time of the result."""
    place.put("CT", "pixels")
    ((kind, reason),) = failed(place, journal, place.result("CT", "PIXELS"))
    assert kind is FailureKind.EXISTS
    assert "did not write" in reason


def test_an_altered_result_is_not_replaced(place: Place, journal: Journal) -> None:
    """Someone's work is in it now."""
    place.target.commit([place.result("CT", "old", 1)], journal)
    (place.root / "CT").write_text("edited")
    ((kind, reason),) = failed(place, journal, place.result("CT", "newer", 2))
    assert kind is FailureKind.EXISTS
    assert "was changed after" in reason


@pytest.mark.parametrize("in_place", [False, True])
def test_a_name_that_cannot_be_looked_at_is_one_failure(tmp_path: Path, in_place: bool) -> None:
    """The others of its batch are done."""
    place = Place(tmp_path, in_place)
    with closing(place.journal()) as journal:
        place.put("CT2", "old")
        results = [place.result("x" * 256, "one", 1), place.result("CT2", "two", 2)]
        if not in_place:
            (tmp_path / "CT2").unlink()
        done, failures = place.target.commit(results, journal)
        assert done == [2]
        assert [(f.job, f.kind) for f in failures] == [(1, FailureKind.WRITE)]
        assert failures[0].reason.startswith("the target's name cannot be looked at: ")
        assert place.files() == {"CT2": "two"}
        assert (place.temps(), journal.intents()) == ([], [])


def test_a_broken_link_in_the_way_is_not_replaced(place: Place, journal: Journal) -> None:
    """It is foreign too."""
    (place.root / "CT").symlink_to("nowhere")
    assert [kind for kind, _ in failed(place, journal, place.result("CT", "pixels"))] == [FailureKind.EXISTS]
    assert (place.root / "CT").is_symlink()


def test_with_overwrite_foreign_and_altered_files_are_replaced(tmp_path: Path) -> None:
    """The user said so."""
    place = Place(tmp_path, overwrite=True)
    with closing(place.journal()) as journal:
        place.put("foreign", "x")
        place.target.commit([place.result("altered", "old", 1)], journal)
        (tmp_path / "altered").write_text("edited")
        (tmp_path / "link").symlink_to("foreign")
        results = [place.result(name, name, job) for job, name in enumerate(["foreign", "altered", "link"], 2)]
        assert place.target.commit(results, journal) == ([2, 3, 4], [])
    assert place.files() == {"foreign": "foreign", "altered": "altered", "link": "link"}
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_in_the_way_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    """Not even with overwrite: there may be anything in it."""
    place = Place(tmp_path, overwrite=overwrite)
    with closing(place.journal()) as journal:
        place.put("CT/inside", "x")
        ((kind, _),) = failed(place, journal, place.result("CT", "pixels"))
        assert kind is (FailureKind.WRITE if overwrite else FailureKind.EXISTS)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_link_on_the_way_is_not_followed(tmp_path: Path, in_place: bool) -> None:
    """It was put there after the walk had looked: behind it are other people's files, or SOURCE's."""
    place = Place(tmp_path / "target", in_place, overwrite=not in_place)
    with closing(place.journal()) as journal:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "CT").write_text("old")
        os.utime(tmp_path / "elsewhere" / "CT", ns=(MTIME_NS, MTIME_NS))
        (place.root / "a").symlink_to("../elsewhere")
        assert [kind for kind, _ in failed(place, journal, place.result("a/CT", "pixels"))] == [FailureKind.EXISTS]
    assert (tmp_path / "elsewhere" / "CT").read_text() == "old"


def test_a_file_where_a_directory_is_needed_is_not_replaced(place: Place, journal: Journal) -> None:
    """The result has no place to go."""
    place.put("a", "x")
    assert [kind for kind, _ in failed(place, journal, place.result("a/CT", "pixels"))] == [FailureKind.WRITE]


def test_a_temp_file_that_is_gone_is_a_failure(place: Place, journal: Journal) -> None:
    """Nothing can be called done without its file."""
    result = place.result("CT", "pixels")
    os.unlink(result.temp)
    assert [kind for kind, _ in failed(place, journal, result)] == [FailureKind.WRITE]


def test_one_failure_does_not_keep_the_others(place: Place, journal: Journal) -> None:
    """Each result of a batch has its own fate."""
    place.put("foreign", "x")
    results = [place.result("CT1", "one", 1), place.result("foreign", "two", 2), place.result("CT3", "three", 3)]
    done, failures = place.target.commit(results, journal)
    assert done == [1, 3]
    assert [(f.job, f.kind) for f in failures] == [(2, FailureKind.EXISTS)]
    assert place.files() == {"CT1": "one", "foreign": "x", "CT3": "three"}
    assert place.temps() == []


# --- in place


@pytest.fixture
def series(tmp_path: Path) -> Place:
    return Place(tmp_path / "series", in_place=True)


@pytest.fixture
def own_journal(series: Place) -> Iterator[Journal]:
    with closing(series.journal()) as journal:
        yield journal


def test_in_place_the_source_is_replaced(series: Place, own_journal: Journal) -> None:
    """By a result of this very source."""
    series.put("CT", "old")
    assert series.target.commit([series.result("CT", "pixels")], own_journal) == ([1], [])
    assert series.files() == {"CT": "pixels"}


@pytest.mark.parametrize("change", ["size", "time", "gone", "link"])
def test_in_place_a_source_that_changed_is_left_alone(series: Place, own_journal: Journal, change: str) -> None:
    """The result is of something else, and the source is the only copy there is."""
    file = series.put("CT", "old")
    if change == "size":
        series.put("CT", "newer")
    elif change == "time":
        os.utime(file, ns=(MTIME_NS, MTIME_NS + 1))
    elif change == "gone":
        file.unlink()
    else:
        file.rename(series.root / "else")
        file.symlink_to("else")
    ((kind, _),) = failed(series, own_journal, series.result("CT", "pixels"))
    assert kind is FailureKind.CHANGED


def test_in_place_a_commit_may_be_repeated(series: Place, own_journal: Journal) -> None:
    """The source is then the result."""
    series.put("CT", "old")
    result = series.result("CT", "pixels")
    assert series.target.commit([result, result], own_journal) == ([1], [])
    assert series.target.commit([result], own_journal) == ([1], [])
    assert series.files() == {"CT": "pixels"}


def test_in_place_a_name_that_was_given_since_keeps_a_result_away(series: Place, own_journal: Journal) -> None:
    """The worker has seen one name alone; a result would now split two."""
    os.link(series.put("CT", "old"), series.root / "second")
    ((kind, reason),) = failed(series, own_journal, series.result("CT", "pixels"))
    assert (kind, "2 names" in reason) == (FailureKind.LINKED, True)
    series = Place(series.root, in_place=True, split_links=True)
    assert series.target.commit([series.result("CT", "pixels")], own_journal) == ([1], [])
    assert series.files() == {"CT": "pixels", "second": "old"}


class SlowBackup(Backup, frozen=True):
    """One that takes so long that the original is another file meanwhile."""

    def keep(self, path: bytes, mark: bytes) -> None:
        super().keep(path, mark)
        os.unlink(os.path.join(self.tree, path))
        Path(os.fsdecode(os.path.join(self.tree, path))).write_text("another file")


def test_in_place_an_original_that_changes_while_it_is_kept_is_left_alone(series: Place, own_journal: Journal) -> None:
    """There is a last look right before the rename."""
    series.put("CT", "old")
    kept = SlowBackup(os.fsencode(series.root / ".kept"), os.fsencode(series.root), durable=True)
    target = msgspec.structs.replace(series.target, backup=kept)
    done, failures = target.commit([series.result("CT", "pixels")], own_journal)
    assert (done, [failure.kind for failure in failures]) == ([], [FailureKind.CHANGED])
    assert series.files() == {"CT": "another file"}
    assert series.temps() == []


def test_a_name_in_the_backup_that_was_there_before_is_not_taken_away(series: Place, own_journal: Journal) -> None:
    """By a result that does not come to stand: the link is somebody else's."""
    series = Place(series.root, in_place=True, split_links=True, backup=series.root / ".kept")
    assert series.backup is not None
    series.backup.mkdir()
    os.link(series.put("CT", "old"), series.backup / "CT")
    os.mkdir(series.root / "there")
    result = series.result("CT", "pixels")
    series.target.discard(result.temp)
    taken = msgspec.structs.replace(result, temp=os.fsencode(series.root / "there"))
    done, failures = series.target.commit([taken], own_journal)
    assert (done, [failure.kind for failure in failures]) == ([], [FailureKind.WRITE])
    assert (series.files(), series.kept()) == ({"CT": "old"}, {"CT": "old"})


# --- across file systems, full storage


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory of another file system than `tmp_path`."""
    with TemporaryDirectory(dir=MEMORY) as directory:
        if os.stat(directory).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("no second file system at hand")
        yield Path(directory)


def test_a_final_directory_on_another_file_system_gets_whole_files(
    place: Place, journal: Journal, elsewhere: Path
) -> None:
    """Copied beside it first, then renamed, with the result's time."""
    os.rmdir(place.target.temp)
    os.symlink(elsewhere, place.target.temp)
    results = [place.result("CT", "pixels", 1), place.result("new/CT", "more", 2)]
    assert place.target.commit(results, journal) == ([1, 2], [])
    assert place.files() == {"CT": "pixels", "new/CT": "more"}
    assert sorted(os.listdir(place.root)) == [".dcmpool", "CT", "new"]
    assert os.listdir(place.root / "new") == ["CT"]
    assert (place.root / "CT").stat().st_mtime_ns == MTIME_NS
    assert place.temps() == []


def test_in_place_an_original_that_changes_while_its_result_is_copied_is_left_alone(
    series: Place, own_journal: Journal, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another file system a result comes slowly."""
    os.rmdir(series.target.temp)
    os.symlink(elsewhere, series.target.temp)
    series.put("CT", "old")
    copy = replica.copy

    def slow_copy(temp: bytes, beside: bytes, *, durable: bool) -> None:
        copy(temp, beside, durable=durable)
        (series.root / "CT").write_text("edited")

    monkeypatch.setattr(replica, "copy", slow_copy)
    done, failures = series.target.commit([series.result("CT", "pixels")], own_journal)
    assert (done, [failure.kind for failure in failures]) == ([], [FailureKind.CHANGED])
    assert series.files() == {"CT": "edited"}
    assert series.temps() == []


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, "NO_SPACE"), (errno.EDQUOT, "NO_SPACE"), (errno.EIO, "WRITE")]
)
def test_storage_that_refuses_a_name_is_told_apart(
    place: Place, journal: Journal, number: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full one stops the run, any other trouble is this file's."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    result = place.result("CT", "pixels")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        assert [k for k, _ in failed(place, journal, result)] == [kind]


# --- sweeping


def test_the_sweep_leaves_what_is_this_runs(place: Place) -> None:
    """Files and private folders of dead runs go, however deep."""
    temp = Path(os.fsdecode(place.target.temp))
    (temp / "old-w1" / "deep").mkdir(parents=True)
    (temp / "old-w1" / "deep" / "file").write_text("x")
    (temp / "old-1-1-99").write_text("x")
    (temp / "link").symlink_to(place.root)
    (temp / "run1-w2").mkdir()
    (temp / "run1-1-1-99").write_text("x")
    place.put("CT", "x")
    place.target.sweep(b"run1")
    assert sorted(place.temps()) == [b"run1-1-1-99", b"run1-w2"]
    assert place.files() == {"CT": "x"}


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../../CT", b"/"])
def test_nothing_outside_the_temp_folder_is_thrown_away(place: Place, name: bytes) -> None:
    """Names come from the supervisor, but a mistake there must not cost a file."""
    place.put("CT", "x")
    kept = place.result("other", "x")
    place.target.discard(name)
    assert place.files() == {"CT": "x"}
    assert os.path.exists(kept.temp)


def test_what_is_gone_already_can_be_thrown_away(place: Place) -> None:
    """A child that left nothing is no trouble."""
    place.target.discard(b"run1-w1")
    assert place.temps() == []


# --- death at every step


@dataclass(frozen=True)
class Scene:
    """What stands in TARGET, and what is to be committed."""

    in_place: bool
    overwrite: bool
    across: bool
    """Whether the temp folder is on another file system."""
    backup: str
    """In place: whether originals are kept: "", "linked" or "copied" (on another file system)."""
    before: tuple[str, ...]
    """For each result: what has its name: "nothing", "ours", "foreign" or (in place) "source"."""

    def set_up(self, root: Path, elsewhere: Path) -> tuple[Place, list[Result]]:
        """Make it on disk; the results of each scene differ from what stands there in content and size."""
        if self.across:
            (root / ".dcmpool").mkdir()
            (elsewhere / "tmp").mkdir()
            (root / ".dcmpool" / "tmp").symlink_to(elsewhere / "tmp")
        kept = {"": None, "linked": root / ".kept", "copied": elsewhere / "kept"}[self.backup]
        place = Place(root, self.in_place, self.overwrite, backup=kept)
        results = []
        with closing(place.journal("run0")) as journal:
            for number, kind in enumerate(self.before):
                path = f"d{number}/CT" if number % 2 else f"CT{number}"
                if kind == "ours":
                    place.target.commit([place.result(path, "older", 9)], journal)
                elif kind != "nothing":
                    place.put(path, "old")
                results.append((path, f"result {number}"))
        return place, [place.result(path, content, job) for job, (path, content) in enumerate(results, 1)]

    def replaces(self, number: int) -> bool:
        """Whether the result is to take its name."""
        return self.overwrite or self.before[number] != "foreign"


SCENES = st.booleans().flatmap(
    lambda in_place: st.builds(
        Scene,
        st.just(in_place),
        st.just(False) if in_place else st.booleans(),
        st.booleans(),
        st.sampled_from(["", "linked", "copied"]) if in_place else st.just(""),
        st.lists(
            st.just("source") if in_place else st.sampled_from(["nothing", "ours", "foreign"]), min_size=1, max_size=3
        ).map(tuple),
    )
)


@contextmanager
def dying_at(step: int, journal: Journal) -> Iterator[None]:
    """End this process without any goodbye at a step of a commit: before or after each thing that it does."""
    left = step

    def dies_around(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            for when in ("before", "after"):
                if when == "after":
                    value = function(*arguments, **named)
                if left == 0:
                    os._exit(77)
                left -= 1
            return value

        return wrapped

    os.rename = dies_around(os.rename)
    os.unlink = dies_around(os.unlink)
    os.link = dies_around(os.link)
    os.mkdir = dies_around(os.mkdir)
    replica.take_over = dies_around(replica.take_over)
    _os.sync_directory = dies_around(_os.sync_directory)
    for name in ("intend", "settle", "resolve"):
        setattr(journal, name, dies_around(getattr(journal, name)))
    yield


def commit_and_die(place: Place, results: list[Result], step: int) -> bool:
    """Commit in a child that dies at this step; return whether there was such a step."""
    child = os.fork()
    if not child:
        code = 1
        try:
            journal = place.journal()
            with dying_at(step, journal):
                place.target.commit(results, journal)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 77)
    return code == 77


def after_every_death(scene: Scene) -> Iterator[tuple[Place, list[Result], dict[str, str]]]:
    """Yield TARGET after a death at each step in turn, with the results and what stood there before."""
    step, died = 0, True
    while died:
        with TemporaryDirectory(dir=MEMORY) as directory, TemporaryDirectory() as elsewhere:
            place, results = scene.set_up(Path(directory), Path(elsewhere))
            before = place.files()
            died = commit_and_die(place, results, step)
            yield place, results, before
        step += 1
    assert step > 3


_SLOW = settings(max_examples=4)


@given(SCENES)
@example(Scene(False, False, False, "", ("nothing", "ours", "foreign")))
@example(Scene(False, False, True, "", ("ours", "nothing")))
@example(Scene(True, False, False, "linked", ("source", "source")))
@example(Scene(True, False, True, "copied", ("source", "source")))
@_SLOW
def test_a_clerk_that_dies_at_any_step_is_made_up_for_by_the_next(scene: Scene) -> None:
    """The same run: recover, commit again; each result has its name and its row, and nothing foreign is touched."""
    for place, results, before in after_every_death(scene):
        with closing(place.journal()) as journal:
            place.target.recover(journal)
            place.target.sweep(b"run1")
            done, failures = place.target.commit(results, journal)
            # Between two file systems one step loses the temp file: the worker makes it once more.
            again = {f.job for f in failures if f.kind is FailureKind.WRITE and scene.across}
            assert len(again) <= 1
            expected = dict(before)
            for number, result in enumerate(results):
                if scene.replaces(number) and result.job not in again:
                    expected[os.fsdecode(result.path)] = f"result {number}"
                    row = journal.find(result.path)
                    assert row is not None
                    assert row.digest == result.written.digest
                    assert result.job in done
                else:
                    assert result.job not in done
            assert place.files() == expected
            assert place.kept() == before if place.backup and not again else True
            assert {f.kind for f in failures if f.job not in again} <= {FailureKind.EXISTS}
            assert (place.temps(), journal.intents()) == ([], [])


@given(SCENES)
@example(Scene(False, False, False, "", ("nothing", "ours", "foreign")))
@example(Scene(False, False, True, "", ("ours", "nothing")))
@example(Scene(True, False, False, "linked", ("source", "source")))
@example(Scene(True, False, True, "copied", ("source", "source")))
@_SLOW
def test_a_run_that_dies_at_any_step_leaves_whole_files_and_a_true_journal(scene: Scene) -> None:
    """The next run: every name has the old file or the whole result, and the journal knows which.

    Even if that run does not keep originals, and so is not told where the first one did.
    """
    for place, results, before in after_every_death(scene):
        with closing(place.journal("run2")) as journal:
            next_one = dataclasses.replace(place, backup=None)
            next_one.target.recover(journal)
            next_one.target.sweep(b"run2")
            files, kept = place.files(), place.kept()
            for number, result in enumerate(results):
                path, row = os.fsdecode(result.path), journal.find(result.path)
                known = row is not None and row.digest == result.written.digest
                assert files.pop(path, None) == (f"result {number}" if known else before.get(path))
                assert not known or scene.replaces(number)
                if place.backup:
                    assert kept.get(path, "old") == "old"
                    assert not known or path in kept, "an original that was replaced and is not kept"
                    assert os.lstat(place.root / path).st_nlink == 1, "a backup taken for a second name"
                before.pop(path, None)
            assert files == before
            assert (place.temps(), journal.intents()) == ([], [])


def test_a_rename_that_did_not_take_place_is_forgotten(place: Place, journal: Journal) -> None:
    """Died after the intent: the temp file is still there, and is swept or committed again."""
    result = place.result("CT", "pixels")
    journal.intend([result], {})
    place.target.recover(journal)
    assert journal.intents() == []
    assert journal.find(b"CT") is None
    assert place.target.commit([result], journal) == ([1], [])


def test_an_older_result_of_the_same_size_and_time_is_not_taken_for_the_new_one(place: Place, journal: Journal) -> None:
    """Results have their source's time, and their size is that of the pixels: the temp file tells."""
    place.target.commit([place.result("CT", "older!", 1)], journal)
    result = place.result("CT", "newer!", 2)
    journal.intend([result], {})
    place.target.recover(journal)
    row = journal.find(b"CT")
    assert row is not None
    assert row.digest != result.written.digest
    assert place.target.commit([result], journal) == ([2], [])
    assert place.files() == {"CT": "newer!"}


def test_a_rename_that_took_place_is_journalled(place: Place, journal: Journal) -> None:
    """Died after the rename: what stands there is the result."""
    result = place.result("CT", "pixels")
    journal.intend([result], {})
    os.rename(result.temp, place.target.final(result.path))
    place.target.recover(journal)
    row = journal.find(b"CT")
    assert row is not None
    assert row.digest == result.written.digest
    assert place.target.commit([result], journal) == ([1], [])


def test_what_stands_there_is_no_result_if_it_is_not_as_written(place: Place, journal: Journal) -> None:
    """Died after the rename, and changed before the next run: the journal does not vouch for it."""
    result = place.result("CT", "pixels")
    journal.intend([result], {})
    os.unlink(result.temp)
    place.put("CT", "changed")
    place.target.recover(journal)
    assert journal.intents() == []
    assert journal.find(b"CT") is None
    _, failures = place.target.commit([result], journal)
    assert failures == [CommitFailure(1, FailureKind.EXISTS, failures[0].reason)]
    assert place.files() == {"CT": "changed"}
