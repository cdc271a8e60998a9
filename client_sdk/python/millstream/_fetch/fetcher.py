"""Everything that is being read: what arrived on the streams, in order, until it is handed out.

The owner feeds in cluster changes, pushes and broken streams; it takes out chunks of records,
partitions whose offset must be looked up, and what to send on which stream.

Pure: time comes in as ``now_ms`` (monotonic milliseconds).
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from millstream._consumer.record import ConsumerBatch, ConsumerRecord, TopicPartition
from millstream._errors import (
    CorruptBatchError,
    LogTruncatedError,
    MillstreamError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)
from millstream._fetch.decode import (
    BatchDamage,
    DecodedBatch,
    Deserializers,
    NoCodec,
    decode_batch,
    decode_columns,
)
from millstream._fetch.nearest import AVOID_MS
from millstream._fetch.partition import Chunk, Failure, Mark, Partition, Phase, Push
from millstream._fetch.placement import NEVER_MS, FetchPlacement
from millstream._fetch.session import FetchLimits, FetchSession, pushed_bytes

# Makes the error for a reason number and its text.
MakeError = Callable[[int, str], MillstreamError]


class Fetcher(FetchPlacement):
    """The partitions that a consumer reads, over all brokers."""

    def __init__(
        self,
        limits: FetchLimits,
        make_error: MakeError,
        *,
        check_crcs: bool = True,
        backoff_ms: int = 100,
        deserializers: Deserializers | None = None,
    ) -> None:
        super().__init__(limits, backoff_ms)
        self._deserializers = deserializers or Deserializers()
        self._make_error = make_error
        self._check_crcs = check_crcs
        self._out_of_range: list[tuple[Partition, OffsetOutOfRangeError]] = []

    # --- what arrives ----------------------------------------------------------------------------

    def received(self, session: FetchSession, response: Any, now_ms: int) -> None:
        """A ``RawFetchResponse`` arrived on an open session."""
        for entry in response.partitions:
            batches = entry.batches
            size = pushed_bytes(batches)
            key = (entry.topic_id, entry.partition)
            session.received(size)
            partition = self._by_key.get(key)
            if (
                partition is None
                or partition.session is not session
                or entry.token != partition.token
            ):
                session.released(size)
                continue
            partition.high_watermark = entry.high_watermark
            partition.log_start = entry.log_start_offset
            if entry.leader_epoch > (partition.leader_epoch or 0):
                partition.leader_epoch = entry.leader_epoch
            if size:
                self._buffer(partition, session, deque(batches), entry.log_append_time)
            if entry.error:
                self._failed(partition, session, entry, now_ms)
            else:
                partition.attempts = 0
                self._node_retry.pop(session.node_id, None)

    def _buffer(
        self,
        partition: Partition,
        session: FetchSession,
        batches: "deque[bytes]",
        log_append_time: bool,
    ) -> None:
        last = batches[-1]
        # Fixed positions of the canonical header (record.proto); all of it is verified when
        # the batch is handed out, and a lie here only costs another fetch.
        base_offset = int.from_bytes(last[15:23], "little")
        epoch = int.from_bytes(last[24:28], "little")
        last_delta = int.from_bytes(last[48:52], "little")
        partition.fetched = Mark(base_offset + last_delta + 1, epoch)
        partition.buffer.append(Push(session, batches, log_append_time))
        self._queue(partition)

    def _failed(self, partition: Partition, session: FetchSession, entry: Any, now_ms: int) -> None:
        session.forget(partition.key)
        partition.session = None
        partition.token = 0
        error = self._make_error(entry.error, entry.message)
        place = _place(partition)
        error.details.setdefault("partition", place)
        if isinstance(error, LogTruncatedError) and entry.HasField("truncated_offset"):
            error.details["truncated_offset"] = str(entry.truncated_offset)
        self.stirred = True
        if error.retriable:
            partition.avoid(session.node_id, now_ms + AVOID_MS)
            self._retry_later(partition, now_ms, error.retry_after_ms)
            return
        partition.buffer.append(Failure(error))
        # Until the failure is reached nothing must be asked for.
        partition.retry_at_ms = NEVER_MS
        self._queue(partition)

    # --- handing out -----------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        """True if ``next_chunk`` may have something."""
        return any(partition.deliverable for partition in self._ready)

    def put_back(self, partition: Partition, chunk: Chunk) -> None:
        """Return what is left of a chunk; it comes first the next time."""
        if self.partitions.get(partition.name) is partition and not partition.leaving:
            partition.buffer.appendleft(chunk)
            if not partition.queued and partition.deliverable:
                partition.queued = True
                self._ready.appendleft(partition)

    def next_chunk(self) -> Chunk | None:
        """Records of the next partition in turn; None: nothing is ready."""
        while self._ready:
            partition = self._ready.popleft()
            partition.queued = False
            while partition.buffer and partition.deliverable:
                chunk = self._take(partition)
                if chunk is not None:
                    self._queue(partition)
                    return chunk
        return None

    def _take(self, partition: Partition) -> Chunk | None:
        item = partition.buffer[0]
        if isinstance(item, Chunk):
            partition.buffer.popleft()
            return item
        if isinstance(item, Failure):
            partition.buffer.popleft()
            self._fail(partition, item.error)
            return None
        batch = self._next_batch(partition, item)
        try:
            decoded = decode_batch(
                partition.name,
                batch,
                _offset(partition),
                log_append_time=item.log_append_time,
                check_crcs=self._check_crcs,
                deserializers=self._deserializers,
            )
        except (*BatchDamage, NoCodec) as error:
            self._damaged(partition, error)
            return None
        mark = self._advance(partition, decoded)
        if decoded.failure is not None:
            decoded.failure.add_note(
                f"deserializing {_place(partition)} at offset {mark.offset}; seek past it to go on"
            )
            partition.buffer.appendleft(Failure(decoded.failure))
        if decoded.records:
            return Chunk(partition, decoded.records, mark)
        partition.position = mark
        return None

    def _next_batch(self, partition: Partition, push: Push) -> bytes:
        batch = push.batches.popleft()
        push.session.released(pushed_bytes((batch,)))
        if not push.batches:
            partition.buffer.popleft()
        return batch

    def _advance(self, partition: Partition, decoded: DecodedBatch) -> Mark:
        partition.damaged_at = None
        if decoded.next_offset <= _offset(partition):
            assert partition.position is not None
            return partition.position
        return Mark(decoded.next_offset, decoded.leader_epoch)

    def next_columns(self) -> tuple[Partition, ConsumerBatch, Mark] | None:
        """As ``next_chunk``, but as columns."""
        while self._ready:
            partition = self._ready.popleft()
            partition.queued = False
            while partition.buffer and partition.deliverable:
                item = partition.buffer[0]
                if isinstance(item, Chunk):
                    partition.buffer.popleft()
                    self._queue(partition)
                    return partition, as_columns(item.records), item.next_mark
                if isinstance(item, Failure):
                    self._take(partition)
                    continue
                taken = self._take_columns(partition, item)
                if taken is not None:
                    self._queue(partition)
                    return partition, *taken
        return None

    def _take_columns(self, partition: Partition, push: Push) -> tuple[ConsumerBatch, Mark] | None:
        batch = self._next_batch(partition, push)
        try:
            columns, next_offset, epoch = decode_columns(
                partition.name,
                batch,
                _offset(partition),
                log_append_time=push.log_append_time,
                check_crcs=self._check_crcs,
            )
        except (*BatchDamage, NoCodec) as error:
            self._damaged(partition, error)
            return None
        mark = self._advance(partition, DecodedBatch([], next_offset, epoch))
        if columns is None:
            partition.position = mark
            return None
        return columns, mark

    def _damaged(self, partition: Partition, error: Exception) -> None:
        """Bytes may have been damaged on the way: fetch once more before giving up."""
        again = partition.damaged_at != _offset(partition)
        if again and not isinstance(error, NoCodec):
            self._refetch(partition)
            partition.damaged_at = _offset(partition)
            return
        kind = UnsupportedCodecError if isinstance(error, NoCodec) else CorruptBatchError
        place = _place(partition)
        self._refetch(partition)
        partition.fail(
            kind(
                f"{place} at offset {_offset(partition)}: {error}; seek past it to go on",
                details={"partition": place, "offset": str(_offset(partition))},
            )
        )

    def _fail(self, partition: Partition, error: Exception) -> None:
        if isinstance(error, OffsetOutOfRangeError):
            # Whoever owns the reset policy decides.
            self._out_of_range.append((partition, error))
            partition.phase = Phase.AWAITING
            self.stirred = True
        else:
            partition.fail(error)

    def take_out_of_range(self) -> list[tuple[Partition, OffsetOutOfRangeError]]:
        """Partitions whose position lies outside the log; each is reported once."""
        taken, self._out_of_range = self._out_of_range, []
        return taken

    def first_failure(self) -> Exception | None:
        """An error to raise: that of a failed partition which is not paused."""
        for partition in self.partitions.values():
            if partition.failure is not None and not partition.paused and not partition.leaving:
                return partition.failure
        return None

    def leave(self, names: Iterable[TopicPartition]) -> None:
        """Stop handing out partitions that are being given up; positions stay readable."""
        for name in names:
            partition = self.partitions.get(name)
            if partition is not None:
                partition.leaving = True
                self._refetch(partition)


def _offset(partition: Partition) -> int:
    assert partition.position is not None
    return partition.position.offset


def _place(partition: Partition) -> str:
    return f"{partition.name.topic}-{partition.name.partition}"


def as_columns(records: list[ConsumerRecord]) -> ConsumerBatch:
    """Records of one batch as columns."""
    first = records[0]
    _, _, offsets, timestamps, keys, values, headers, _ = map(list, zip(*records, strict=True))
    return ConsumerBatch(
        first.topic,
        first.partition,
        first.leader_epoch,
        offsets,
        timestamps,
        keys,
        values,
        headers,
    )
