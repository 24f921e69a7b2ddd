"""Walking SOURCE: real trees with everything in them that is no plain file."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dcmpool.model import FailureKind
from dcmpool.tree import File, Note, walk

NOBODY = 65534
ELSEWHERE = b"/proc"
"""A TARGET that no link here leads to."""
LONG = b"x" * 255
"""The longest name that a file can have (NAME_MAX)."""


def found(source: Path, *, in_place: bool = False) -> list[File | Note]:
    """Return all that a walk yields."""
    return list(walk(os.fsencode(source), target=None if in_place else ELSEWHERE))


def paths(source: Path, *, in_place: bool = False) -> list[bytes]:
    """Return the files of a walk."""
    return [entry.path for entry in found(source, in_place=in_place) if isinstance(entry, File)]


def notes(source: Path, *, in_place: bool = False) -> dict[bytes, tuple[FailureKind | None, str]]:
    """Return what a walk has to say of other things."""
    return {e.path: (e.kind, e.reason) for e in found(source, in_place=in_place) if isinstance(e, Note)}


def tree(root: Path, *names: str) -> None:
    """Make files with their directories."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def without_root(work: Callable[[], bool]) -> bool:
    """Return what a child says that may not read everything."""
    if os.getuid():
        return work()
    child = os.fork()
    if not child:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_files_come_sorted_those_of_a_directory_before_those_below_it(tmp_path: Path) -> None:
    """Two walks give the same order, and a series its slices in turn."""
    tree(tmp_path, "b/2", "b/10", "b/1", "a/z", "a/y/x", "c", "B")
    assert paths(tmp_path) == [b"B", b"c", b"a/z", b"a/y/x", b"b/1", b"b/10", b"b/2"]


def test_a_file_comes_with_its_size_and_time(tmp_path: Path) -> None:
    """By which another run knows that it is unchanged."""
    tree(tmp_path, "slice")
    os.utime(tmp_path / "slice", ns=(1, 123_456_789_012_345_678))
    assert found(tmp_path) == [File(b"slice", 5, 123_456_789_012_345_678)]


def test_special_files_are_named_and_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open a FIFO or a device would wait for ever."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    os.symlink("/dev/zero", "zero")
    os.symlink("fifo", "to-fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert notes(tmp_path) == {
            b"fifo": (None, "a FIFO, not a file"),
            b"socket": (None, "a socket, not a file"),
            b"to-fifo": (None, "a FIFO, not a file"),
            b"zero": (None, "a character device, not a file"),
        }
    assert paths(tmp_path) == []


def test_links_to_files_are_files_and_links_to_directories_are_walked(tmp_path: Path) -> None:
    """Archives are full of both; a path is done under its own name."""
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    tree(source, "real")
    tree(elsewhere, "one", "deep/two")
    (source / "link").symlink_to("real")
    (source / "away").symlink_to(elsewhere / "one")
    (source / "folder").symlink_to(elsewhere)
    assert paths(source) == [b"away", b"link", b"real", b"folder/one", b"folder/deep/two"]
    assert notes(source) == {}


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    """There is no file that could be lost."""
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "deeper").symlink_to("nowhere/at/all")
    tree(tmp_path, "file")
    (tmp_path / "through").symlink_to("file/below")
    assert notes(tmp_path) == dict.fromkeys([b"broken", b"deeper", b"through"], (None, "a link to nothing"))


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    """Alone or by way of another, it leads to nothing either."""
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert set(notes(tmp_path)) == {b"self", b"one", b"two"}
    assert {kind for kind, _ in notes(tmp_path).values()} == {None}


@pytest.mark.timeout(20)
def test_directories_that_contain_themselves_end_the_walk_there(tmp_path: Path) -> None:
    """By a link to the same, to the parent, to SOURCE itself, or to each other."""
    tree(tmp_path, "a/file", "b/file")
    (tmp_path / "a" / "self").symlink_to(".")
    (tmp_path / "a" / "parent").symlink_to("..")
    (tmp_path / "root").symlink_to(tmp_path)
    (tmp_path / "a" / "to-b").symlink_to("../b")
    (tmp_path / "b" / "to-a").symlink_to("../a")
    assert paths(tmp_path) == [b"a/file", b"a/to-b/file", b"b/file", b"b/to-a/file"]
    cycle = (None, "a link to a directory that contains it")
    assert notes(tmp_path) == dict.fromkeys(
        [b"root", b"a/parent", b"a/self", b"a/to-b/to-a", b"b/to-a/parent", b"b/to-a/self", b"b/to-a/to-b"], cycle
    )


def test_a_directory_may_be_reached_by_any_number_of_links(tmp_path: Path) -> None:
    """An archive that lists its studies by date and by name has each of them three times, and so has TARGET."""
    tree(tmp_path, "store/A/slice", "by-date/x", "by-name/x")
    for index in ("by-date", "by-name"):
        (tmp_path / index / "A").symlink_to("../store/A")
    assert paths(tmp_path) == [b"by-date/x", b"by-date/A/slice", b"by-name/x", b"by-name/A/slice", b"store/A/slice"]
    assert notes(tmp_path) == {}


def test_links_below_links_are_followed_once_beside_their_own_place(tmp_path: Path) -> None:
    """Each link at its own place always, whatever was met before; and what is left is named with where it is."""
    tree(tmp_path, "store/A/slice", "store/B/slice", "by-date/x", "by-name/x")
    (tmp_path / "store" / "A" / "prior").symlink_to("../B")
    for index in ("by-date", "by-name"):
        (tmp_path / index / "A").symlink_to("../store/A")
    assert paths(tmp_path) == [
        b"by-date/x", b"by-date/A/slice", b"by-date/A/prior/slice", b"by-name/x", b"by-name/A/slice",
        b"store/A/slice", b"store/A/prior/slice", b"store/B/slice",
    ]  # fmt: skip
    assert notes(tmp_path) == {b"by-name/A/prior": (None, "a link that is followed already, as by-date/A/prior")}


@pytest.mark.timeout(20)
def test_links_that_multiply_paths_end(tmp_path: Path) -> None:
    """Thirty directories, each with two links to the next: a thousand million paths, of thirty files."""
    for number in range(30):
        tree(tmp_path, f"d{number:02}/file")
        for name in ("a", "b"):
            (tmp_path / f"d{number:02}" / name).symlink_to(f"../d{number + 1:02}")
    tree(tmp_path, "d30/file")
    walked = paths(tmp_path)
    assert len(walked) == len(set(walked)) < 31 + 2 * 30 + 2 * 30
    assert {b"d%02d/file" % number for number in range(31)} <= set(walked)
    assert {b"d%02d/%s/file" % (number, name) for number in range(30) for name in (b"a", b"b")} <= set(walked)
    assert {kind for kind, _ in notes(tmp_path).values()} == {None}


def test_more_links_inside_each_other_than_the_kernel_follows_are_named(tmp_path: Path) -> None:
    for number in range(45):
        tree(tmp_path, f"d{number:02}/file")
        (tmp_path / f"d{number:02}" / "next").symlink_to(f"../d{number + 1:02}")
    tree(tmp_path, "d45/file")
    named = notes(tmp_path)
    assert named[b"d00" + b"/next" * 41] == (None, "a link that leads back to itself, or by more than 40 links")
    assert {b"d%02d/file" % number for number in range(46)} <= set(paths(tmp_path))


def test_a_directory_that_cannot_be_read_is_a_failure_and_the_walk_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it may be lost, so it is not passed over."""
    tree(tmp_path, "closed/file", "open/file")
    (tmp_path / "closed").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # so that nobody needs a way through the directories above
    denied = {b"closed": (FailureKind.READ, "the directory cannot be read: Permission denied")}
    try:
        assert without_root(lambda: notes(Path()) == denied and paths(Path()) == [b"open/file"])
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe", b"new\nline", b"tab\t", b" ", b"-rf", b"\x1b[31m", LONG])
def test_any_name_comes_as_its_bytes(name: bytes, tmp_path: Path) -> None:
    """Not UTF-8, with control characters, or as long as can be; for files and directories alike."""
    directory = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(directory)
    Path(os.fsdecode(os.path.join(directory, name))).write_bytes(b"12345")
    assert [(e.path, e.size) for e in found(tmp_path) if isinstance(e, File)] == [(name + b"/" + name, 5)]


@pytest.mark.parametrize("in_place", [False, True])
def test_our_own_folder_is_left_at_the_top_alone(tmp_path: Path, in_place: bool) -> None:
    """There it is a TARGET's state; what has its name further down is somebody's own, and nothing vanishes."""
    tree(tmp_path, ".dcmpool/journal.sqlite", "deep/.dcmpool/tmp/x", "deep/.dcmpool-not/file", "file", "other/.dcmpool")
    walked = [b"file", b"deep/.dcmpool/tmp/x", b"deep/.dcmpool-not/file", b"other/.dcmpool"]
    assert paths(tmp_path, in_place=in_place) == walked
    named = {b".dcmpool": (None, "dcmpool's own folder, of a run that wrote here")}
    assert notes(tmp_path, in_place=in_place) == ({} if in_place else named)


def test_in_place_links_are_named_and_left(tmp_path: Path) -> None:
    """A result renamed over a link would break it, and leave what it links to as it was."""
    source = tmp_path / "source"
    tree(source, "real")
    tree(tmp_path, "elsewhere/file")
    (source / "link").symlink_to("real")
    (source / "folder").symlink_to("../elsewhere")
    (source / "broken").symlink_to("nowhere")
    left = (None, "a symbolic link; in place, links are left alone")
    assert notes(source, in_place=True) == {b"broken": left, b"folder": left, b"link": left}
    assert paths(source, in_place=True) == [b"real"]


def test_hard_links_are_separate_paths(tmp_path: Path) -> None:
    """Each has its own place in TARGET."""
    tree(tmp_path, "one")
    os.link(tmp_path / "one", tmp_path / "two")
    assert paths(tmp_path) == [b"one", b"two"]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_single_file_is_walked_by_its_name(tmp_path: Path, in_place: bool) -> None:
    """SOURCE may be a file; paths are relative to the directory that holds it."""
    tree(tmp_path, "one", "two")
    assert paths(tmp_path / "one", in_place=in_place) == [b"one"]


def test_source_may_be_a_link_to_a_directory(tmp_path: Path) -> None:
    """The user's own link is followed."""
    tree(tmp_path, "real/file")
    (tmp_path / "link").symlink_to("real")
    assert paths(tmp_path / "link") == [b"file"]


def test_an_empty_directory_holds_nothing(tmp_path: Path) -> None:
    """And is no failure."""
    (tmp_path / "empty").mkdir()
    assert found(tmp_path) == []


def test_a_source_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    """It was there when the run began."""
    assert found(tmp_path / "gone") == [Note(b"gone", FailureKind.READ, "no such file")]
