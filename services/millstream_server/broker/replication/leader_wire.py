"""A `ReplicateResponse` put together from file bytes, without parsing them (architecture §2)::

ReplicateResponse   entry…
entry               0x12  varint length  header  [0x7a  varint length  frames]
header              serialised ReplicatedPartition without frames
"""

from collections.abc import Sequence

from millstream.record.wire import encode_varint
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replication.transfers import Transfer
from millstream_server.runtime.errors import reason_number
from millstream_server.storage.epochs import EpochEnd
from millstream_server.v1 import replication_service_pb2 as pb

_ENTRY_TAG = b"\x12"
_FRAMES_TAG = b"\x7a"
# Room that an entry takes at most beside its frames, so that a message stays near its size.
ENTRY_BYTES = 96

Key = tuple[bytes, int]


def progress_entry(
    key: Key, transfer: Transfer, high_watermark: int, log_start_offset: int
) -> tuple[bytes, ...]:
    """News of the high watermark and the log's start."""
    return _entry(
        pb.ReplicatedPartition(
            topic_id=key[0],
            partition=key[1],
            leader_epoch=transfer.leader_epoch,
            round=transfer.round,
            high_watermark=high_watermark,
            log_start_offset=log_start_offset,
            previous_offset=transfer.next_offset,
        ).SerializeToString()
    )


def push_entry(
    key: Key,
    transfer: Transfer,
    previous_epoch: int | None,
    frames: bytes,
    high_watermark: int,
    log_start_offset: int,
) -> tuple[bytes, ...]:
    """Records from ``transfer.next_offset`` on."""
    header = pb.ReplicatedPartition(
        topic_id=key[0],
        partition=key[1],
        leader_epoch=transfer.leader_epoch,
        round=transfer.round,
        high_watermark=high_watermark,
        log_start_offset=log_start_offset,
        previous_offset=transfer.next_offset,
        previous_epoch=previous_epoch,
    ).SerializeToString()
    size = encode_varint(len(frames))
    length = len(header) + 1 + len(size) + len(frames)
    return (_ENTRY_TAG, encode_varint(length), header, _FRAMES_TAG, size, frames)


def divergence_entry(
    key: Key,
    round_number: int,
    leader_epoch: int,
    found: EpochEnd,
    high_watermark: int,
    log_start_offset: int,
) -> tuple[bytes, ...]:
    """Where the follower's log parts from this one."""
    return _entry(
        pb.ReplicatedPartition(
            topic_id=key[0],
            partition=key[1],
            leader_epoch=leader_epoch,
            round=round_number,
            high_watermark=high_watermark,
            log_start_offset=log_start_offset,
            divergence=pb.ReplicaDivergence(epoch=found.epoch, end_offset=found.end_offset),
        ).SerializeToString()
    )


def error_entry(
    key: Key, round_number: int, leader_epoch: int, refusal: Refusal, log_start_offset: int
) -> tuple[bytes, ...]:
    """Why nothing is pushed."""
    return _entry(
        pb.ReplicatedPartition(
            topic_id=key[0],
            partition=key[1],
            leader_epoch=leader_epoch,
            round=round_number,
            log_start_offset=log_start_offset,
            error=reason_number(refusal.reason),
            message=refusal.message,
        ).SerializeToString()
    )


def welcome_message(leader_node_epoch: int) -> bytes:
    """The first message of each lane."""
    encoded: bytes = pb.ReplicateResponse(
        welcome=pb.ReplicationWelcome(leader_node_epoch=leader_node_epoch)
    ).SerializeToString()
    return encoded


def join_entries(entries: Sequence[tuple[bytes, ...]]) -> bytes:
    """The serialised `ReplicateResponse` that holds the entries."""
    return b"".join([piece for entry in entries for piece in entry])


def _entry(header: bytes) -> tuple[bytes, ...]:
    return (_ENTRY_TAG, encode_varint(len(header)), header)
