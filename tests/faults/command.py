"""The command line with another module for its children: `python -m tests.faults.command MODULE run ...`."""

import functools
import sys

from dcmpool import cli, supervisor, terminal


def main() -> None:
    """Run the command as `python -m dcmpool` does, but for the children."""
    module = sys.argv.pop(1)
    setattr(terminal, "Supervisor", functools.partial(supervisor.Supervisor, worker_module=module))  # noqa: B010 - mypy
    cli.main()


if __name__ == "__main__":
    main()
