"""What the policy tells the loop to do: values, so that the policy can be tested without a process."""

from dataclasses import dataclass

from dcmpool.events import Event
from dcmpool.model import Side
from dcmpool.protocol import Message


@dataclass(frozen=True, slots=True)
class LaunchChild:
    """Have the fork server start a child."""

    worker: int


@dataclass(frozen=True, slots=True)
class SendTo:
    """Send a message to a child."""

    worker: int
    message: Message


@dataclass(frozen=True, slots=True)
class SignalChild:
    """Signal a child and its process group."""

    worker: int
    number: int


@dataclass(frozen=True, slots=True)
class Examine:
    """Look at a child that takes long, and answer with `Pool.examined`."""

    worker: int


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a child: the answer to `Examine`."""

    side: Side | None
    """Whose storage it waits for; None if for none."""
    mark: str
    """The call and how far it has come: equal marks mean that nothing has moved."""
    stage: str
    is_stopped: bool
    """Whether somebody has stopped it (SIGSTOP)."""
    reason: str
    """Why it is killed, should it be killed now."""


@dataclass(frozen=True, slots=True)
class CloseChild:
    """Close the descriptors of a child that is proved dead, or never came to be."""

    worker: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to the clerk."""

    message: Message


@dataclass(frozen=True, slots=True)
class Notice:
    """Tell the user something now, in one line."""

    text: str


@dataclass(frozen=True, slots=True)
class Happened:
    """Tell whoever listens to the event stream."""

    event: Event


Action = LaunchChild | SendTo | SignalChild | Examine | CloseChild | Tell | Notice | Happened
