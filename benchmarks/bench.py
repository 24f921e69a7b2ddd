"""`make bench`: dcmpool against its peers and the floor, and what its parts cost.

    python -m benchmarks.bench [--files 280] [--rounds 3] [--only 'ct/.70 noop'] [--series DIR] [--write FILE]

`--only` takes shell patterns for what is to be measured: `KIND/SYNTAX/PEER`, a beginning of it, or one of the others:
start, stages/SYNTAX, noop, scale, memory, fsync. dcmpool itself takes part in every race.
"""

import argparse
import compileall
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import dcmpool
from benchmarks import chart, results
from benchmarks.disk import Disk
from benchmarks.machine import facts
from benchmarks.measure import timed
from benchmarks.memory import bench_memory
from benchmarks.peers import DCMPOOL, PEERS, Peer
from benchmarks.race import race
from benchmarks.results import Results
from benchmarks.scale import bench_noop, bench_scale
from benchmarks.series import KINDS, SYNTAXES, given_slices, make
from benchmarks.stages import bench_stages
from benchmarks.storage import bench_storage
from dcmpool import _os


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asks for."""

    files: int
    rounds: int
    only: tuple[str, ...]
    million: bool
    series: Path | None
    write: Path | None

    def wants(self, name: str) -> bool:
        """Whether `name` is to be measured."""
        return not self.only or any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}/*") for p in self.only)

    def __str__(self) -> str:
        only = f", ONLY={' '.join(self.only)}" if self.only else ""
        given = ", CT slices of the user's own where there were any" if self.series else ""
        return f"FILES={self.files} ROUNDS={self.rounds}{only}{given}"


def main() -> None:
    """Measure what is wanted; print it, and write it where wanted."""
    settings = _settings(sys.argv[1:])
    compileall.compile_dir(Path(dcmpool.__file__).parent, quiet=2)  # as pip does, but for an editable install
    measured = Results()
    for peer in PEERS:
        if missing := peer.missing():
            print(f"{peer.name}: skipped, there is no {missing}; benchmarks/install_peers.sh installs it (as root)")
    with tempfile.TemporaryDirectory(prefix="dcmpool-bench-") as folder:
        lines = facts(Path(folder), str(settings))
        print(*lines, sep="\n", flush=True)
        _measure(Path(folder), settings, measured)
    if settings.write:
        results.write(settings.write, results.markdown(measured, lines))
        settings.write.with_suffix(".svg").write_text(chart.svg(measured))


def _measure(folder: Path, settings: Settings, measured: Results) -> None:
    sections: dict[str, Callable[[Path], None]] = {
        "start": lambda place: _bench_start(settings.rounds, measured),
        "noop": lambda place: bench_noop(place, measured),
        "scale": lambda place: bench_scale(place, measured, million=settings.million),
        "fsync": lambda place: bench_storage(place, measured),
        "memory": lambda place: bench_memory(place, measured),
    }
    _bench_races(folder, settings, measured)
    for name, bench in sections.items():
        if settings.wants(name):
            place = folder / name
            place.mkdir()
            bench(place)


def _bench_races(folder: Path, settings: Settings, measured: Results) -> None:
    given, disk = given_slices(settings.series), Disk()
    for kind in KINDS:
        for syntax, uid in SYNTAXES.items():
            name = f"{kind}/{syntax}"
            peers = [peer for peer in PEERS if settings.wants(f"{name}/{peer.name}") and _can(peer, kind, syntax)]
            stages = kind == "ct" and settings.wants(f"stages/{syntax}")
            if not peers and not stages:
                continue
            place = folder / kind / syntax
            slices = given[uid] if (KINDS[kind].rows, KINDS[kind].frames) == (512, 1) else []
            series = make(place, KINDS[kind], uid, settings.files, slices)
            disk.rest()
            if peers:
                contenders = [DCMPOOL, *peers]
                for row in race(place, series, kind, syntax, contenders, settings.rounds, _os.available_cpus()):
                    measured.row(row)
            if stages:
                bench_stages(place, series, syntax, measured)
            disk.remove(place)


def _can(peer: Peer, kind: str, syntax: str) -> bool:
    return syntax in peer.syntaxes and (not peer.kinds or kind in peer.kinds) and not peer.missing()


def _bench_start(rounds: int, measured: Results) -> None:
    command = [sys.executable, "-m", "dcmpool", "--version"]
    seconds = statistics.median(timed(command).wall_seconds for _ in range(max(5, rounds)))
    measured.figure("Start-up", "python -m dcmpool --version", f"{seconds * 1e3:.0f} ms")


def _settings(arguments: list[str]) -> Settings:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--files", type=int, default=2000, help="CT slices; other kinds have fewer, larger files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="shell patterns, apart by blanks")
    parser.add_argument("--million", action="store_true", help="let `scale` go on to a million files")
    parser.add_argument("--series", type=Path, help="a folder of CT slices to use instead of our own")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this file, a chart beside it")
    found = parser.parse_args(arguments)
    return Settings(found.files, found.rounds, tuple(found.only.split()), found.million, found.series, found.write)


if __name__ == "__main__":
    main()
