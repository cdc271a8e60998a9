"""Whose turn it is on one lane of a session, and what the follower still takes. Pure.

Every turn is at most one message's worth of a partition, and whoever has more to push queues up
again behind all others: no partition starves another.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

from millstream_server.broker.fetch_credit import Credit

T = TypeVar("T")


class LaneQueue(Generic[T]):
    """The turns of one lane."""

    __slots__ = ("_ready", "_starved", "cold_reads", "credit")

    def __init__(self) -> None:
        self.credit = Credit()
        # Reads of older data that are under way for this lane.
        self.cold_reads = 0
        self._ready: OrderedDict[T, None] = OrderedDict()
        # Those that wait for credit, or for a read to end.
        self._starved: OrderedDict[T, None] = OrderedDict()

    def __contains__(self, one: T) -> bool:
        return one in self._ready or one in self._starved

    def put(self, one: T, *, first: bool = False) -> None:
        """Queue up, at the end or at once."""
        self._starved.pop(one, None)
        self._ready[one] = None
        if first:
            self._ready.move_to_end(one, last=False)

    def take(self) -> T | None:
        """Whose turn it is."""
        return self._ready.popitem(last=False)[0] if self._ready else None

    def starve(self, one: T) -> None:
        """Wait until ``feed``."""
        self._starved[one] = None

    def feed(self) -> None:
        """Let those that starve try again."""
        self._ready.update(self._starved)
        self._starved.clear()

    def grant(self, size: int) -> bool:
        """The follower takes so many bytes more; True if somebody waited for it."""
        self.credit.grant(size)
        waited = bool(self._starved)
        self.feed()
        return waited

    def remove(self, one: T) -> None:
        """Leave the queue."""
        self._ready.pop(one, None)
        self._starved.pop(one, None)
