"""The report as one page of HTML that needs nothing but itself."""

import json
import shlex
import time
from importlib.resources import files

from dcmpool import __version__, plot
from dcmpool.advice import MEANING, NEXT_STEP, OUTCOMES
from dcmpool.history import Run
from dcmpool.model import Outcome
from dcmpool.review import Review, stack
from dcmpool.syntaxes import syntax_name
from dcmpool.text import duration, shown, size

_SHORT = 0.9995
"""Seconds below which milliseconds are shown."""

START = '<!doctype html>\n<html lang="en">\n<meta name="generator" content="dcmpool">'
"""How each page begins, by which it is known as one."""

_STATES = {"R": "running", "S": "sleeping", "D": "in uninterruptible sleep", "T": "stopped", "t": "traced"}


def render(review: Review, target: bytes) -> str:
    """Return the page."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - of no use to a run

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "shown": shown,
        "size": size,
        "duration": lambda seconds: duration(seconds) if seconds >= _SHORT else f"{seconds * 1e3:.0f} ms",
        "moment": _moment,
        "number": lambda value: f"{value:,}",
        "syntax": lambda uid: syntax_name(uid) if uid else "none known",
        "folder": lambda path: shown(path) if path else "the top of SOURCE",
    }
    template = environment.from_string((files("dcmpool") / "templates" / "report.html").read_text("utf-8"))
    return template.render(
        start=START,
        review=review,
        target=target,
        last=review.runs[-1] if review.runs else None,
        verdict=_verdict(review),
        again=_command(review),
        report=f"dcmpool report {shlex.quote(shown(target))} --csv files.csv",
        outcomes=[outcome for outcome in OUTCOMES if review.outcomes[outcome]],
        decided=[o for o in OUTCOMES if any(counts[o] for counts in review.by_syntax.values())],
        failed=review.outcomes[Outcome.FAILED],
        is_short=any(listed.more for listed in (*review.failures.values(), review.kills, review.left_out)),
        words=OUTCOMES,
        meaning=MEANING,
        next_step=NEXT_STEP,
        charts=plot.charts(review.timeline),
        stack=stack,
        states=_STATES,
        settings=_settings,
        version=__version__,
        now=time.time(),
    )


def _verdict(review: Review) -> tuple[str, str]:
    """Return how it stands, in a word for the style and in a sentence."""
    failed = review.outcomes[Outcome.FAILED]
    last = review.runs[-1] if review.runs else None
    if last is None:
        return "bad", "No run is recorded."
    if last.exit_code is None:
        return "bad", "The last run has not ended: it is still on, or it was killed."
    if not last.complete:
        why = f": {last.totals.stopped}" if last.totals and last.totals.stopped else ""
        return "bad", f"The last run ended before its work did{why}."
    if failed:
        return "warn", f"{failed:,} of {review.files:,} files failed. All others are complete."
    return "good", f"All {review.files:,} files are complete."


def _command(review: Review) -> str:
    """Return the command that goes on with the run: the last one, since each of its options may matter."""
    asked = review.runs[-1].settings.get("run") if review.runs else None
    command = asked.get("command") if isinstance(asked, dict) else ""
    return str(command or "the same command as before")


def _settings(run: Run) -> list[tuple[str, str]]:
    """Return the settings of a run by section and name, the values as in a configuration file."""
    found = []
    for section, table in run.settings.items():
        for name, value in table.items() if isinstance(table, dict) else ():
            found.append((f"{section}.{name}", json.dumps(value)))
    return found


def _moment(seconds: float | None) -> str:
    return "not known" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))
