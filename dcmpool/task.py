"""What a run is to do: SOURCE, TARGET, and what the user said of them beside the settings."""

from subprocess import DEVNULL

import msgspec

from dcmpool import __version__
from dcmpool.config import Config
from dcmpool.model import Purpose
from dcmpool.protocol import Open


class Task(msgspec.Struct, frozen=True):
    """What a run is to do, beside its settings."""

    source: bytes
    target: bytes
    in_place: bool = False
    files_from: int | None = None
    """The descriptor of a list of paths (`pathlist.py`); None to walk all of SOURCE."""
    backup: bytes = b""
    """In place: the folder where originals are kept."""
    purpose: Purpose = Purpose.RUN
    """In an audit `source` is what the journal of `target` says."""
    retry: str = ""
    """The FailureKind of earlier runs that is done again, whatever decided it; ALL_KINDS, or "" for none."""
    journal: bytes = b""
    """Where the journal lies; b"" for its usual place (`place.py`)."""
    quarantine: bytes = b""
    """The folder where originals that fail are copied; b"" for none."""

    command: str = ""
    """How the user asked for it, for a shell; "" if that cannot be said again."""

    @property
    def keeps_originals(self) -> bool:
        """Whether an original is still to be had when its result stands."""
        return bool(not self.in_place or self.backup)

    @property
    def stdin(self) -> int:
        """What the process that walks has for its standard input."""
        return DEVNULL if self.files_from is None else self.files_from

    def order(self, config: Config, run: str, *, settings: str = "") -> Open:
        """Return it as the first message to that process; `run` names the run, `settings` are for the journal.

        `config` is as the user gave it: what this machine makes of it is another each time, and no other setting.
        """
        return Open(
            source=self.source,
            target=self.target,
            in_place=self.in_place,
            listed=self.files_from is not None,
            overwrite=config.work.overwrite,
            durable=config.storage.durable,
            run=run,
            judge=f"{__version__} {config.judging()}",
            again=False,
            purpose=self.purpose,
            retry=self.retry,
            settings=settings,
            split_links=config.work.hard_links == "split",
            backup=self.backup,
            journal=self.journal,
            quarantine=self.quarantine,
        )
