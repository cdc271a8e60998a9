"""The image as bytes and back: snapshots on disk, and the start of every watch.

A snapshot is one ``ImageSnapshot`` message. Its topics are kept serialised inside the image, each
partition likewise inside its topic, so that writing a snapshot joins bytes instead of walking all
partitions. Repeated fields may stand anywhere in a Protobuf message, which is what allows the join.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from millstream_raft.image import (
    FLUSH_FSYNC,
    FLUSH_PAGE_CACHE,
    Image,
    NodeState,
    PartitionState,
    Reassignment,
    RecoveredLog,
    RequestSession,
    ShardLease,
    TopicState,
    shape_of,
)
from millstream_server.v1 import metadata_command_pb2 as pb

# Tags of length-delimited fields: field number << 3 | 2.
_SNAPSHOT_TOPIC = bytes([12 << 3 | 2])
_TOPIC_PARTITION = bytes([5 << 3 | 2])
# Tag of a number: field number << 3.
_RECORD_NUMBER = bytes([1 << 3])
# Nearly all lengths and partition numbers are below 2^14, hence at most two bytes.
_SHORT_VARINTS = [
    bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])
    for value in range(1 << 14)
]


class CorruptImageError(ValueError):
    """The bytes are not a snapshot, or contradict themselves."""


def encode_image(image: Image) -> bytes:
    """The image as a serialised ``ImageSnapshot``; equal images give equal bytes."""
    head = pb.ImageSnapshot(
        version=image.version,
        cluster_id=image.cluster_id,
        metadata_version=image.metadata_version,
        controller_id=image.controller_id,
        controller_epoch=image.controller_epoch,
        next_node_epoch=image.next_node_epoch,
        next_producer_id=image.next_producer_id,
        next_session_id=image.next_session_id,
        nodes=[_node_record(image.nodes[node_id]) for node_id in sorted(image.nodes)],
        shards=[_shard_record(lease) for lease in image.shards],
        sessions=[_session_record(image.sessions[key]) for key in sorted(image.sessions)],
        reassignment_bytes_per_s=image.reassignment_bytes_per_s,
    )
    pieces = [head.SerializeToString()]
    for topic_id in sorted(image.topics):
        _append_field(pieces, _SNAPSHOT_TOPIC, image.topics[topic_id].encoded)
    return b"".join(pieces)


def decode_image(data: bytes) -> Image:
    """The image of ``encode_image``. Raises CorruptImageError."""
    try:
        snapshot = pb.ImageSnapshot.FromString(data)
    except DecodeError as error:
        raise CorruptImageError(f"not an image: {error}") from None
    shapes: dict[bytes, tuple[Any, ...]] = {}
    topics = {record.topic_id: _topic_of(record, shapes) for record in snapshot.topics}
    image = Image(
        version=snapshot.version,
        cluster_id=snapshot.cluster_id,
        metadata_version=snapshot.metadata_version,
        controller_id=snapshot.controller_id,
        controller_epoch=snapshot.controller_epoch,
        next_node_epoch=snapshot.next_node_epoch,
        next_producer_id=snapshot.next_producer_id,
        next_session_id=snapshot.next_session_id,
        nodes={record.node_id: _node_of(record) for record in snapshot.nodes},
        topics=topics,
        topic_ids={topic.name: topic_id for topic_id, topic in topics.items()},
        shards=tuple(_lease_of(number, record) for number, record in enumerate(snapshot.shards)),
        sessions={record.session_id: _session_of(record) for record in snapshot.sessions},
        reassignment_bytes_per_s=snapshot.reassignment_bytes_per_s,
    )
    if len(image.topics) != len(snapshot.topics) or len(image.topic_ids) != len(image.topics):
        raise CorruptImageError("two topics share an id or a name")
    return image


def encode_partition(partition: PartitionState) -> bytes:
    """The partition as a field of a serialised ``TopicRecord``."""
    return _partition_field(_numbered(partition.number, _encode_shape(partition)))


def seal_partitions(partitions: Iterable[PartitionState]) -> None:
    """Give partitions that nobody else has seen yet their serialised form; every partition in an
    image is sealed. It is set in place: copying thousands of partitions once more, when a session
    ends, would hold up the quorum's thread for as long as all the rest."""
    encoded_shapes: dict[tuple[Any, ...], bytes] = {}
    for partition in partitions:
        shape = shape_of(partition)
        encoded = encoded_shapes.get(shape)
        if encoded is None:
            encoded = encoded_shapes[shape] = _encode_shape(partition)
        record = _numbered(partition.number, encoded)
        object.__setattr__(partition, "encoded", _partition_field(record))


def sealed_topic(topic: TopicState) -> TopicState:
    """The topic with its serialised form, joined from those of its partitions."""
    head = pb.TopicRecord(
        name=topic.name,
        topic_id=topic.topic_id,
        internal=topic.internal,
        configs=[
            pb.ConfigRecord(key=key, value=topic.configs[key]) for key in sorted(topic.configs)
        ],
    )
    pieces = [head.SerializeToString(), *[one.encoded for one in topic.partitions]]
    return replace(topic, encoded=b"".join(pieces))


def _encode_shape(partition: PartitionState) -> bytes:
    # Without the number, which Protobuf would write first.
    reassignment = partition.reassignment
    return pb.PartitionRecord(
        leader_id=partition.leader_id or 0,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        replica_ids=partition.replicas,
        in_sync_replica_ids=partition.isr,
        eligible_leader_replica_ids=partition.elr,
        last_known_eligible_leader_ids=partition.last_known_elr,
        min_isr=partition.min_isr,
        page_cache=partition.flush_mode == FLUSH_PAGE_CACHE,
        fsync_after_node_epoch=partition.fsync_after_node_epoch,
        recovering=partition.recovering,
        recovered_logs=[
            pb.RecoveredLogRecord(
                node_id=log.node_id,
                last_epoch=log.last_epoch,
                synced_end_offset=log.synced_end_offset,
            )
            for log in partition.recovered_logs
        ],
        damaged_replica_ids=partition.damaged,
        adding_replica_ids=reassignment.added if reassignment is not None else (),
        target_replica_ids=reassignment.target if reassignment is not None else (),
        target_min_isr=reassignment.min_isr if reassignment is not None else 0,
        possible_loss=partition.possible_loss,
    ).SerializeToString()


def _numbered(number: int, encoded_shape: bytes) -> bytes:
    if number == 0:  # as Protobuf leaves it out
        return encoded_shape
    return _RECORD_NUMBER + _varint(number) + encoded_shape


def _partition_field(record: bytes) -> bytes:
    return _TOPIC_PARTITION + _varint(len(record)) + record


def _varint(value: int) -> bytes:
    if value < 1 << 14:
        return _SHORT_VARINTS[value]
    varint = bytearray()
    while value > 127:
        varint.append(value & 127 | 128)
        value >>= 7
    varint.append(value)
    return bytes(varint)


def _append_field(pieces: list[bytes], tag: bytes, value: bytes) -> None:
    pieces += (tag, _varint(len(value)), value)


def _topic_of(record: pb.TopicRecord, shapes: dict[bytes, tuple[Any, ...]]) -> TopicState:
    partitions = tuple([_partition_of(one, shapes) for one in record.partitions])
    if any(one.number != number for number, one in enumerate(partitions)):
        raise CorruptImageError(f"the partitions of {record.name!r} are not numbered from 0")
    return sealed_topic(
        TopicState(
            name=record.name,
            topic_id=record.topic_id,
            internal=record.internal,
            configs={config.key: config.value for config in record.configs},
            partitions=partitions,
        )
    )


def _partition_of(
    record: pb.PartitionRecord, shapes: dict[bytes, tuple[Any, ...]]
) -> PartitionState:
    number = record.number
    encoded = record.SerializeToString()
    # What follows the number is the serialised shape; to read every field of thousands of records
    # would keep a voter that gets a snapshot from its ticks for an election time-out.
    encoded_shape = encoded[len(_numbered(number, b"")) :]
    shape = shapes.get(encoded_shape)
    if shape is None:
        shape = shapes[encoded_shape] = shape_of(_read_partition(record))
    partition = PartitionState(number, *shape)
    object.__setattr__(partition, "encoded", _partition_field(encoded))
    return partition


def _read_partition(record: pb.PartitionRecord) -> PartitionState:
    return PartitionState(
        number=record.number,
        leader_id=record.leader_id or None,
        leader_epoch=record.leader_epoch,
        partition_epoch=record.partition_epoch,
        replicas=tuple(record.replica_ids),
        isr=tuple(record.in_sync_replica_ids),
        elr=tuple(record.eligible_leader_replica_ids),
        last_known_elr=tuple(record.last_known_eligible_leader_ids),
        min_isr=record.min_isr,
        flush_mode=FLUSH_PAGE_CACHE if record.page_cache else FLUSH_FSYNC,
        fsync_after_node_epoch=record.fsync_after_node_epoch,
        recovering=record.recovering,
        recovered_logs=tuple(
            RecoveredLog(log.last_epoch, log.synced_end_offset, log.node_id)
            for log in record.recovered_logs
        ),
        damaged=tuple(record.damaged_replica_ids),
        reassignment=_read_reassignment(record),
        possible_loss=record.possible_loss,
    )


def _read_reassignment(record: pb.PartitionRecord) -> Reassignment | None:
    if not record.target_replica_ids:
        return None
    return Reassignment(
        target=tuple(record.target_replica_ids),
        added=tuple(record.adding_replica_ids),
        min_isr=record.target_min_isr,
    )


def _node_record(node: NodeState) -> pb.NodeRecord:
    return pb.NodeRecord(
        node_id=node.node_id,
        epoch=node.epoch,
        incarnation_id=node.incarnation_id,
        roles=sorted(node.roles),
        host=node.host,
        port=node.port,
        rack=node.rack,
        version=node.version,
        directory_id=node.directory_id,
        fenced=node.fenced,
        shutting_down=node.shutting_down,
        log_dir_offline=node.log_dir_offline,
        clean_shutdown=node.clean_shutdown,
        served_epoch=node.served_epoch,
        registered_version=node.registered_version,
        session_timeout_ms=node.session_timeout_ms,
        decommissioning=node.decommissioning,
    )


def _node_of(record: pb.NodeRecord) -> NodeState:
    return NodeState(
        node_id=record.node_id,
        epoch=record.epoch,
        incarnation_id=record.incarnation_id,
        roles=frozenset(record.roles),
        host=record.host,
        port=record.port,
        rack=record.rack,
        version=record.version,
        directory_id=record.directory_id,
        fenced=record.fenced,
        shutting_down=record.shutting_down,
        log_dir_offline=record.log_dir_offline,
        clean_shutdown=record.clean_shutdown,
        served_epoch=record.served_epoch,
        registered_version=record.registered_version,
        session_timeout_ms=record.session_timeout_ms,
        decommissioning=record.decommissioning,
    )


def _shard_record(lease: ShardLease) -> pb.ShardRecord:
    return pb.ShardRecord(
        owner_id=lease.owner_id or 0, shard_epoch=lease.shard_epoch, producer_id=lease.producer_id
    )


def _lease_of(number: int, record: pb.ShardRecord) -> ShardLease:
    return ShardLease(
        shard=number,
        owner_id=record.owner_id or None,
        shard_epoch=record.shard_epoch,
        producer_id=record.producer_id,
    )


def _session_record(session: RequestSession) -> pb.SessionRecord:
    return pb.SessionRecord(
        session_id=session.session_id,
        forgotten_sequence=session.forgotten_sequence,
        used_version=session.used_version,
        replies=[
            pb.ReplyRecord(sequence=sequence, reply=reply) for sequence, reply in session.replies
        ],
    )


def _session_of(record: pb.SessionRecord) -> RequestSession:
    return RequestSession(
        session_id=record.session_id,
        forgotten_sequence=record.forgotten_sequence,
        replies=tuple((reply.sequence, reply.reply) for reply in record.replies),
        used_version=record.used_version,
    )


def image_chunks(data: bytes, chunk_bytes_max: int) -> Iterable[bytes]:
    """A serialised image cut into pieces of at most ``chunk_bytes_max``; at least one piece."""
    if not data:
        yield b""
    for start in range(0, len(data), chunk_bytes_max):
        yield data[start : start + chunk_bytes_max]


def sorted_configs(configs: Mapping[str, str]) -> dict[str, str]:
    """The configuration in the order in which it is stored."""
    return {key: configs[key] for key in sorted(configs)}
