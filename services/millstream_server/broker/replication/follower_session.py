"""The session with a leader, as one of the followed partitions sees it."""

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from millstream_server.broker.replication.followed_partition import FollowedPartition


class FollowerLane:
    """One lane of it: the credit to give back, and when to speak. On the event loop."""

    def __init__(self, credit_bytes: int) -> None:
        # What the leader may have under way.
        self.credit_bytes = credit_bytes
        self.wake = asyncio.Event()
        self._credit_due = 0

    def give_back(self, size: int) -> None:
        """So many bytes may be used again; in vain once the session is over. Small change is kept
        until it is worth a message, or until one goes."""
        if not size:
            return
        self._credit_due += size
        if self._credit_due >= self.credit_bytes // 8:
            self.wake.set()

    def take_credit(self) -> int:
        """Bytes to be given back with the next message."""
        due, self._credit_due = self._credit_due, 0
        return due


class Session(Protocol):
    """The connection to the leader, as a followed partition sees it."""

    def next_round(self) -> int:
        """A number for a round that no other round of the session has."""

    def report_soon(self, followed: "FollowedPartition") -> None:
        """Ask for ``position`` before long."""
