"""A produce request as bytes, joined by hand: no copy of the batches through a message object.

``ProduceRequest`` in ``broker_service.proto`` stays the truth; a test holds both together.
"""

from typing import NamedTuple

from millstream.record.wire import encode_varint

# ProduceRequest: correlation_id, acks, timeout_ms, partitions.
_CORRELATION_ID, _ACKS, _TIMEOUT_MS, _PARTITIONS = b"\x08", b"\x10", b"\x18", b"\x22"
# ProducePartition: topic_id, partition, leader_epoch, batches.
_TOPIC_ID, _PARTITION, _LEADER_EPOCH, _BATCHES = b"\x0a", b"\x10", b"\x18", b"\x7a"


class ProduceEntry(NamedTuple):
    """One batch for one partition."""

    topic_id: bytes
    partition: int
    leader_epoch: int
    batch: bytes


def encode_produce_request(
    correlation_id: int, acks: int, timeout_ms: int, entries: list[ProduceEntry]
) -> bytes:
    """The serialised request."""
    out = [
        _CORRELATION_ID, encode_varint(correlation_id), _ACKS, encode_varint(acks),
        _TIMEOUT_MS, encode_varint(timeout_ms),
    ]  # fmt: skip
    for entry in entries:
        head = b"".join(
            (
                _TOPIC_ID, encode_varint(len(entry.topic_id)), entry.topic_id,
                _PARTITION, encode_varint(entry.partition),
                _LEADER_EPOCH, encode_varint(entry.leader_epoch),
                _BATCHES, encode_varint(len(entry.batch)),
            )
        )  # fmt: skip
        out += (_PARTITIONS, encode_varint(len(head) + len(entry.batch)), head, entry.batch)
    return b"".join(out)
