"""What a survey found, as a table, as JSON and as CSV."""

import csv
import json
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from dcmpool.inventory import OTHERS, Class, Inventory, Span
from dcmpool.model import Outcome
from dcmpool.protocol import Room
from dcmpool.report import Report
from dcmpool.summary import print_failures, print_lines
from dcmpool.syntaxes import syntax_name
from dcmpool.text import duration, shown_full, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WORDS = {
    Outcome.DECOMPRESSED: "to decompress",
    Outcome.COPIED: "to copy, native already or without Pixel Data",
    Outcome.OTHER: "to copy, not DICOM",
    Outcome.KEPT: "to copy as they are, no native form (video)",
    Outcome.SKIPPED: "to leave out",
    Outcome.FAILED: "unreadable, or would be refused",
}
_TITLES = {"transfer_syntax": "Transfer Syntax", "modality": "Modality", "sop_class": "SOP Class"}
_MOST_ROWS = 20
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SOP_CLASSES = {
    "1.2.840.10008.1.3.10": "Media Storage Directory",
    f"{_STORAGE}1": "Computed Radiography Image",
    f"{_STORAGE}1.1": "Digital X-Ray Image - For Presentation",
    f"{_STORAGE}1.1.1": "Digital X-Ray Image - For Processing",
    f"{_STORAGE}1.2": "Digital Mammography X-Ray Image - For Presentation",
    f"{_STORAGE}1.2.1": "Digital Mammography X-Ray Image - For Processing",
    f"{_STORAGE}2": "CT Image",
    f"{_STORAGE}2.1": "Enhanced CT Image",
    f"{_STORAGE}3.1": "Ultrasound Multi-frame Image",
    f"{_STORAGE}4": "MR Image",
    f"{_STORAGE}4.1": "Enhanced MR Image",
    f"{_STORAGE}6.1": "Ultrasound Image",
    f"{_STORAGE}7": "Secondary Capture Image",
    f"{_STORAGE}7.1": "Multi-frame Single Bit Secondary Capture Image",
    f"{_STORAGE}7.2": "Multi-frame Grayscale Byte Secondary Capture Image",
    f"{_STORAGE}7.3": "Multi-frame Grayscale Word Secondary Capture Image",
    f"{_STORAGE}7.4": "Multi-frame True Color Secondary Capture Image",
    f"{_STORAGE}11.1": "Grayscale Softcopy Presentation State",
    f"{_STORAGE}12.1": "X-Ray Angiographic Image",
    f"{_STORAGE}12.2": "X-Ray Radiofluoroscopic Image",
    f"{_STORAGE}13.1.3": "Breast Tomosynthesis Image",
    f"{_STORAGE}20": "Nuclear Medicine Image",
    f"{_STORAGE}66": "Raw Data",
    f"{_STORAGE}66.4": "Segmentation",
    f"{_STORAGE}77.1.1": "VL Endoscopic Image",
    f"{_STORAGE}77.1.4": "VL Photographic Image",
    f"{_STORAGE}77.1.6": "VL Whole Slide Microscopy Image",
    f"{_STORAGE}88.11": "Basic Text SR",
    f"{_STORAGE}88.22": "Enhanced SR",
    f"{_STORAGE}88.33": "Comprehensive SR",
    f"{_STORAGE}88.67": "X-Ray Radiation Dose SR",
    f"{_STORAGE}104.1": "Encapsulated PDF",
    f"{_STORAGE}128": "Positron Emission Tomography Image",
    f"{_STORAGE}481.2": "RT Dose",
    f"{_STORAGE}481.3": "RT Structure Set",
    f"{_STORAGE}481.5": "RT Plan",
}
"""PS3.6 Table A-1, without "Storage": the classes that fill archives; of others the UID is shown."""


class Forecast(msgspec.Struct, frozen=True):
    """A survey at its end. `workers` and `cpus` are those that the time is for."""

    report: Report
    inventory: Inventory
    room: Room
    workers: int
    cpus: int

    @property
    def time(self) -> Span | None:
        """The seconds to expect for decompression; None without a trial."""
        return self.inventory.time_to_expect(self.workers, self.cpus)

    @property
    def trials(self) -> int:
        """How many decompressions the time is guessed from."""
        return sum(len(made) for made in self.inventory.trials.values())

    def to_json(self) -> str:
        """Return one JSON object."""
        found = self.inventory
        time = self.time
        about_run = json.loads(self.report.to_json())
        kept = ("source", "target", "counts", "failed", "skipped", "notes", "kills", "seconds", "exit_code", "stopped")
        value: dict[str, Any] = {name: about_run[name] for name in kept}
        value["classes"] = {
            group: [{"value": value, "name": _name(group, value), **_figures(counted)} for value, counted in rows]
            for group, rows in ((group, _sorted(classes)) for group, classes in found.groups.items())
        }
        value["studies"], value["series"] = found.studies.count(), found.series.count()
        value["studies_and_series_exact"] = found.studies.is_exact and found.series.is_exact
        value["result_bytes"] = found.result_bytes
        value["free_bytes"], value["free_files"] = self.room.free_bytes, self.room.free_files
        value["missing_bytes"], value["missing_files"] = self.missing_bytes, self.missing_files
        value["file_system"] = self.room.file_system
        value["decompression"] = time and {
            "seconds": round(time.expected, 3),
            "low_seconds": round(time.low, 3),
            "high_seconds": round(time.high, 3),
            "trials": self.trials,
            "untried_native_bytes": found.untried(),
            "workers": self.workers,
            "cpus": self.cpus,
        }
        return json.dumps(value)

    def write_csv(self, file: TextIO) -> None:
        """Write one row for each class."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("group", "value", "name", "files", "bytes", "result_bytes", "native_bytes"))
        for group, classes in self.inventory.groups.items():
            for value, counted in _sorted(classes):
                writer.writerow((group, value, _name(group, value), *_figures(counted).values()))

    def print(self, console: "Console") -> None:
        """Print it as tables, and what it comes to."""

        def line(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        found, report = self.inventory, self.report
        line(f"{shown_full(report.source)}: {found.files:,} files, {size(found.bytes_walked)}")
        for outcome, words in _WORDS.items():
            if report.counts[outcome]:
                line(f"{report.counts[outcome]:>10,}  {words}")
        about = "" if found.studies.is_exact and found.series.is_exact else "about "
        line(f"{about}{found.studies.count():,} studies, {about}{found.series.count():,} series")
        for group, title in _TITLES.items():
            if found.groups[group]:
                console.print(_table(group, title, found.groups[group]))
        print_lines(console, "Left out", report.skipped)
        print_lines(console, "Noted", report.notes)
        print_failures(report, console)
        line("")
        lacks = self.missing_bytes or self.missing_files
        console.print(self._room(), markup=False, highlight=False, soft_wrap=True, style="bold red" if lacks else "")
        line(self._time())
        if report.stopped:
            line(f"stopped: {report.stopped}; what is above is not all (exit code {report.exit_code})")

    @property
    def missing_bytes(self) -> int:
        """How many bytes more the results need than TARGET's file system has."""
        return max(0, self.inventory.result_bytes - self.room.free_bytes)

    @property
    def missing_files(self) -> int:
        """How many files more there will be than TARGET's file system can take; 0 where it counts none."""
        free = self.room.free_files
        return 0 if free is None else max(0, self.inventory.results - free)

    def _room(self) -> str:
        """Say whether the results fit."""
        kind = f" ({self.room.file_system})" if self.room.file_system else ""
        lacks = [f"{size(self.missing_bytes)} are missing"] if self.missing_bytes else []
        lacks += [f"{self.missing_files:,} inodes are missing"] if self.missing_files else []
        return (
            f"The results will need {size(self.inventory.result_bytes)}; {shown_full(self.report.target)}{kind} has "
            f"{size(self.room.free_bytes)} free: {', '.join(lacks) or 'that is enough'}"
        )

    def _time(self) -> str:
        """Say how long it may take, and what that is worth."""
        time = self.time
        if time is None:
            return "Nothing was decompressed to see how long it takes"
        untried = self.inventory.untried()
        rest = f"; {size(untried)} of them in Transfer Syntaxes of which no trial succeeded" if untried else ""
        return (
            f"Decompression: about {duration(time.expected)}, from {duration(time.low)} to {duration(time.high)}, with "
            f"{self.workers} workers on {self.cpus} CPUs: an estimate from {self.trials:,} timed files, "
            f"without copying and writing{rest}"
        )


def _table(group: str, title: str, classes: dict[str, Class]) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - slow to import

    table = Table(title, "files", "size", "native", box=None, pad_edge=True, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = _sorted(classes)
    for value, counted in rows[:_MOST_ROWS]:
        table.add_row(
            _name(group, value) or value, f"{counted.files:,}", size(counted.bytes), size(counted.result_bytes)
        )
    if len(rows) > _MOST_ROWS:
        table.add_row(f"and {len(rows) - _MOST_ROWS} more: --json lists all", "", "", "")
    return table


def _sorted(classes: dict[str, Class]) -> list[tuple[str, Class]]:
    return sorted(classes.items(), key=lambda entry: (-entry[1].files, entry[0]))


def _name(group: str, value: str) -> str:
    """Return a class in words, "" where the value says all."""
    if not value:
        return "none"
    if value == OTHERS:
        return ""
    if group == "transfer_syntax":
        return syntax_name(value) if syntax_name(value) != value else ""
    if group == "outcome":
        return _WORDS.get(Outcome(value), "")
    return _SOP_CLASSES.get(value, "") if group == "sop_class" else ""


def _figures(counted: Class) -> dict[str, int]:
    return {
        "files": counted.files,
        "bytes": counted.bytes,
        "result_bytes": counted.result_bytes,
        "native_bytes": counted.native_bytes,
    }
