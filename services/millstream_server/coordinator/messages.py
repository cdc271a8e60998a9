"""Public messages to and from the coordinator's own values. Names are resolved here, once."""

from collections.abc import Iterable, Sequence

from millstream.v1 import group_coordinator_service_pb2 as pb
from millstream_server.coordinator.changes import AssignmentPush
from millstream_server.coordinator.group import GroupState
from millstream_server.coordinator.group_requests import GroupDescription, GroupSummary
from millstream_server.coordinator.membership import JoinReply, JoinRequest
from millstream_server.coordinator.positions import PositionCommit
from millstream_server.coordinator.records import (
    CommittedPosition,
    MemberMetadata,
    Partition,
    Partitions,
)
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.topics import TopicIndex
from millstream_server.runtime.errors import reason_number

_STATES = {
    GroupState.EMPTY: pb.GROUP_STATE_EMPTY,
    GroupState.ASSIGNING: pb.GROUP_STATE_ASSIGNING,
    GroupState.RECONCILING: pb.GROUP_STATE_RECONCILING,
    GroupState.STABLE: pb.GROUP_STATE_STABLE,
}
_STATE_BY_NUMBER = {number: state for state, number in _STATES.items()}
_PARTITIONS_MAX = 200_000
_TOPIC_ID_BYTES = 16


def partitions_of(entries: Iterable[pb.TopicPartitions], topics: TopicIndex) -> Partitions:
    """The partitions meant; names count where ids are missing, those of no topic are left out.

    Raises Refusal INVALID_REQUEST.
    """
    partitions: set[Partition] = set()
    for entry in entries:
        topic_id = entry.topic_id
        if not topic_id:
            topic = topics.by_name.get(entry.topic)
            if topic is None:
                continue
            topic_id = topic.topic_id
        if len(topic_id) != _TOPIC_ID_BYTES:
            raise Refusal("INVALID_REQUEST", "topic_id: not 16 bytes long")
        partitions.update((topic_id, number) for number in entry.partitions)
        if len(partitions) > _PARTITIONS_MAX:
            raise Refusal("INVALID_REQUEST", f"more than {_PARTITIONS_MAX} partitions")
    return frozenset(partitions)


def topic_partitions(
    partitions: Iterable[Partition], topics: TopicIndex
) -> list[pb.TopicPartitions]:
    """Partitions by topic, with names where they are known."""
    by_topic: dict[bytes, list[int]] = {}
    for topic_id, number in sorted(partitions):
        by_topic.setdefault(topic_id, []).append(number)
    return [
        pb.TopicPartitions(topic=name_of(topic_id, topics), topic_id=topic_id, partitions=numbers)
        for topic_id, numbers in by_topic.items()
    ]


def name_of(topic_id: bytes, topics: TopicIndex) -> str:
    """Name of a topic, empty if it is not known any more."""
    topic = topics.by_id.get(topic_id)
    return topic.name if topic is not None else ""


def join_request(message: pb.Join, client_host: str, topics: TopicIndex) -> JoinRequest:
    """A join. Raises Refusal INVALID_REQUEST."""
    return JoinRequest(
        message.group_id,
        message.member_id,
        message.member_epoch,
        MemberMetadata(
            instance_id=message.instance_id,
            client_id=message.client_id,
            client_host=client_host,
            rack=message.rack,
            topics=tuple(message.topics),
            topic_pattern=message.topic_pattern,
            assignor=message.assignor,
            session_timeout_ms=message.session_timeout_ms,
            rebalance_timeout_ms=message.rebalance_timeout_ms,
        ),
        partitions_of(message.owned, topics),
    )


def joined(reply: JoinReply) -> pb.Joined:
    """The answer to a join."""
    return pb.Joined(
        member_id=reply.member_id,
        member_epoch=reply.member_epoch,
        heartbeat_interval_ms=reply.heartbeat_interval_ms,
        session_timeout_ms=reply.session_timeout_ms,
    )


def assignment(push: AssignmentPush, topics: TopicIndex) -> pb.Assignment:
    """A pushed assignment."""
    return pb.Assignment(
        member_epoch=push.member_epoch,
        partitions=topic_partitions(push.partitions, topics),
        pending=topic_partitions(push.pending, topics),
        reason=pb.AssignmentReason.ValueType(push.reason.value),
        group_epoch=push.group_epoch,
    )


def position_commit(entry: pb.OffsetCommit, topics: TopicIndex) -> PositionCommit | Refusal:
    """An offset to commit, or why it cannot be meant."""
    topic_id = entry.topic_id
    if topic_id:
        topic = topics.by_id.get(topic_id)
    else:
        topic = topics.by_name.get(entry.topic)
    if topic is None:
        shown = entry.topic or topic_id.hex()
        return Refusal("UNKNOWN_TOPIC", f"no topic {shown} is known")
    if entry.partition >= topic.partition_count:
        return Refusal(
            "UNKNOWN_PARTITION", f"topic {topic.name} has no partition {entry.partition}"
        )
    return PositionCommit(
        topic.topic_id,
        entry.partition,
        entry.offset,
        entry.leader_epoch if entry.HasField("leader_epoch") else None,
        entry.metadata,
        tuple((some.begin, some.end) for some in entry.ranges),
    )


def commit_results(
    entries: Sequence[pb.OffsetCommit],
    commits: Sequence[PositionCommit | Refusal],
    outcomes: Iterable[Refusal | None],
) -> list[pb.OffsetCommitResult]:
    """One result per entry; ``outcomes`` are those of the commits that could be meant."""
    remaining = iter(outcomes)
    results = []
    for entry, commit in zip(entries, commits, strict=True):
        refusal = commit if isinstance(commit, Refusal) else next(remaining)
        result = pb.OffsetCommitResult(
            topic=entry.topic, topic_id=entry.topic_id, partition=entry.partition
        )
        if isinstance(commit, PositionCommit):
            result.topic_id = commit.topic_id
        if refusal is not None:
            result.error = reason_number(refusal.reason)
            result.message = refusal.message
        results.append(result)
    return results


def committed_offset(
    partition: Partition, position: CommittedPosition, topics: TopicIndex
) -> pb.CommittedOffset:
    """A committed position."""
    topic_id, number = partition
    return pb.CommittedOffset(
        topic=name_of(topic_id, topics),
        topic_id=topic_id,
        partition=number,
        offset=position.offset,
        leader_epoch=position.leader_epoch,
        metadata=position.metadata,
        commit_timestamp_ms=position.commit_timestamp_ms,
        generation=position.generation,
        ranges=[pb.OffsetRange(begin=begin, end=end) for begin, end in position.ranges],
    )


def group_states(numbers: Iterable[pb.GroupState.ValueType]) -> list[GroupState]:
    """States asked for; unknown ones match nothing. Raises Refusal INVALID_REQUEST."""
    try:
        return [_STATE_BY_NUMBER[number] for number in numbers]
    except KeyError as error:
        raise Refusal("INVALID_REQUEST", f"states: {error.args[0]} is not known") from None


def group_summary(summary: GroupSummary) -> pb.GroupSummary:
    """A group in a list."""
    return pb.GroupSummary(
        group_id=summary.group_id,
        state=_STATES[summary.state],
        member_count=summary.member_count,
    )


def described_group(
    group: GroupDescription, shard: int, topics: TopicIndex
) -> pb.DescribeGroupResponse:
    """A group with its members."""
    return pb.DescribeGroupResponse(
        group_id=group.group_id,
        state=_STATES[group.state],
        group_epoch=group.group_epoch,
        assignor=group.assignor,
        shard=shard,
        members=[
            pb.GroupMember(
                member_id=member.member_id,
                instance_id=member.metadata.instance_id,
                client_id=member.metadata.client_id,
                client_host=member.metadata.client_host,
                member_epoch=member.member_epoch,
                owned=topic_partitions(member.owned, topics),
                target=topic_partitions(member.target, topics),
                topics=member.metadata.topics,
            )
            for member in group.members
        ],
    )
