"""``AsyncConsumer``: reads records on an event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from inspect import isawaitable
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from millstream._client.async_io import AsyncClient
from millstream._client.clock import Clock
from millstream._client.config import ConsumerConfig
from millstream._client.malloc import tune_malloc
from millstream._client.retry import Chance
from millstream._consumer.async_offsets import AsyncOffsetCalls
from millstream._consumer.base import (
    BREATH_S,
    LISTENER_METHODS,
)
from millstream._consumer.delivery import Records
from millstream._consumer.record import (
    ConsumerBatch,
    ConsumerRecord,
)
from millstream._consumer.subscription import RebalanceEvent
from millstream._errors import MillstreamError

T = TypeVar("T")
_LEAVE_MS_MAX = 5_000


class AsyncConsumer(AsyncOffsetCalls):
    """Reads records of topics, alone or as a member of a group.

    ::

        async with AsyncConsumer("logs", group_id="readers") as consumer:
            async for record in consumer:
                print(record.offset, record.value)

    Keywords are the keys of ``ConsumerConfig``, in either spelling of their names. Belongs to one
    event loop and one task at a time. With auto-commit a record counts as processed when the next
    one is asked for; leaving ``async with`` by an exception leaves the record in hand uncommitted.
    """

    def __init__(
        self,
        *topics: str,
        config: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        chance: Chance | None = None,
        **options: Any,
    ) -> None:
        settings = ConsumerConfig.resolve(config, **options)
        super().__init__(settings, AsyncClient(settings, clock=clock, chance=chance))
        self._started = False
        self._closed = False
        self._unlisten: Callable[[], None] = lambda: None
        self._breath_at = 0.0
        if settings.tune_malloc:
            tune_malloc()
        if topics:
            self.subscribe(topics)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *topics: str, **options: Any) -> Self:
        """A consumer from a mapping with Kafka's keys, such as ``{"bootstrap.servers": "…"}``."""
        return cls(*topics, config=config, **options)

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

    async def close(self, timeout: float | None = None) -> None:
        """Commit (with auto-commit), leave the group at once, disconnect. May be called twice.

        Revoked partitions are told to the listener. ``timeout`` (seconds) bounds the commit; by
        default request.timeout.ms does.
        """
        await self._close(None if timeout is None else int(timeout * 1000), in_hand=False)

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
