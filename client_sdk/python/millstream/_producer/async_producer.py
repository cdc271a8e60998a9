"""``AsyncProducer``: sends records from an asyncio program."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from millstream._client import methods
from millstream._client.async_io import AsyncClient, OpenChannel
from millstream._client.clock import Clock
from millstream._client.config import ProducerConfig
from millstream._client.malloc import tune_malloc
from millstream._client.retry import Chance
from millstream._errors import (
    ClientClosedError,
    MillstreamError,
    TimedOutError,
)
from millstream._producer.accumulator import HeadersInput
from millstream._producer.async_stream import AsyncProduceStream
from millstream._producer.batch import Batch, DeliveryCallback, RecordMetadata
from millstream._producer.call import ProduceCall
from millstream._producer.callbacks import run_callbacks
from millstream._producer.core import ProducerCore
from millstream._producer.receipt import AsyncReceipt, AsyncReceipts, settled
from millstream._producer.record_input import check_many
from millstream.v1 import metadata_service_pb2 as metadata
from millstream.v1.broker_service_pb2 import ProduceResponse

_new = tuple.__new__
# What is still sent when the program is being interrupted.
_INTERRUPTED_CLOSE_S = 1.0


class AsyncProducer:
    """Sends records; batches them, and delivers every record once and in order.

    Use it as ``async with AsyncProducer(bootstrap_servers="…") as producer``, or call ``start``
    and ``stop``. All methods belong to the event loop that started it. The configuration keys are
    those of ``ProducerConfig``, as keywords or, with Kafka's spelling, as a mapping.

    Raises InvalidConfigError and UnsupportedCodecError when it is made.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        /,
        *,
        clock: Clock | None = None,
        chance: Chance | None = None,
        open_channel: OpenChannel | None = None,
        **options: Any,
    ) -> None:
        self._config = ProducerConfig.resolve(config, **options)
        self._client = AsyncClient(
            self._config, clock=clock, chance=chance, open_channel=open_channel
        )
        client = self._client
        self._core = ProducerCore(self._config, client.cluster, client.clock, client.chance)
        self._accumulator = self._core.accumulator
        self._sender = self._core.sender
        self._accumulator.on_open = self._schedule
        self._accumulator.on_sealed = self._sealed
        self._sender.on_done = self._done
        self._streams: dict[int, AsyncProduceStream] = {}
        self._allocating: asyncio.Task[None] | None = None
        self._scheduled = False
        self._wake_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        # A batch was sealed: let the event loop move it before more records are taken.
        self._breathe = False
        self._room = asyncio.Event()
        self._closed = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> Self:
        """A producer from a mapping with Kafka's keys, such as ``{"bootstrap.servers": "…"}``."""
        return cls(config, **options)

    # ---- life

    async def start(self) -> None:
        """Connect. Raises UnavailableError or TimedOutError if no broker answers."""
        if self._config.tune_malloc:
            tune_malloc()
        self._loop = asyncio.get_running_loop()
        await self._client.start()
        self._client.cluster.subscribe(self._on_cluster_change)

    async def stop(self) -> None:
        """As ``close``."""
        await self.close()

    async def close(self, timeout: float | None = None) -> None:
        """Send what waits, for at most ``timeout`` seconds (None: until all is settled), then end.

        What is not settled by then fails with PurgedError. May be called twice.
        """
        if self._closed:
            return
        self._closed = True
        self._core.refuse(lambda: ClientClosedError("the producer is closed"))
        try:
            await self._flush(timeout)
        except MillstreamError:
            pass
        finally:
            self._sender.abandon_all()
            self._room.set()
            for timer in (self._wake_timer, self._tick_timer):
                if timer is not None:
                    timer.cancel()
            if self._allocating is not None:
                self._allocating.cancel()
            for stream in list(self._streams.values()):
                await stream.close()
            await self._client.close()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Send what waits, then end; on Ctrl-C and cancellation, within a second."""
        interrupted = error is not None and not isinstance(error, Exception)
        await self.close(_INTERRUPTED_CLOSE_S if interrupted else None)

    # ---- sending

    async def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: HeadersInput = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> AsyncReceipt:
        """Hand a record over; returns its receipt at once, before it is delivered.

        Waits only for the topic's metadata on first use, and while ``buffer.memory`` is used up.
        Await the receipt for the delivery. Values, keys: bytes, text (sent as UTF-8) or None.
        Headers: a mapping, or pairs. Raises RecordTooLargeError, UnknownTopicError,
        UnknownPartitionError, BufferFullError or TimedOutError after max.block.ms,
        ClientClosedError; then nothing was sent.
        """
        batch = self._core.append(topic, value, key, headers, partition, timestamp_ms)
        if batch is None:
            batch = await self._append_later(topic, value, key, headers, partition, timestamp_ms)
        receipt = _new(AsyncReceipt, (batch, len(batch.values) - 1))
        if self._breathe:
            self._breathe = False
            await asyncio.sleep(0)
        return receipt

    def send_nowait(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: HeadersInput = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> AsyncReceipt:
        """As ``send``, without ever waiting: raises BufferFullError when ``buffer.memory`` is used
        up, UnknownTopicError for a topic that was not used yet (``partitions_for`` readies it).

        ``on_delivery(error, metadata)`` is called on the event loop when the record is settled.
        Give the loop a chance to run now and then, or nothing is sent.
        """
        batch = self._core.append(topic, value, key, headers, partition, timestamp_ms, on_delivery)
        if batch is None:
            self._check()
            self._accumulator_topic(topic)
            raise self._core.buffer_full()
        return _new(AsyncReceipt, (batch, len(batch.values) - 1))

    async def send_and_wait(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: HeadersInput = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Send a record and wait until it is delivered. Raises as ``send``, or its failure."""
        return await (await self.send(topic, value, key, headers, partition, timestamp_ms))

    async def send_many(
        self,
        topic: str,
        values: Sequence[Any],
        keys: Sequence[Any] | None = None,
        partition: int | None = None,
    ) -> AsyncReceipts:
        """Hand many records over in one call, several times faster than one by one.

        Returns the receipt of them all; raises as ``send``. When it raises in the middle, records
        before that were handed over (``flush`` waits for them).
        """
        values, keys = check_many(*self._core.serialize_many(values, keys))
        receipts = AsyncReceipts()
        done = 0
        deadline_ms = self._client.now_ms() + self._config.max_block_ms
        while done < len(values):
            if self._closed:
                self._check()
            taken = self._accumulator.append_many(
                topic, values, keys, partition, done, lambda *run: receipts.runs.append(run)
            )
            done += taken
            if taken:
                deadline_ms = self._client.now_ms() + self._config.max_block_ms
                await asyncio.sleep(0)
            if done < len(values):
                await self._make_ready(topic, deadline_ms)
        receipts.count = done
        return receipts

    async def partitions_for(self, topic: str) -> list[int]:
        """Numbers of a topic's partitions. Raises UnknownTopicError or TimedOutError."""
        self._check()
        if topic not in self._accumulator.topics:
            info = await self._client.topic(
                topic, timeout_ms=self._config.max_block_ms, create=True
            )
            self._accumulator.add_topic(info)
        return [p.partition for p in self._accumulator.topics[topic].info.partitions]

    async def flush(self, timeout: float | None = None) -> None:
        """Send everything handed over so far at once, and wait until it is settled.

        Failures are told by the receipts, not here. Raises TimedOutError after ``timeout`` seconds.
        """
        self._check()
        await self._flush(timeout)

    async def _flush(self, timeout: float | None) -> None:
        pending = [settled(batch) for batch in self._sender.pending()]
        if not pending:
            return
        self._sender.flushing += 1
        self._schedule()
        try:
            _, late = await asyncio.wait(pending, timeout=timeout)
        finally:
            self._sender.flushing -= 1
        if late:
            raise TimedOutError(f"{len(late)} batches are not settled yet")

    def purge(self, *, in_queue: bool = True, in_flight: bool = True) -> None:
        """Drop records that are not acknowledged; their receipts fail with PurgedError.

        What is in flight may have been appended all the same (``error.indeterminate``).
        """
        self._check()
        self._sender.abandon_all(queued=in_queue, in_flight=in_flight)
        self._room.set()
        self._schedule()

    # ---- waiting

    def _check(self) -> None:
        if self._sender.fatal is not None:
            raise self._sender.fatal
        if self._closed:
            raise ClientClosedError("the producer is closed")
        self._client.check_open()

    def _accumulator_topic(self, topic: str) -> None:
        """Make queues for a topic from what is known. Raises UnknownTopicError."""
        if topic not in self._accumulator.topics:
            self._accumulator.add_topic(self._client.cluster.topic(topic))

    async def _append_later(self, topic: str, *record: Any) -> Batch:
        deadline_ms = self._client.now_ms() + self._config.max_block_ms
        while True:
            await self._make_ready(topic, deadline_ms)
            batch = self._core.append(topic, *record)
            if batch is not None:
                return batch

    async def _make_ready(self, topic: str, deadline_ms: int) -> None:
        """Wait for the topic's metadata, or for room."""
        self._check()
        left_ms = deadline_ms - self._client.now_ms()
        if topic not in self._accumulator.topics:
            info = await self._client.topic(topic, timeout_ms=max(0, left_ms), create=True)
            self._accumulator.add_topic(info)
            return
        self._schedule()
        self._room.clear()
        try:
            await asyncio.wait_for(self._room.wait(), max(0, left_ms) / 1000)
        except TimeoutError:
            raise self._core.buffer_full() from None
        self._check()

    # ---- moving

    def _sealed(self) -> None:
        self._breathe = True
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Send what is due, and arrange for the next time."""
        self._scheduled = False
        sender = self._sender
        for call in sender.collect(self._client.now_ms()):
            self._stream(call.node_id).put(call)
        if sender.needs_producer_id and self._allocating is None:
            self._allocating = asyncio.create_task(self._allocate())
        if self._wake_timer is not None:
            self._wake_timer.cancel()
            self._wake_timer = None
        if sender.wake_at_ms is not None:
            delay_s = max(0, sender.wake_at_ms - self._client.now_ms()) / 1000
            self._wake_timer = self._loop.call_later(delay_s, self._schedule)
        if self._tick_timer is None and self._accumulator.active:
            self._tick_timer = self._loop.call_later(self._core.tick_ms / 1000, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        now_ms = self._client.now_ms()
        self._client.forget_topics(self._accumulator.forget_unused(now_ms))
        for node_id in self._sender.expire(now_ms):
            stream = self._streams.get(node_id)
            if stream is not None:
                stream.end(TimedOutError("no answer within request.timeout.ms"))
        if self._accumulator.active:
            self._schedule()

    def _stream(self, node_id: int) -> AsyncProduceStream:
        stream = self._streams.get(node_id)
        if stream is None:
            core = self._core
            stream = self._streams[node_id] = AsyncProduceStream(
                self._client,
                self._client.cluster.nodes[node_id].address,
                encode=lambda call: call.encode(core.acks, core.wait_ms, core.codec),
                on_written=self._written,
                on_response=self._on_response,
                on_broken=lambda stream, error: self._on_broken(node_id, stream, error),
            )
        return stream

    def _written(self, call: ProduceCall) -> None:
        if self._config.acks == 0:
            self._sender.on_written(call)
            self._schedule()

    def _on_response(self, response: ProduceResponse) -> None:
        self._sender.on_response(response, self._client.now_ms())
        self._schedule()

    def _on_broken(self, node_id: int, stream: AsyncProduceStream, error: MillstreamError) -> None:
        if self._streams.get(node_id) is stream:
            del self._streams[node_id]
            self._sender.on_broken(node_id, error, self._client.now_ms())
            self._schedule()

    def _done(self, batch: Batch) -> None:
        self._accumulator.release(batch)
        self._room.set()
        if batch.callbacks:
            run_callbacks(batch)

    def _on_cluster_change(self, change: Any) -> None:
        self._sender.on_cluster_change(change)
        self._schedule()

    async def _allocate(self) -> None:
        """Get a producer id; tried until it succeeds, while batches keep to their time-outs."""
        try:
            answer = await self._client.call(
                methods.ALLOCATE_PRODUCER_ID, metadata.AllocateProducerIdRequest()
            )
            self._sender.set_producer_id(answer.producer_id, answer.producer_epoch)
        except MillstreamError as error:
            if not error.retriable:
                self._sender.fail_all(error)
                self._room.set()
        finally:
            self._allocating = None
            self._schedule()
