"""On what a run of the bench was made: machine, versions, and where it wrote."""

import datetime
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.peers import PEERS, find_program
from dcmpool import _os

_PACKAGES = (
    "dcmpool",
    "pydicom",
    "python-gdcm",
    "imagecodecs",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "numpy",
)


def facts(folder: Path, settings: str) -> list[str]:
    """Return one line each on the date and the settings, the machine, the disk of `folder`, and the versions."""
    return [
        f"{datetime.date.today().isoformat()}, {settings}",
        f"{_cpu()}, {_os.available_cpus()} CPUs to use, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"Linux {platform.release()}, results on {_file_system(folder)}",
        f"Python {platform.python_version()}, {', '.join(filter(None, map(_package, _PACKAGES)))}",
        f"programs: {_programs()}",
    ]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Return type and device of the mount that `folder` lies on."""
    device = os.stat(folder).st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[2] == numbers:
            kind, name = words[words.index("-") + 1 :][:2]
            return f"{kind} ({name})"
    return "an unknown file system"


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def _programs() -> str:
    """Return the first line that each program of the peers says of its version, shortened."""
    names = sorted({program for peer in PEERS for program in peer.needs})
    return ", ".join(words for words in map(_words, names) if words) or "none"


def _words(name: str) -> str:
    path = find_program(name)
    if not path:
        return ""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - found on PATH
    found = re.search(r"\d+(\.\d+)+|\d{8}", said)
    return f"{name} {found[0] if found else ''}"
