"""Who may import whom: the supervisor's side stays free of codecs, and imports point downwards only."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOREIGN = (
    "numpy", "pydicom", "gdcm", "_gdcm", "imagecodecs", "openjpeg", "rle", "jpeg_ls", "pylibjpeg", "xxhash", "sqlite3",
    "jinja2",
    "dcmpool.worker", "dcmpool.clerk", "dcmpool.forkserver", "dcmpool.instance", "dcmpool.native", "dcmpool.verify",
    "dcmpool.journal", "dcmpool.commit", "dcmpool.tree", "dcmpool.source", "dcmpool.dataset", "dcmpool.engines.gdcm",
)  # fmt: skip
"""What could block, crash or be made to run by a file."""
_TELL = "; import sys; print(*sys.modules, sep='\\n')"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("module", ["dcmpool", "dcmpool.supervisor", "dcmpool.cli", "dcmpool.summary"])
def test_importing_the_supervisors_side_loads_nothing_dangerous(module: str) -> None:
    """Neither a codec nor what touches SOURCE or TARGET."""
    done = python(f"import {module}{_TELL}")
    assert done.returncode == 0, done.stderr
    assert module in done.stdout.split()
    assert not set(FOREIGN) & set(done.stdout.split())


def test_what_starts_the_helpers_loads_nothing_that_takes_long() -> None:
    """Clerk and fork server load while the command line does: the earlier they are started, the sooner a run begins."""
    done = python(f"import dcmpool.helper{_TELL}")
    assert done.returncode == 0, done.stderr
    assert not {"msgspec", "typer", "rich", "psutil", "inspect"} & set(done.stdout.split())


def test_a_whole_run_loads_nothing_dangerous_into_the_supervisor(tmp_path: Path) -> None:
    """What is imported late is not either."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "text").write_text("no DICOM")
    code = "import sys; from dcmpool.cli import app; app(sys.argv[1:], standalone_mode=False)" + _TELL
    done = python(code, "run", str(source), "-o", str(target))
    assert done.returncode == 0, done.stderr
    assert (target / "text").read_text() == "no DICOM"
    assert "dcmpool.supervisor" in done.stdout.split()
    assert not set(FOREIGN) & set(done.stdout.split())


def test_imports_are_as_pyproject_says() -> None:
    """The layers, the two sides of each process border, and the purity of the policy (import-linter)."""
    done = python("import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout
