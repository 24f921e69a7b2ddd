"""Numbers and names as people read them."""

import os


def shown(path: bytes) -> str:
    """Return a file name that is safe to print: what is not printable (a newline, an escape, not UTF-8) is escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown_full(path: bytes) -> str:
    """Return a whole path that is safe to print, relative to here where that is shorter."""
    try:
        return shown(min(path, os.path.relpath(path), key=len))
    except FileNotFoundError:  # the current directory is gone
        return shown(path)


def words(error: Exception) -> str:
    """Return what an exception says, without its number and its path, in characters that UTF-8 has."""
    said = getattr(error, "strerror", None) or str(error)
    return said.encode("utf-8", "backslashreplace").decode()


def linked(names: int) -> str:
    """Return why a file with several names (hard links) is not replaced in place."""
    return f"it has {names} names (hard links), of which a result would replace this one: --hard-links split allows it"


def size(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float) -> str:
    """Return a time span: 4.2 s, 3:07, 12:00:00."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
