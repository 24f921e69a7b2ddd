"""`python -m dcmpool`, and the command `dcmpool`."""

import contextlib
import sys
from collections.abc import Iterator


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly from the first import on."""
    try:
        with _helpers_at_work():
            from dcmpool import cli  # noqa: PLC0415 - takes a while, in which a user may change their mind

            cli.main()
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell has it for SIGINT


@contextlib.contextmanager
def _helpers_at_work() -> Iterator[None]:
    """Have clerk and fork server load while the command line loads itself, for commands that will need them."""
    needs_none = {"--help", "--dry-run"} & set(sys.argv)
    wanted = sys.argv[1:2] in (["run"], ["verify"], ["scan"]) and not needs_none
    # Where 0, 1 or 2 is closed, a descriptor of ours would take its place.
    if not wanted or sys.platform != "linux" or None in (sys.stdin, sys.stdout, sys.stderr):
        yield
        return
    from dcmpool import helper  # noqa: PLC0415 - of no use to other commands

    helper.start_early()
    try:
        yield
    finally:
        helper.end_early()


if __name__ == "__main__":
    main()
