"""A run as it stands, for whoever wants to see it: the user's terminal, the event stream, `dcmpool status`. Pure."""

import os
from collections.abc import Callable
from itertools import islice

from dcmpool.events import Doing, GateState, Refused, Snapshot
from dcmpool.model import Outcome
from dcmpool.pace import Pace
from dcmpool.pool import Pool

_SAMPLE_SECONDS = 1.0
_MOST_WORKERS = 64
"""How many are shown: an answer to `dcmpool status` has to fit into a socket's buffer."""
_REFUSED = 3
"""How many files that have failed are shown."""


class Overview:
    """Looks at a run, which began at `begun`; `stage` says what a child is doing, by its number."""

    def __init__(self, pool: Pool, stage: Callable[[int], str], begun: float) -> None:
        self._pool = pool
        self._stage = stage
        self._begun = begun
        self._pace = Pace(begun)
        self._due = begun + _SAMPLE_SECONDS

    def next_due(self) -> float:
        """Return when `sample` is due."""
        return self._due

    def sample(self, now: float) -> bool:
        """Take note of how far the run is, once a second; return whether it was time for that."""
        if now < self._due:
            return False
        self._due = now + _SAMPLE_SECONDS
        tally = self._pool.tally
        files = tally.ended - tally.counts[Outcome.SETTLED]
        self._pace.sample(now, files, tally.source_bytes, works=self._pool.state == "running")
        return True

    def look(self, now: float) -> Snapshot:
        """Return the run as it stands."""
        pool, tally = self._pool, self._pool.tally
        left = max(0, tally.bytes_walked - tally.source_bytes - tally.settled_bytes)
        return Snapshot(
            at_seconds=now - self._begun,
            state=pool.state,
            counts={outcome: count for outcome in Outcome if (count := tally.counts[outcome])},
            files=tally.ended,
            files_found=tally.files_walked,
            walk_complete=pool.jobs.walked,
            source_bytes=tally.source_bytes,
            settled_bytes=tally.settled_bytes,
            bytes_found=tally.bytes_walked,
            native_bytes=tally.native_bytes,
            confirmed=tally.confirmed,
            kills=pool.crew.kills,
            retries=tally.retries,
            now=self._pace.now,
            overall=self._pace.overall,
            remaining=self._pace.remaining(left) if pool.jobs.walked else None,
            gate=self._gate(),
            workers=self._workers(now),
            refused=tuple(
                Refused(path=os.fsdecode(ending.path), kind=ending.kind, reason=ending.reason)
                for ending in islice(reversed(tally.failed.values()), _REFUSED)
            ),
            storage=pool.brakes.stall_text(now),
        )

    def _gate(self) -> GateState:
        gate = self._pool.gate
        return GateState(
            writers=gate.writers_held,
            window=gate.open_to,
            max_writers=gate.max_writers,
            bytes=gate.bytes_held,
            max_bytes=gate.max_bytes,
            waiting=gate.waiting,
            write_seconds=gate.write_seconds,
        )

    def _workers(self, now: float) -> tuple[Doing, ...]:
        busy = sorted((worker for worker in self._pool.crew if worker.job), key=lambda worker: worker.begun)
        return tuple(
            Doing(
                pid=worker.pid,
                path=os.fsdecode(worker.job.path),
                phase=worker.phase,
                stage=self._stage(worker.id),
                engine=worker.engine,
                seconds=max(0.0, now - worker.begun),
                limit_seconds=worker.limit_seconds,
            )
            for worker in busy[:_MOST_WORKERS]
            if worker.job
        )
