"""What the loop itself tells of a run, as events; the policy tells the rest."""

import os

import msgspec

from dcmpool.config import Config
from dcmpool.events import RunBegun, RunEnded, WorkerDied
from dcmpool.evidence import Death, versions
from dcmpool.model import FailureKind, Outcome
from dcmpool.report import Report


def run_begun(run: str, config: Config, *, source: bytes, target: bytes, in_place: bool, audit: bool) -> RunBegun:
    """Return the beginning of the run of this name."""
    return RunBegun(
        run=run,
        pid=os.getpid(),
        host=os.uname().nodename,
        source=os.fsdecode(source),
        target=os.fsdecode(target),
        in_place=in_place,
        audit=audit,
        settings=msgspec.to_builtins(config),
        versions=versions(),
    )


def run_ended(report: Report) -> RunEnded:
    """Return the end of a run as an event; what came of each file was told before."""
    return RunEnded(
        exit_code=report.exit_code,
        stopped=report.stopped,
        counts={Outcome(outcome): count for outcome, count in report.counts.items()},
        by_transfer_syntax=report.by_transfer_syntax,
        native_bytes=report.native_bytes,
        confirmed=report.confirmed,
        kills=report.kills,
        retries=report.retries,
    )


def worker_died(death: Death, attempt: int, pid: int, evidence_name: str) -> WorkerDied:
    """Return the end of a child over a file; `evidence_name` is the folder where more of it is kept, or ""."""
    return WorkerDied(
        path=os.fsdecode(death.path),
        attempt=attempt,
        pid=pid,
        kind=FailureKind(death.kind),
        reason=death.reason,
        cause=death.cause,
        engine=death.engine,
        stage=death.stage,
        seconds=max(0.0, death.seconds),
        limit_seconds=death.limit_seconds,
        evidence=evidence_name,
    )
