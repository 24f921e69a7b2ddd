"""What a run can be told while it is on (`dcmpool control`), and what it answers. Pure."""

import json
from enum import StrEnum
from typing import Annotated

import msgspec

from dcmpool.events import Snapshot
from dcmpool.pool import Pool

Number = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class Command(StrEnum):
    """What to do."""

    STATUS = "status"
    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    WORKERS = "workers"
    WRITERS = "writers"


NUMBERED = (Command.WORKERS, Command.WRITERS)
"""Those that come with a number."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one client asks for."""

    command: Command
    value: Number | None = None


class Answer(msgspec.Struct, frozen=True):
    """What it hears: a line, and for a status the run as it stands."""

    text: str
    ok: bool = True
    run: Snapshot | None = None

    def encode(self) -> bytes:
        """Return it as one line; file names as in the event stream."""
        return json.dumps(msgspec.to_builtins(self)).encode() + b"\n"


def obey(request: Request, pool: Pool) -> Answer:
    """Do what is asked for, but for a status, which only the loop can give."""
    if (request.value is None) is (request.command in NUMBERED):
        return Answer(f"{request.command} takes {'a number' if request.value is None else 'no number'}", ok=False)
    if pool.draining:
        return Answer("the run is ending already", ok=False)
    return Answer(_obey(request, pool))


def _obey(request: Request, pool: Pool) -> str:
    match request.command:
        case Command.PAUSE:
            pool.brakes.is_paused = True
            return "paused: the files that workers have end, and no other is given out"
        case Command.RESUME:
            pool.brakes.is_paused = False
            return "resumed" if pool.state != "closed" else "resumed, but it is outside of the window"
        case Command.DRAIN:
            pool.drain("drained")
            return "the files that workers have end, then the run; the same command resumes it"
        case Command.WORKERS:
            pool.employ(request.value or 1)
            return f"{request.value} workers"
        case _:
            pool.gate.resize(request.value or 1)
            return f"{request.value} may write at once"
