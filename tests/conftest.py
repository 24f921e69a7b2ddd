"""What holds for every test: it leaves no process, no file descriptor and no temp file behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def leaves_nothing(tmp_path: Path) -> Iterator[None]:
    """Fail a test that leaks children, descriptors, or files in a TARGET's temp folder."""
    before = _descriptors()
    yield
    children = psutil.Process().children(recursive=True)
    assert not children, f"processes left behind: {children}"
    left = {fd: target for fd, target in _descriptors().items() if fd not in before}
    assert not left, f"descriptors left behind: {left}"
    temp = [path for journal in tmp_path.rglob(".dcmpool/journal.sqlite") for path in journal.parent.rglob("tmp/*")]
    assert not temp, f"temp files left behind: {temp}"


def _descriptors() -> dict[int, str]:
    found = {}
    for entry in list(os.scandir("/proc/self/fd")):
        try:
            found[int(entry.name)] = os.readlink(entry.path)
        except FileNotFoundError:
            continue  # the one that read the folder
    return found
