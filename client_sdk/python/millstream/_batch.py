"""A batch of records on its way to one partition: gathered, sealed, sent, delivered.

A batch keeps records as columns from the start and is its records' shared fate: a receipt is no
more than (batch, index). Pure: time comes in as arguments.
"""

import enum
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from millstream._errors import MillstreamError
from millstream.record import compress, encode_records
from millstream.record.columns import TIMESTAMP_DELTA_MS_MAX, RecordHeaders

# What a record costs beside its bytes: ends of key and value.
RECORD_OVERHEAD_BYTES = 8
_NO_HEADERS: RecordHeaders = ()


class Durability(enum.IntEnum):
    """What an acknowledged record has survived already."""

    UNSPECIFIED = 0
    LEADER_MEMORY = 1
    LEADER_DISK = 2
    REPLICATED_MEMORY = 3
    REPLICATED_DISK = 4


class RecordMetadata(NamedTuple):
    """Where a record went."""

    # Name of the topic.
    topic: str
    # Number of the partition.
    partition: int
    # Offset of the record. None with acks=0, and for a repeat whose offset is no longer known.
    offset: int | None
    # Timestamp that readers will see, milliseconds since 1970 UTC.
    timestamp_ms: int
    # What the record has survived already.
    durability: Durability = Durability.UNSPECIFIED

    @property
    def timestamp(self) -> int:
        """Kafka's name for ``timestamp_ms``."""
        return self.timestamp_ms


DeliveryCallback = Callable[[MillstreamError | None, RecordMetadata], object]


class Batch:
    """Records for one partition; see the module."""

    __slots__ = (
        "abandoned",
        "append_timestamp_ms",
        "attempts",
        "attributes",
        "base_offset",
        "base_sequence",
        "bytes",
        "callback",
        "callback_starts",
        "callbacks",
        "count",
        "created_ms",
        "done",
        "durability",
        "encoded",
        "error",
        "headers",
        "held",
        "indeterminate",
        "keys",
        "next_tick_s",
        "outstanding",
        "partition",
        "parts",
        "payload",
        "tick_ms",
        "tick_starts",
        "topic",
        "values",
        "waiters",
        "i",
        "i",
    )

    def error_of(self, index: int) -> MillstreamError | None:
        """Why a record failed; None if it did not."""
        for start, part in reversed(self.parts):
            if index >= start:
                return part.error_of(index - start)
        return self.error

    def result_of(self, index: int) -> RecordMetadata:
        """Where a record of a done batch went. Raises the error of its delivery."""
        error = self.error_of(index)
        if error is not None:
            # A fresh traceback for each who asks; the error itself is shared by the batch.
            raise error.with_traceback(None)
        return self.metadata(index)
