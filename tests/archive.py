"""An archive of many small files, from the scan and a first run that is killed to the last that finds nothing to do.

    python -m tests.archive [FILES [FOLDER]]        `make archive FILES=100000`

The files are hard links to some 250 real ones: encapsulated in several Transfer Syntaxes, native, text, damaged. What
each must become is known, and every result of the archive is compared. Exit code 1 if a count does not add up, a file
is lost or wrong, or the supervisor or the clerk grows.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.command import TOP
from tests.encoders import compressed
from tests.series import check_series, native_series, pixel_digest, read_shipped
from tests.soak import digest, family, sample

SYNTAXES = (JPEGLosslessSV1, RLELossless, JPEGLSLossless, JPEGLossless, JPEG2000Lossless)
_EACH = 36
"""Originals of each Transfer Syntax; half as many are native, text or lossy, and a sixth are damaged."""
_SIZE = 64
_FOLDER_FILES = 200
_WARM = 0.2
"""The share of a run in which processes may still grow to their size."""
GROWTH_BYTES = 16 << 20


class Originals:
    """The real files, in `folder`: `outcomes` says what must become of each, `digests` what its result is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outcomes: dict[str, str] = {}
        self._record: dict[str, str] = {}
        folder.mkdir()
        slices = native_series(_EACH, _SIZE)
        for number, instance in enumerate(slices):
            for syntax in SYNTAXES:
                name = f"{number:03}-{syntax.rsplit('.', 1)[1]}.dcm"
                compressed(instance, syntax).save_as(folder / name, enforce_file_format=True)
                self._expect(name, "decompressed", pixel_digest(instance))
            if number % 2:
                instance.save_as(folder / f"{number:03}-native.dcm", enforce_file_format=True)
                self._expect(f"{number:03}-native.dcm", "copied")
                (folder / f"{number:03}.txt").write_text(f"Slice {number} was acquired twice.\n" * 20)
                self._expect(f"{number:03}.txt", "other")
            if number % 6 == 0:
                self._damage(f"{number:03}-70.dcm", number)
        lossy = compressed(read_shipped("examples_rgb_color.dcm"), JPEGBaseline8Bit)
        lossy.save_as(folder / "colour.dcm", enforce_file_format=True)
        self._expect("colour.dcm", "decompressed")
        self.digests = self._results()

    def _expect(self, name: str, outcome: str, pixels: str = "") -> None:
        self.outcomes[name] = outcome
        if pixels:
            self._record[name] = pixels

    def _damage(self, name: str, number: int) -> None:
        """Write a copy that ends in the middle of its codestream."""
        data = (self.folder / name).read_bytes()
        (self.folder / f"{number:03}-cut.dcm").write_bytes(data[: -len(data) // 4])
        self._expect(f"{number:03}-cut.dcm", "failed")

    def _results(self) -> dict[str, str]:
        """Return the digests of the results of one small run, whose pixels were those before compression."""
        target = self.folder.with_name("checked")
        process = start(self.folder, target)
        process.communicate()
        problems = check_series(self._record, target)
        if process.returncode != 1 or problems:
            raise RuntimeError(f"not even the originals come out right: {problems}")
        return {name: digest(target / name) for name, outcome in self.outcomes.items() if outcome != "failed"}


class Archive:
    """`count` files under `folder`, hard links to the originals."""

    def __init__(self, folder: Path, originals: Originals, count: int) -> None:
        self.folder = folder
        self.count = count
        self.expected: Counter[str] = Counter()
        self.digests: dict[str, str] = {}
        """Path of each result to what it must be."""
        names = sorted(originals.outcomes)
        for number in range(count):
            name = names[number % len(names)]
            path = f"{number // _FOLDER_FILES:05}/{number:07}-{name}"
            if number % _FOLDER_FILES == 0:
                (folder / path).parent.mkdir(parents=True)
            os.link(originals.folder / name, folder / path)
            self.expected[originals.outcomes[name]] += 1
            if name in originals.digests:
                self.digests[path] = originals.digests[name]

    def problems(self, target: Path) -> Iterator[str]:
        """Say what is lost, wrong or too many in a target."""
        found = {str(path.relative_to(target)) for path in target.glob("[0-9]*/*")}
        yield from (f"lost: {path}" for path in sorted(self.digests.keys() - found))
        yield from (f"not expected: {path}" for path in sorted(found - self.digests.keys()))
        for path in sorted(found & self.digests.keys()):
            if digest(target / path) != self.digests[path]:
                yield f"wrong: {path}"
        yield from (f"left in tmp: {path}" for path in target.glob(".dcmpool/tmp/*"))


@dataclass(slots=True)
class Memory:
    """The memory of supervisor and clerk, sampled over a run."""

    samples: list[dict[str, tuple[int, int]]] = field(default_factory=list)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Take a sample, once there are workers: until then the supervisor is still loading its own modules."""
        with contextlib.suppress(psutil.Error):
            if family(psutil.Process(process.pid))["worker"]:
                self.samples.append(sample(process))

    def growth(self, part: str) -> tuple[int, int, int]:
        """Return bytes once it was warm, at the end, and at most."""
        bytes_ = [entry[part][1] for entry in self.samples if part in entry]
        warm = bytes_[int(len(bytes_) * _WARM) :] or [0]
        return warm[0], warm[-1], max(warm)


def start(source: Path, target: Path) -> subprocess.Popen[bytes]:
    """Start a run; its report comes as JSON."""
    command = [sys.executable, "-m", "dcmpool", "run", str(source), "-o", str(target), "--json"]
    return subprocess.Popen(
        command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


class Trial:
    """The archive's way through scan, killed run, resumed run, idle run and report."""

    def __init__(self, archive: Archive, target: Path) -> None:
        self._archive = archive
        self._target = target
        self.problems: list[str] = []
        self.memory = Memory()

    def run(self) -> None:
        """Do it all."""
        self._check("the scan", self._scanned(), dict(self._archive.expected))
        self._say("killed", self._killed)
        self._say("resumed", self._resumed)
        self._say("idle", self._idle)
        self._check("the report of all runs", self._reported(), dict(self._archive.expected))
        self._say("compared", lambda: self.problems.extend(self._archive.problems(self._target)))
        if not self.memory.samples:
            self.problems.append("nobody saw how much memory the run takes")
        for part in ("supervisor", "clerk"):
            warm, last, most = self.memory.growth(part)
            print(f"{part}: {warm >> 20} MiB when warm, {last >> 20} MiB at the end, {most >> 20} MiB at most")
            if last > warm + GROWTH_BYTES:
                self.problems.append(f"the {part} grows")

    def _say(self, what: str, step: Any) -> None:
        begun = time.monotonic()
        found = step()
        print(f"{what}: {time.monotonic() - begun:.1f} s {found or ''}", flush=True)

    def _killed(self) -> str:
        """Run until a third is done, and kill the supervisor."""
        process = start(self._archive.folder, self._target)
        sign = self._target / f"{self._archive.count // _FOLDER_FILES // 3:05}"
        while process.poll() is None and not sign.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self._check("the exit code of the run that was killed", process.returncode, -signal.SIGKILL)
        return f"with {sum(1 for _ in self._target.glob('[0-9]*/*')):,} results"

    def _resumed(self) -> str:
        counts, seconds = self._whole_run(self.memory)
        self._check("all files of the run that resumes", sum(counts.values()), self._archive.count)
        if counts["settled"] < self._archive.count // 4:
            self.problems.append(f"the run that resumes does too much anew: {counts}")
        done = self._archive.count - counts["settled"]
        return f"{counts}, {done / seconds:.0f} files/s"

    def _idle(self) -> str:
        counts, _ = self._whole_run(Memory())
        failed = self._archive.expected["failed"]
        self._check("an idle run", counts, {"settled": self._archive.count - failed, "failed": failed})
        return ""

    def _whole_run(self, memory: Memory) -> tuple[dict[str, int], float]:
        process = start(self._archive.folder, self._target)
        while True:
            memory.watch(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                summary = json.loads(process.communicate(timeout=0.1)[0])
                break
        self._check("an exit code", summary["exit_code"], 1 if self._archive.expected["failed"] else 0)
        counts = Counter({outcome: count for outcome, count in summary["counts"].items() if count})
        return counts, summary["seconds"]

    def _scanned(self) -> dict[str, int]:
        """Return what `dcmpool scan` expects to become of the files."""
        counts: dict[str, int] = self._counted("scan", str(self._archive.folder), "--json")["counts"]
        return counts

    def _reported(self) -> dict[str, int]:
        """Return what `dcmpool report` counts, over all runs."""
        counts: dict[str, int] = self._counted("report", str(self._target), "--json", "-")["totals"]["counts"]
        return counts

    def _counted(self, *command: str) -> Any:
        begun = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "dcmpool", *command], cwd=TOP, stdout=subprocess.PIPE, check=False
        )
        print(f"{command[0]}: {time.monotonic() - begun:.1f} s", flush=True)
        return json.loads(ended.stdout)

    def _check(self, what: str, found: object, expected: object) -> None:
        if isinstance(found, dict):
            found = {outcome: count for outcome, count in found.items() if count}
        if found != expected:
            self.problems.append(f"{what}: {found}, not {expected}")


def main(arguments: list[str]) -> int:
    """Make the archive under FOLDER, on whose file system there has to be room, and do the trial."""
    count = int(arguments[0]) if arguments else 100_000
    with tempfile.TemporaryDirectory(prefix="dcmpool-archive-", dir=arguments[1] if arguments[1:] else None) as name:
        folder = Path(name)
        archive = Archive(folder / "archive", Originals(folder / "originals"), count)
        print(f"{count:,} files: {dict(archive.expected)}", flush=True)
        trial = Trial(archive, folder / "target")
        trial.run()
    print(*trial.problems[:50], sep="\n", end="\n" if trial.problems else "all counts add up, every result is right\n")
    return 1 if trial.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
