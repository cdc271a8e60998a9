"""Listing, describing and deleting groups."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from millstream_server.coordinator.changes import Changes, Result
from millstream_server.coordinator.group import Group, GroupState
from millstream_server.coordinator.records import (
    GroupMetadataRecord,
    MemberMetadata,
    Partitions,
    PositionRecord,
)
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.shard_state import ShardState


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """A group in a list."""

    group_id: str
    state: GroupState
    member_count: int


@dataclass(frozen=True, slots=True)
class MemberDescription:
    """A member of a described group."""

    member_id: str
    metadata: MemberMetadata
    member_epoch: int
    owned: Partitions
    target: Partitions


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A described group."""

    group_id: str
    state: GroupState
    group_epoch: int
    assignor: str
    members: Sequence[MemberDescription]


class GroupRequests:
    """The handlers of one shard."""

    def __init__(self, state: ShardState) -> None:
        self._state = state

    def list_groups(self, states: Collection[GroupState]) -> Result[Sequence[GroupSummary]]:
        """Groups in one of the states; none given: all."""
        return Result(
            [
                GroupSummary(group_id, group.state, len(group.members))
                for group_id, group in sorted(self._state.groups.items())
                if not states or group.state in states
            ]
        )

    def describe(self, group_id: str) -> Result[GroupDescription]:
        """A group with its members. Raises Refusal UNKNOWN_GROUP."""
        group = self._known(group_id)
        return Result(
            GroupDescription(
                group_id,
                group.state,
                group.group_epoch,
                group.metadata.assignor if group.metadata is not None else "",
                [
                    MemberDescription(
                        member_id,
                        metadata,
                        group.current(member_id).member_epoch,
                        group.current(member_id).held,
                        group.target(member_id),
                    )
                    for member_id, metadata in sorted(group.members.items())
                ],
            )
        )

    def delete(self, group_id: str) -> Result[None]:
        """Forget a group and its positions. Raises Refusal UNKNOWN_GROUP or GROUP_NOT_EMPTY."""
        group = self._known(group_id)
        if group.members:
            raise Refusal("GROUP_NOT_EMPTY", f"the group has {len(group.members)} members")
        changes = Changes(self._state)
        for topic_id, number in sorted(group.positions):
            changes.emit(PositionRecord(group_id, topic_id, number, None))
        if group.metadata is not None:
            changes.emit(GroupMetadataRecord(group_id, None))
        # A crash in between leaves a group with fewer positions, which can be deleted again.
        return changes.result(None, divisible=True)

    def _known(self, group_id: str) -> Group:
        group = self._state.group(group_id)
        if group is None:
            raise Refusal("UNKNOWN_GROUP", f"no group {group_id!r} is known")
        return group
