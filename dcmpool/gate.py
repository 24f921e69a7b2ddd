"""The write gate: how many bytes may be between decoding and storage, and how many children may write at once.

Pure: no clock, no I/O. The supervisor takes tokens for a child and gives them back only when that child says
that it is done or the kernel has proved it dead. So storage that stalls keeps its writers' tokens, and the gate
closes by itself. Storage that merely slows down narrows it: see `Window`.
"""

from collections import deque
from statistics import median

from dcmpool.bucket import Bucket

_MIB = 1024 * 1024
_WRITES = 64
_TIMES_BEST = 4
_LEAST_SECONDS = 0.05
"""A write that takes no longer says nothing of the storage: on a busy machine it waited for a CPU."""


class Window:
    """How many may write at once: at most `most`, fewer while that makes storage slow.

    As TCP does it: each write adds its share, so that the window grows by one when all who fit in it have written;
    one whose seconds per MiB are over four times the best of the last 64 halves it, at most once for as many writes
    as there are in the window. What is slow from the first write to the last is its own measure and halves nothing.
    Invariant: 1 <= `size` <= `most`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(most)
        self._paces: deque[float] = deque(maxlen=_WRITES)
        self._settling = 0
        """Writes that began before the window was halved, and so say nothing of it."""

    def resize(self, most: int) -> None:
        """Let at most so many write from now on."""
        was_wide = self._size >= self._most
        self._most = most
        self._size = float(most) if was_wide else min(self._size, float(most))

    @property
    def size(self) -> int:
        """How many may write at once."""
        return int(self._size)

    def learn(self, size: int, seconds: float) -> None:
        """Take note of a write of `size` bytes; one of less than 1 MiB counts as that, for it costs as much."""
        pace = seconds / max(1.0, size / _MIB)
        self._paces.append(pace)
        if self._settling:
            self._settling -= 1
        elif seconds > _LEAST_SECONDS and pace > _TIMES_BEST * min(self._paces):
            self._settling = self.size
            self._size = max(1.0, self._size / 2)
        else:
            self._size = min(self._most, self._size + 1 / self.size)


class WriteGate:
    """Tokens for bytes in flight and for writers.

    Invariants: bytes held <= `max_bytes`, except one request larger than that, granted while nobody else holds
    any; no writer is added beyond `open_to` <= `max_writers`, nor beyond `rate` bytes a second (0: any number);
    each kind is granted in the order of asking, so that none starves. No two children can wait for each other: who
    waits for bytes holds nothing, and who holds a writer's place waits for nothing.
    """

    def __init__(self, max_bytes: int, max_writers: int, *, adaptive: bool = True, rate: int = 0) -> None:
        self.max_bytes = max_bytes
        self.max_writers = max_writers
        self._window = Window(max_writers)
        self._bucket = Bucket(rate)
        self._adaptive = adaptive
        self._write_seconds: deque[float] = deque(maxlen=_WRITES)
        self._bytes: dict[int, int] = {}
        self._writers: set[int] = set()
        self._waiting_bytes: deque[tuple[int, int]] = deque()
        self._waiting_writer: deque[tuple[int, int]] = deque()

    @property
    def bytes_held(self) -> int:
        """Bytes granted and not given back."""
        return sum(self._bytes.values())

    @property
    def writers_held(self) -> int:
        """Writers' places granted and not given back."""
        return len(self._writers)

    @property
    def open_to(self) -> int:
        """How many may write at once, as things stand."""
        return self._window.size

    @property
    def write_seconds(self) -> float | None:
        """How long a write takes, the median of the last ones; None before the first."""
        return median(self._write_seconds) if self._write_seconds else None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting_bytes) + len(self._waiting_writer)

    def offer(self, holder: int, size: int, *, writes: bool = True) -> tuple[int, bool]:
        """Grant what can ride with a job without overtaking anyone: (`size` or 0 bytes, a writer's place or not).

        A job that `writes` nothing gets no writer's place; nor does any while the bytes a second are limited, since
        nobody knows yet how many it will be.
        """
        if self._waiting_bytes or self.bytes_held + size > self.max_bytes:
            return 0, False
        self._bytes[holder] = size
        writer = writes and not self._waiting_writer and self._has_place and not self._bucket.rate
        if writer:
            self._writers.add(holder)
        return size, writer

    def request_bytes(self, holder: int, size: int) -> None:
        """Ask for `size` bytes. What the holder has is given back first: it has not begun to decode."""
        self.release(holder)
        self._waiting_bytes.append((holder, size))

    def request_writer(self, holder: int, size: int = 0) -> None:
        """Ask for a writer's place, to write about `size` bytes.

        One that the holder has is given back first: nobody waits for himself.
        """
        self._writers.discard(holder)
        self._waiting_writer.append((holder, size))

    def grant(self, now: float = 0.0) -> list[int]:
        """Grant what can be granted, first come first served, and return the holders."""
        granted = []
        while self._waiting_writer and self._has_place and self._bucket.is_open(now):
            holder, size = self._waiting_writer.popleft()
            self._bucket.take(size, now)
            self._writers.add(holder)
            granted.append(holder)
        while self._waiting_bytes and self._has_room(self._waiting_bytes[0][1]):
            holder, size = self._waiting_bytes.popleft()
            self._bytes[holder] = size
            granted.append(holder)
        return granted

    def next_deadline(self) -> float | None:
        """Return when somebody can be let through, if the bytes a second alone keep him; else None."""
        return self._bucket.free_at if self._waiting_writer and self._has_place and self._bucket.rate else None

    def resize(self, max_writers: int) -> None:
        """Let at most so many write at once from now on; those who do go on."""
        self.max_writers = max_writers
        self._window.resize(max_writers)

    def lift_rate(self) -> None:
        """Let bytes pass as fast as they can: the run is about to end."""
        self._bucket = Bucket(0)

    def learn(self, size: int, seconds: float) -> None:
        """Take note of how long a write of `size` bytes took."""
        self._write_seconds.append(seconds)
        if self._adaptive:
            self._window.learn(size, seconds)

    def release(self, holder: int) -> None:
        """Take back all that the holder has or waits for: it is done, or proved dead."""
        self._bytes.pop(holder, None)
        self._writers.discard(holder)
        self.withdraw(holder)

    def withdraw(self, holder: int) -> None:
        """Forget what the holder waits for: it will never hear of it."""
        self._waiting_bytes = deque(waiting for waiting in self._waiting_bytes if waiting[0] != holder)
        self._waiting_writer = deque(waiting for waiting in self._waiting_writer if waiting[0] != holder)

    @property
    def _has_place(self) -> bool:
        return self.writers_held < self.open_to

    def _has_room(self, size: int) -> bool:
        return self.bytes_held + size <= self.max_bytes or not self._bytes
