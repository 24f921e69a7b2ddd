"""One series through dcmpool, the peers and the floor: a trial, a round to warm up, then rounds, A B C A B C."""

from itertools import count
from pathlib import Path

from benchmarks.measure import CommandError, Measured, peak_bytes, timed
from benchmarks.peers import Peer, Task
from benchmarks.results import Row
from benchmarks.series import Series, wrong


def race(
    folder: Path, series: Series, kind: str, syntax: str, peers: list[Peer], rounds: int, workers: int
) -> list[Row]:
    """Measure each of `peers` in `folder`; one that fails the trial, or a round, has no figures but a reason.

    They are tried from last to first: where the pixels are not known, dcmpool is not to say what is right. The round to
    warm up fills memory with what can be dropped again: pages that nobody has touched yet cost a virtual machine more
    than all else that a write costs, and they would be the first peer's.
    """
    rows = [Row(kind, syntax, peer.name, len(series.names)) for peer in peers]
    targets = (_made(folder / f"target{number}") for number in count())
    for peer, row in [*zip(peers, rows, strict=True)][::-1]:
        _try(peer, row, series, Task(series.trial, next(targets), workers, syntax))
    for number in range(1 + rounds):
        for peer, row in zip(peers, rows, strict=True):
            if not row.why_not:
                _run(peer, row, series, Task(series.folder, next(targets), workers, syntax), is_counted=number > 0)
    return rows


def _try(peer: Peer, row: Row, series: Series, task: Task) -> None:
    """Run it over a few files: every pixel must be right. Its memory is looked at here, which would cost it time."""
    try:
        row.peak_bytes = peak_bytes(peer.command(task))
        row.why_not = wrong(series, task.target)
    except CommandError as error:
        row.why_not = str(error)


def _run(peer: Peer, row: Row, series: Series, task: Task, *, is_counted: bool) -> None:
    try:
        measured = timed(peer.command(task))
    except CommandError as error:
        row.why_not = str(error)
        return
    made = sum((task.target / name).is_file() for name in series.names)
    if made < len(series.names):
        row.why_not = f"{len(series.names) - made} of {len(series.names)} results are missing"
        return
    if not is_counted:
        return
    wall = _seconds(peer, measured)
    row.wall_seconds.append(wall)
    row.start_seconds.append(measured.wall_seconds - wall)
    row.cpu_seconds.append(measured.cpu_seconds)


def _seconds(peer: Peer, measured: Measured) -> float:
    return float(measured.output) if peer.apart else measured.wall_seconds


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
