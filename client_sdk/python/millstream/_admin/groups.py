"""Admin flows about consumer groups and their offsets."""

from collections.abc import Iterable, Mapping, Sequence

from millstream._admin.flow import Ask, Flow, for_each, raise_failures
from millstream._admin.logs import list_offsets
from millstream._admin.types import (
    GroupDescription,
    GroupListing,
    GroupOffset,
    MemberDescription,
    OffsetSpec,
)
from millstream._client import methods
from millstream._client.cluster import NodeInfo, node_from_proto
from millstream._consumer.record import OffsetAndMetadata, TopicPartition
from millstream._errors import MillstreamError, OffsetNotAvailableError
from millstream._errors.status import from_reason
from millstream.v1 import group_coordinator_service_pb2 as pb
from millstream.v1 import metadata_service_pb2 as metadata

_STATE_NAMES = {
    pb.GROUP_STATE_EMPTY: "empty",
    pb.GROUP_STATE_ASSIGNING: "assigning",
    pb.GROUP_STATE_RECONCILING: "reconciling",
    pb.GROUP_STATE_STABLE: "stable",
}
_STATES = {name: number for number, name in _STATE_NAMES.items()}


def list_groups(states: Iterable[str]) -> Flow[list[GroupListing]]:
    """The groups of all coordinators, by id."""
    wanted = [_STATES[state.lower()] for state in states]
    cluster = yield Ask(methods.DESCRIBE_CLUSTER, metadata.DescribeClusterRequest())
    coordinators = [
        node
        for node in map(node_from_proto, cluster.nodes)
        if "coordinator" in node.roles and not node.fenced
    ]

    def ask(node: NodeInfo) -> Flow[list[GroupListing]]:
        answer = yield Ask(
            methods.LIST_GROUPS, pb.ListGroupsRequest(states=wanted), address=node.address
        )
        return [
            GroupListing(
                group.group_id, _STATE_NAMES.get(group.state, ""), group.member_count, node.node_id
            )
            for group in answer.groups
        ]

    found = yield from for_each(coordinators, ask)
    return sorted(
        {group.group_id: group for of_node in found for group in of_node}.values(),
        key=lambda group: group.group_id,
    )


def describe_groups(group_ids: Iterable[str]) -> Flow[list[GroupDescription]]:
    """The groups with their members, in that order."""

    def describe(group_id: str) -> Flow[GroupDescription]:
        found = yield Ask(
            methods.FIND_COORDINATOR, metadata.FindCoordinatorRequest(group_id=group_id)
        )
        answer = yield Ask(
            methods.DESCRIBE_GROUP,
            pb.DescribeGroupRequest(group_id=group_id),
            group_id=group_id,
        )
        return GroupDescription(
            answer.group_id,
            _STATE_NAMES.get(answer.state, ""),
            answer.group_epoch,
            answer.assignor,
            tuple(map(_member, answer.members)),
            answer.shard,
            node_from_proto(found.node),
        )

    return (yield from for_each(group_ids, describe))


def _member(member: pb.GroupMember) -> MemberDescription:
    return MemberDescription(
        member.member_id,
        member.instance_id,
        member.client_id,
        member.client_host,
        member.member_epoch,
        _flat(member.owned),
        _flat(member.target),
        tuple(member.topics),
    )


def _flat(owned: Iterable[pb.TopicPartitions]) -> tuple[TopicPartition, ...]:
    return tuple(
        TopicPartition(topic.topic, number) for topic in owned for number in topic.partitions
    )


def delete_groups(group_ids: Iterable[str]) -> Flow[None]:
    """Delete groups with their offsets."""

    def delete(group_id: str) -> Flow[None]:
        yield Ask(methods.DELETE_GROUP, pb.DeleteGroupRequest(group_id=group_id), group_id=group_id)

    yield from for_each(group_ids, delete)


def _by_topic(partitions: Iterable[TopicPartition]) -> list[pb.TopicPartitions]:
    numbers: dict[str, list[int]] = {}
    for topic, number in partitions:
        numbers.setdefault(topic, []).append(number)
    return [pb.TopicPartitions(topic=topic, partitions=of) for topic, of in numbers.items()]


def list_group_offsets(
    group_id: str, partitions: Iterable[TopicPartition] | None
) -> Flow[dict[TopicPartition, GroupOffset]]:
    """The committed offsets; partitions without one are left out."""
    wanted = _by_topic(partitions or ())
    if partitions is not None and not wanted:
        return {}
    answer = yield Ask(
        methods.FETCH_OFFSETS,
        pb.FetchOffsetsRequest(group_id=group_id, partitions=wanted),
        group_id=group_id,
    )
    return {
        TopicPartition(entry.topic, entry.partition): GroupOffset(
            entry.topic,
            entry.partition,
            entry.offset,
            entry.leader_epoch if entry.HasField("leader_epoch") else None,
            entry.metadata,
            entry.commit_timestamp_ms,
            entry.generation,
        )
        for entry in answer.offsets
    }


def alter_group_offsets(
    group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
) -> Flow[None]:
    """Move committed offsets, forward or back."""
    commits = []
    for (topic, number), wanted in offsets.items():
        place = OffsetAndMetadata(wanted) if isinstance(wanted, int) else wanted
        commits.append(
            pb.OffsetCommit(
                topic=topic,
                partition=number,
                offset=place.offset,
                leader_epoch=place.leader_epoch,
                metadata=place.metadata,
            )
        )
    if not commits:
        return
    answer = yield Ask(
        methods.RESET_OFFSETS,
        pb.ResetOffsetsRequest(group_id=group_id, offsets=commits),
        group_id=group_id,
    )
    _raise_failed(answer.results)


def _raise_failed(results: Sequence[pb.OffsetCommitResult]) -> None:
    failures: dict[TopicPartition, MillstreamError] = {
        TopicPartition(result.topic, result.partition): from_reason(result.error, result.message)
        for result in results
        if result.error
    }
    raise_failures(failures)


def reset_group_offsets(
    group_id: str, wanted: Mapping[TopicPartition, OffsetSpec | int]
) -> Flow[dict[TopicPartition, int]]:
    """Move committed offsets to positions, which are looked up first; returns where they went."""
    looked_up = {place: spec for place, spec in wanted.items() if isinstance(spec, OffsetSpec)}
    found = yield from list_offsets(looked_up)
    offsets = {place: spec for place, spec in wanted.items() if isinstance(spec, int)}
    beyond = {place: OffsetSpec.latest() for place, info in found.items() if info.offset is None}
    ends = yield from list_offsets(beyond)
    for place, info in {**found, **ends}.items():
        if info.offset is None:
            raise OffsetNotAvailableError(f"the end of {place.topic}-{place.partition} is unknown")
        offsets[place] = info.offset
    yield from alter_group_offsets(group_id, dict(offsets))
    return offsets


def delete_group_offsets(group_id: str, partitions: Iterable[TopicPartition]) -> Flow[None]:
    """Forget committed offsets."""
    wanted = _by_topic(partitions)
    if wanted:
        yield Ask(
            methods.DELETE_OFFSETS,
            pb.DeleteOffsetsRequest(group_id=group_id, partitions=wanted),
            group_id=group_id,
        )
