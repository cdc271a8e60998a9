"""How many produced bytes may be unanswered, per broker and per connection (invariant 40)."""

from millstream_server.broker.refusal import Refusal


class ByteBudget:
    """Counts bytes against a limit, and against the limit of the budget above it."""

    __slots__ = ("_limit", "_parent", "_what", "throttled", "used")

    def __init__(self, limit: int, what: str, parent: "ByteBudget | None" = None) -> None:
        self._limit = limit
        self._what = what
        self._parent = parent
        self.used = 0
        # How often the budget refused.
        self.throttled = 0

    def take(self, size: int, retry_after_ms: int) -> None:
        """Take bytes here and above, or raise Refusal THROTTLED and take none.

        A budget that is empty gives way to one request of any size, or it could never be served.
        """
        if self.used and self.used + size > self._limit:
            self.throttled += 1
            raise Refusal(
                "THROTTLED",
                f"{self.used} bytes wait for their answer on this {self._what}, "
                f"at most {self._limit} may",
                retry_after_ms=retry_after_ms,
            )
        if self._parent is not None:
            self._parent.take(size, retry_after_ms)
        self.used += size

    def has_room(self, size: int) -> bool:
        """True if ``take`` would not refuse."""
        if self.used and self.used + size > self._limit:
            return False
        return self._parent is None or self._parent.has_room(size)

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        if size > self.used:
            raise ValueError(f"{size} bytes given back, {self.used} taken")
        self.used -= size
        if self._parent is not None:
            self._parent.give_back(size)
