"""Which replicas count for the high watermark (invariants 8, 10, 12 and KIP-497).

A leader asks the controller for changes of the in-sync set and must stay safe while the answer is
on its way: a joiner counts from the moment it is proposed, a leaver counts until the leader's own
image has passed the change.
"""

from collections.abc import Iterable, Mapping

_NOBODY: frozenset[int] = frozenset()


class InSyncSet:
    """The committed in-sync set of one partition, and what is proposed instead of it."""

    __slots__ = (
        "_joiners",
        "_proposed",
        "committed",
        "in_doubt",
        "maximal",
        "min_size",
        "partition_epoch",
    )

    def __init__(self) -> None:
        self.committed = _NOBODY
        # Committed, or proposed, or about to be: what the high watermark must wait for.
        self.maximal = _NOBODY
        self.min_size = 1
        self.partition_epoch = -1
        # Everybody in a proposal against the present partition epoch; at most one of them can be
        # accepted, and against older epochs none.
        self._proposed = _NOBODY
        # True if nobody knows whether a proposal was accepted: only the image can tell.
        self.in_doubt = False
        self._joiners = _NOBODY

    @property
    def enough(self) -> bool:
        """True if the committed set has at least ``min.insync.replicas`` members."""
        return len(self.committed) >= self.min_size

    @property
    def proposed(self) -> bool:
        """True while a proposal may be accepted, or was and the image does not show it yet."""
        return bool(self._proposed)

    def propose(self, members: Iterable[int]) -> int:
        """Note a proposal made against the present partition epoch; returns that epoch."""
        self._proposed |= frozenset(members)
        self._recompute()
        return self.partition_epoch

    def withdraw(self, partition_epoch: int) -> None:
        """A proposal was definitely refused: forget it. While another one against the same epoch
        is in doubt nothing is forgotten: that one may be what made this one fail."""
        if partition_epoch == self.partition_epoch and not self.in_doubt:
            self._proposed = _NOBODY
            self._recompute()

    def doubt(self, partition_epoch: int) -> None:
        """Nobody knows what became of a proposal: it stands until the image passes its epoch."""
        if partition_epoch == self.partition_epoch and self._proposed:
            self.in_doubt = True

    def set_joiners(self, node_ids: frozenset[int]) -> None:
        """Let the high watermark wait for followers that are about to be proposed: it would run
        ahead of them for ever where the other members are faster (as in Kafka)."""
        if node_ids != self._joiners:
            self._joiners = node_ids
            self._recompute()

    def committed_change(self, members: Iterable[int], partition_epoch: int, min_size: int) -> bool:
        """Take over what the image says; False if the image is older than what is known."""
        if partition_epoch < self.partition_epoch:
            return False
        if partition_epoch > self.partition_epoch:
            # A proposal against an older epoch was either this change or can never be accepted.
            self._proposed = _NOBODY
            self.in_doubt = False
        self.committed = frozenset(members)
        self.partition_epoch = partition_epoch
        self.min_size = min_size
        self._recompute()
        return True

    def _recompute(self) -> None:
        self.maximal = self.committed | self._proposed | self._joiners


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
