"""A limit of bytes per second. Pure: times are monotonic milliseconds, given by the owner."""


class ByteRate:
    """A bucket that fills at the rate. Whoever comes while it is not empty may take what it needs
    at once, also more than there is: those behind wait until that is made up for."""

    __slots__ = ("_balance", "_burst", "_bytes_per_s", "_filled_ms")

    def __init__(self, bytes_per_s: int, now_ms: int, *, burst_ms: int = 100) -> None:
        """Full at first: ``burst_ms`` of the rate."""
        if bytes_per_s <= 0:
            raise ValueError(f"a rate of {bytes_per_s} bytes per second lets nothing through")
        self._bytes_per_s = bytes_per_s
        # Thousandths of bytes: whole numbers, so that after the wait something may be taken.
        self._burst = bytes_per_s * burst_ms
        self._balance = self._burst
        self._filled_ms = now_ms

    @property
    def bytes_per_s(self) -> int:
        """The rate."""
        return self._bytes_per_s

    def wait_ms(self, now_ms: int) -> int:
        """Milliseconds until something may be taken; 0: now."""
        passed_ms = max(0, now_ms - self._filled_ms)
        self._filled_ms = max(now_ms, self._filled_ms)
        self._balance = min(self._burst, self._balance + passed_ms * self._bytes_per_s)
        if self._balance > 0:
            return 0
        return -self._balance // self._bytes_per_s + 1

    def take(self, size_bytes: int) -> None:
        """So many bytes went through."""
        self._balance -= size_bytes * 1000
