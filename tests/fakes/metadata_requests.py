"""Requests executed on an image as the active controller does: decided, then applied."""

from millstream_raft.commands import apply_entry, encode_entry
from millstream_raft.decide import decide
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import Image
from millstream_server.v1 import controller_service_pb2 as pb

NEW_TOPIC_ID = b"new topic's id.."


def execute(
    image: Image, request: pb.ExecuteRequest, *, defaults: ClusterDefaults | None = None
) -> tuple[Image, pb.ExecuteResponse]:
    """The image after a request, and its answer. Raises Refused."""
    decision = decide(image, request, topic_id=NEW_TOPIC_ID, defaults=defaults or ClusterDefaults())
    if not decision.commands:
        return image, decision.reply
    entry = encode_entry(
        list(decision.commands),
        controller_epoch=image.controller_epoch,
        request_id=decision.request_id,
        reply=decision.reply.SerializeToString(),
    )
    applied = apply_entry(image, entry)
    assert not applied.result.reason, applied.result
    return applied.image, pb.ExecuteResponse.FromString(applied.result.reply)
