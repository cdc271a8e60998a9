"""What must hold of a group at any moment, by the names of KIP-848's TLA+ model, and what two
states are compared by."""

from typing import Any

from millstream_server.coordinator.group import Group, GroupState
from millstream_server.coordinator.record_codec import decode_record, encode_record
from millstream_server.coordinator.records import Partition, Record
from millstream_server.coordinator.shard_state import ShardState
from millstream_server.coordinator.topics import TopicIndex


def check_group(group: Group, told: TopicIndex) -> None:
    """Raises AssertionError with the name of the property that does not hold."""
    held: dict[Partition, str] = {}
    for member_id, current in group.currents.items():
        assert not current.assigned & current.revoking
        for partition in current.held:
            assert held.setdefault(partition, member_id) == member_id, "NoDoubleClientAssignment"
    assert held == group.owners
    for partition, owner in held.items():
        epoch = group.partition_epoch(partition)
        assert 0 <= epoch <= group.group_epoch, "ValidPartitionEpoch"
        assert epoch == group.current(owner).member_epoch, "ValidPartitionEpoch"
    for member_id in group.members:
        current = group.current(member_id)
        assert current.previous_epoch <= current.member_epoch <= group.target_epoch, (
            "ValidMemberEpoch"
        )
    assert group.target_epoch <= group.group_epoch
    if group.state is GroupState.STABLE:
        for member_id in group.members:
            current = group.current(member_id)
            assert current.member_epoch == group.group_epoch, "ValidStableGroupState"
            assert current.assigned == group.target(member_id), "ValidStableGroupState"
            assert not current.revoking, "ValidStableGroupState"
    if group.members and group.state is not GroupState.ASSIGNING:
        _check_target(group, told)


def _check_target(group: Group, told: TopicIndex) -> None:
    given: set[Partition] = set()
    wanted: set[Partition] = set()
    for member_id, member in group.members.items():
        target = group.target(member_id)
        assert not target & given, "LegalTargetAssignment"
        given |= target
        subscribed = told.subscribed(member)
        assert {topic_id for topic_id, _ in target} <= subscribed, "LegalTargetAssignment"
        for topic_id in subscribed:
            count = told.by_id[topic_id].partition_count
            wanted |= {(topic_id, number) for number in range(count)}
    assert given == wanted, "LegalTargetAssignment"


def contents(state: ShardState) -> dict[str, Any]:
    """Everything that a state holds, comparable."""
    return {
        group_id: (
            group.metadata,
            group.members,
            group.targets,
            group.currents,
            group.positions,
            group.instances,
            group.owners,
            group.unsettled,
        )
        for group_id, group in state.groups.items()
    }


def replayed(records: list[Record]) -> ShardState:
    """The state after a replay of records through their encoding."""
    state = ShardState()
    for record in records:
        state.apply(decode_record(*encode_record(record)))
    return state
