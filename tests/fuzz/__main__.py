"""Fuzzing: mutants of small files through the whole command, and of messages through the protocol.

    python -m tests.fuzz [N [SEED [FOLDER]]]        make fuzz N=20000 SEED=1

A finding is: the run stalls, or says more than its summary; a result that two reference decoders refuse, or that is
unlike every one; a header field or a length that is wrong; a result that was cut short; anything written outside of
the target; any exception of the protocol but its own. FOLDER (fuzz-findings) gets the files; exit code 1 if there
are any. The same N and SEED give the same mutants.
"""

import hashlib
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.command import TOP, all_dead, kill_marked, marked
from tests.fuzz.mutants import originals, write_mutants
from tests.fuzz.protocol import fuzz_protocol

BATCH = 400
_STALL_SECONDS = 600
"""A batch takes less than half a minute; what takes so long is not slow."""
_SETTINGS = """
[work]
workers = 2
[limits]
attempt_seconds = 4.0
memory_mib = 2048
[storage]
durable = false
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mutant, or a batch of them (`name` is empty), and what is wrong."""

    name: str
    what: str


@dataclass(slots=True)
class Batch:
    """One run over a folder of mutants, in `folder`, which is empty."""

    folder: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    source: Path = field(init=False)
    target: Path = field(init=False)
    outside: Path = field(init=False)

    def __post_init__(self) -> None:
        self.source, self.target, self.outside = (self.folder / name for name in ("source", "target", "outside"))
        self.outside.mkdir()

    def run(self) -> list[Finding]:
        """Run the command over the mutants and judge what came of them."""
        before = digests(self.source)
        code, out, err = self._command()
        if code not in (0, 1) or "Traceback" in err:
            return [Finding("", f"exit code {code}: {err[-500:]}")]
        findings = [Finding(name, "the source was changed") for name in differing(before, digests(self.source))]
        strange = [path.name for path in [*self.outside.rglob("*"), *self._strangers()]]
        findings += [Finding("", f"outside of the target: {name}") for name in strange]
        return findings + self._judge(json.loads(out))

    def _command(self) -> tuple[int, str, str]:
        config = self.folder / "config.toml"
        config.write_text(_SETTINGS)
        mark = secrets.token_hex(8)
        environment = os.environ | {"PYTHONPATH": str(TOP), "TMPDIR": str(self.outside), "DCMPOOL_TEST": mark}
        words = ["run", "--json", "--quiet", "--config", str(config), str(self.source), "-o", str(self.target)]
        process = subprocess.Popen(
            [sys.executable, "-m", "dcmpool", *words], cwd=self.outside, env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=_STALL_SECONDS)
        except subprocess.TimeoutExpired:
            return -1, "", f"the run does not end within {_STALL_SECONDS} s"
        finally:
            left = all_dead(marked(mark), 2)
            kill_marked(mark)
        return (process.returncode, out, err) if not left else (-2, "", f"processes outlive the run: {left}")

    def _strangers(self) -> list[Path]:
        known = {"source", "target", "outside", "config.toml"}
        made = {path.name for path in self.source.iterdir()} | {".dcmpool"}
        return [
            *(path for path in self.folder.iterdir() if path.name not in known),
            *(path for path in self.target.iterdir() if path.name not in made),
        ]

    def _judge(self, summary: dict[str, Any]) -> list[Finding]:
        names = sorted(path.name for path in self.source.iterdir())
        failed = {item["path"]: item for item in summary["failed"]}
        for item in failed.values():
            self.outcomes[f"failed: {item['kind']}"] += 1
        findings, done = [], []
        for name in names:
            there = (self.target / name).exists()
            if there == (name in failed):
                findings.append(Finding(name, "done and failed" if there else "neither done nor failed"))
            elif there and (self.target / name).read_bytes() == (self.source / name).read_bytes():
                self.outcomes["copied"] += 1
            elif there:
                done.append(name)
        self.outcomes["decompressed"] += len(done)
        return findings + self.judge_results(done)

    def judge_results(self, names: list[str]) -> list[Finding]:
        verdicts = self._verdicts(names)
        findings = []
        for name in names:
            found = verdicts[name]
            header = found.pop("header", "not judged")
            if header.startswith("unreadable"):
                self.outcomes["decompressed, but pydicom cannot read the source"] += 1
                continue
            refusing = [who for who, verdict in found.items() if verdict.startswith("refuses")]
            said = "; ".join(f"{who} {verdict}" for who, verdict in found.items())
            if header != "same":
                findings.append(Finding(name, f"header: {header}"))
            if len(refusing) > 1:
                findings.append(Finding(name, f"two references refuse it: {said}"))
            elif found and "same" not in found.values():
                findings.append(Finding(name, f"unlike every reference: {said}"))
        return findings

    def _verdicts(self, names: list[str]) -> dict[str, dict[str, str]]:
        """Have the references judge; one that ends its process has refused, and the rest is judged by another."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        folder = self.folder / "verdicts"
        folder.mkdir(exist_ok=True)
        report = folder / "report"
        left = [[name] for name in names]
        while left:
            report.write_text("")
            names_left = "\n".join("\t".join(words) for words in left)
            command = [sys.executable, "-m", "tests.fuzz.references"]
            subprocess.run(
                [*command, str(self.source), str(self.target), str(report)],
                cwd=TOP, input=names_left, text=True, check=False, capture_output=True,
            )  # fmt: skip
            lines = [line.split("\t", 2) for line in report.read_text(errors="replace").splitlines()]
            for name, who, verdict in lines:
                found[name][who] = verdict if verdict != "begun" else "refuses: it ends its process"
            name, who, verdict = lines[-1]
            at = next(index for index, words in enumerate(left) if words[0] == name)
            left = [[*left[at], who], *left[at + 1 :]] if verdict == "begun" else left[at + 1 :]
        return found


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the names whose digests are not the same in both."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def fuzz_files(number: int, seed: int, keep: Path) -> int:
    """Send mutants through the command, batch by batch; return how many findings there are."""
    outcomes: Counter[str] = Counter()
    count = 0
    for first in range(0, number, BATCH):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="dcmpool-fuzz-") as name:
            batch = Batch(Path(name), outcomes)
            words = write_mutants(batch.source, seed, range(first, min(number, first + BATCH)))
            findings = batch.run()
            for finding in findings:
                count += 1
                print(f"FINDING seed {seed} {finding.name} ({words.get(finding.name, '')}): {finding.what}", flush=True)
                keep_finding(keep, seed, batch.source, finding, words)
        seconds = time.monotonic() - begun
        print(f"{first + len(words)} of {number} mutants, {seconds:.1f} s; findings: {count}", flush=True)
    print("outcomes:", ", ".join(f"{name} {found}" for name, found in sorted(outcomes.items())))
    return count


def keep_finding(keep: Path, seed: int, source: Path, finding: Finding, words: dict[str, str]) -> None:
    """Keep the file of a finding, or the whole batch, with what is wrong."""
    keep.mkdir(exist_ok=True)
    for name in [finding.name] if finding.name else words:
        (keep / f"{seed}-{name}").write_bytes((source / name).read_bytes())
    with (keep / "findings.txt").open("a") as file:
        file.write(f"{seed}-{finding.name}\t{words.get(finding.name, '')}\t{finding.what}\n")


def main(arguments: list[str]) -> int:
    """Fuzz; return the exit code."""
    number = int(arguments[0]) if arguments else 20_000
    seed = int(arguments[1]) if len(arguments) > 1 else random.SystemRandom().randrange(1 << 32)
    keep = Path(arguments[2] if len(arguments) > 2 else "fuzz-findings")
    print(f"make fuzz N={number} SEED={seed}: mutants of {len(originals())} files", flush=True)
    findings = fuzz_protocol(number, seed) + fuzz_files(number, seed, keep)
    print(f"findings: {findings}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
