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
        "abandoned", "append_timestamp_ms", "attempts", "attributes", "base_offset",
        "base_sequence", "bytes", "callback", "callback_starts", "callbacks", "count",
        "created_ms", "done", "durability", "encoded", "error", "headers", "held",
        "indeterminate", "keys", "last_failure", "next_tick_s", "outstanding", "partition", "parts",
        "payload", "tick_ms", "tick_starts", "topic", "values", "waiters",
    )  # fmt: skip

    def __init__(self, topic: str, partition: int, created_ms: int) -> None:
        self.topic = topic
        self.partition = partition
        # Monotonic time of the first record; delivery.timeout.ms counts from it.
        self.created_ms = created_ms
        # Columns, until the batch is encoded.
        self.values: list[bytes | None] = []
        self.keys: list[bytes | None] = []
        # Headers of the records that have any, by index.
        self.headers: dict[int, RecordHeaders] = {}
        # Record timestamps as runs: from index tick_starts[i] on it is tick_ms[i].
        self.tick_starts: list[int] = []
        self.tick_ms: list[int] = []
        # Wall-clock seconds at which the timestamp changes next.
        self.next_tick_s = 0.0
        # Callback of the last record; and all as runs: from index callback_starts[i] on it is
        # callbacks[i], or none where that is None.
        self.callback: DeliveryCallback | None = None
        self.callback_starts: list[int] = []
        self.callbacks: list[DeliveryCallback | None] = []
        # What the batch takes of buffer.memory.
        self.bytes = 0
        # Set when sealed.
        self.count = 0
        # Set when encoded.
        self.encoded = False
        self.attributes = 0
        self.payload = b""
        # Set when sent; the sequence stays across retries (invariant 23). -1: not sent yet.
        self.base_sequence = -1
        self.attempts = 0
        # An answer is awaited.
        self.outstanding = False
        # An attempt may have appended it although that was not acknowledged.
        self.indeterminate = False
        # Why the last attempt failed.
        self.last_failure: MillstreamError | None = None
        # Surely not appended, and waits for a new producer epoch.
        self.held = False
        # Its fate was told to the application already; kept until the broker's answer.
        self.abandoned = False
        # Its fate.
        self.done = False
        self.error: MillstreamError | None = None
        self.base_offset: int | None = None
        self.append_timestamp_ms: int | None = None
        self.durability = Durability.UNSPECIFIED
        # Called once, when done.
        self.waiters: list[Callable[[Batch], object]] = []
        # Batches that this one was cut into, with the index of their first record here.
        self.parts: list[tuple[int, Batch]] = []

    # ---- gathering

    def tick(self, now_s: float) -> None:
        """A new millisecond has begun for the records to come."""
        now_ms = int(now_s * 1000)
        self.next_tick_s = (now_ms + 1) / 1000
        self.stamp(now_ms)

    def stamp(self, timestamp_ms: int) -> None:
        """The next record, and those after it, carry this timestamp."""
        if not self.tick_ms or self.tick_ms[-1] != timestamp_ms:
            self.tick_starts.append(len(self.values))
            self.tick_ms.append(timestamp_ms)

    def fits(self, timestamp_ms: int) -> bool:
        """True if a record of this timestamp can stand in this batch."""
        return not self.tick_ms or abs(timestamp_ms - self.tick_ms[0]) <= TIMESTAMP_DELTA_MS_MAX

    def call_back(self, callback: DeliveryCallback | None) -> None:
        """The next record, and those after it, have this callback."""
        self.callback = callback
        self.callback_starts.append(len(self.values))
        self.callbacks.append(callback)

    def encode(self, codec: int) -> None:
        """Make the payload, once; the columns are dropped. Any thread may do this."""
        if self.encoded:
            return
        count = self.count
        keys = None if self.keys.count(None) == count else self.keys
        headers = None
        if self.headers:
            headers = [self.headers.get(index, _NO_HEADERS) for index in range(count)]
        payload = encode_records(self.values, keys, self._timestamp_deltas(count), headers)
        self.payload = compress(codec, payload)
        self.attributes = codec
        self.encoded = True
        self.values, self.keys, self.headers = [], [], {}

    def drop(self) -> None:
        """Free the records: they will not be sent (again)."""
        self.payload = b""
        self.values, self.keys, self.headers = [], [], {}

    def _timestamp_deltas(self, count: int) -> "Sequence[int] | None":
        if len(self.tick_ms) == 1:
            return None
        base = self.tick_ms[0]
        deltas = array("i")
        ends = [*self.tick_starts[1:], count]
        for start, end, stamp in zip(self.tick_starts, ends, self.tick_ms, strict=True):
            deltas.extend(array("i", (stamp - base,)) * (end - start))
        return deltas

    # ---- delivery

    def complete(
        self,
        error: MillstreamError | None = None,
        base_offset: int | None = None,
        append_timestamp_ms: int | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> None:
        """Settle the fate of all records, and tell those who wait. Later calls do nothing."""
        if self.done:
            return
        self.error = error
        self.base_offset = base_offset
        self.append_timestamp_ms = append_timestamp_ms
        self.durability = durability
        self.done = True
        while self.waiters:
            self.waiters.pop()(self)

    def add_waiter(self, waiter: "Callable[[Batch], object]") -> None:
        """Call ``waiter(batch)`` when done, or now. It may be called twice when another thread
        settles the batch at this very moment."""
        self.waiters.append(waiter)
        if self.done:
            waiter(self)

    def timestamp_ms(self, index: int) -> int:
        """Timestamp of a record as readers will see it."""
        if self.append_timestamp_ms is not None:
            return self.append_timestamp_ms
        return self.tick_ms[bisect_right(self.tick_starts, index) - 1]

    def metadata(self, index: int) -> RecordMetadata:
        """Where a record went; its offset is None unless the delivery succeeded."""
        for start, part in reversed(self.parts):
            if index >= start:
                return part.metadata(index - start)
        offset = None if self.base_offset is None else self.base_offset + index
        return RecordMetadata(
            self.topic, self.partition, offset, self.timestamp_ms(index), self.durability
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
