"""Where records wait until they are sent: one open batch per partition, and a count of bytes.

Every record is appended to its partition's open batch; a full batch is sealed and queued. Bytes
are charged to ``buffer.memory`` in grants of some KiB, so that the common case of ``append`` does
nothing but append. Pure but for the wall clock, which is given, and not locked: the owner calls
it from one thread, or under its lock.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from millstream._client.clock import Clock
from millstream._client.cluster import TopicInfo
from millstream._client.config import ProducerConfig
from millstream._client.retry import Chance
from millstream._errors import (
    RecordTooLargeError,
    UnknownPartitionError,
)
from millstream._producer.batch import RECORD_OVERHEAD_BYTES, Batch, DeliveryCallback
from millstream._producer.partition_queue import PartitionQueue, TopicQueues
from millstream._producer.partitioner import PARTITIONERS
from millstream._producer.record_input import (
    as_headers,
    check_timestamp,
    headers_bytes,
    headers_overhead,
    sized,
)

HeadersInput = Mapping[str, Any] | Iterable[tuple[str, Any]] | None

# Bytes granted at a time; small enough that many idle partitions do not use buffer.memory up.
_GRANT_BYTES = 16 * 1024
# Keys whose partition is remembered per topic; then all are forgotten.
_CACHED_KEYS_MAX = 16_384


class Accumulator:
    """Gathers records into batches; see the module."""

    def __init__(self, config: ProducerConfig, clock: Clock, chance: Chance) -> None:
        self._config = config
        self._clock = clock
        self._wall_s = clock.wall_s
        self._chance = chance
        self._partition_of = PARTITIONERS[config.partitioner]
        self._record_bytes_max = config.max_request_size
        self._batch_bytes = config.batch_size
        self._buffer_bytes = config.buffer_memory
        self._topic_age_ms = config.metadata_max_age_ms
        self.topics: dict[str, TopicQueues] = {}
        # Bytes that wait for their acknowledgement, with what was granted to open batches.
        self.buffered = 0
        # Partitions with something to send or to wait for, in order of their first record.
        self.active: dict[PartitionQueue, None] = {}
        # Called when a partition gets an open batch, and when a batch is full.
        self.on_open: Callable[[], None] = _nothing
        self.on_sealed: Callable[[], None] = _nothing

    def add_topic(self, info: TopicInfo) -> TopicQueues:
        """Make queues for a topic, or update them."""
        queues = self.topics.get(info.name)
        if queues is None or queues.info.topic_id != info.topic_id:
            queues = self.topics[info.name] = TopicQueues(info)
            queues.used_ms = self._clock.monotonic_ms()
            queues.choose_sticky(self._chance)
        else:
            queues.update(info)
        return queues

    def forget_unused(self, now_ms: int) -> list[str]:
        """Drop topics that were not used for metadata.max.age.ms; returns their names."""
        limit_ms = now_ms - self._topic_age_ms
        old = [
            name
            for name, queues in self.topics.items()
            if queues.used_ms < limit_ms and all(queue.idle for queue in queues.partitions)
        ]
        for name in old:
            del self.topics[name]
        return old

    def append(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: HeadersInput = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> Batch | None:
        """Append a record; returns its batch, whose last record it is.

        None: the topic is not known, or buffer.memory is used up (``find_topic`` tells which); then
        nothing was done. Raises RecordTooLargeError, UnknownPartitionError or InvalidRequestError.
        """
        queues = self.topics.get(topic)
        if queues is None:
            return None
        if type(value) is bytes and type(key) is bytes and partition is None:
            queue = queues.by_key.get(key) or self._place(queues, key)
            size = len(value) + len(key) + RECORD_OVERHEAD_BYTES
        else:
            value, key, size = sized(value, key)
            queue = self._choose(queues, key, partition)
        room = queue.room - size
        if room < 0 or timestamp_ms is not None or headers:
            return self._append_slowly(
                queues, queue, size, (value, key, headers, partition, timestamp_ms, on_delivery)
            )
        batch = queue.open
        assert batch is not None  # since there is room
        now_s = self._wall_s()
        if now_s >= batch.next_tick_s:
            batch.tick(now_s)
        if batch.callback is not on_delivery:
            batch.call_back(on_delivery)
        queue.room = room
        batch.values.append(value)
        batch.keys.append(key)
        return batch

    def _append_slowly(
        self,
        queues: TopicQueues,
        queue: PartitionQueue,
        size: int,
        record: tuple[Any, Any, HeadersInput, int | None, int | None, DeliveryCallback | None],
    ) -> Batch | None:
        """Append a record with headers or a timestamp, or one that finds no room at once."""
        value, key, headers, partition, timestamp_ms, on_delivery = record
        overhead = RECORD_OVERHEAD_BYTES
        pairs = None
        if headers:
            pairs = as_headers(headers)
            overhead += headers_overhead(pairs)
            size += headers_bytes(pairs)
        self._check_size(size - overhead)
        if timestamp_ms is not None:
            check_timestamp(timestamp_ms)
        while self._seal_if_full(queue, size, timestamp_ms):
            if partition is None and key is None:
                queue = queues.sticky
        if queue.room < size and not self._grant(queue, size):
            return None
        batch = queue.open
        assert batch is not None
        if timestamp_ms is None:
            self._tick(batch)
        else:
            batch.stamp(timestamp_ms)
            batch.next_tick_s = 0.0
        if pairs is not None:
            batch.headers[len(batch.values)] = pairs
        if batch.callback is not on_delivery:
            batch.call_back(on_delivery)
        queue.room -= size
        batch.values.append(value)
        batch.keys.append(key)
        return batch

    def append_many(
        self,
        topic: str,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        partition: int | None,
        start: int,
        place: "Callable[[Batch, int, Sequence[int]], object]",
    ) -> int:
        """Append records ``start`` and following of a call; returns how many went in before the
        topic was found unknown or buffer.memory used up.

        ``place(batch, index, positions)`` is told where each run went. Values and keys are bytes
        or None.
        """
        queues = self.topics.get(topic)
        if queues is None:
            return 0
        if keys is None or partition is not None:
            queue = None if partition is None else self._explicit(queues, partition)
            return self._append_run(queues, queue, values, keys, start, place)
        return self._append_keyed(queues, values, keys, start, place)

    def _append_run(
        self,
        queues: TopicQueues,
        queue: PartitionQueue | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        start: int,
        place: "Callable[[Batch, int, Sequence[int]], object]",
    ) -> int:
        """Append records that go to one partition; to the sticky ones if ``queue`` is None."""
        sizes = [(len(v) if v else 0) + RECORD_OVERHEAD_BYTES for v in values[start:]]
        if keys is not None:
            for index, key in enumerate(keys[start:]):
                if key:
                    sizes[index] += len(key)
        ends = list(accumulate(sizes))
        done, total = 0, len(ends)
        while done < total:
            target = queue or queues.sticky
            before = ends[done - 1] if done else 0
            size = sizes[done]
            self._check_size(size - RECORD_OVERHEAD_BYTES)
            if self._seal_if_full(target, size, None):
                continue
            if target.room < size and not self._grant(target, size, ends[-1] - before):
                break
            upto = max(done + 1, bisect_right(ends, before + target.room, done))
            batch = target.open
            assert batch is not None
            self._tick(batch)
            if batch.callback is not None:
                batch.call_back(None)
            index = len(batch.values)
            begin, end = start + done, start + upto
            batch.values += values[begin:end]
            batch.keys += [None] * (end - begin) if keys is None else keys[begin:end]
            target.room -= ends[upto - 1] - before
            place(batch, index, range(begin, end))
            done = upto
        return done

    def _append_keyed(
        self,
        queues: TopicQueues,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        start: int,
        place: "Callable[[Batch, int, Sequence[int]], object]",
    ) -> int:
        """Append records each to the partition of its key."""
        wall = self._wall_s()
        runs: dict[Batch, tuple[int, list[int]]] = {}
        get = queues.by_key.get
        position = start
        for position in range(start, len(values)):
            value, key = values[position], keys[position]
            queue = queues.sticky if key is None else get(key) or self._place(queues, key)
            size = RECORD_OVERHEAD_BYTES + (len(value) if value else 0) + (len(key) if key else 0)
            room = queue.room - size
            if room < 0:
                self._check_size(size - RECORD_OVERHEAD_BYTES)
                self._seal_if_full(queue, size, None)
                if not self._grant(queue, size):
                    break
                room = queue.room - size
            batch = queue.open
            assert batch is not None
            if wall >= batch.next_tick_s:
                batch.tick(wall)
            if batch.callback is not None:
                batch.call_back(None)
            queue.room = room
            run = runs.get(batch)
            if run is None:
                run = runs[batch] = (len(batch.values), [])
            run[1].append(position)
            batch.values.append(value)
            batch.keys.append(key)
        else:
            position = len(values)
        for batch, (index, positions) in runs.items():
            place(batch, index, positions)
        return position - start

    def _tick(self, batch: Batch) -> None:
        now_s = self._wall_s()
        if now_s >= batch.next_tick_s:
            batch.tick(now_s)

    def _choose(
        self, queues: TopicQueues, key: bytes | None, partition: int | None
    ) -> PartitionQueue:
        if partition is not None:
            return self._explicit(queues, partition)
        if key is None:
            return queues.sticky
        return queues.by_key.get(key) or self._place(queues, key)

    def _explicit(self, queues: TopicQueues, partition: int) -> PartitionQueue:
        if not 0 <= partition < len(queues.partitions):
            raise UnknownPartitionError(
                f"{queues.name} has partitions 0 to {len(queues.partitions) - 1}, not {partition}"
            )
        return queues.partitions[partition]

    def _place(self, queues: TopicQueues, key: bytes) -> PartitionQueue:
        """The partition of a key that is not remembered."""
        number = self._partition_of(key, len(queues.partitions))
        if number is None:
            return queues.sticky
        if len(queues.by_key) >= _CACHED_KEYS_MAX:
            queues.by_key.clear()
        queue = queues.by_key[key] = queues.partitions[number]
        return queue

    def _check_size(self, size: int) -> None:
        if size > self._record_bytes_max:
            raise RecordTooLargeError(
                f"a record of {size} bytes exceeds max.request.size={self._record_bytes_max}"
            )

    def _seal_if_full(self, queue: PartitionQueue, size: int, timestamp_ms: int | None) -> bool:
        """Seal the open batch if a record of ``size`` bytes, or of this time, cannot join it."""
        batch = queue.open
        if batch is None or not batch.values:
            return False
        full = batch.bytes - queue.room + size > self._batch_bytes
        if not full and (timestamp_ms is None or batch.fits(timestamp_ms)):
            return False
        self.seal(queue)
        self.on_sealed()
        return True

    def _grant(self, queue: PartitionQueue, size: int, wanted: int = 0) -> bool:
        """Take bytes of buffer.memory for a partition: enough for a record of ``size``, and more
        if there is; ``wanted`` asks for a larger grant. False: buffer.memory is used up."""
        batch = queue.open
        charged = 0 if batch is None else batch.bytes
        least = size - queue.room
        grant = max(least, min(max(_GRANT_BYTES, wanted), self._batch_bytes - charged))
        free = self._buffer_bytes - self.buffered
        if grant > free:
            grant = least
            # A record larger than all of buffer.memory goes when nothing else is buffered.
            if grant > free and self.buffered:
                return False
        if batch is None:
            now_ms = self._clock.monotonic_ms()
            batch = queue.open = Batch(queue.topic.name, queue.number, now_ms)
            queue.topic.used_ms = now_ms
            self.active[queue] = None
            self.on_open()
        self.buffered += grant
        batch.bytes += grant
        queue.room += grant
        return True

    def seal(self, queue: PartitionQueue) -> None:
        """Close the open batch: it takes no more records, and waits to be sent."""
        batch = queue.open
        if batch is None:
            return
        batch.bytes -= queue.room
        self.buffered -= queue.room
        queue.room = 0
        queue.open = None
        # Ctrl-C may have struck between the columns of the last record; then it was not sent.
        batch.count = min(len(batch.values), len(batch.keys))
        del batch.values[batch.count :]
        if batch.count:
            queue.sealed.append(batch)
        topic = queue.topic
        if topic.sticky is queue:
            topic.choose_sticky(self._chance)

    def release(self, batch: Batch) -> None:
        """Give the bytes of a batch back to buffer.memory."""
        batch.drop()
        self.buffered -= batch.bytes
        batch.bytes = 0


def _nothing() -> None:
    """What is called until the owner sets something else."""
