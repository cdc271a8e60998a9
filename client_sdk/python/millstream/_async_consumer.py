"""``AsyncConsumer``: reads records on an event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from inspect import isawaitable
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from millstream import _methods
from millstream._async_io import AsyncClient
from millstream._config import ConsumerConfig
from millstream._consumer_async_driver import AsyncDriver
from millstream._consumer_base import (
    BREATH_S,
    LISTENER_METHODS,
    ConsumerBase,
    as_offsets,
)
from millstream._consumer_delivery import Records
from millstream._consumer_lookups import EARLIEST, LATEST
from millstream._consumer_offsets import (
    OffsetQueries,
    committed_request,
    read_committed,
)
from millstream._errors import MillstreamError, TimedOutError
from millstream._group_commits import CommitTicket
from millstream._record import (
    ConsumerBatch,
    ConsumerRecord,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    TopicPartition,
)
from millstream._subscription import RebalanceEvent
from millstream.v1 import broker_service_pb2

T = TypeVar("T")
_LEAVE_MS_MAX = 5_000


class AsyncConsumer(ConsumerBase):
    """Reads records of topics, alone or as a member of a group.

    ::

        async with AsyncConsumer("logs", group_id="readers") as consumer:
            async for record in consumer:
                print(record.offset, record.value)

    Keywords are the keys of ``ConsumerConfig``, in either spelling of their names. Belongs to one
    event loop and one task at a time. With auto-commit a record counts as processed when the next
    one is asked for; leaving ``async with`` by an exception leaves the record in hand uncommitted.
    """

    def __init__(self, *topics: str, **config: Any) -> None:
        settings = ConsumerConfig.resolve(config)
        self._client = AsyncClient(settings)
        super().__init__(settings, self._client.cluster)
        self._driver = AsyncDriver(self._core, self._client, self._notify)
        self._waiting: set[asyncio.Future[None]] = set()
        self._started = False
        self._closed = False
        self._unlisten: Callable[[], None] = lambda: None
        self._breath_at = 0.0
        if topics:
            self.subscribe(topics)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *topics: str) -> Self:
        """A consumer from a mapping with Kafka's dotted keys. Raises InvalidConfigError."""
        return cls(*topics, **dict(config))

    # --- lifecycle ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect. Also done by ``async with`` and by the first call that needs it.

        Raises UnavailableError or TimedOutError if no broker answers.
        """
        if self._started:
            self._client.check_open()
            return
        self._unlisten = self._client.cluster.subscribe(self._on_cluster)
        await self._client.start()
        self._started = True
        self._driver.start()

    async def stop(self) -> None:
        """As ``close``."""
        await self.close()

    async def close(self, *, timeout_ms: int | None = None) -> None:
        """Commit (with auto-commit), leave the group at once, disconnect. May be called twice.

        Revoked partitions are told to the listener. ``timeout_ms`` bounds the commit; by default
        it is request.timeout.ms.
        """
        await self._close(timeout_ms, in_hand=False)

    async def _close(self, timeout_ms: int | None, *, in_hand: bool) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._started:
                self._client.check_open()
                await self._end_subscription(timeout_ms, in_hand=in_hand)
        except MillstreamError:
            pass  # whatever could not be committed is read again by the next owner
        finally:
            self._unlisten()
            await self._driver.stop()
            await self._client.close()

    async def unsubscribe(self) -> None:
        """Read nothing any more: commit (with auto-commit) and leave the group."""
        if self._started:
            await self._end_subscription(None, in_hand=False)
        else:
            self._core.forget_subscription(self._now_ms())

    async def unassign(self) -> None:
        """As ``unsubscribe``, for partitions assigned by hand."""
        await self.unsubscribe()

    async def _end_subscription(self, timeout_ms: int | None, *, in_hand: bool) -> None:
        core = self._core
        limit_ms = self._config.request_timeout_ms if timeout_ms is None else timeout_ms
        if not in_hand:
            core.delivery.step()
        names = list(core.fetcher.partitions)
        event = core.revoke_all()
        if event is not None:
            await self._tell(event)
        ticket = core.commit_processed(names, self._now_ms())
        self._pump()
        if ticket is not None:
            await self._wait(lambda: ticket.done, limit_ms)
        core.forget_subscription(self._now_ms())
        self._pump()
        await self._wait(lambda: core.left, min(limit_ms, _LEAVE_MS_MAX))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close(None, in_hand=kind is not None)

    # --- reading --------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncIterator[ConsumerRecord]:
        """Records without end. Raises what is wrong with a partition or the group."""
        while True:
            iterator = await self._step(self._core.delivery.iterate, None)
            assert iterator is not None
            breath_at = monotonic() + BREATH_S
            for record in iterator:
                yield record
                if monotonic() >= breath_at:
                    await self._breathe()
                    breath_at = monotonic() + BREATH_S

    async def __anext__(self) -> ConsumerRecord:
        """As ``getone``, for ``anext(consumer)``."""
        return await self.getone()

    async def getone(self) -> ConsumerRecord:
        """The next record, however long it takes."""
        record = await self.poll(None)
        assert record is not None
        return record

    async def poll(self, timeout: float | None = None) -> ConsumerRecord | None:
        """The next record; None if none came within ``timeout`` seconds (None: no limit)."""
        iterate = self._core.delivery.iterate

        def take() -> ConsumerRecord | None:
            iterator = iterate()
            return None if iterator is None else next(iterator, None)

        return await self._step(take, None if timeout is None else int(timeout * 1000))

    async def getmany(
        self, *, timeout_ms: int | None = 0, max_records: int | None = None
    ) -> Records:
        """Records that are there, by partition; waits up to ``timeout_ms`` (None: no limit) for
        the first. At most ``max_records`` (max.poll.records by default)."""
        limit = self._config.max_poll_records if max_records is None else max_records
        records = await self._step(lambda: self._core.delivery.take(limit) or None, timeout_ms)
        return records or {}

    async def consume(
        self, num_messages: int = 1, timeout: float | None = None
    ) -> list[ConsumerRecord]:
        """Up to ``num_messages`` records; fewer if ``timeout`` seconds pass (None: no limit)."""
        out: list[ConsumerRecord] = []

        def take() -> bool | None:
            for records in self._core.delivery.take(num_messages - len(out)).values():
                out.extend(records)
            return len(out) >= num_messages or None

        try:
            await self._step(take, None if timeout is None else int(timeout * 1000))
        except MillstreamError:
            if not out:
                raise  # else it is raised again by the next call
        except BaseException:
            self._core.undo_step()
            raise
        return out

    async def consume_batch(self, timeout: float | None = None) -> ConsumerBatch | None:
        """The records of one batch as columns, without an object per record; None if none came
        within ``timeout`` seconds (None: no limit). Deserializers are not applied."""
        take = self._core.delivery.take_columns
        return await self._step(take, None if timeout is None else int(timeout * 1000))

    async def _step(self, take: Callable[[], T | None], timeout_ms: int | None) -> T | None:
        if not self._started:
            await self.start()
        self._client.check_open()
        if monotonic() >= self._breath_at:
            await asyncio.sleep(0)
            self._breath_at = monotonic() + BREATH_S
        core = self._core
        now_ms = self._now_ms()
        deadline_ms = None if timeout_ms is None else now_ms + timeout_ms
        core.begin_step(now_ms)
        try:
            while True:
                while (event := core.next_event()) is not None:
                    await self._tell(event)
                    core.event_told(event, self._now_ms())
                taken = take()
                self._pump()
                if taken is not None:
                    return taken
                failure = core.failure()
                if failure is not None:
                    raise failure
                left_ms = None if deadline_ms is None else deadline_ms - self._now_ms()
                if left_ms is not None and left_ms <= 0:
                    return None
                if not core.has_news:
                    await self._pause(left_ms)
                self._client.check_open()
        finally:
            core.end_step(self._now_ms())

    async def _breathe(self) -> None:
        """Let others run; a session that is over by now takes the rest of the records away."""
        await asyncio.sleep(0)
        self._client.check_open()
        self._core.breathe(self._now_ms())
        self._pump()

    async def _tell(self, event: RebalanceEvent) -> None:
        method = self._listener_method(LISTENER_METHODS[event.change.value])
        if method is not None:
            result = method(list(event.partitions))
            if isawaitable(result):
                await result

    # --- offsets --------------------------------------------------------------------------------

    async def position(self, partition: TopicPartition) -> int:
        """Offset of the next record to be handed out; waits until it is known.

        Raises InvalidRequestError if the partition is not assigned, TimedOutError.
        """
        await self.start()
        await self._wait(lambda: self._position_of(partition) is not None)
        found = self._position_of(partition)
        if found is None:
            raise TimedOutError("the position is not known yet", indeterminate=False)
        return found

    async def committed(
        self, partition: TopicPartition, *, timeout_ms: int | None = None
    ) -> int | None:
        """The group's committed offset of a partition; None: there is none."""
        found = (await self.committed_offsets([partition], timeout_ms=timeout_ms))[partition]
        return None if found is None else found.offset

    async def committed_offsets(
        self, partitions: Iterable[TopicPartition], *, timeout_ms: int | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """The group's committed offsets, with their metadata and leader epochs."""
        await self.start()
        names = list(partitions)
        group_id, request = committed_request(self._config, names)
        answer = await self._client.call_group(
            group_id, _methods.FETCH_OFFSETS, request, timeout_ms=timeout_ms
        )
        return read_committed(names, answer)

    async def commit(
        self,
        offsets: "Mapping[TopicPartition, int | OffsetAndMetadata] | None" = None,
        *,
        timeout_ms: int | None = None,
    ) -> None:
        """Commit offsets (of the next records to process), or all positions if none are given.

        Raises the reason of the first offset that could not be committed.
        """
        ticket = await self._begin_commit(offsets, timeout_ms)
        await self._wait(lambda: ticket.done, timeout_ms)
        error = ticket.first_error()
        if error is not None:
            raise error

    async def _begin_commit(
        self,
        offsets: "Mapping[TopicPartition, int | OffsetAndMetadata] | None",
        timeout_ms: int | None,
    ) -> CommitTicket:
        await self.start()
        limit_ms = self._config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        now_ms = self._now_ms()
        ticket = self._core.commit(as_offsets(offsets), now_ms, now_ms + limit_ms)
        self._pump()
        return ticket

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition], *, timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """The first offset of each partition."""
        queries = OffsetQueries(dict.fromkeys(partitions, EARLIEST))
        return (await self._look_up(queries, timeout_ms)).offsets()

    async def end_offsets(
        self, partitions: Iterable[TopicPartition], *, timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """The end of each partition: the offset that its next record will get."""
        queries = OffsetQueries(dict.fromkeys(partitions, LATEST))
        return (await self._look_up(queries, timeout_ms)).offsets()

    async def offsets_for_times(
        self, timestamps_ms: Mapping[TopicPartition, int], *, timeout_ms: int | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record at or after a time in each partition; None: no record is so new."""
        queries = OffsetQueries(
            {
                name: broker_service_pb2.Position(timestamp_ms=time)
                for name, time in timestamps_ms.items()
            }
        )
        return (await self._look_up(queries, timeout_ms)).times()

    async def _look_up(self, queries: OffsetQueries, timeout_ms: int | None) -> OffsetQueries:
        await self.start()
        limit_ms = self._config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        deadline_ms = self._now_ms() + limit_ms
        for topic in queries.topics:
            # An unknown topic is an error at once, and not when the time is over.
            await self._client.topic(topic, timeout_ms=max(1, deadline_ms - self._now_ms()))
        queries.begin(self._core.lookups, self._now_ms(), deadline_ms)
        self._core.stir()
        self._pump()
        await self._wait(lambda: queries.done, limit_ms)
        queries.check()
        return queries

    # --- inside -----------------------------------------------------------------------------------

    def _guard(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _now_ms(self) -> int:
        return self._client.now_ms()

    def _pump(self) -> None:
        self._driver.pump()

    def _notify(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _pause(self, timeout_ms: int | None) -> None:
        """Wait until something happened, at most so long."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.add(future)
        handle = (
            None if timeout_ms is None else loop.call_later(timeout_ms / 1000, _resolve, future)
        )
        try:
            await future
        finally:
            self._waiting.discard(future)
            if handle is not None:
                handle.cancel()

    async def _wait(self, condition: Callable[[], bool], timeout_ms: int | None = None) -> None:
        """Wait until the condition holds; default.api.timeout.ms at most unless bounded."""
        limit_ms = self._config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        deadline_ms = self._now_ms() + limit_ms
        while not condition():
            left_ms = deadline_ms - self._now_ms()
            if left_ms <= 0:
                return
            await self._pause(left_ms)
            self._client.check_open()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
