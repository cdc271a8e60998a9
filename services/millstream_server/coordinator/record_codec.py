"""Records of a shard as bytes: keys and values as ``group_record.proto`` describes them."""

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from millstream_server.coordinator.records import (
    CommittedPosition,
    CurrentAssignment,
    CurrentAssignmentRecord,
    GroupMetadata,
    GroupMetadataRecord,
    MemberMetadata,
    MemberMetadataRecord,
    Partitions,
    PositionRecord,
    Record,
    TargetAssignmentRecord,
)
from millstream_server.v1 import group_record_pb2 as pb


class UnknownRecordError(ValueError):
    """The bytes are not a record that this version knows."""


def encode_record(record: Record) -> tuple[bytes, bytes | None]:
    """Key and value of a record; a null value removes what the key names."""
    key = _encode_key(record).SerializeToString(deterministic=True)
    if record.value is None:
        return key, None
    if isinstance(record, PositionRecord):
        return key, _encode_position(record.value)
    if isinstance(record, CurrentAssignmentRecord):
        return key, _encode_current(record.value)
    if isinstance(record, TargetAssignmentRecord):
        value = pb.TargetAssignmentValue(partitions=_encode_partitions(record.value))
        return key, value.SerializeToString()
    if isinstance(record, MemberMetadataRecord):
        return key, _encode_member(record.value)
    return key, _encode_group(record.value)


def decode_record(key: bytes | None, value: bytes | None) -> Record:
    """The record behind a key and a value. Raises UnknownRecordError."""
    try:
        parsed = pb.GroupRecordKey.FromString(key or b"")
        kind = parsed.WhichOneof("kind")
        if kind == "position":
            about = parsed.position
            return PositionRecord(
                about.group_id,
                about.topic_id,
                about.partition,
                None if value is None else _decode_position(value),
            )
        if kind == "group":
            group = None if value is None else _decode_group(value)
            return GroupMetadataRecord(parsed.group.group_id, group)
        if kind == "member":
            member = None if value is None else _decode_member(value)
            return MemberMetadataRecord(parsed.member.group_id, parsed.member.member_id, member)
        if kind == "target_assignment":
            name = parsed.target_assignment
            target = None if value is None else _decode_target(value)
            return TargetAssignmentRecord(name.group_id, name.member_id, target)
        if kind == "current_assignment":
            name = parsed.current_assignment
            current = None if value is None else _decode_current(value)
            return CurrentAssignmentRecord(name.group_id, name.member_id, current)
    except DecodeError as error:
        raise UnknownRecordError(f"a record of the shard cannot be parsed: {error}") from None
    raise UnknownRecordError("a record of the shard has a key of an unknown kind")


def _encode_key(record: Record) -> pb.GroupRecordKey:
    if isinstance(record, PositionRecord):
        return pb.GroupRecordKey(
            position=pb.PositionKey(
                group_id=record.group_id, topic_id=record.topic_id, partition=record.partition
            )
        )
    if isinstance(record, GroupMetadataRecord):
        return pb.GroupRecordKey(group=pb.GroupKey(group_id=record.group_id))
    name = pb.MemberKey(group_id=record.group_id, member_id=record.member_id)
    if isinstance(record, MemberMetadataRecord):
        return pb.GroupRecordKey(member=name)
    if isinstance(record, TargetAssignmentRecord):
        return pb.GroupRecordKey(target_assignment=name)
    return pb.GroupRecordKey(current_assignment=name)


def _encode_partitions(partitions: Partitions) -> list[pb.PartitionSet]:
    by_topic: dict[bytes, list[int]] = {}
    for topic_id, number in sorted(partitions):
        by_topic.setdefault(topic_id, []).append(number)
    return [pb.PartitionSet(topic_id=key, partitions=some) for key, some in by_topic.items()]


def _decode_partitions(sets: Iterable[pb.PartitionSet]) -> Partitions:
    return frozenset((some.topic_id, number) for some in sets for number in some.partitions)


def _encode_group(value: GroupMetadata) -> bytes:
    return pb.GroupMetadataValue(
        group_epoch=value.group_epoch,
        target_epoch=value.target_epoch,
        assignor=value.assignor,
        topics_fingerprint=value.topics_fingerprint,
        empty_since_ms=value.empty_since_ms,
    ).SerializeToString()


def _decode_group(data: bytes) -> GroupMetadata:
    value = pb.GroupMetadataValue.FromString(data)
    return GroupMetadata(
        value.group_epoch,
        value.target_epoch,
        value.assignor,
        value.topics_fingerprint,
        value.empty_since_ms,
    )


def _encode_member(value: MemberMetadata) -> bytes:
    return pb.MemberMetadataValue(
        instance_id=value.instance_id,
        client_id=value.client_id,
        client_host=value.client_host,
        rack=value.rack,
        topics=value.topics,
        topic_pattern=value.topic_pattern,
        assignor=value.assignor,
        session_timeout_ms=value.session_timeout_ms,
        rebalance_timeout_ms=value.rebalance_timeout_ms,
    ).SerializeToString()


def _decode_member(data: bytes) -> MemberMetadata:
    value = pb.MemberMetadataValue.FromString(data)
    return MemberMetadata(
        value.instance_id,
        value.client_id,
        value.client_host,
        value.rack,
        tuple(value.topics),
        value.topic_pattern,
        value.assignor,
        value.session_timeout_ms,
        value.rebalance_timeout_ms,
    )


def _decode_target(data: bytes) -> Partitions:
    return _decode_partitions(pb.TargetAssignmentValue.FromString(data).partitions)


def _encode_current(value: CurrentAssignment) -> bytes:
    return pb.CurrentAssignmentValue(
        member_epoch=value.member_epoch,
        previous_epoch=value.previous_epoch,
        assigned=_encode_partitions(value.assigned),
        revoking=_encode_partitions(value.revoking),
        away=value.away,
    ).SerializeToString()


def _decode_current(data: bytes) -> CurrentAssignment:
    value = pb.CurrentAssignmentValue.FromString(data)
    return CurrentAssignment(
        value.member_epoch,
        value.previous_epoch,
        _decode_partitions(value.assigned),
        _decode_partitions(value.revoking),
        value.away,
    )


def _encode_position(value: CommittedPosition) -> bytes:
    return pb.CommittedPositionValue(
        offset=value.offset,
        leader_epoch=value.leader_epoch,
        metadata=value.metadata,
        commit_timestamp_ms=value.commit_timestamp_ms,
        generation=value.generation,
        ranges=[pb.DoneRange(begin=begin, end=end) for begin, end in value.ranges],
    ).SerializeToString()


def _decode_position(data: bytes) -> CommittedPosition:
    value = pb.CommittedPositionValue.FromString(data)
    return CommittedPosition(
        value.offset,
        value.leader_epoch if value.HasField("leader_epoch") else None,
        value.metadata,
        value.commit_timestamp_ms,
        value.generation,
        tuple((some.begin, some.end) for some in value.ranges),
    )
