"""The exceptions of dcmpool.

DcmpoolError                the program's own trouble; `exit_code` goes to the shell
|- UsageError            2  arguments, configuration, SOURCE or TARGET that cannot be used
|- LockedError           3  another run holds TARGET's journal
|- LaunchError          70  children cannot be started
`- StoppedError         75  the run stopped and can be resumed (disk full, storage stalled)
Fault                       inside a child: this attempt gives no result; becomes a message, never leaves the child
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:  # what starts the helpers needs this module, and nothing that takes as long to load as msgspec
    from dcmpool.model import FailureKind


class DcmpoolError(Exception):
    """The program's own trouble; its text is one line for the user."""

    exit_code: ClassVar[int] = 1


class UsageError(DcmpoolError):
    """The arguments, the configuration, SOURCE or TARGET cannot be used."""

    exit_code = 2


class LockedError(DcmpoolError):
    """Another run holds the journal of this TARGET."""

    exit_code = 3


class LaunchError(DcmpoolError):
    """Children cannot be started on this machine."""

    exit_code = 70


class StoppedError(DcmpoolError):
    """The run stopped before its end and can be resumed."""

    exit_code = 75


class Fault(Exception):
    """This attempt gives no result: `kind` says what follows, `reason` tells the user in one line."""

    def __init__(self, kind: "FailureKind", reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
