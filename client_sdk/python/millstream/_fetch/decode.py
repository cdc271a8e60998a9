"""From the bytes of a fetched batch to records or columns; every checksum and count is verified.

Pure: bytes in, records out.
"""

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

from millstream._consumer.record import ConsumerBatch, ConsumerRecord, Headers, TopicPartition
from millstream.record.batch import (
    BatchHeader,
    CorruptBatchError,
    parse_header,
    verify_batch,
)
from millstream.record.columns import Columns, CorruptRecordsError, decode_records
from millstream.record.compression import (
    DecompressionError,
    UnsupportedCodecError,
    decompress,
)

# What reading a damaged or foreign batch may raise.
BatchDamage = (CorruptBatchError, CorruptRecordsError, DecompressionError)
NoCodec = UnsupportedCodecError

_T = TypeVar("_T")

_NO_HEADERS: Headers = ()


Deserializer = Callable[[bytes], Any]


class Deserializers(NamedTuple):
    """What the application makes of keys and values that are not null; None: bytes."""

    key: Deserializer | None = None
    value: Deserializer | None = None


_AS_BYTES = Deserializers()


class DecodedBatch(NamedTuple):
    """The records of a batch from a position on."""

    # The records at or after the position; empty for control and wholly skipped batches.
    records: list[ConsumerRecord]
    # Offset after the batch.
    next_offset: int
    # Leader epoch of the batch.
    leader_epoch: int
    # What a deserializer raised for the record at `next_offset`; the records before it stand.
    failure: Exception | None = None


def decode_batch(
    partition: TopicPartition,
    batch: bytes,
    position: int,
    *,
    log_append_time: bool,
    check_crcs: bool,
    deserializers: Deserializers = _AS_BYTES,
) -> DecodedBatch:
    """Decode the records of a batch at or after ``position``.

    Raises CorruptBatchError, CorruptRecordsError, DecompressionError or UnsupportedCodecError.
    """
    header = _checked_header(batch, check_crcs)
    epoch = header.leader_epoch
    if header.is_control or header.next_offset <= position or not header.record_count:
        return DecodedBatch([], header.next_offset, epoch)
    columns = _columns(batch, header)
    offsets = _offsets(header, columns)
    next_offset, failure = header.next_offset, None
    if deserializers.key is not None or deserializers.value is not None:
        columns, good, failure = _deserialize(columns, offsets, position, deserializers)
        if failure is not None:
            next_offset, offsets = offsets[good], offsets[:good]
    records = list(
        map(
            ConsumerRecord,
            zip(
                repeat(partition[0]),
                repeat(partition[1]),
                offsets,
                _timestamps(header, columns, log_append_time),
                repeat(None) if columns.keys is None else columns.keys,
                repeat(None) if columns.values is None else columns.values,
                repeat(_NO_HEADERS) if columns.headers is None else columns.headers,
                repeat(epoch),
                strict=False,  # the repeats have no end; the offsets have one entry per record
            ),
        )
    )
    if position > header.base_offset:
        del records[: _skipped(offsets, position)]
    return DecodedBatch(records, next_offset, epoch, failure)


def decode_columns(
    partition: TopicPartition,
    batch: bytes,
    position: int,
    *,
    log_append_time: bool,
    check_crcs: bool,
) -> tuple[ConsumerBatch | None, int, int]:
    """As ``decode_batch``, but as columns: (columns or None, next offset, leader epoch)."""
    header = _checked_header(batch, check_crcs)
    epoch = header.leader_epoch
    if header.is_control or header.next_offset <= position or not header.record_count:
        return None, header.next_offset, epoch
    columns = _columns(batch, header)
    offsets = _offsets(header, columns)
    first = _skipped(offsets, position)
    if first == len(offsets):
        return None, header.next_offset, epoch
    timestamps = list(_timestamps(header, columns, log_append_time))
    taken = ConsumerBatch(
        partition[0],
        partition[1],
        epoch,
        offsets[first:],
        timestamps[first:] if first else timestamps,
        _tail(columns.keys, first),
        _tail(columns.values, first),
        _tail(columns.headers, first),
    )
    return taken, header.next_offset, epoch


def _deserialize(
    columns: Columns, offsets: range | list[int], position: int, deserializers: Deserializers
) -> tuple[Columns, int, Exception | None]:
    """The columns with keys and values as the application wants them, from ``position`` on; how
    many records that went well for, and what was raised for the one after them."""
    good, failure = len(offsets), None
    first = _skipped(offsets, position)
    made: list[list[Any] | None] = []
    for column, deserialize in zip(columns[:2], deserializers, strict=True):
        if column is None or deserialize is None:
            made.append(column)
            continue
        out: list[Any] = list(column)
        for index in range(first, good):
            item = out[index]
            if item is not None:
                try:
                    out[index] = deserialize(item)
                except Exception as error:  # noqa: BLE001 - whatever the application's code raises
                    good, failure = index, error
                    break
        made.append(out)
    return columns._replace(keys=made[0], values=made[1]), good, failure


def _tail(column: list[_T] | None, first: int) -> list[_T] | None:
    return column[first:] if column is not None and first else column


def _checked_header(batch: bytes, check_crcs: bool) -> BatchHeader:
    header = parse_header(batch)
    if check_crcs:
        verify_batch(batch, header)
    if header.last_offset_delta + 1 < header.record_count:
        raise CorruptBatchError("more records than offsets")
    return header


def _columns(batch: bytes, header: BatchHeader) -> Columns:
    payload = decompress(header.codec, batch[header.payload_start :])
    return decode_records(payload, header.record_count)


def _offsets(header: BatchHeader, columns: Columns) -> range | list[int]:
    base = header.base_offset
    deltas = columns.offset_deltas
    if deltas is None:
        if header.last_offset_delta + 1 != header.record_count:
            raise CorruptRecordsError("offsets have gaps that no column explains")
        return range(base, base + header.record_count)
    before = -1
    for delta in deltas:
        if delta <= before:
            raise CorruptRecordsError("offsets do not ascend")
        before = delta
    if before > header.last_offset_delta:
        raise CorruptRecordsError("an offset lies beyond the batch")
    return [base + delta for delta in deltas]


def _timestamps(
    header: BatchHeader, columns: Columns, log_append_time: bool
) -> "Sequence[int] | list[int]":
    if log_append_time:
        return [header.append_timestamp_ms] * header.record_count
    base = header.base_timestamp_ms
    deltas = columns.timestamp_deltas_ms
    if deltas is None:
        return [base] * header.record_count
    return [base + delta for delta in deltas]


def _skipped(offsets: range | list[int], position: int) -> int:
    if isinstance(offsets, range):
        return min(max(0, position - offsets.start), len(offsets))
    for index, offset in enumerate(offsets):
        if offset >= position:
            return index
    return len(offsets)
