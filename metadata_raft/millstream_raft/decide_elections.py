"""Decisions on elections that somebody asked for. Pure, like ``decide.py``.

Clean elections need no decision: the commands that end a leader's session elect the next one.
"""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from millstream_raft.decision import ClusterDefaults, Decision
from millstream_raft.image import Image, PartitionState, TopicState
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb

# The wire's numbers of ``millstream.v1.ElectionKind``.
_PREFERRED, _UNCLEAN = 1, 2
# Partitions of one request: its commands stay far below what an entry may have.
ELECTIONS_MAX = 1_000

_Found = Iterator[tuple[TopicState, PartitionState]]


def elect_leaders(image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults) -> Decision:
    """Elect preferred leaders, or any leaders at the risk of losing records (invariant 5)."""
    if body.kind not in (_PREFERRED, _UNCLEAN):
        raise Refused("INVALID_REQUEST", "kind is neither PREFERRED nor UNCLEAN")
    if len(body.partitions) > ELECTIONS_MAX:
        raise Refused(
            "INVALID_REQUEST",
            f"{len(body.partitions)} partitions; a request names at most {ELECTIONS_MAX}",
        )
    unclean = body.kind == _UNCLEAN
    reply = pb.ExecuteResponse()
    reply.elect_leaders.SetInParent()
    commands: list[command_pb.MetadataCommand] = []
    if body.partitions:
        seen: set[tuple[bytes, int]] = set()
        for target in body.partitions:
            _answer(image, target, reply.elect_leaders, commands, seen, unclean=unclean)
        return Decision(reply, tuple(commands))
    found = electable(image) if unclean else unbalanced(image)
    for topic, partition in islice(found, ELECTIONS_MAX):
        leader_id = _best(image, partition) if unclean else partition.preferred_leader_id
        commands.append(_election(topic, partition, leader_id, unclean=unclean))
        reply.elect_leaders.results.add(
            topic_id=topic.topic_id, partition=partition.number, leader_id=leader_id
        )
    reply.elect_leaders.remaining = sum(1 for _ in found)
    return Decision(reply, tuple(commands))


def unbalanced(image: Image) -> _Found:
    """The partitions that are not led by their preferred leader although it is in sync."""
    for topic in image.topics.values():
        for partition in topic.partitions:
            if _may_be_balanced(image, partition):
                yield topic, partition


def electable(image: Image) -> _Found:
    """The partitions without a leader that an unclean election could give one."""
    for topic in image.topics.values():
        for partition in topic.partitions:
            if partition.leader_id is None and _best(image, partition):
                yield topic, partition


def balancing(
    image: Image, refusing: Collection[int] = ()
) -> tuple[command_pb.MetadataCommand, ...]:
    """The elections that give leads back to preferred leaders, a batch of them; none to nodes whose
    disks refuse appends."""
    found = (
        (topic, partition)
        for topic, partition in unbalanced(image)
        if partition.preferred_leader_id not in refusing
    )
    return tuple(
        _election(topic, partition, partition.preferred_leader_id, unclean=False)
        for topic, partition in islice(found, ELECTIONS_MAX)
    )


def relieving(image: Image, refusing: Collection[int]) -> tuple[command_pb.MetadataCommand, ...]:
    """The elections of in-sync replicas elsewhere in place of leaders whose disks refuse appends, a
    batch of them. Where no other is in sync the leader stays: it can be read from."""
    return tuple(
        _election(topic, partition, leader_id, unclean=False)
        for topic, partition, leader_id in islice(_relief(image, refusing), ELECTIONS_MAX)
    )


def _relief(
    image: Image, refusing: Collection[int]
) -> Iterator[tuple[TopicState, PartitionState, int]]:
    for node_id in sorted(refusing):
        for topic, partition in image.partitions_of_node(node_id):
            if partition.leader_id != node_id:
                continue
            # A reassignment whose target is in sync would take the lead back at once.
            there = set(partition.target).intersection(partition.isr)
            led_by_target = len(there) >= partition.target_in_sync_min
            others = (
                one
                for one in (partition.target if led_by_target else partition.replicas)
                if one in partition.isr
                and one not in refusing
                and (node := image.nodes.get(one)) is not None
                and node.may_lead
            )
            leader_id = next(others, None)
            if leader_id is not None:
                yield topic, partition, leader_id


def _may_be_balanced(image: Image, partition: PartitionState) -> bool:
    preferred = partition.preferred_leader_id
    if partition.leader_id in (None, preferred) or preferred not in partition.isr:
        return False
    node = image.nodes.get(preferred)
    return node is not None and node.may_lead


def _answer(
    image: Image,
    target: Any,
    answer: Any,
    commands: list[command_pb.MetadataCommand],
    seen: set[tuple[bytes, int]],
    *,
    unclean: bool,
) -> None:
    result = answer.results.add(topic_id=target.topic_id, partition=target.partition)
    key = target.topic_id, target.partition
    topic, partition = image.topics.get(target.topic_id), image.partition(*key)
    try:
        if topic is None:
            raise Refused("UNKNOWN_TOPIC", "no topic has this id")
        if partition is None:
            raise Refused("UNKNOWN_PARTITION", f"{topic.name} has no such partition")
        if key in seen:
            raise Refused("INVALID_REQUEST", "the partition is named twice")
        seen.add(key)
        if partition.leader_id is not None:
            result.leader_id = partition.leader_id
        chosen = target.replica_id if target.HasField("replica_id") else None
        if unclean:
            leader_id = _unclean_leader(image, partition, chosen)
        else:
            leader_id = _preferred_leader(image, partition, chosen)
    except Refused as refused:
        set_error(result, refused)
        return
    result.leader_id = leader_id
    commands.append(_election(topic, partition, leader_id, unclean=unclean))


def _preferred_leader(image: Image, partition: PartitionState, chosen: int | None) -> int:
    preferred = partition.preferred_leader_id
    if chosen is not None:
        raise Refused("INVALID_REQUEST", "replica_id is for unclean elections")
    if partition.leader_id == preferred:
        raise Refused("ELECTION_NOT_NEEDED", f"replica {preferred} leads already")
    if not _may_be_balanced(image, partition):
        raise Refused(
            "ELIGIBLE_LEADERS_NOT_AVAILABLE", f"replica {preferred} is not in sync or not available"
        )
    return preferred


def _unclean_leader(image: Image, partition: PartitionState, chosen: int | None) -> int:
    if partition.leader_id is not None:
        raise Refused("ELECTION_NOT_NEEDED", f"replica {partition.leader_id} leads")
    if chosen is None:
        best = _best(image, partition)
        if not best:
            raise Refused(
                "ELIGIBLE_LEADERS_NOT_AVAILABLE",
                "no replica with an intact log is available; one with a damaged log must be named",
            )
        return best
    if chosen not in partition.replicas:
        raise Refused("INVALID_REPLICA_ASSIGNMENT", f"node {chosen} holds no replica")
    node = image.nodes.get(chosen)
    if node is None or not node.may_lead:
        raise Refused("ELIGIBLE_LEADERS_NOT_AVAILABLE", f"replica {chosen} is not available")
    return chosen


def _best(image: Image, partition: PartitionState) -> int:
    """The available replica that probably misses the least; 0 for none. A damaged log is never
    chosen: to cut it is for the operator to order, by name (invariant 34)."""
    available = [
        one
        for one in partition.replicas
        if one not in partition.damaged
        and (node := image.nodes.get(one)) is not None
        and node.may_lead
    ]
    if not available:
        return 0
    ends = {log.node_id: log.end for log in partition.recovered_logs}
    return max(
        available,
        key=lambda one: (
            one in ends,
            ends.get(one, (0, 0)),
            one in partition.last_known_elr,
            -partition.replicas.index(one),
        ),
    )


def _election(
    topic: TopicState, partition: PartitionState, leader_id: int, *, unclean: bool
) -> command_pb.MetadataCommand:
    return command_pb.MetadataCommand(
        elect_leader=command_pb.ElectLeader(
            topic_id=topic.topic_id,
            partition=partition.number,
            expected_partition_epoch=partition.partition_epoch,
            leader_id=leader_id,
            unclean=unclean,
        )
    )


def set_error(result: Any, refused: Refused) -> None:
    """Write a refusal into a result with fields ``error``, a number of ErrorReason, and
    ``message``."""
    reasons = result.DESCRIPTOR.fields_by_name["error"].enum_type.values_by_name
    result.error = reasons["ERROR_REASON_" + refused.reason].number
    result.message = refused.message
