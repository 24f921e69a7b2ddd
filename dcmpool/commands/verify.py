"""`dcmpool verify`: check the results of earlier runs again."""

import os
from typing import Annotated, Any

import typer

from dcmpool.config import load
from dcmpool.errors import UsageError
from dcmpool.model import Purpose
from dcmpool.options import AsJson, ConfigFile, Journal, Profile, Quiet, Workers
from dcmpool.options import limit as seconds
from dcmpool.task import Task
from dcmpool.terminal import one_line, supervise


def verify(
    target: Annotated[str, typer.Argument(help="What an earlier run has written.", metavar="TARGET")],
    workers: Workers = None,
    limit: Annotated[
        float | None, typer.Option(metavar="S", parser=seconds, help="Limit of one file. [from size and speed]")
    ] = None,
    journal: Journal = None,
    profile: Profile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check the results of earlier runs again; nothing is changed.

    Each file must be what the journal says. Where its source is still there, unchanged, the header must be the
    source's and a second engine must give the same picture.

    \b
    python -m dcmpool verify archive-decompressed
    """
    with one_line():
        flags: dict[str, dict[str, Any]] = {"work": {"workers": workers}, "limits": {"attempt_seconds": limit}}
        settings = load(profile=profile or "", path=config, flags=flags)
        root = os.fsencode(os.path.abspath(target)) if target else b""
        if not root or journal == "":
            raise UsageError("a path is empty")
        kept = os.fsencode(os.path.abspath(journal)) if journal else b""
        supervise(Task(b"", root, purpose=Purpose.AUDIT, journal=kept), settings, as_json=as_json, quiet=quiet)
