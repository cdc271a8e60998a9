"""Commits, fetches, resets and deletions of committed positions, and their expiry."""

from collections.abc import Callable, Collection, Mapping, Sequence

from millstream_server.coordinator.changes import Changes, Moment, Result
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.group import Group
from millstream_server.coordinator.membership import Membership
from millstream_server.coordinator.positions import (
    LogBounds,
    PositionCommit,
    PositionLimits,
    committed,
    is_expired,
    reset,
)
from millstream_server.coordinator.rebalancing import Rebalancer
from millstream_server.coordinator.records import (
    CommittedPosition,
    GroupMetadataRecord,
    Partition,
    PositionRecord,
)
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.shard_state import ShardState

Bounds = Mapping[Partition, LogBounds]
# One per position asked for, in order; None: stored.
Outcomes = Sequence[Refusal | None]
Positions = Sequence[tuple[Partition, CommittedPosition]]
_Change = Callable[
    [CommittedPosition | None, PositionCommit, LogBounds | None, PositionLimits, int],
    CommittedPosition,
]


class PositionRequests:
    """The handlers of one shard."""

    def __init__(
        self,
        state: ShardState,
        membership: Membership,
        rebalancer: Rebalancer,
        config: CoordinatorConfig,
    ) -> None:
        self._state = state
        self._membership = membership
        self._rebalancer = rebalancer
        self._config = config
        self._limits = PositionLimits(
            config.offset_metadata_bytes_max, config.ranges_per_offset_max
        )

    def commit_as_member(
        self,
        group_id: str,
        member_id: str,
        member_epoch: int,
        instance_id: str,
        commits: Sequence[PositionCommit],
        bounds: Bounds,
        *,
        stream: int,
        now: Moment,
    ) -> Result[Outcomes]:
        """Commit for a member at its current epoch (invariant 27).

        Raises Refusal UNKNOWN_MEMBER, FENCED_INSTANCE or FENCED_MEMBER_EPOCH; with another epoch
        than the current one every outcome is STALE_MEMBER_EPOCH.
        """
        group, _ = self._membership.member_on(group_id, member_id, instance_id, stream)
        current = group.current(member_id).member_epoch
        if member_epoch != current:
            stale = Refusal(
                "STALE_MEMBER_EPOCH", f"member epoch {member_epoch} is not {current}, the current"
            )
            return Result([stale] * len(commits))
        return self._change(group_id, group, committed, commits, bounds, now)

    def commit(
        self, group_id: str, commits: Sequence[PositionCommit], bounds: Bounds, now: Moment
    ) -> Result[Outcomes]:
        """Commit for a group without members. Raises Refusal GROUP_NOT_EMPTY or THROTTLED."""
        group = self._without_members(group_id)
        return self._change(group_id, group, committed, commits, bounds, now)

    def reset(
        self, group_id: str, commits: Sequence[PositionCommit], bounds: Bounds, now: Moment
    ) -> Result[Outcomes]:
        """Move positions anywhere, and count up their generations (invariant 29).

        Raises Refusal GROUP_NOT_EMPTY or THROTTLED.
        """
        group = self._without_members(group_id)
        return self._change(group_id, group, reset, commits, bounds, now)

    def fetch(self, group_id: str, wanted: Collection[Partition] | None) -> Result[Positions]:
        """Committed positions; None: all of the group's."""
        group = self._state.group(group_id)
        if group is None:
            return Result(())
        if wanted is None:
            return Result(sorted(group.positions.items()))
        return Result(
            [
                (partition, position)
                for partition in wanted
                if (position := group.positions.get(partition)) is not None
            ]
        )

    def delete(self, group_id: str, partitions: Collection[Partition]) -> Result[None]:
        """Forget positions. Raises Refusal GROUP_NOT_EMPTY if a member subscribes to the topic."""
        group = self._state.group(group_id)
        if group is None:
            return Result(None)
        subscribed = self._subscribed(group)
        if any(topic_id in subscribed for topic_id, _ in partitions):
            raise Refusal("GROUP_NOT_EMPTY", "a member of the group subscribes to the topic")
        return self._forget(group, partitions)

    def topics_removed(self, topic_ids: Collection[bytes]) -> Result[None]:
        """Forget the positions of topics that were deleted: their ids never come back."""
        changes = Changes(self._state)
        for group in list(self._state.groups.values()):
            gone = [partition for partition in group.positions if partition[0] in topic_ids]
            for topic_id, number in gone:
                changes.emit(PositionRecord(group.group_id, topic_id, number, None))
        return changes.result(None, divisible=True)

    def expire(self, now: Moment) -> Result[None]:
        """Forget positions that nobody uses since longer than the retention, and groups of which
        nothing else is left."""
        retention_ms = self._config.offsets_retention_minutes * 60_000
        changes = Changes(self._state)
        for group in list(self._state.groups.values()):
            subscribed = self._subscribed(group)
            empty_since_ms = group.metadata.empty_since_ms if group.metadata is not None else 0
            expired = [
                partition
                for partition, position in group.positions.items()
                if partition[0] not in subscribed
                and is_expired(position, empty_since_ms, retention_ms, now.wall_ms)
            ]
            for topic_id, number in expired:
                changes.emit(PositionRecord(group.group_id, topic_id, number, None))
            if (
                group.metadata is not None
                and not group.members
                and not group.positions
                and empty_since_ms + retention_ms <= now.wall_ms
            ):
                changes.emit(GroupMetadataRecord(group.group_id, None))
        return changes.result(None, divisible=True)

    # Inside

    def _without_members(self, group_id: str) -> Group | None:
        group = self._state.group(group_id)
        if group is not None and group.members:
            raise Refusal("GROUP_NOT_EMPTY", f"the group has {len(group.members)} members")
        if group is None and len(self._state.groups) >= self._config.groups_per_shard_max:
            raise Refusal("THROTTLED", f"the shard has {len(self._state.groups)} groups already")
        return group

    def _change(
        self,
        group_id: str,
        group: Group | None,
        change: _Change,
        commits: Sequence[PositionCommit],
        bounds: Bounds,
        now: Moment,
    ) -> Result[Outcomes]:
        changes = Changes(self._state)
        outcomes: list[Refusal | None] = []
        for commit in commits:
            partition = (commit.topic_id, commit.partition)
            group = self._state.group(group_id)
            known = group.positions.get(partition) if group is not None else None
            try:
                if known is None and group is not None:
                    self._check_room(group)
                position = change(known, commit, bounds.get(partition), self._limits, now.wall_ms)
            except Refusal as refusal:
                outcomes.append(refusal)
                continue
            changes.emit(PositionRecord(group_id, *partition, position))
            outcomes.append(None)
        return changes.result(outcomes)

    def _check_room(self, group: Group) -> None:
        if len(group.positions) >= self._config.offsets_per_group_max:
            raise Refusal("THROTTLED", f"the group has {len(group.positions)} offsets already")

    def _forget(self, group: Group, partitions: Collection[Partition]) -> Result[None]:
        changes = Changes(self._state)
        for partition in partitions:
            if partition in group.positions:
                changes.emit(PositionRecord(group.group_id, *partition, None))
        return changes.result(None, divisible=True)

    def _subscribed(self, group: Group) -> set[bytes]:
        subscribed: set[bytes] = set()
        for member in group.members.values():
            subscribed |= self._rebalancer.topics.subscribed(member)
        return subscribed
