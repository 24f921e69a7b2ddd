"""How many different values there were, in bounded memory: exact up to `MOST`, a close estimate above. Pure."""

import heapq
from typing import Final

MOST: Final = 1 << 16
"""As many are held: some ten MB. The standard error of an estimate is then 1 / sqrt(MOST), 0.4 %."""


class Distinct:
    """Counts different digests of `bits` bits, equally spread, by the smallest of them (k minimum values; Bar-Yossef et
    al., Counting Distinct Elements in a Data Stream, 2002): if the k-th lies at a share s of all, there are k / s."""

    def __init__(self, bits: int = 63, most: int = MOST) -> None:
        self._all = 1 << bits
        self._most = most
        self._held: set[int] = set()
        self._largest: list[int] = []
        """A heap of what is held, negated: its first is the largest."""
        self.is_exact = True

    def add(self, digest: int) -> None:
        """Take one more value."""
        if digest in self._held:
            return
        if len(self._held) < self._most:
            self._held.add(digest)
            heapq.heappush(self._largest, -digest)
            return
        self.is_exact = False
        if digest < -self._largest[0]:
            self._held.add(digest)
            self._held.remove(-heapq.heapreplace(self._largest, -digest))

    def count(self) -> int:
        """Return how many different values there were, or about how many (`is_exact`)."""
        if self.is_exact:
            return len(self._held)
        return round((self._most - 1) * self._all / -self._largest[0])
