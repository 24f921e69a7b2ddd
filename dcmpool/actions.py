"""What the policy tells the loop to do: values, so that the policy can be tested without a process."""

import msgspec

from dcmpool.events import Event
from dcmpool.model import Side
from dcmpool.protocol import Message


class LaunchChild(msgspec.Struct, frozen=True):
    """Have the fork server start a child."""

    worker: int


class SendTo(msgspec.Struct, frozen=True):
    """Send a message to a child."""

    worker: int
    message: Message


class SignalChild(msgspec.Struct, frozen=True):
    """Signal a child and its process group."""

    worker: int
    number: int


class Examine(msgspec.Struct, frozen=True):
    """Look at a child that takes long, and answer with `Pool.examined`."""

    worker: int


class Look(msgspec.Struct, frozen=True):
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


class CloseChild(msgspec.Struct, frozen=True):
    """Close the descriptors of a child that is proved dead, or never came to be."""

    worker: int


class Tell(msgspec.Struct, frozen=True):
    """Send a message to the clerk."""

    message: Message


class Notice(msgspec.Struct, frozen=True):
    """Tell the user something now, in one line."""

    text: str


class Happened(msgspec.Struct, frozen=True):
    """Tell whoever listens to the event stream."""

    event: Event


Action = LaunchChild | SendTo | SignalChild | Examine | CloseChild | Tell | Notice | Happened
