"""Which segments may go. Pure; wall time is an argument (invariant 36)."""

from collections.abc import Sequence
from typing import NamedTuple

from millstream_server.storage.config import LogConfig


class SegmentFacts(NamedTuple):
    """What retention needs to know of a closed segment."""

    # Offset after its last record.
    end_offset: int
    size_bytes: int
    # Largest producer's timestamp and largest append timestamp in it, milliseconds since 1970.
    max_timestamp_ms: int
    append_timestamp_ms: int


def newest_timestamp_ms(
    max_timestamp_ms: int, append_timestamp_ms: int, config: LogConfig, now_ms: int
) -> int:
    """The time by which a segment is judged: its newest record's, or, where that lies in the
    future or the topic says so, the time of its last append."""
    too_far = max_timestamp_ms > now_ms + config.timestamp_ahead_ms_max
    return append_timestamp_ms if config.log_append_time or too_far else max_timestamp_ms


def start_after_retention(
    closed: Sequence[SegmentFacts],
    open_segment_bytes: int,
    config: LogConfig,
    *,
    start_offset: int,
    end_offset: int,
    now_ms: int,
) -> int:
    """The new start of the log: the end of the last closed segment that is to go.

    Segments go from the oldest on, by time or by size, and none that reaches beyond
    ``end_offset``.
    """
    excess = 0
    if config.retention_bytes is not None:
        total = open_segment_bytes + sum(segment.size_bytes for segment in closed)
        excess = total - config.retention_bytes
    for segment in closed:
        if segment.end_offset > end_offset:
            break
        newest = newest_timestamp_ms(
            segment.max_timestamp_ms, segment.append_timestamp_ms, config, now_ms
        )
        aged = config.retention_ms is not None and newest < now_ms - config.retention_ms
        if not aged and excess < segment.size_bytes:
            break
        excess -= segment.size_bytes
        start_offset = max(start_offset, segment.end_offset)
    return start_offset
