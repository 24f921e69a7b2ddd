"""How many bytes a second may be written: a token bucket. Pure: the clock is an argument."""

_BURST_SECONDS = 1.0
"""What was not written in the last second may be made up for."""


class Bucket:
    """Lets writes begin so that they come to `rate` bytes a second; 0 lets all begin at once.

    A write begins when those before it are paid for, and is paid for afterwards: so one that is larger than a second's
    worth can begin at all. Invariant: in any span, what begins is at most `rate` times the span and a second, and one
    write more.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.free_at = float("-inf")
        """When all that has begun will be paid for."""

    def is_open(self, now: float) -> bool:
        """Whether a write may begin."""
        return self.rate == 0 or now >= self.free_at

    def take(self, size: int, now: float) -> None:
        """Begin a write."""
        if self.rate:
            self.free_at = max(self.free_at, now - _BURST_SECONDS) + size / self.rate
