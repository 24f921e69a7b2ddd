"""`python -m dcmpool`."""

from dcmpool.cli import main

if __name__ == "__main__":
    main()
