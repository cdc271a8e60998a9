"""What a consumer hands out: records, columns of records, partitions and offsets.

A record is a tuple in its layout, so that a whole batch of them is made by ``map`` and ``zip``
without a step of Python code per record, and its attributes are the C-level getters of a named
tuple.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

Headers = tuple[tuple[str, bytes | None], ...]


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    # Name of the topic.
    topic: str
    # Number of the partition.
    partition: int


class OffsetAndMetadata(NamedTuple):
    """A committed offset: everything before ``offset`` is done."""

    # Offset of the next record to process.
    offset: int
    # Anything, for the application; at most 4096 bytes.
    metadata: str = ""
    # Leader epoch of the last record processed; None when not known.
    leader_epoch: int | None = None


class OffsetAndTimestamp(NamedTuple):
    """The first record at or after a time."""

    # Offset of that record.
    offset: int
    # Timestamp of that record, milliseconds since 1970 UTC.
    timestamp_ms: int
    # Leader epoch of the broker that answered; None when not known.
    leader_epoch: int | None = None


class _Fields(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    leader_epoch: int


if TYPE_CHECKING:

    class ConsumerRecord(_Fields):
        """A record that was read; see the class below."""

        def __new__(cls, fields: Iterable[object]) -> "ConsumerRecord":
            """Make a record from its eight fields in order."""

else:

    class ConsumerRecord(tuple):
        """A record that was read. Frozen; made from one iterable of the eight fields in order.

        ``topic``, ``partition``, ``offset``: where it stands. ``timestamp_ms``: milliseconds since
        1970 UTC, of the producer or of the append as the topic says. ``key``, ``value``: bytes, or
        None. ``headers``: (name, value) pairs in order. ``leader_epoch``: epoch of the leader that
        appended it.
        """

        # A plain subclass of tuple and not a NamedTuple: `ConsumerRecord(fields)` is then
        # C code from end to end, a third faster than `_make` and than a class with slots.
        __slots__ = ()

        topic = _Fields.topic
        partition = _Fields.partition
        offset = _Fields.offset
        timestamp_ms = _Fields.timestamp_ms
        key = _Fields.key
        value = _Fields.value
        headers = _Fields.headers
        leader_epoch = _Fields.leader_epoch

        def __repr__(self) -> str:
            pairs = zip(_Fields._fields, self, strict=True)
            return f"ConsumerRecord({', '.join(f'{name}={value!r}' for name, value in pairs)})"


class ConsumerBatch(NamedTuple):
    """Records of one partition as columns, without an object per record.

    All columns have one entry per record. Offsets ascend.
    """

    # Name of the topic.
    topic: str
    # Number of the partition.
    partition: int
    # Leader epoch of the records.
    leader_epoch: int
    # Offsets; a range where the log has no gaps.
    offsets: "range | list[int]"
    # Timestamps, milliseconds since 1970 UTC.
    timestamps_ms: list[int]
    # Keys; None: no record has one.
    keys: list[bytes | None] | None
    # Values; None: every value is null.
    values: list[bytes | None] | None
    # Headers; None: no record has any.
    headers: list[Headers] | None

    def __len__(self) -> int:
        """Number of records."""
        return len(self.offsets)
