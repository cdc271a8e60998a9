"""Turning checked batches into what is written: offsets assigned, broker fields filled in.

Pure. The producer's bytes are passed on as they are; only the first 42 bytes of a batch are new.
"""

from collections.abc import Iterator, Sequence

from millstream.record import BatchHeader
from millstream.record.batch import BROKER_BYTES, broker_head, frame_prefix, replica_head
from millstream_server.storage.appends import IncomingBatch, StagedBatch
from millstream_server.storage.producers import ProducerState, ProducerTable, advance


def stage_as_leader(
    batches: Sequence[IncomingBatch],
    producers: ProducerTable,
    *,
    end_offset: int,
    synced_end_offset: int,
    leader_epoch: int,
    append_timestamp_ms: int,
) -> Iterator[StagedBatch]:
    """Give each batch the next offsets; the producer table takes it in."""
    for data, header in batches:
        head = broker_head(
            header.crc,
            base_offset=end_offset,
            leader_epoch=leader_epoch,
            append_timestamp_ms=append_timestamp_ms,
            synced_end_offset=synced_end_offset,
        )
        next_offset = end_offset + header.last_offset_delta + 1
        yield _staged(
            data, header, head, producers, end_offset, next_offset, leader_epoch,
            append_timestamp_ms,
        )  # fmt: skip
        end_offset = next_offset


def stage_as_follower(
    batches: Sequence[IncomingBatch], producers: ProducerTable, *, synced_end_offset: int
) -> Iterator[StagedBatch]:
    """Keep the leader's offsets; only the replica's own fields are rewritten."""
    for data, header in batches:
        head = replica_head(data, synced_end_offset)
        yield _staged(
            data, header, head, producers, header.base_offset, header.next_offset,
            header.leader_epoch, header.append_timestamp_ms,
        )  # fmt: skip


def _staged(
    data: bytes,
    header: BatchHeader,
    head: bytes,
    producers: ProducerTable,
    base_offset: int,
    next_offset: int,
    leader_epoch: int,
    append_timestamp_ms: int,
) -> StagedBatch:
    prefix = frame_prefix(len(data))
    producer: tuple[int, ProducerState] | None = None
    if header.producer_id:
        state = advance(producers.get(header.producer_id), header, base_offset, append_timestamp_ms)
        producers.put(header.producer_id, state)
        producer = (header.producer_id, state)
    return StagedBatch(
        base_offset,
        next_offset,
        len(prefix) + len(data),
        header.max_timestamp_ms,
        append_timestamp_ms,
        leader_epoch,
        (prefix + head, memoryview(data)[BROKER_BYTES:]),
        producer,
    )
