"""How far the followers of a partition came, as its leader sees it, and since when they are behind.

Pure. Times are monotonic milliseconds. "The end that counts" is the synced one in fsync mode
(invariant 10).
"""

from collections.abc import Iterable, Mapping

NO_END = -1
NO_EPOCH = -1
_NEVER = 1 << 63


class FollowerProgress:
    """One follower under one leader epoch.

    A follower is caught up at a moment if it has what the leader had then. That is known late: by
    a report that reaches what the leader's end was at an earlier one. In Kafka that is the report
    before, for a follower fetches again only when it has its answer. Here one report follows
    another while batches are on their way, so the end of the report before may never be reached
    though the follower is but a round trip behind: an older end is kept until it is.
    """

    __slots__ = (
        "_earlier",
        "_latest",
        "begun_at",
        "caught_up_ms",
        "caught_up_once",
        "connected",
        "end_offset",
        "node_epoch",
        "synced_end_offset",
    )

    def __init__(self, now_ms: int) -> None:
        # Node epoch that the last report was sent under; 0 before the first one.
        self.node_epoch = 0
        # Partition epoch that it knew when it began to copy.
        self.begun_at = NO_EPOCH
        self.end_offset = NO_END
        self.synced_end_offset = NO_END
        # When it was last known to be caught up; until it was, when the leader began to look.
        self.caught_up_ms = now_ms
        self.caught_up_once = False
        # True while its session lasts and copies the partition.
        self.connected = False
        # The leader's end at the last report, and when that was; the same of an earlier report,
        # whose end was not reached yet.
        self._latest = self._earlier = (_NEVER, now_ms)

    def counting_end(self, fsync: bool) -> int:
        """The end that counts; ``NO_END`` before the first report."""
        return self.synced_end_offset if fsync else self.end_offset

    def report(
        self, node_epoch: int, begun_at: int, end_offset: int, synced_end_offset: int
    ) -> None:
        """Take over what the follower said. An end may be below the one before: a new incarnation
        may have lost something."""
        self.node_epoch = node_epoch
        self.begun_at = begun_at
        self.end_offset = end_offset
        self.synced_end_offset = synced_end_offset
        self.connected = True

    def compare(self, end: int, leader_end: int, now_ms: int) -> None:
        """After a report: note what it says of being caught up."""
        now = (leader_end, now_ms)
        if end >= leader_end:
            self._caught_up(now_ms)
            self._earlier = now
        elif end >= self._latest[0]:
            self._caught_up(self._latest[1])
            self._earlier = now
        elif end >= self._earlier[0]:
            self._caught_up(self._earlier[1])
            self._earlier = self._latest
        elif self._earlier[0] == _NEVER:
            self._earlier = now
        self._latest = now

    def look(self, end: int, leader_end: int, now_ms: int) -> None:
        """Now and then: a follower that has everything does not report, but is caught up."""
        if self.connected and end >= leader_end:
            self._caught_up(now_ms)

    def _caught_up(self, at_ms: int) -> None:
        self.caught_up_ms = max(self.caught_up_ms, at_ms)
        self.caught_up_once = True

    def lag_ms(self, end: int, leader_end: int, now_ms: int) -> int:
        """For how long it has been behind; 0 at the leader's end."""
        return 0 if end >= leader_end else max(0, now_ms - self.caught_up_ms)


class Followers:
    """The followers of one partition under one leader epoch, by node id."""

    __slots__ = ("_by_id", "_fsync", "ends", "looked_ms")

    def __init__(self) -> None:
        self._by_id: dict[int, FollowerProgress] = {}
        self._fsync = True
        # The ends that count; the leader puts its own beside them.
        self.ends: dict[int, int] = {}
        # When the leader first looked at them.
        self.looked_ms: int | None = None

    def clear(self) -> None:
        """Another leader epoch (invariant 9)."""
        self._by_id.clear()
        self.ends.clear()
        self.looked_ms = None

    def count_synced(self, fsync: bool) -> None:
        """Go by synced ends from now on, or by written ones."""
        if fsync != self._fsync:
            self._fsync = fsync
            self.ends = {
                node_id: follower.counting_end(fsync) for node_id, follower in self._by_id.items()
            }

    def report(
        self,
        node_id: int,
        epochs: tuple[int, int],
        ends: tuple[int, int],
        leader_end: int,
        now_ms: int,
    ) -> None:
        """A follower said (end, synced end), under this registration and in a round begun at this
        partition epoch."""
        follower = self._by_id.get(node_id)
        if follower is None:
            follower = self._by_id[node_id] = FollowerProgress(now_ms)
        follower.report(*epochs, *ends)
        end = self.ends[node_id] = follower.counting_end(self._fsync)
        follower.compare(end, leader_end, now_ms)

    def left(self, node_id: int) -> None:
        """A follower copies no more, for the present."""
        follower = self._by_id.get(node_id)
        if follower is not None:
            follower.connected = False

    def look(self, node_ids: Iterable[int], leader_end: int, now_ms: int) -> None:
        """See ``Partition.look_at_followers``."""
        if self.looked_ms is None:
            self.looked_ms = now_ms
        for node_id in node_ids:
            follower = self._by_id.get(node_id)
            if follower is None:
                self._by_id[node_id] = FollowerProgress(now_ms)
            else:
                follower.look(follower.counting_end(self._fsync), leader_end, now_ms)

    def lag_ms(self, node_id: int, leader_end: int, now_ms: int) -> int:
        """For how long a follower has been behind; 0 for one that is not looked at yet."""
        follower = self._by_id.get(node_id)
        if follower is None:
            return 0
        return follower.lag_ms(follower.counting_end(self._fsync), leader_end, now_ms)

    def node_epoch(self, node_id: int) -> int:
        """Registration under which a follower last reported; 0 if it did not."""
        follower = self._by_id.get(node_id)
        return follower.node_epoch if follower is not None else 0

    def begun_at(self, node_id: int) -> int:
        """Partition epoch that a follower knew when it began to copy; ``NO_EPOCH`` before that."""
        follower = self._by_id.get(node_id)
        return follower.begun_at if follower is not None else NO_EPOCH

    def is_known(self, node_id: int, eligible: Mapping[int, int]) -> bool:
        """True if an eligible follower reported in this epoch under its present registration."""
        return node_id in eligible and self.node_epoch(node_id) == eligible[node_id]

    def about_to_join(
        self,
        outsiders: Iterable[int],
        eligible: Mapping[int, int],
        leader_end: int,
        now_ms: int,
        lag_ms_max: int,
    ) -> frozenset[int]:
        """Those of the followers outside of the in-sync set that copy so closely that they should
        be in it before long."""
        return frozenset(
            node_id
            for node_id in outsiders
            if (follower := self._by_id.get(node_id)) is not None
            and follower.connected
            and follower.caught_up_once
            and self.is_known(node_id, eligible)
            and self.lag_ms(node_id, leader_end, now_ms) <= lag_ms_max
        )
