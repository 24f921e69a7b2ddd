"""Whether a run may begin: SOURCE, TARGET and the folders that the user named, held against one another.

`admit` and `admit_audit` look and write nothing, so that a dry run may ask them too; `take` locks TARGET.
"""

import contextlib
import os
import tempfile

from dcmpool import _os, backup, place
from dcmpool.backup import Backup
from dcmpool.commit import Target
from dcmpool.errors import UsageError
from dcmpool.place import is_inside
from dcmpool.protocol import Open
from dcmpool.text import shown
from dcmpool.tree import base_of


def admit(order: Open) -> Target:
    """Check SOURCE against TARGET.

    Raises
    ------
    UsageError
        SOURCE or TARGET cannot be used; nothing was written.
    """
    source, target = os.path.realpath(order.source), os.path.realpath(order.target)
    if not os.path.exists(source):
        raise UsageError(f"no such file or directory: {shown(order.source)}")
    if not os.path.isdir(source) and not os.path.isfile(source):
        raise UsageError(f"neither a directory nor a file: {shown(order.source)}")
    if os.path.isdir(source) and not os.access(source, os.R_OK | os.X_OK):
        raise UsageError(f"the source cannot be read: {shown(order.source)}: Permission denied")
    if not order.in_place:
        _refuse_overlap(source, target, shown(order.source), shown(order.target))
    root = base_of(order.source) if order.in_place else os.path.abspath(order.target)
    if order.quarantine:
        _check_folder("quarantine", order.quarantine, {"source": base_of(source), "target": root})
    kept = None
    if order.backup:
        _check_folder("backup", order.backup, {f"tree {shown(root)}": root, "quarantine": order.quarantine})
        kept = Backup(os.path.abspath(order.backup), root, order.durable)
    return Target(root, order.in_place, order.overwrite, order.durable, order.split_links, kept)


def _check_folder(what: str, folder: bytes, others: dict[str, bytes]) -> None:
    """Raise `UsageError` if a folder of the user's cannot be written, or lies in one of the others or around it."""
    name, real = shown(folder), os.path.realpath(folder)
    for other, path in others.items():
        tree = os.path.realpath(path)
        if path and (is_inside(real, tree) or is_inside(tree, real)):
            raise UsageError(f"the {what} {name} and the {other} lie in one another: choose a folder beside it")
    there = place.existing(real)
    if not os.path.isdir(there):
        raise UsageError(f"the {what} cannot be written: {name}: Not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"the {what} cannot be written: {name}: Permission denied")


def check_source(order: Open, target: Target, earlier: tuple[bytes, bytes] | None) -> None:
    """Raise `UsageError` if TARGET holds the results of another SOURCE: names would be taken for each other.

    `earlier` are SOURCE and TARGET of the last run, None before the first. A SOURCE that was moved together with its
    TARGET is the same.
    """
    if earlier is None or order.overwrite:
        return
    source, before = earlier
    way = os.path.relpath(base_of(order.source), target.root)
    if base_of(order.source) == source or way == os.path.relpath(source, before):
        return
    raise UsageError(
        f"the target {shown(target.root)} holds results of {shown(source)}: "
        "choose another target, or say with --overwrite that this source takes its place"
    )


def make_backup(kept: Backup) -> None:
    """Make its folder, and see that it can be written; raise `UsageError` if not."""
    try:
        _os.make_directory(kept.folder, durable=kept.durable, mode=backup.PRIVATE)
        with tempfile.TemporaryFile(dir=kept.folder):
            pass
    except OSError as error:
        raise UsageError(f"the backup cannot be written: {shown(kept.folder)}: {error.strerror}") from error


def admit_audit(order: Open) -> Target:
    """Find TARGET's journal; raise as `admit` does."""
    result = Target(os.path.abspath(order.target), order.in_place, order.overwrite, order.durable)
    if not os.path.isdir(result.root):
        raise UsageError(f"no such directory: {shown(order.target)}")
    path = place.find(result.root, order.journal).path
    if not os.path.isfile(path):
        raise UsageError(f"no run has written to {shown(order.target)}: there is no journal {shown(path)}")
    return result


def _refuse_overlap(source: bytes, target: bytes, source_name: str, target_name: str) -> None:
    if source == target:
        raise UsageError(f"source and target are the same: {source_name}. --in-place replaces the files there")
    if is_inside(target, source):
        raise UsageError(f"the target {target_name} lies inside the source {source_name}: choose one beside it")
    if is_inside(source, target):
        raise UsageError(f"the source {source_name} lies inside the target {target_name}: choose one beside it")


def take(target: Target) -> int:
    """Lock TARGET, make TARGET/.dcmpool/tmp and see that it can be written; return the lock.

    Raises
    ------
    LockedError
        Another run holds it, and perhaps began at the same moment: so nothing but directories is made before.
    UsageError
        It cannot be written; nothing is left behind.
    """
    if os.path.lexists(target.root) and not os.path.isdir(target.root):
        raise UsageError(f"the target is not a directory: {shown(target.root)}")
    path, probe = target.lock, os.path.join(target.temp, b"probe")
    made: list[bytes] = []
    lock = -1
    try:
        place.make_directories(target.state, made)
        is_new = not os.path.lexists(path)
        lock = _os.lock_file(path)
        place.make_directories(target.temp, made)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
        target.sync({os.path.dirname(directory) for directory in made})
    except OSError as error:
        if lock >= 0:
            if is_new:
                os.unlink(path)
            os.close(lock)
        for directory in reversed(made):
            with contextlib.suppress(OSError):  # another run may have come in
                os.rmdir(directory)
        raise UsageError(f"the target cannot be written: {shown(target.root)}: {error.strerror}") from error
    return lock
