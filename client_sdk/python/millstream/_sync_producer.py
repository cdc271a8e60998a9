"""``Producer``: sends records from any thread, without an event loop."""

import contextlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from millstream import _methods
from millstream._accumulator import HeadersInput, check_many
from millstream._batch import Batch, DeliveryCallback, RecordMetadata
from millstream._callbacks import run_callbacks
from millstream._clock import Clock
from millstream._config import ProducerConfig
from millstream._errors import ClientClosedError, ForkedError, MillstreamError, TimedOutError
from millstream._fork import watch_forks
from millstream._malloc import tune_malloc
from millstream._produce_call import ProduceCall
from millstream._producer_core import ProducerCore
from millstream._receipt import Receipt, Receipts, wait_for
from millstream._retry import Chance
from millstream._sync_io import SyncClient
from millstream._sync_stream import SyncProduceStream
from millstream.v1 import metadata_service_pb2 as metadata
from millstream.v1.broker_service_pb2 import ProduceResponse

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
        # Guards accumulator and sender; held for moments only.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._delivered = threading.Condition(self._lock)
        # Something may be due; wakes the sending thread.
        self._due = threading.Event()
        self._accumulator.on_open = self._due.set
        self._accumulator.on_sealed = self._due.set
        self._sender.on_done = self._done
        # Settled batches whose callbacks were not called yet; their bytes stay charged.
        self._settled: deque[Batch] = deque()
        self._streams: dict[int, SyncProduceStream] = {}
        self._closed = False
        client.start()
        client.cluster.subscribe(self._on_cluster_change)
        watch_forks(self)
        self._sending = threading.Thread(target=self._run, name="millstream-send", daemon=True)
        self._sending.start()

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
                self._flush(timeout)
        finally:
            with self._lock:
                self._sender.abandon_all()
                streams = list(self._streams.values())
                self._streams.clear()
                self._room.notify_all()
            self._due.set()
            for stream in streams:
                stream.close()
            self._client.close()
            self._sending.join(timeout=1)
        self._serve()

    def on_fork(self) -> None:
        """The process forked: refuse everything in the child."""
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
                self._due.set()
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
        if timeout > 0 and not self._settled:
            with self._delivered:
                self._delivered.wait_for(lambda: self._settled or self._closed, timeout)
        return self._serve()

    def flush(self, timeout: float | None = None) -> int:
        """Send everything handed over so far at once, wait until it is settled, and call the
        callbacks that are due.

        Failures are told by receipts and callbacks, not here. Returns how many records are not
        settled yet: more than zero only when ``timeout`` seconds have passed.
        """
        self._check()
        try:
            self._flush(timeout)
        except TimedOutError:
            pass
        self._serve()
        with self._lock:
            return sum(batch.count or len(batch.values) for batch in self._sender.pending())

    def _flush(self, timeout: float | None) -> None:
        with self._lock:
            pending = self._sender.pending()
            self._sender.flushing += 1
        self._due.set()
        try:
            wait_for(pending, timeout)
        finally:
            with self._lock:
                self._sender.flushing -= 1

    def purge(self, *, in_queue: bool = True, in_flight: bool = True) -> None:
        """Drop records that are not acknowledged; they fail with PurgedError.

        What is in flight may have been appended all the same (``error.indeterminate``).
        """
        self._check()
        with self._lock:
            self._sender.abandon_all(queued=in_queue, in_flight=in_flight)
            self._room.notify_all()
        self._due.set()

    def __len__(self) -> int:
        """Number of records that are not settled, or whose callback was not called yet."""
        with self._lock:
            waiting = [*self._sender.pending(), *self._settled]
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
        self._due.set()
        with self._room:
            before = self._accumulator.buffered
            freed = self._room.wait_for(
                lambda: self._accumulator.buffered < before or self._closed, max(0, left_ms) / 1000
            )
        if not freed:
            raise self._core.buffer_full()
        self._check()

    def _serve(self) -> int:
        """Call the callbacks of settled batches, on this thread."""
        count = 0
        while self._settled:
            try:
                batch = self._settled.popleft()
            except IndexError:  # another thread was faster
                break
            count += run_callbacks(batch)
            with self._lock:
                self._accumulator.release(batch)
                self._room.notify_all()
        return count

    # ---- moving

    def _run(self) -> None:
        """The sending thread: send what is due, then sleep until something is."""
        wait_s: float | None = None
        next_tick_ms = 0
        while not self._client.stopping:
            self._due.wait(wait_s)
            self._due.clear()
            now_ms = self._client.now_ms()
            with self._lock:
                late = self._sender.expire(now_ms) if now_ms >= next_tick_ms else []
                calls = self._sender.collect(now_ms)
                wake_at_ms = self._sender.wake_at_ms
                active = bool(self._accumulator.active)
                needs_producer_id = self._sender.needs_producer_id
            if now_ms >= next_tick_ms:
                next_tick_ms = now_ms + self._core.tick_ms
            for node_id in late:
                stream = self._streams.get(node_id)
                if stream is not None:
                    stream.end(TimedOutError("no answer within request.timeout.ms"))
            self._put(calls)
            if needs_producer_id:
                self._allocate()
            wait_s = self._core.tick_ms / 1000 if active else None
            if wake_at_ms is not None:
                due_s = max(0, wake_at_ms - self._client.now_ms()) / 1000
                wait_s = due_s if wait_s is None else min(wait_s, due_s)

    def _put(self, calls: list[ProduceCall]) -> None:
        for call in calls:
            try:
                self._stream(call.node_id).put(call)
            except (MillstreamError, ValueError):  # the client is closing
                return

    def _stream(self, node_id: int) -> SyncProduceStream:
        with self._lock:
            stream = self._streams.get(node_id)
        if stream is None:
            core = self._core
            stream = SyncProduceStream(
                self._client,
                self._client.cluster.nodes[node_id].address,
                encode=lambda call: call.encode(core.acks, core.wait_ms, core.codec),
                on_written=self._written,
                on_response=self._on_response,
                on_broken=lambda stream, error: self._on_broken(node_id, stream, error),
            )
            with self._lock:
                self._streams[node_id] = stream
        return stream

    def _written(self, call: ProduceCall) -> None:
        if self._config.acks == 0:
            with self._lock:
                self._sender.on_written(call)
                self._room.notify_all()
            self._due.set()

    def _on_response(self, response: ProduceResponse) -> None:
        with self._lock:
            self._sender.on_response(response, self._client.now_ms())
            self._room.notify_all()
            if self._settled:
                self._delivered.notify_all()
            active = bool(self._accumulator.active)
        if active:
            self._due.set()

    def _on_broken(self, node_id: int, stream: SyncProduceStream, error: MillstreamError) -> None:
        with self._lock:
            if self._streams.get(node_id) is not stream:
                return
            del self._streams[node_id]
            self._sender.on_broken(node_id, error, self._client.now_ms())
            self._room.notify_all()
            self._delivered.notify_all()
        self._due.set()

    def _done(self, batch: Batch) -> None:
        """A batch is settled (under the lock)."""
        if batch.callbacks:
            self._settled.append(batch)
            self._delivered.notify_all()
        else:
            self._accumulator.release(batch)

    def _on_cluster_change(self, change: Any) -> None:
        with self._lock:
            self._sender.on_cluster_change(change)
        self._due.set()

    def _allocate(self) -> None:
        """Get a producer id; tried until it succeeds, while batches keep to their time-outs."""
        try:
            answer = self._client.call(
                _methods.ALLOCATE_PRODUCER_ID,
                metadata.AllocateProducerIdRequest(),
                timeout_ms=self._core.tick_ms * 10,
            )
        except MillstreamError as error:
            if not error.retriable and not self._client.stopping:
                with self._lock:
                    self._sender.fail_all(error)
                    self._room.notify_all()
        else:
            with self._lock:
                self._sender.set_producer_id(answer.producer_id, answer.producer_epoch)
        self._due.set()
