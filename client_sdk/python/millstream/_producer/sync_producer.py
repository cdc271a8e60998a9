"""``Producer``: sends records from any thread, without an event loop."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from millstream._client.clock import Clock
from millstream._client.config import ProducerConfig
from millstream._client.fork import watch_forks
from millstream._client.malloc import tune_malloc
from millstream._client.retry import Chance
from millstream._client.sync_dispatch import SyncDispatch
from millstream._client.sync_io import SyncClient
from millstream._errors import ClientClosedError, ForkedError, MillstreamError, TimedOutError
from millstream._producer.accumulator import HeadersInput
from millstream._producer.batch import DeliveryCallback, RecordMetadata
from millstream._producer.core import ProducerCore
from millstream._producer.receipt import Receipt, Receipts
from millstream._producer.record_input import check_many

_new = tuple.__new__
# What is still sent when the program is being interrupted.
_INTERRUPTED_CLOSE_S = 1.0


class Producer:
    """Sends records; batches them, and delivers every record once and in order.

    Connects when it is made; use it as a context, or ``close`` it. Thread-safe. The configuration
    keys are those of ``ProducerConfig``, as keywords or, with Kafka's spelling, as a mapping.

    Raises InvalidConfigError, UnsupportedCodecError; UnavailableError or TimedOutError if no broker
    answers within default.api.timeout.ms.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        /,
        *,
        clock: Clock | None = None,
        chance: Chance | None = None,
        **options: Any,
    ) -> None:
        self._config = ProducerConfig.resolve(config, **options)
        if self._config.tune_malloc:
            tune_malloc()
        self._client = SyncClient(self._config, clock=clock, chance=chance)
        client = self._client
        self._core = ProducerCore(self._config, client.cluster, client.clock, client.chance)
        self._accumulator = self._core.accumulator
        self._sender = self._core.sender
        self._dispatch = SyncDispatch(self._core, client)
        self._lock = self._dispatch.lock
        self._closed = False
        client.start()
        watch_forks(self)
        self._dispatch.start()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> Self:
        """A producer from a mapping with Kafka's keys, such as ``{"bootstrap.servers": "…"}``."""
        return cls(config, **options)

    # ---- life

    def close(self, timeout: float | None = None) -> None:
        """Send what waits, for at most ``timeout`` seconds (None: until all is settled), then end.

        What is not settled by then fails with PurgedError. Calls the callbacks that are due. May
        be called twice.
        """
        if self._closed:
            return
        self._closed = True
        if isinstance(self._client.refusal, ForkedError):
            return
        self._core.refuse(lambda: ClientClosedError("the producer is closed"))
        try:
            with contextlib.suppress(MillstreamError):
                self._dispatch.flush(timeout)
        finally:
            self._dispatch.close()
        self._dispatch.serve()

    def on_fork(self) -> None:
        """The process forked: refuse everything in the child."""
        # Another thread may have held the lock at that moment.
        self._lock = threading.Lock()
        self._core.refuse(
            lambda: ForkedError("the process forked after this producer was made; make a new one")
        )

    def __enter__(self) -> Self:
        """The producer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Send what waits, then end; on Ctrl-C, within a second."""
        interrupted = error is not None and not isinstance(error, Exception)
        self.close(_INTERRUPTED_CLOSE_S if interrupted else None)

    # ---- sending

    def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: HeadersInput = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Receipt:
        """Hand a record over; returns its receipt at once, before it is delivered.

        Waits only for the topic's metadata on first use, and while ``buffer.memory`` is used up.
        Values, keys: bytes, text (sent as UTF-8) or None. Headers: a mapping, or pairs. Raises
        RecordTooLargeError, UnknownTopicError, UnknownPartitionError, BufferFullError or
        TimedOutError after max.block.ms, ClientClosedError, ForkedError; then nothing was sent.
        """
        with self._lock:
            batch = self._core.append(topic, value, key, headers, partition, timestamp_ms)
            if batch is not None:
                return _new(Receipt, (batch, len(batch.values) - 1))
        return self._send_later(topic, value, key, headers, partition, timestamp_ms)

    def send_and_wait(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: HeadersInput = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Send a record and wait until it is delivered. Raises as ``send``, or its failure."""
        return self.send(topic, value, key, headers, partition, timestamp_ms).result()

    def produce(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        on_delivery: DeliveryCallback | None = None,
        timestamp: int | None = None,
        headers: HeadersInput = None,
    ) -> None:
        """Hand a record over as confluent-kafka does: ``on_delivery(error, metadata)`` is called
        from ``poll``, ``flush`` or ``close`` when it is settled.

        ``timestamp``: milliseconds since 1970 UTC. Raises BufferFullError (a BufferError) at once
        when ``buffer.memory`` is used up: ``poll``, then try again. Otherwise raises as ``send``.
        """
        with self._lock:
            batch = self._core.append(topic, value, key, headers, partition, timestamp, on_delivery)
        if batch is None:
            self._check()
            if topic in self._accumulator.topics:
                self._dispatch.due.set()
                raise self._core.buffer_full()
            self._add_topic(topic, self._config.max_block_ms)
            self.produce(topic, value, key, partition, on_delivery, timestamp, headers)

    def send_many(
        self,
        topic: str,
        values: Sequence[Any],
        keys: Sequence[Any] | None = None,
        partition: int | None = None,
    ) -> Receipts:
        """Hand many records over in one call, several times faster than one by one.

        Returns the receipt of them all; raises as ``send``. When it raises in the middle, records
        before that were handed over (``flush`` waits for them).
        """
        values, keys = check_many(*self._core.serialize_many(values, keys))
        receipts = Receipts()
        done = 0
        deadline_ms = self._client.now_ms() + self._config.max_block_ms
        while done < len(values):
            self._check()
            with self._lock:
                taken = self._accumulator.append_many(
                    topic, values, keys, partition, done, lambda *run: receipts.runs.append(run)
                )
            done += taken
            if taken:
                deadline_ms = self._client.now_ms() + self._config.max_block_ms
            if done < len(values):
                self._make_ready(topic, deadline_ms)
        receipts.count = done
        return receipts

    def partitions_for(self, topic: str) -> list[int]:
        """Numbers of a topic's partitions. Raises UnknownTopicError or TimedOutError."""
        self._check()
        if topic not in self._accumulator.topics:
            self._add_topic(topic, self._config.max_block_ms)
        return [p.partition for p in self._accumulator.topics[topic].info.partitions]

    def poll(self, timeout: float = 0.0) -> int:
        """Call the callbacks that are due, waiting up to ``timeout`` seconds for a first one.

        Returns how many were called.
        """
        if timeout > 0 and not self._dispatch.settled:
            with self._dispatch.delivered:
                self._dispatch.delivered.wait_for(
                    lambda: self._dispatch.settled or self._closed, timeout
                )
        return self._dispatch.serve()

    def flush(self, timeout: float | None = None) -> int:
        """Send everything handed over so far at once, wait until it is settled, and call the
        callbacks that are due.

        Failures are told by receipts and callbacks, not here. Returns how many records are not
        settled yet: more than zero only when ``timeout`` seconds have passed.
        """
        self._check()
        try:
            self._dispatch.flush(timeout)
        except TimedOutError:
            pass
        self._dispatch.serve()
        with self._lock:
            return sum(batch.count or len(batch.values) for batch in self._sender.pending())

    def purge(self, *, in_queue: bool = True, in_flight: bool = True) -> None:
        """Drop records that are not acknowledged; they fail with PurgedError.

        What is in flight may have been appended all the same (``error.indeterminate``).
        """
        self._check()
        with self._lock:
            self._sender.abandon_all(queued=in_queue, in_flight=in_flight)
            self._dispatch.room.notify_all()
        self._dispatch.due.set()

    def __len__(self) -> int:
        """Number of records that are not settled, or whose callback was not called yet."""
        with self._lock:
            waiting = [*self._sender.pending(), *self._dispatch.settled]
            return sum(batch.count or len(batch.values) for batch in waiting)

    def __bool__(self) -> bool:
        """True, also when nothing waits."""
        return True

    # ---- waiting

    def _check(self) -> None:
        if self._sender.fatal is not None:
            raise self._sender.fatal
        if self._closed:
            raise ClientClosedError("the producer is closed")
        self._client.check_open()

    def _add_topic(self, topic: str, timeout_ms: int) -> None:
        info = self._client.topic(topic, timeout_ms=max(0, timeout_ms), create=True)
        with self._lock:
            self._accumulator.add_topic(info)

    def _send_later(self, topic: str, *record: Any) -> Receipt:
        deadline_ms = self._client.now_ms() + self._config.max_block_ms
        while True:
            self._make_ready(topic, deadline_ms)
            with self._lock:
                batch = self._core.append(topic, *record)
                if batch is not None:
                    return _new(Receipt, (batch, len(batch.values) - 1))

    def _make_ready(self, topic: str, deadline_ms: int) -> None:
        """Wait for the topic's metadata, or for room."""
        self._check()
        left_ms = deadline_ms - self._client.now_ms()
        if topic not in self._accumulator.topics:
            self._add_topic(topic, left_ms)
            return
        self._dispatch.due.set()
        with self._dispatch.room:
            before = self._accumulator.buffered
            freed = self._dispatch.room.wait_for(
                lambda: self._accumulator.buffered < before or self._closed, max(0, left_ms) / 1000
            )
        if not freed:
            raise self._core.buffer_full()
        self._check()
