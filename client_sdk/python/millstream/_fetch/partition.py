"""One partition that is read: position, buffered pushes, and the chunk being handed out.

Three offsets, each at or behind the next::

    processed   what auto-commit may commit: all before it was handed out before the last step
    position    the next record to hand out
    fetched     the next record to ask the broker for; between the two stands the buffer
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from operator import length_hint

from millstream._consumer.record import ConsumerRecord, TopicPartition
from millstream._fetch.session import FetchSession, PartitionKey, pushed_bytes


class Phase(Enum):
    """What a partition waits for."""

    # The position is not known: the committed offset or a reset is being looked up.
    AWAITING = "awaiting"
    # It is read, or will be when its leader is known.
    FETCHING = "fetching"
    # An error is raised at every step until a seek.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a log: an offset, and the leader epoch of the record before it (None: unknown)."""

    offset: int
    epoch: int | None = None


@dataclass(slots=True)
class Push:
    """Batches that arrived and were not decoded yet, newest last; their credit is held."""

    session: FetchSession
    batches: deque[bytes]
    log_append_time: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that takes effect when everything before it in the buffer was handed out."""

    error: Exception


class Chunk:
    """Decoded records of one batch on their way to the application.

    Handing out is ``next(chunk.iterator)``: one step of C code, so that another thread can take
    the rest away at any moment with ``withdraw``.
    """

    __slots__ = ("in_hand", "iterator", "next_mark", "partition", "records")

    def __init__(
        self, partition: "Partition", records: list[ConsumerRecord], next_mark: Mark
    ) -> None:
        self.partition = partition
        self.records = records
        self.next_mark = next_mark
        self.iterator: Iterator[ConsumerRecord] = iter(records)
        # True when records leave one by one: the last one is then still being processed.
        self.in_hand = False

    def handed(self) -> int:
        """Number of records handed out."""
        return len(self.records) - length_hint(self.iterator)

    def mark_at(self, index: int) -> Mark:
        """The position before the record of that index."""
        if index >= len(self.records):
            return self.next_mark
        # One batch has one leader epoch; before its first record the older mark is as good.
        epoch = self.next_mark.epoch if index else self.partition.position_epoch
        return Mark(self.records[index].offset, epoch)

    def withdraw(self) -> list[ConsumerRecord]:
        """Stop handing out; return the records that nobody got."""
        return list(self.iterator)


class Partition:
    """The state of one partition of a consumer."""

    def __init__(self, name: TopicPartition, topic_id: bytes) -> None:
        self.name = name
        self.topic_id = topic_id
        self.phase = Phase.AWAITING
        self.failure: Exception | None = None
        self.position: Mark | None = None
        self.processed: Mark | None = None
        # Newest offset sent to the coordinator; auto-commit does not repeat it.
        self.committed: int | None = None
        self.fetched: Mark | None = None
        # Counts look-ups of a position: the answer to an older one is void.
        self.seeks = 0
        self.paused = False
        # Being given up or lost: nothing of it is handed out any more.
        self.leaving = False
        self.session: FetchSession | None = None
        self.token = 0
        self.leader_epoch: int | None = None
        self.retry_at_ms = 0
        self.attempts = 0
        # A replica that could not serve, and until when a nearer one is not asked: (node id, time).
        self._avoided: tuple[int, int] | None = None
        # Position of the batch that was damaged and fetched a second time.
        self.damaged_at: int | None = None
        self.high_watermark: int | None = None
        self.log_start: int | None = None
        self.buffer: deque[Push | Chunk | Failure] = deque()
        # True while it stands in the queue of partitions with something to hand out.
        self.queued = False

    @property
    def key(self) -> PartitionKey:
        """Topic id and number, as the wire has it."""
        return (self.topic_id, self.name.partition)

    @property
    def position_epoch(self) -> int | None:
        """Leader epoch of the record before the position; None: unknown."""
        return None if self.position is None else self.position.epoch

    @property
    def deliverable(self) -> bool:
        """True if its records may be handed out."""
        return self.phase is Phase.FETCHING and not self.paused and not self.leaving

    @property
    def placeable(self) -> bool:
        """True if it should stand on a stream and does not yet."""
        return (
            self.session is None
            and self.phase is Phase.FETCHING
            and not (self.paused or self.leaving)
            and bool(self.topic_id)
        )

    def avoid(self, node_id: int, until_ms: int) -> None:
        """Do not prefer this replica for a while."""
        self._avoided = (node_id, until_ms)

    def avoided(self, now_ms: int) -> int | None:
        """The replica that is not to be preferred at present."""
        if self._avoided is None or self._avoided[1] <= now_ms:
            return None
        return self._avoided[0]

    def move(self, mark: Mark | None) -> None:
        """Set the position; None: to be looked up. The buffer must have been dropped before."""
        self.position = self.processed = self.fetched = mark
        self.phase = Phase.AWAITING if mark is None else Phase.FETCHING
        self.failure = None
        self.damaged_at = None
        self.retry_at_ms = 0

    def fail(self, error: Exception) -> None:
        """Raise this error at every step until the position is set."""
        self.phase = Phase.FAILED
        self.failure = error

    def buffered_bytes(self) -> int:
        """Bytes of pushes that were not decoded yet."""
        return sum(pushed_bytes(item.batches) for item in self.buffer if isinstance(item, Push))

    def drop_buffer(self) -> None:
        """Forget everything buffered and return its credit."""
        for item in self.buffer:
            if isinstance(item, Push):
                item.session.released(pushed_bytes(item.batches))
        self.buffer.clear()
