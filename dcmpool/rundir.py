"""Where the sockets of runs are: a directory of the user's that nobody else can enter, and a name made of TARGET.

`$XDG_RUNTIME_DIR/dcmpool`, else `dcmpool-<uid>` in the directory for temporary files.
"""

import contextlib
import os
import stat
from hashlib import blake2b

SUFFIX = ".sock"


def directories() -> list[str]:
    """Return where sockets may be, the best place first."""
    found = []
    user = os.geteuid()
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        found.append(os.path.join(runtime, "dcmpool"))
    found.append(os.path.join(os.environ.get("TMPDIR") or "/tmp", f"dcmpool-{user}"))  # noqa: S108 - made 0700, checked
    found.append(f"/run/user/{user}/dcmpool")
    found.append(f"/tmp/dcmpool-{user}")  # noqa: S108 - as above
    return list(dict.fromkeys(found))


def socket_name(target: bytes) -> str:
    """Return the name of the socket of the run that works on this TARGET, an absolute path without symlinks."""
    return blake2b(target, digest_size=12).hexdigest() + SUFFIX


def make() -> str:
    """Return the directory for a socket, made if need be.

    Raises
    ------
    OSError
        There is none that is ours alone: another user may have put something in its place.
    """
    first: OSError | None = None
    for directory in directories()[:2]:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            check(directory)
        except OSError as error:
            first = first or error
        else:
            return directory
    raise first or FileNotFoundError


def check(directory: str) -> None:
    """Raise `PermissionError` unless this is a directory, no link, that is ours and that nobody else can enter."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{directory} is not a directory of this user's alone")


def through(descriptor: int, name: str) -> str:
    """Return a path to `name` in an open directory that is short enough for a socket's address (unix(7), 108 bytes)."""
    return f"/proc/self/fd/{descriptor}/{name}"
