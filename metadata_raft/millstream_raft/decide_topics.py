"""Decisions on topics and their configuration. Pure, like ``decide.py``."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from millstream_raft import topic_config
from millstream_raft.decision import ClusterDefaults, Decision
from millstream_raft.image import OFFSETS_TOPIC, Image, TopicState
from millstream_raft.placement import broker_loads, place_partitions
from millstream_raft.refusal import Refused
from millstream_raft.topic_name import check_topic_name
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb

# What Kafka sets on the topic of committed positions, too: the newest record of each key is kept.
OFFSETS_TOPIC_CONFIGS: Mapping[str, str] = MappingProxyType({"cleanup.policy": "compact"})
# Replicas of topics for which nobody asked for a number.
_AUTOMATIC_FACTOR = 3


def create_topic(image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults) -> Decision:
    check_topic_name(body.name)
    if body.name == OFFSETS_TOPIC:
        raise Refused("INTERNAL_TOPIC", f"{OFFSETS_TOPIC} is the system's; it creates it on use")
    if body.name in image.topic_ids:
        raise Refused("TOPIC_ALREADY_EXISTS", f"topic {body.name} exists already")
    command = _addition(
        image,
        body.name,
        topic_id,
        body.partition_count or defaults.partition_count,
        body.replication_factor or default_factor(image, defaults.replication_factor),
        dict(body.configs),
        defaults,
    )
    reply = pb.ExecuteResponse()
    topic = reply.create_topic.topic
    topic.name, topic.topic_id = body.name, topic_id
    if body.validate_only:
        topic.topic_id = b""
        topic.configs.update(command.configs)
        _plan(topic, 0, command.assignments)
        return Decision(reply)
    return Decision(reply, (command_pb.MetadataCommand(add_topic=command),))


def delete_topic(image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults) -> Decision:
    topic = _topic_by_id(image, body.topic_id)
    _refuse_internal(topic, "deleted")
    reply = pb.ExecuteResponse()
    reply.delete_topic.SetInParent()
    command = command_pb.RemoveTopic(topic_id=topic.topic_id)
    return Decision(reply, (command_pb.MetadataCommand(remove_topic=command),))


def create_partitions(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    topic = _topic_by_id(image, body.topic_id)
    _refuse_internal(topic, "grown")
    known = len(topic.partitions)
    if body.partition_count <= known:
        raise Refused(
            "INVALID_PARTITION_COUNT",
            f"{topic.name} has {known} partitions already; their number can only grow",
        )
    _check_partition_count(image, body.partition_count, known, defaults)
    factor = len(topic.partitions[0].target)
    min_isr, flush_mode = _partition_settings(topic.configs, factor, defaults)
    command = command_pb.AddPartitions(
        topic_id=topic.topic_id,
        expected_partition_count=known,
        assignments=_placed(image, body.partition_count - known, factor, topic),
        min_isr=min_isr,
        flush_mode=flush_mode,
    )
    reply = pb.ExecuteResponse()
    grown = reply.create_partitions.topic
    grown.name, grown.topic_id = topic.name, topic.topic_id
    if body.validate_only:
        _plan(grown, known, command.assignments)
        return Decision(reply)
    return Decision(reply, (command_pb.MetadataCommand(add_partitions=command),))


def alter_configs(image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults) -> Decision:
    topic = image.topic(body.topic)
    if topic is None:
        raise Refused("UNKNOWN_TOPIC", f"topic {body.topic!r} does not exist")
    _refuse_internal(topic, "configured")
    changes = topic_config.validate(body.set)
    for key in body.unset:
        topic_config.config_key(key)
        if key in changes:
            raise Refused("INVALID_CONFIG", f"{key} is both set and unset")
    configs = {key: value for key, value in topic.configs.items() if key not in body.unset}
    configs.update(changes)
    factor = len(topic.partitions[0].settled)
    min_isr, flush_mode = _partition_settings(configs, factor, defaults)
    reply = pb.ExecuteResponse()
    reply.alter_configs.SetInParent()
    if body.validate_only or configs == topic.configs:
        return Decision(reply)
    command = command_pb.ChangeTopicConfigs(
        topic_id=topic.topic_id,
        set=changes,
        unset=body.unset,
        min_isr=min_isr,
        flush_mode=flush_mode,
        exceptions=_min_isr_exceptions(topic, configs, min_isr, defaults),
    )
    return Decision(reply, (command_pb.MetadataCommand(change_topic_configs=command),))


def ensure_offsets_topic(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    if OFFSETS_TOPIC in image.topic_ids:
        return Decision(pb.ExecuteResponse())
    factor = default_factor(image, defaults.offsets_topic_replication_factor)
    usable = len(broker_loads(image))
    if factor > usable:  # groups wait for brokers, as they do while there is none
        raise Refused(
            "LEADER_NOT_AVAILABLE",
            f"{OFFSETS_TOPIC} is to have {factor} replicas, and {usable} brokers are usable",
        )
    command = _addition(
        image,
        OFFSETS_TOPIC,
        topic_id,
        defaults.offsets_topic_partition_count,
        factor,
        dict(OFFSETS_TOPIC_CONFIGS),
        defaults,
    )
    command.internal = True
    return Decision(pb.ExecuteResponse(), (command_pb.MetadataCommand(add_topic=command),))


def auto_create_topic(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    if body.name in image.topic_ids:
        return Decision(pb.ExecuteResponse())
    check_topic_name(body.name)
    if body.name == OFFSETS_TOPIC:
        raise Refused("INTERNAL_TOPIC", f"{OFFSETS_TOPIC} is the system's; it creates it on use")
    if not defaults.auto_create_topics:
        raise Refused(
            "UNKNOWN_TOPIC",
            f"topic {body.name} does not exist, and auto.create.topics.enable is off",
        )
    command = _addition(
        image,
        body.name,
        topic_id,
        defaults.partition_count,
        default_factor(image, defaults.replication_factor),
        {},
        defaults,
    )
    return Decision(pb.ExecuteResponse(), (command_pb.MetadataCommand(add_topic=command),))


def _addition(
    image: Image,
    name: str,
    topic_id: bytes,
    partition_count: int,
    factor: int,
    configs: dict[str, str],
    defaults: ClusterDefaults,
) -> command_pb.AddTopic:
    _check_partition_count(image, partition_count, 0, defaults)
    checked = topic_config.validate(configs)
    min_isr, flush_mode = _partition_settings(checked, factor, defaults)
    return command_pb.AddTopic(
        name=name,
        topic_id=topic_id,
        configs=checked,
        assignments=_placed(image, partition_count, factor, None),
        min_isr=min_isr,
        flush_mode=flush_mode,
    )


def _partition_settings(
    configs: Mapping[str, str], factor: int, defaults: ClusterDefaults
) -> tuple[int, str]:
    wanted = int(configs.get(topic_config.MIN_INSYNC_REPLICAS, "1"))
    if wanted > factor:
        raise Refused(
            "INVALID_CONFIG",
            f"min.insync.replicas={wanted} exceeds the replication factor {factor}: "
            "no write with acks=all could succeed",
        )
    return (
        topic_config.min_insync_replicas(configs, defaults.topic_configs, factor),
        topic_config.settings(configs, defaults.topic_configs).flush_mode,
    )


def _min_isr_exceptions(
    topic: TopicState, configs: Mapping[str, str], usual: int, defaults: ClusterDefaults
) -> list[command_pb.PartitionMinIsr]:
    """The partitions whose minimum is another than the first one's, or is to change."""
    exceptions = []
    for partition in topic.partitions:
        now, later = (
            topic_config.min_insync_replicas(configs, defaults.topic_configs, len(replicas))
            for replicas in (partition.settled, partition.target)
        )
        if now != usual or partition.reassignment is not None:
            target = later if partition.reassignment is not None else 0
            exceptions.append(
                command_pb.PartitionMinIsr(
                    partition=partition.number, min_isr=now, target_min_isr=target
                )
            )
    return exceptions


def default_factor(image: Image, configured: int) -> int:
    """Replicas of a topic for which nobody asked for a number: as configured, otherwise three, or
    as many as there are brokers. Those that are down count: they come back."""
    if configured:
        return configured
    brokers = sum(
        1 for node in image.nodes.values() if "broker" in node.roles and not node.decommissioning
    )
    return max(1, min(_AUTOMATIC_FACTOR, brokers))


def _check_partition_count(image: Image, count: int, known: int, defaults: ClusterDefaults) -> None:
    most = defaults.topic_partition_count_max
    if not 1 <= count <= most:
        raise Refused("INVALID_PARTITION_COUNT", f"{count} partitions are not within 1 and {most}")
    total = image.partition_count + count - known
    if total > defaults.partition_count_max:
        raise Refused(
            "INVALID_PARTITION_COUNT",
            f"the cluster would have {total} partitions; at most {defaults.partition_count_max} "
            "may be",
        )


def _placed(
    image: Image, count: int, factor: int, topic: TopicState | None
) -> list[command_pb.ReplicaAssignment]:
    loads = broker_loads(image)
    if not loads:
        raise Refused(
            "LEADER_NOT_AVAILABLE", "no broker is there to take the partitions; try again"
        )
    if factor > len(loads):
        raise Refused(
            "INVALID_REPLICATION_FACTOR",
            f"replication factor {factor} exceeds the number of usable brokers, {len(loads)}",
        )
    known = topic.partitions if topic is not None else ()
    leaders = Counter(partition.replicas[0] for partition in known)
    return [
        command_pb.ReplicaAssignment(replica_ids=replicas)
        for replicas in place_partitions(loads, count, factor, topic_leaders=leaders)
    ]


def _plan(topic: Any, first: int, assignments: Any) -> None:
    for number, assignment in enumerate(assignments, first):
        topic.partitions.add(
            partition=number,
            leader_id=assignment.replica_ids[0],
            replica_ids=assignment.replica_ids,
            in_sync_replica_ids=assignment.replica_ids,
        )


def _topic_by_id(image: Image, topic_id: bytes) -> TopicState:
    if len(topic_id) != 16:
        raise Refused("INVALID_REQUEST", "topic_id is not 16 bytes long")
    topic = image.topics.get(topic_id)
    if topic is None:
        raise Refused("UNKNOWN_TOPIC", f"no topic has the id {topic_id.hex()}")
    return topic


def _refuse_internal(topic: TopicState, verb: str) -> None:
    if topic.internal:
        raise Refused("INTERNAL_TOPIC", f"{topic.name} is the system's and cannot be {verb}")
