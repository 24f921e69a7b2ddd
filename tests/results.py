"""Results as workers leave them: a complete temp file in TARGET/.dcmpool/tmp and the message about it."""

import os
from dataclasses import dataclass
from pathlib import Path

from dcmpool.backup import Backup
from dcmpool.commit import Target
from dcmpool.journal import Journal
from dcmpool.model import Outcome
from dcmpool.protocol import Result, Written

MTIME_NS = 1_700_000_000_123_456_789
"""When the source was written, and so its result."""


@dataclass(frozen=True)
class Place:
    """A TARGET on disk; in place it is SOURCE."""

    root: Path
    in_place: bool = False
    overwrite: bool = False
    split_links: bool = False
    backup: Path | None = None

    def __post_init__(self) -> None:
        os.makedirs(self.target.temp, exist_ok=True)

    @property
    def target(self) -> Target:
        root = os.fsencode(self.root)
        kept = Backup(os.fsencode(self.backup), root, durable=True) if self.backup else None
        return Target(root, self.in_place, self.overwrite, True, self.split_links, kept)

    def journal(self, run: str = "run1", judge: str = "1.0") -> Journal:
        """Open its journal."""
        return Journal(os.path.join(self.target.state, b"journal.sqlite"), run, judge)

    def result(self, path: str, content: str, job: int = 1, source_size: int = 3) -> Result:
        """Write a temp file with the source's time, and return it as a result."""
        temp = os.path.join(self.target.temp, b"run1-%d-1-99" % job)
        Path(os.fsdecode(temp)).write_text(content)
        os.utime(temp, ns=(MTIME_NS, MTIME_NS))
        written = Written(
            job=job,
            outcome=Outcome.DECOMPRESSED,
            engine="gdcm",
            transfer_syntax_uid="1.2.840.10008.1.2.4.70",
            source_size=source_size,
            source_mtime_ns=MTIME_NS,
            size=len(content),
            mtime_ns=MTIME_NS,
            native_bytes=8,
            digest=os.fsencode(content).hex()[:32],
            seconds=1.5,
            write_seconds=0.5,
        )
        return Result(job, os.fsencode(path), temp, written)

    def put(self, path: str, content: str) -> Path:
        """Write a file that is no result, with the source's time."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        os.utime(file, ns=(MTIME_NS, MTIME_NS))
        return file

    def files(self) -> dict[str, str]:
        """Return all files but the state, with their content."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in found
            if not {".dcmpool", ".kept"} & set(path.relative_to(self.root).parts)
        }

    def kept(self) -> dict[str, str]:
        """Return the originals that are kept, with their content."""
        if self.backup is None:
            return {}
        found = (path for path in self.backup.rglob("*") if path.is_file())
        return {str(path.relative_to(self.backup)): path.read_text() for path in found}

    def temps(self) -> list[bytes]:
        """Return what is left in the temp folder."""
        return os.listdir(self.target.temp)
