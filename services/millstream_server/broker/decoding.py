"""From a run of batches to plain records, for `Subscribe`. Pure; made for a thread."""

from collections.abc import Iterator
from typing import NamedTuple

from millstream.record import (
    decode_records,
    decompress,
    iterate_frames,
    parse_header,
    verify_batch,
)
from millstream.record.batch import ATTRIBUTE_CONTROL, BatchHeader
from millstream.record.columns import Columns
from millstream.v1 import broker_service_pb2 as pb
from millstream.v1 import record_pb2

# One run gives no more: a few compressed bytes may hold very much. What is not compressed never
# comes near, so that no batch is decoded twice for it.
_RECORDS_MAX = 1 << 17
_BYTES_MAX = 8 * 1024 * 1024


class Decoded(NamedTuple):
    """Records of a run, and where reading goes on."""

    records: list[pb.SubscribedRecord]
    next_offset: int
    # True if a record at or after the stop time was met.
    stopped: bool


class Window(NamedTuple):
    """Which records of a partition are wanted."""

    partition: int
    start_offset: int
    stop_offset: int
    # Stop before the first record of this time, milliseconds since 1970 UTC; None: no such stop.
    stop_timestamp_ms: int | None


def decode_run(data: bytes, window: Window, *, text: bool, log_append_time: bool) -> Decoded:
    """Decode framed batches. Raises ValueError (of ``millstream.record``) if they are damaged."""
    records: list[pb.SubscribedRecord] = []
    next_offset = window.start_offset
    decoded_bytes = 0
    for frame in iterate_frames(data):
        batch = data[frame.batch_start : frame.end]
        header = parse_header(batch)
        verify_batch(batch, header)
        if decoded_bytes > _BYTES_MAX:
            break
        next_offset = header.next_offset
        if header.attributes & ATTRIBUTE_CONTROL or next_offset <= window.start_offset:
            continue
        payload = decompress(header.codec, batch[header.payload_start :])
        decoded_bytes += len(payload)
        columns = decode_records(payload, header.record_count)
        for index, offset in _offsets(header, columns):
            if offset < window.start_offset:
                continue
            if offset >= window.stop_offset:
                break
            if len(records) >= _RECORDS_MAX:
                return Decoded(records, offset, False)
            time = _timestamp(header, columns, index, log_append_time)
            if window.stop_timestamp_ms is not None and time >= window.stop_timestamp_ms:
                return Decoded(records, offset, True)
            records.append(_record(window.partition, offset, time, header, columns, index, text))
    return Decoded(records, next_offset, False)


def _offsets(header: BatchHeader, columns: Columns) -> Iterator[tuple[int, int]]:
    deltas = columns.offset_deltas or range(header.record_count)
    return ((index, header.base_offset + delta) for index, delta in enumerate(deltas))


def _timestamp(header: BatchHeader, columns: Columns, index: int, log_append_time: bool) -> int:
    if log_append_time:
        return header.append_timestamp_ms
    if columns.timestamp_deltas_ms is None:
        return header.base_timestamp_ms
    return header.base_timestamp_ms + columns.timestamp_deltas_ms[index]


def _record(
    partition: int,
    offset: int,
    time: int,
    header: BatchHeader,
    columns: Columns,
    index: int,
    text: bool,
) -> pb.SubscribedRecord:
    record = pb.SubscribedRecord(
        partition=partition, offset=offset, timestamp_ms=time, leader_epoch=header.leader_epoch
    )
    key = columns.keys[index] if columns.keys is not None else None
    if key is not None:
        if text and (decoded := _as_text(key)) is not None:
            record.key_text = decoded
        else:
            record.key = key
    value = columns.values[index] if columns.values is not None else None
    if value is not None:
        if text and (decoded := _as_text(value)) is not None:
            record.value_text = decoded
        else:
            record.value = value
    if columns.headers is not None:
        record.headers.extend(
            record_pb2.Header(name=name, value=content) for name, content in columns.headers[index]
        )
    return record


def _as_text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
