"""Which replicas count for the high watermark (invariants 8, 10, 12 and KIP-497).

A leader asks the controller for changes of the in-sync set and must stay safe while the answer is
on its way: a joiner counts from the moment it is proposed, a leaver counts until the leader's own
image has passed the change.
"""

from collections.abc import Iterable, Mapping


class InSyncSet:
    """The committed in-sync set of one partition and the proposals in flight."""

    __slots__ = ("_proposed", "committed", "maximal", "min_size", "partition_epoch")

    def __init__(self) -> None:
        self.committed: frozenset[int] = frozenset()
        # Committed, or proposed: what the high watermark must wait for.
        self.maximal: frozenset[int] = frozenset()
        self.min_size = 1
        self.partition_epoch = -1
        self._proposed: dict[int, frozenset[int]] = {}

    @property
    def enough(self) -> bool:
        """True if the committed set has at least ``min.insync.replicas`` members."""
        return len(self.committed) >= self.min_size

    def propose(self, members: Iterable[int]) -> int:
        """Note a proposal made against the present partition epoch; returns that epoch."""
        self._proposed[self.partition_epoch] = frozenset(members)
        self._recompute()
        return self.partition_epoch

    def withdraw(self, partition_epoch: int) -> None:
        """Forget a proposal that was definitely refused."""
        self._proposed.pop(partition_epoch, None)
        self._recompute()

    def committed_change(self, members: Iterable[int], partition_epoch: int, min_size: int) -> bool:
        """Take over what the image says; False if the image is older than what is known."""
        if partition_epoch < self.partition_epoch:
            return False
        self.committed = frozenset(members)
        self.partition_epoch = partition_epoch
        self.min_size = min_size
        # A proposal against an older epoch was either this change or can never be accepted.
        self._proposed = {
            epoch: proposed
            for epoch, proposed in self._proposed.items()
            if epoch >= partition_epoch
        }
        self._recompute()
        return True

    def _recompute(self) -> None:
        self.maximal = self.committed.union(*self._proposed.values())


def high_watermark(current: int, ends: Mapping[int, int], in_sync: InSyncSet) -> int:
    """The new high watermark, given the log ends of the members; never below ``current``.

    In fsync mode the ends are the *synced* ends. A member without a known end holds everything
    back.
    """
    if not in_sync.enough or not in_sync.maximal:
        return current
    lowest = min(ends.get(member, -1) for member in in_sync.maximal)
    return max(current, lowest)


def may_join(end_offset: int, high_watermark: int, epoch_start: int) -> bool:
    """True if a follower with this (synced) end may be proposed for the in-sync set (12)."""
    return end_offset >= high_watermark and end_offset >= epoch_start
