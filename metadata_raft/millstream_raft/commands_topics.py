"""Commands about topics. See ``commands.py``."""

from collections.abc import Iterable
from dataclasses import replace

from millstream_raft import elections
from millstream_raft.image import (
    FLUSH_FSYNC,
    FLUSH_PAGE_CACHE,
    OFFSETS_TOPIC,
    PartitionState,
    ShardLease,
    TopicState,
)
from millstream_raft.image_builder import ImageBuilder
from millstream_raft.refusal import Refused
from millstream_raft.topic_name import check_topic_name
from millstream_server.v1 import metadata_command_pb2 as pb

_ID_BYTES = 16


def apply_add_topic(builder: ImageBuilder, command: pb.AddTopic) -> None:
    """Add a topic with its partitions, each led by its first replica from the start."""
    check_topic_name(command.name)
    if len(command.topic_id) != _ID_BYTES:
        raise Refused("INVALID_REQUEST", "topic_id is not 16 bytes long")
    if builder.has_name(command.name):
        raise Refused("TOPIC_ALREADY_EXISTS", f"topic {command.name} exists already")
    if builder.topic(command.topic_id) is not None:
        raise Refused("VERSION_CONFLICT", "the topic id is taken")
    is_offsets_topic = command.name == OFFSETS_TOPIC
    if is_offsets_topic and not command.internal:
        raise Refused("INTERNAL_TOPIC", f"{OFFSETS_TOPIC} is the system's")
    if not command.assignments:
        raise Refused("INVALID_PARTITION_COUNT", "a topic has at least one partition")
    _check_settings(command.min_isr, command.flush_mode)
    topic = TopicState(
        name=command.name,
        topic_id=command.topic_id,
        internal=command.internal,
        configs=dict(command.configs),
        partitions=(),
    )
    new = _new_partitions(builder, 0, command.assignments, command.min_isr, command.flush_mode)
    builder.put_topic(topic, new)
    if is_offsets_topic:
        _add_shards(builder, len(new))


def apply_remove_topic(builder: ImageBuilder, command: pb.RemoveTopic) -> None:
    """Remove a topic; the nodes then set its data aside."""
    builder.remove_topic(_own_topic(builder, command.topic_id))


def apply_add_partitions(builder: ImageBuilder, command: pb.AddPartitions) -> None:
    """Add partitions behind those that a topic has."""
    topic = _own_topic(builder, command.topic_id)
    known = list(builder.partitions(topic.topic_id))
    if len(known) != command.expected_partition_count:
        raise Refused(
            "VERSION_CONFLICT",
            f"{topic.name} has {len(known)} partitions, not {command.expected_partition_count}",
        )
    _check_settings(command.min_isr, command.flush_mode)
    new = _new_partitions(
        builder, len(known), command.assignments, command.min_isr, command.flush_mode
    )
    builder.put_topic(topic, known + new)


def apply_change_topic_configs(builder: ImageBuilder, command: pb.ChangeTopicConfigs) -> None:
    """Set and unset keys; what is partition state steps the partitions (invariant 1)."""
    topic = builder.topic(command.topic_id)
    if topic is None:
        raise Refused("UNKNOWN_TOPIC", "no topic has this id")
    _check_settings(command.min_isr, command.flush_mode)
    configs = {key: value for key, value in topic.configs.items() if key not in command.unset}
    configs.update(command.set)
    builder.put_topic(replace(topic, configs=configs))
    exceptions = {one.partition: one for one in command.exceptions}
    for one in command.exceptions:
        _check_settings(one.min_isr, command.flush_mode)
    for partition in list(builder.partitions(topic.topic_id)):
        exception = exceptions.get(partition.number)
        changed = elections.with_settings(
            partition,
            command.min_isr if exception is None else exception.min_isr,
            command.flush_mode,
            builder.next_node_epoch - 1,
            target_min_isr=0 if exception is None else exception.target_min_isr,
        )
        if changed is not partition:
            builder.put_partition(topic.topic_id, changed)


def _own_topic(builder: ImageBuilder, topic_id: bytes) -> TopicState:
    topic = builder.topic(topic_id)
    if topic is None:
        raise Refused("UNKNOWN_TOPIC", "no topic has this id")
    if topic.internal:
        raise Refused("INTERNAL_TOPIC", f"{topic.name} is the system's")
    return topic


def _new_partitions(
    builder: ImageBuilder,
    first: int,
    assignments: Iterable[pb.ReplicaAssignment],
    min_isr: int,
    flush_mode: str,
) -> list[PartitionState]:
    partitions = []
    for number, assignment in enumerate(assignments, first):
        replicas = tuple(assignment.replica_ids)
        if not replicas or len(set(replicas)) != len(replicas):
            raise Refused("INVALID_REQUEST", f"replicas {list(replicas)} are none or repeated")
        for node_id in replicas:
            node = builder.nodes.get(node_id)
            if node is None or not node.may_lead:
                raise Refused("VERSION_CONFLICT", f"node {node_id} cannot take partitions now")
        partitions.append(
            PartitionState(
                number=number,
                leader_id=replicas[0],
                leader_epoch=0,
                partition_epoch=0,
                replicas=replicas,
                isr=replicas,
                min_isr=min_isr,
                flush_mode=flush_mode,
            )
        )
    return partitions


def _check_settings(min_isr: int, flush_mode: str) -> None:
    if min_isr < 1 or flush_mode not in (FLUSH_FSYNC, FLUSH_PAGE_CACHE):
        raise Refused("INVALID_CONFIG", f"min_isr {min_isr} or flush mode {flush_mode!r}")


def _add_shards(builder: ImageBuilder, count: int) -> None:
    builder.shards = tuple(
        ShardLease(
            shard=shard,
            owner_id=None,
            shard_epoch=0,
            producer_id=builder.next_producer_id + shard,
        )
        for shard in range(count)
    )
    builder.next_producer_id += count
    builder.lease_shards()
