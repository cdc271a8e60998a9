"""``apply_entry``: the only way from one image to the next, the same on every node.

An entry is atomic: all its commands take effect, or none. It never raises; a refusal is a result.
It knows no clock, no chance and no configuration. Two guards come before the commands:

- exactly once: a request id that was answered before gets the same answer again, and an unknown
  or expired session is refused, never executed (invariant 1b);
- one controller: decisions carry the controller epoch under which they were taken, and those of
  a deposed controller are refused (invariant 1a).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import DecodeError

from millstream_raft import commands_nodes, commands_partitions, commands_topics
from millstream_raft.delta import Delta
from millstream_raft.image import Image, RequestSession
from millstream_raft.image_builder import ImageBuilder
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as controller_pb
from millstream_server.v1 import metadata_command_pb2 as pb

SESSIONS_MAX = 10_000
REPLIES_PER_SESSION_MAX = 16
# Answers of these kinds have no version of their own beside that of the whole.
REPLIES_WITHOUT_VERSION = frozenset({"allocate_producer_id", "altered_partitions"})


@dataclass(frozen=True, slots=True)
class Applied:
    """What an entry did. A refused or repeated entry leaves the image as it is."""

    image: Image
    delta: Delta
    result: pb.MetadataEntryResult


def apply_entry(image: Image, data: bytes) -> Applied:
    """Apply a serialised ``MetadataEntry``. Never raises."""
    try:
        entry = pb.MetadataEntry.FromString(data)
        return _apply(image, entry)
    except DecodeError as error:
        refused = Refused("INVALID_REQUEST", f"not a metadata entry: {error}")
    except Refused as error:
        refused = error
    result = pb.MetadataEntryResult(
        version=image.version, reason=refused.reason, message=refused.message
    )
    return Applied(image, Delta(image, image), result)


def _apply(image: Image, entry: pb.MetadataEntry) -> Applied:
    request_id = entry.request_id if entry.HasField("request_id") else None
    if request_id is not None:
        known = answered(image, request_id.session_id, request_id.sequence)
        if known is not None:
            result = pb.MetadataEntryResult(version=image.version, reply=known)
            return Applied(image, Delta(image, image), result)
    if not entry.commands:  # every effect steps the version, so that followers can count
        raise Refused("INVALID_REQUEST", "an entry without commands")
    elected = [one for one in entry.commands if one.WhichOneof("kind") == "controller_elected"]
    if elected and len(entry.commands) > 1:
        raise Refused("INVALID_REQUEST", "an election stands alone in its entry")
    if not elected and entry.controller_epoch != image.controller_epoch:
        raise Refused(
            "NOT_CONTROLLER",
            f"controller epoch is {image.controller_epoch}, not {entry.controller_epoch}",
        )
    builder = ImageBuilder(image)
    for command in entry.commands:
        builder.version += 1
        _apply_command(builder, command)
    reply = _finished_reply(entry.reply, builder)
    if request_id is not None:
        _remember(builder, request_id.session_id, request_id.sequence, reply)
    number = builder.number
    after, delta = builder.build()
    result = pb.MetadataEntryResult(version=after.version, reply=reply, number=number)
    return Applied(after, delta, result)


def answered(image: Image, session_id: int, sequence: int) -> bytes | None:
    """The answer that a request got before; None if it was not executed yet.

    Raises Refused UNKNOWN_SESSION for a session that is not open, and INVALID_REQUEST for a
    sequence whose answer is no longer known: neither is ever executed.
    """
    session = image.sessions.get(session_id)
    if session is None:
        raise Refused("UNKNOWN_SESSION", f"request session {session_id} is unknown or expired")
    reply = session.reply(sequence)
    if reply is None and sequence <= session.forgotten_sequence:
        raise Refused(
            "INVALID_REQUEST",
            f"sequence {sequence} was used long ago; the session is at {session.forgotten_sequence}"
            " and later",
        )
    return reply


def _apply_command(builder: ImageBuilder, command: pb.MetadataCommand) -> None:
    kind = command.WhichOneof("kind")
    if kind is None:
        raise Refused("UNSUPPORTED", "a command of a kind that this version does not know")
    _APPLY[kind](builder, getattr(command, kind))


def _take_producer_id(builder: ImageBuilder, command: pb.TakeProducerId) -> None:
    builder.number = builder.next_producer_id
    builder.next_producer_id += 1


def _open_session(builder: ImageBuilder, command: pb.OpenSession) -> None:
    if builder.session_count() >= SESSIONS_MAX:
        raise Refused("THROTTLED", f"{SESSIONS_MAX} request sessions are open already")
    builder.number = builder.next_session_id
    builder.next_session_id += 1
    builder.put_session(RequestSession(builder.number, used_version=builder.version))


def _expire_sessions(builder: ImageBuilder, command: pb.ExpireSessions) -> None:
    for idle in command.sessions:
        session = builder.session(idle.session_id)
        if session is not None and session.used_version == idle.used_version:
            builder.drop_session(idle.session_id)


def _change_reassignment_throttle(
    builder: ImageBuilder, command: pb.ChangeReassignmentThrottle
) -> None:
    builder.reassignment_bytes_per_s = command.bytes_per_s


_APPLY: Mapping[str, Callable[[ImageBuilder, Any], None]] = {
    "controller_elected": commands_nodes.apply_controller_elected,
    "register_node": commands_nodes.apply_register_node,
    "fence_node": commands_nodes.apply_fence_node,
    "unfence_node": commands_nodes.apply_unfence_node,
    "drain_node": commands_nodes.apply_drain_node,
    "unregister_node": commands_nodes.apply_unregister_node,
    "take_log_directory_offline": commands_nodes.apply_take_log_directory_offline,
    "add_topic": commands_topics.apply_add_topic,
    "remove_topic": commands_topics.apply_remove_topic,
    "add_partitions": commands_topics.apply_add_partitions,
    "change_topic_configs": commands_topics.apply_change_topic_configs,
    "change_partition": commands_partitions.apply_change_partition,
    "remove_damaged_replica": commands_partitions.apply_remove_damaged_replica,
    "note_recovered_log": commands_partitions.apply_note_recovered_log,
    "elect_leader": commands_partitions.apply_elect_leader,
    "reassign_partition": commands_partitions.apply_reassign_partition,
    "cancel_reassignment": commands_partitions.apply_cancel_reassignment,
    "change_decommissioning": commands_nodes.apply_change_decommissioning,
    "change_reassignment_throttle": _change_reassignment_throttle,
    "take_producer_id": _take_producer_id,
    "open_session": _open_session,
    "expire_sessions": _expire_sessions,
}


def _remember(builder: ImageBuilder, session_id: int, sequence: int, reply: bytes) -> None:
    session = builder.session(session_id)
    if session is None:  # expired by a command of this very entry
        raise Refused("UNKNOWN_SESSION", f"request session {session_id} is expired")
    replies = (*session.replies, (sequence, reply))
    forgotten = session.forgotten_sequence
    if len(replies) > REPLIES_PER_SESSION_MAX:
        forgotten = max(forgotten, replies[0][0])
        replies = replies[1:]
    builder.put_session(
        replace(
            session, forgotten_sequence=forgotten, replies=replies, used_version=builder.version
        )
    )


def _finished_reply(data: bytes, builder: ImageBuilder) -> bytes:
    reply = controller_pb.ExecuteResponse.FromString(data)
    reply.version = builder.version
    kind = reply.WhichOneof("kind")
    if kind == "open_request_session":
        reply.open_request_session.session_id = builder.number
    elif kind == "allocate_producer_id":
        reply.allocate_producer_id.producer_id = builder.number
    if kind is not None and kind not in REPLIES_WITHOUT_VERSION:
        getattr(reply, kind).version = builder.version
    return reply.SerializeToString()


def encode_entry(
    commands: list[pb.MetadataCommand],
    *,
    controller_epoch: int,
    request_id: Any = None,
    reply: bytes = b"",
) -> bytes:
    """A serialised ``MetadataEntry``; ``request_id`` is a ``millstream.v1.RequestId`` or None."""
    entry = pb.MetadataEntry(controller_epoch=controller_epoch, commands=commands, reply=reply)
    if request_id is not None:
        entry.request_id.CopyFrom(request_id)
    return entry.SerializeToString()
