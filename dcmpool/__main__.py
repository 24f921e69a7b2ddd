"""`python -m dcmpool`, and the command `dcmpool`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly from the first import on."""
    try:
        from dcmpool import cli  # noqa: PLC0415 - takes half a second, in which a user may change their mind

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell has it for SIGINT


if __name__ == "__main__":
    main()
