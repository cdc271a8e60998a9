"""From a request to commands: ``decide(image, request, ...)``.

Pure: what a decision needs from chance (a topic id) or from a node's configuration (the defaults)
is an argument. A decision changes nothing; its commands do, once they are committed, and they
carry what they were decided on, so that ``apply`` refuses them when that has changed meanwhile.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from millstream_raft import decide_in_sync, topic_config
from millstream_raft.commands import REPLIES_WITHOUT_VERSION, answered
from millstream_raft.decide_nodes import decide_unregistration
from millstream_raft.decision import ClusterDefaults, Decision
from millstream_raft.image import OFFSETS_TOPIC, Image, TopicState
from millstream_raft.placement import broker_loads, place_partitions
from millstream_raft.refusal import Refused
from millstream_raft.topic_name import check_topic_name
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb

# What Kafka sets on the topic of committed positions, too: the newest record of each key is kept.
OFFSETS_TOPIC_CONFIGS: Mapping[str, str] = MappingProxyType({"cleanup.policy": "compact"})


def decide(
    image: Image, request: pb.ExecuteRequest, *, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    """Decide a request on an image. ``topic_id`` is a fresh random id, 16 bytes, for the topic
    that may be created. Raises Refused."""
    kind = request.WhichOneof("kind")
    if kind is None:
        raise Refused("UNSUPPORTED", "a request of a kind that this version does not know")
    body = getattr(request, kind)
    request_id = request_id_of(request)
    if request_id is not None:
        if not request_id.sequence:
            raise Refused("INVALID_REQUEST", "request_id.sequence is zero; it counts from 1")
        known = answered(image, request_id.session_id, request_id.sequence)
        if known is not None:
            return Decision(pb.ExecuteResponse.FromString(known))
    decision = _DECIDE[kind](image, body, topic_id, defaults)
    if not decision.commands:
        decision.reply.version = image.version
        answer = decision.reply.WhichOneof("kind")
        if answer is not None and answer not in REPLIES_WITHOUT_VERSION:
            getattr(decision.reply, answer).version = image.version
        return decision
    return Decision(decision.reply, decision.commands, request_id)


def request_id_of(request: pb.ExecuteRequest) -> Any:
    """The ``millstream.v1.RequestId`` of a write, None if it has none."""
    kind = request.WhichOneof("kind")
    body = getattr(request, kind) if kind is not None else None
    if body is None or "request_id" not in body.DESCRIPTOR.fields_by_name:
        return None
    return body.request_id if body.HasField("request_id") else None


def _create_topic(image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults) -> Decision:
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
        body.replication_factor or defaults.replication_factor,
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


def _delete_topic(image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults) -> Decision:
    topic = _topic_by_id(image, body.topic_id)
    _refuse_internal(topic, "deleted")
    reply = pb.ExecuteResponse()
    reply.delete_topic.SetInParent()
    command = command_pb.RemoveTopic(topic_id=topic.topic_id)
    return Decision(reply, (command_pb.MetadataCommand(remove_topic=command),))


def _create_partitions(
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
    factor = len(topic.partitions[0].replicas)
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


def _alter_configs(image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults) -> Decision:
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
    min_isr, flush_mode = _partition_settings(configs, len(topic.partitions[0].replicas), defaults)
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
    )
    return Decision(reply, (command_pb.MetadataCommand(change_topic_configs=command),))


def _open_request_session(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    reply = pb.ExecuteResponse()
    reply.open_request_session.SetInParent()
    return Decision(reply, (command_pb.MetadataCommand(open_session=command_pb.OpenSession()),))


def _allocate_producer_id(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    if body.transactional_id:
        raise Refused("UNSUPPORTED", "transactions are not supported: leave transactional.id unset")
    reply = pb.ExecuteResponse()
    reply.allocate_producer_id.producer_epoch = 0
    reply.allocate_producer_id.SetInParent()
    return Decision(
        reply, (command_pb.MetadataCommand(take_producer_id=command_pb.TakeProducerId()),)
    )


def _ensure_offsets_topic(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    if OFFSETS_TOPIC in image.topic_ids:
        return Decision(pb.ExecuteResponse())
    command = _addition(
        image,
        OFFSETS_TOPIC,
        topic_id,
        defaults.offsets_topic_partition_count,
        1,
        dict(OFFSETS_TOPIC_CONFIGS),
        defaults,
    )
    command.internal = True
    return Decision(pb.ExecuteResponse(), (command_pb.MetadataCommand(add_topic=command),))


def _auto_create_topic(
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
        defaults.replication_factor,
        {},
        defaults,
    )
    return Decision(pb.ExecuteResponse(), (command_pb.MetadataCommand(add_topic=command),))


def _unregister_node(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    reply = pb.ExecuteResponse()
    reply.unregister_node.SetInParent()
    return Decision(reply, decide_unregistration(image, body.node_id))


_DECIDE: Mapping[str, Callable[[Image, Any, bytes, ClusterDefaults], Decision]] = {
    "open_request_session": _open_request_session,
    "create_topic": _create_topic,
    "delete_topic": _delete_topic,
    "create_partitions": _create_partitions,
    "alter_configs": _alter_configs,
    "allocate_producer_id": _allocate_producer_id,
    "ensure_offsets_topic": _ensure_offsets_topic,
    "auto_create_topic": _auto_create_topic,
    "unregister_node": _unregister_node,
    "alter_partitions": decide_in_sync.alter_partitions,
    "report_recovered_logs": decide_in_sync.report_recovered_logs,
    "report_damaged_logs": decide_in_sync.report_damaged_logs,
}


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
    if factor != 1:
        raise Refused(
            "INVALID_REPLICATION_FACTOR",
            f"replication factor {factor} is not supported yet: replication arrives later; use 1",
        )
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
    values = topic_config.settings(configs, defaults.topic_configs)
    if "min.insync.replicas" in configs and values.min_insync_replicas > factor:
        raise Refused(
            "INVALID_CONFIG",
            f"min.insync.replicas={values.min_insync_replicas} exceeds the replication factor "
            f"{factor}: no write with acks=all could succeed",
        )
    return min(values.min_insync_replicas, factor), values.flush_mode


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
            f"replication factor {factor} exceeds the {len(loads)} usable brokers",
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
