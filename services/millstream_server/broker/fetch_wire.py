"""A fetch response put together from file bytes, without parsing them (architecture §2).

A run of framed batches is the tail of a serialised ``FetchedPartition``, so an entry is the
header's bytes followed by the file's::

    FetchResponse      entry…
    entry              0x0a  varint length  header  frames
    header             serialised FetchedPartition without batches
"""

from collections.abc import Sequence

from millstream.record.wire import RawFetchedPartition, encode_varint

_ENTRY_TAG = b"\x0a"


def encode_entry(header: bytes, frames: bytes = b"") -> tuple[bytes, ...]:
    """The pieces of one entry; join all pieces of all entries for the message."""
    return (_ENTRY_TAG, encode_varint(len(header) + len(frames)), header, frames)


def join_entries(entries: Sequence[tuple[bytes, ...]]) -> bytes:
    """The serialised ``FetchResponse`` that holds the entries."""
    return b"".join([piece for entry in entries for piece in entry])


def progress_header(
    topic_id: bytes,
    partition: int,
    token: int,
    *,
    high_watermark: int,
    log_start_offset: int,
    leader_epoch: int,
    log_append_time: bool,
) -> bytes:
    """Header of an entry that carries batches or just progress."""
    encoded: bytes = RawFetchedPartition(
        topic_id=topic_id,
        partition=partition,
        token=token,
        high_watermark=high_watermark,
        log_start_offset=log_start_offset,
        leader_epoch=leader_epoch,
        log_append_time=log_append_time,
    ).SerializeToString()
    return encoded


def error_header(
    topic_id: bytes,
    partition: int,
    token: int,
    *,
    error: int,
    message: str,
    high_watermark: int = 0,
    log_start_offset: int = 0,
    leader_epoch: int = 0,
    truncated_offset: int | None = None,
) -> bytes:
    """Header of an entry that ends the reading of a partition."""
    encoded: bytes = RawFetchedPartition(
        topic_id=topic_id,
        partition=partition,
        token=token,
        error=error,
        message=message,
        high_watermark=high_watermark,
        log_start_offset=log_start_offset,
        leader_epoch=leader_epoch,
        truncated_offset=truncated_offset,
    ).SerializeToString()
    return encoded
