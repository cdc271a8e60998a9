"""From a request to commands: ``decide(image, request, ...)``.

Pure: what a decision needs from chance (a topic id) or from a node's configuration (the defaults)
is an argument. A decision changes nothing; its commands do, once they are committed, and they
carry what they were decided on, so that ``apply`` refuses them when that has changed meanwhile.
"""

from collections.abc import Callable, Mapping
from typing import Any

from millstream_raft import (
    decide_elections,
    decide_in_sync,
    decide_reassignments,
    decide_topics,
)
from millstream_raft.commands import REPLIES_WITHOUT_VERSION, answered
from millstream_raft.decide_nodes import decide_unregistration
from millstream_raft.decision import ClusterDefaults, Decision
from millstream_raft.image import Image
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb


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


def _unregister_node(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    reply = pb.ExecuteResponse()
    reply.unregister_node.SetInParent()
    return Decision(reply, decide_unregistration(image, body.node_id))


_DECIDE: Mapping[str, Callable[[Image, Any, bytes, ClusterDefaults], Decision]] = {
    "open_request_session": _open_request_session,
    "create_topic": decide_topics.create_topic,
    "delete_topic": decide_topics.delete_topic,
    "create_partitions": decide_topics.create_partitions,
    "alter_configs": decide_topics.alter_configs,
    "allocate_producer_id": _allocate_producer_id,
    "ensure_offsets_topic": decide_topics.ensure_offsets_topic,
    "auto_create_topic": decide_topics.auto_create_topic,
    "unregister_node": _unregister_node,
    "elect_leaders": decide_elections.elect_leaders,
    "alter_partition_reassignments": decide_reassignments.alter_partition_reassignments,
    "decommission_broker": decide_reassignments.decommission_broker,
    "drain_broker": decide_reassignments.drain_broker,
    "alter_partitions": decide_in_sync.alter_partitions,
    "report_recovered_logs": decide_in_sync.report_recovered_logs,
    "report_damaged_logs": decide_in_sync.report_damaged_logs,
}
