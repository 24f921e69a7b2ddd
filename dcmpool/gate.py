"""The write gate: how many bytes may be between decoding and storage, and how many children may write at once.

Pure: no clock, no I/O. The supervisor takes tokens for a child and gives them back only when that child says
that it is done or the kernel has proved it dead. So storage that stalls keeps its writers' tokens, and the gate
closes by itself.
"""

from collections import deque


class WriteGate:
    """Tokens for bytes in flight and for writers.

    Invariants: bytes held <= `max_bytes`, except one request larger than that, granted while nobody else holds
    any; writers <= `max_writers`; each kind is granted in the order of asking, so that none starves. No two
    children can wait for each other: who waits for bytes holds nothing, and who holds a writer's place waits
    for nothing.
    """

    def __init__(self, max_bytes: int, max_writers: int) -> None:
        self.max_bytes = max_bytes
        self.max_writers = max_writers
        self._bytes: dict[int, int] = {}
        self._writers: set[int] = set()
        self._waiting_bytes: deque[tuple[int, int]] = deque()
        self._waiting_writer: deque[int] = deque()

    @property
    def bytes_held(self) -> int:
        """Bytes granted and not given back."""
        return sum(self._bytes.values())

    @property
    def writers_held(self) -> int:
        """Writers' places granted and not given back."""
        return len(self._writers)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting_bytes) + len(self._waiting_writer)

    def offer(self, holder: int, size: int, *, writes: bool = True) -> tuple[int, bool]:
        """Grant what can ride with a job without overtaking anyone: (`size` or 0 bytes, a writer's place or not).

        A job that `writes` nothing gets no writer's place.
        """
        if self._waiting_bytes or self.bytes_held + size > self.max_bytes:
            return 0, False
        self._bytes[holder] = size
        writer = writes and not self._waiting_writer and self.writers_held < self.max_writers
        if writer:
            self._writers.add(holder)
        return size, writer

    def request_bytes(self, holder: int, size: int) -> None:
        """Ask for `size` bytes. What the holder has is given back first: it has not begun to decode."""
        self.release(holder)
        self._waiting_bytes.append((holder, size))

    def request_writer(self, holder: int) -> None:
        """Ask for a writer's place. One that the holder has is given back first: nobody waits for himself."""
        self._writers.discard(holder)
        self._waiting_writer.append(holder)

    def grant(self) -> list[int]:
        """Grant what can be granted, first come first served, and return the holders."""
        granted = []
        while self._waiting_writer and self.writers_held < self.max_writers:
            holder = self._waiting_writer.popleft()
            self._writers.add(holder)
            granted.append(holder)
        while self._waiting_bytes and self._has_room(self._waiting_bytes[0][1]):
            holder, size = self._waiting_bytes.popleft()
            self._bytes[holder] = size
            granted.append(holder)
        return granted

    def release(self, holder: int) -> None:
        """Take back all that the holder has or waits for: it is done, or proved dead."""
        self._bytes.pop(holder, None)
        self._writers.discard(holder)
        self.withdraw(holder)

    def withdraw(self, holder: int) -> None:
        """Forget what the holder waits for: it will never hear of it."""
        self._waiting_bytes = deque(waiting for waiting in self._waiting_bytes if waiting[0] != holder)
        self._waiting_writer = deque(waiting for waiting in self._waiting_writer if waiting != holder)

    def _has_room(self, size: int) -> bool:
        return self.bytes_held + size <= self.max_bytes or not self._bytes
