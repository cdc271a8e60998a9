"""Records of a shard as batches, and back: what its writer sends and what its replay reads."""

from collections.abc import Iterator, Sequence

from millstream.record import (
    BatchHeader,
    build_batch,
    decode_records,
    decompress,
    encode_records,
    parse_header,
    verify_crc,
)
from millstream.record.batch import ATTRIBUTE_CONTROL, CODEC_MASK
from millstream_server.coordinator.record_codec import UnknownRecordError, decode_record
from millstream_server.coordinator.records import Record
from millstream_server.v1 import group_record_pb2 as pb

EncodedRecord = tuple[bytes, bytes | None]


def fence_batch(producer_id: int, shard_epoch: int, node_id: int, wall_ms: int) -> bytes:
    """The fence: a control batch that begins an epoch, with sequence zero (invariant 28)."""
    value = pb.ShardFenceValue(node_id=node_id, shard_epoch=shard_epoch).SerializeToString()
    return build_batch(
        encode_records([value]),
        record_count=1,
        base_timestamp_ms=wall_ms,
        max_timestamp_ms=wall_ms,
        attributes=ATTRIBUTE_CONTROL,
        producer_id=producer_id,
        producer_epoch=shard_epoch,
        base_sequence=0,
    )


def records_batch(
    records: Sequence[EncodedRecord],
    *,
    producer_id: int,
    shard_epoch: int,
    sequence: int,
    wall_ms: int,
) -> bytes:
    """A batch of records."""
    return build_batch(
        encode_records([value for _, value in records], [key for key, _ in records]),
        record_count=len(records),
        base_timestamp_ms=wall_ms,
        max_timestamp_ms=wall_ms,
        producer_id=producer_id,
        producer_epoch=shard_epoch,
        base_sequence=sequence,
    )


def open_batch(batch: bytes) -> BatchHeader:
    """The header of a batch read from a log, its checksum verified. Raises CorruptBatchError."""
    header = parse_header(batch)
    verify_crc(batch, header)
    return header


def records_in(batch: bytes, header: BatchHeader) -> Iterator[Record | UnknownRecordError]:
    """The records of a batch, in order; a record of an unknown kind comes as its error.

    Raises CorruptRecordsError or DecompressionError.
    """
    if header.is_control or not header.record_count:
        return
    payload = decompress(header.attributes & CODEC_MASK, batch[header.payload_start :])
    columns = decode_records(payload, header.record_count)
    keys = columns.keys or [None] * header.record_count
    values = columns.values or [None] * header.record_count
    for key, value in zip(keys, values, strict=True):
        try:
            yield decode_record(key, value)
        except UnknownRecordError as error:
            yield error
