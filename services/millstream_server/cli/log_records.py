"""The records of a batch that was read from a segment file. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from millstream_server.cli.log_inspection import InspectedBatch


class StoredRecord(NamedTuple):
    """A record of a segment file. The file does not know its topic and partition."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    leader_epoch: int


def batch_records(batch: InspectedBatch) -> Iterator[StoredRecord]:
    """The records of a decoded batch, none if it could not be decoded."""
    header, columns = batch.header, batch.records
    if header is None or columns is None:
        return
    for index in range(header.record_count):
        deltas = columns.timestamp_deltas_ms
        offset_delta = columns.offset_deltas[index] if columns.offset_deltas else index
        yield StoredRecord(
            topic="",
            partition=0,
            offset=header.base_offset + offset_delta,
            timestamp_ms=header.base_timestamp_ms + (deltas[index] if deltas else 0),
            key=columns.keys[index] if columns.keys else None,
            value=columns.values[index] if columns.values else None,
            headers=columns.headers[index] if columns.headers else (),
            leader_epoch=header.leader_epoch,
        )
