"""``Consumer``: reads records, blocking the calling thread."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from millstream import _methods
from millstream._config import ConsumerConfig
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
from millstream._consumer_sync_driver import SyncDriver
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
from millstream._sync_io import SyncClient
from millstream.v1 import broker_service_pb2

T = TypeVar("T")
_LEAVE_MS_MAX = 5_000


class Consumer(ConsumerBase):
    """Reads records of topics, alone or as a member of a group.

    ::

        with Consumer("logs", group_id="readers") as consumer:
            for record in consumer:
                print(record.offset, record.value)

    Keywords are the keys of ``ConsumerConfig``, in either spelling of their names. Records
    are for one thread at a time; other threads may commit, seek, pause and close. Ctrl-C ends every
    wait at once. With auto-commit a record counts as processed when the next
    one is asked for; leaving ``with`` by an exception leaves the record in hand uncommitted.
    """

    def __init__(self, *topics: str, **config: Any) -> None:
        settings = ConsumerConfig.resolve(config)
        self._client = SyncClient(settings)
        super().__init__(settings, self._client.cluster)
        self._driver = SyncDriver(self._core, self._client)
        self._started = False
        self._closed = False
        self._unlisten: Callable[[], None] = lambda: None
        if topics:
            self.subscribe(topics)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *topics: str) -> Self:
        """A consumer from a mapping with Kafka's dotted keys. Raises InvalidConfigError."""
        return cls(*topics, **dict(config))

    # --- lifecycle ------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect. Also done by ``with`` and by the first call that needs it.

        Raises UnavailableError or TimedOutError if no broker answers.
        """
        if self._started:
            self._client.check_open()
            return
        self._unlisten = self._client.cluster.subscribe(self._on_cluster)
        self._client.start()
        with self._guard():
            self._started = True
            self._driver.start()

    def stop(self) -> None:
        """As ``close``."""
        self.close()

    def close(self, *, timeout_ms: int | None = None) -> None:
        """Commit (with auto-commit), leave the group at once, disconnect. May be called twice.

        Revoked partitions are told to the listener. ``timeout_ms`` bounds the commit; by default
        it is request.timeout.ms.
        """
        self._close(timeout_ms, in_hand=False)

    def _close(self, timeout_ms: int | None, *, in_hand: bool) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._started:
                self._client.check_open()
                self._end_subscription(timeout_ms, in_hand=in_hand)
        except MillstreamError:
            pass  # whatever could not be committed is read again by the next owner
        finally:
            self._unlisten()
            self._driver.stop()
            self._client.close()

    def unsubscribe(self) -> None:
        """Read nothing any more: commit (with auto-commit) and leave the group."""
        if self._started:
            self._end_subscription(None, in_hand=False)
        else:
            with self._guard():
                self._core.forget_subscription(self._now_ms())

    def unassign(self) -> None:
        """As ``unsubscribe``, for partitions assigned by hand."""
        self.unsubscribe()

    def _end_subscription(self, timeout_ms: int | None, *, in_hand: bool) -> None:
        core = self._core
        limit_ms = self._config.request_timeout_ms if timeout_ms is None else timeout_ms
        with self._guard():
            if not in_hand:
                core.delivery.step()
            names = list(core.fetcher.partitions)
            event = core.revoke_all()
        if event is not None:
            self._tell(event)
        with self._guard():
            ticket = core.commit_processed(names, self._now_ms())
            self._pump()
            if ticket is not None:
                self._wait(lambda: ticket.done, limit_ms)
            core.forget_subscription(self._now_ms())
            self._pump()
            self._wait(lambda: core.left, min(limit_ms, _LEAVE_MS_MAX))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(None, in_hand=kind is not None)

    # --- reading --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ConsumerRecord]:
        """Records without end. Raises what is wrong with a partition or the group."""
        while True:
            iterator = self._step(self._core.delivery.iterate, None)
            assert iterator is not None
            breath_at = monotonic() + BREATH_S
            for record in iterator:
                yield record
                if monotonic() >= breath_at:
                    self._breathe()
                    breath_at = monotonic() + BREATH_S

    def __next__(self) -> ConsumerRecord:
        """As ``getone``, for ``next(consumer)``."""
        return self.getone()

    def getone(self) -> ConsumerRecord:
        """The next record, however long it takes."""
        record = self.poll(None)
        assert record is not None
        return record

    def poll(self, timeout: float | None = None) -> ConsumerRecord | None:
        """The next record; None if none came within ``timeout`` seconds (None: no limit)."""
        iterate = self._core.delivery.iterate

        def take() -> ConsumerRecord | None:
            iterator = iterate()
            return None if iterator is None else next(iterator, None)

        return self._step(take, None if timeout is None else int(timeout * 1000))

    def getmany(self, *, timeout_ms: int | None = 0, max_records: int | None = None) -> Records:
        """Records that are there, by partition; waits up to ``timeout_ms`` (None: no limit) for
        the first. At most ``max_records`` (max.poll.records by default)."""
        limit = self._config.max_poll_records if max_records is None else max_records
        records = self._step(lambda: self._core.delivery.take(limit) or None, timeout_ms)
        return records or {}

    def consume(self, num_messages: int = 1, timeout: float | None = None) -> list[ConsumerRecord]:
        """Up to ``num_messages`` records; fewer if ``timeout`` seconds pass (None: no limit)."""
        out: list[ConsumerRecord] = []

        def take() -> bool | None:
            for records in self._core.delivery.take(num_messages - len(out)).values():
                out.extend(records)
            return len(out) >= num_messages or None

        try:
            self._step(take, None if timeout is None else int(timeout * 1000))
        except MillstreamError:
            if not out:
                raise  # else it is raised again by the next call
        except BaseException:
            with self._guard():
                self._core.undo_step()
                self._pump()
            raise
        return out

    def consume_batch(self, timeout: float | None = None) -> ConsumerBatch | None:
        """The records of one batch as columns, without an object per record; None if none came
        within ``timeout`` seconds (None: no limit). Deserializers are not applied."""
        take = self._core.delivery.take_columns
        return self._step(take, None if timeout is None else int(timeout * 1000))

    def _step(self, take: Callable[[], T | None], timeout_ms: int | None) -> T | None:
        if not self._started:
            self.start()
        core = self._core
        with self._guard():
            now_ms = self._now_ms()
            core.begin_step(now_ms)
        deadline_ms = None if timeout_ms is None else now_ms + timeout_ms
        try:
            while True:
                event = self._next_event()
                if event is not None:
                    self._tell(event)
                    with self._guard():
                        core.event_told(event, self._now_ms())
                        self._pump()
                    continue
                with self._guard():
                    self._client.check_open()
                    if core.has_events:
                        continue
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
                        self._pause(left_ms)
        finally:
            with self._guard():
                core.end_step(self._now_ms())

    def _next_event(self) -> RebalanceEvent | None:
        with self._guard():
            return self._core.next_event()

    def _breathe(self) -> None:
        """A session that is over by now takes the rest of the records away."""
        with self._guard():
            self._client.check_open()
            self._core.breathe(self._now_ms())
            self._pump()

    def _tell(self, event: RebalanceEvent) -> None:
        method = self._listener_method(LISTENER_METHODS[event.change.value])
        if method is not None:
            method(list(event.partitions))

    # --- offsets --------------------------------------------------------------------------------

    def position(self, partition: TopicPartition) -> int:
        """Offset of the next record to be handed out; waits until it is known.

        Raises InvalidRequestError if the partition is not assigned, TimedOutError.
        """
        self.start()
        with self._guard():
            self._wait(lambda: self._position_of(partition) is not None)
            found = self._position_of(partition)
        if found is None:
            raise TimedOutError("the position is not known yet", indeterminate=False)
        return found

    def committed(self, partition: TopicPartition, *, timeout_ms: int | None = None) -> int | None:
        """The group's committed offset of a partition; None: there is none."""
        found = (self.committed_offsets([partition], timeout_ms=timeout_ms))[partition]
        return None if found is None else found.offset

    def committed_offsets(
        self, partitions: Iterable[TopicPartition], *, timeout_ms: int | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """The group's committed offsets, with their metadata and leader epochs."""
        self.start()
        names = list(partitions)
        group_id, request = committed_request(self._config, names)
        answer = self._client.call_group(
            group_id, _methods.FETCH_OFFSETS, request, timeout_ms=timeout_ms
        )
        return read_committed(names, answer)

    def commit(
        self,
        offsets: "Mapping[TopicPartition, int | OffsetAndMetadata] | None" = None,
        *,
        timeout_ms: int | None = None,
    ) -> None:
        """Commit offsets (of the next records to process), or all positions if none are given.

        Raises the reason of the first offset that could not be committed.
        """
        ticket = self._begin_commit(offsets, timeout_ms)
        with self._guard():
            self._wait(lambda: ticket.done, timeout_ms)
        error = ticket.first_error()
        if error is not None:
            raise error

    def _begin_commit(
        self,
        offsets: "Mapping[TopicPartition, int | OffsetAndMetadata] | None",
        timeout_ms: int | None,
    ) -> CommitTicket:
        self.start()
        limit_ms = self._config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        chosen = as_offsets(offsets)
        with self._guard():
            now_ms = self._now_ms()
            ticket = self._core.commit(chosen, now_ms, now_ms + limit_ms)
            self._pump()
        return ticket

    def beginning_offsets(
        self, partitions: Iterable[TopicPartition], *, timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """The first offset of each partition."""
        queries = OffsetQueries(dict.fromkeys(partitions, EARLIEST))
        return (self._look_up(queries, timeout_ms)).offsets()

    def end_offsets(
        self, partitions: Iterable[TopicPartition], *, timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        """The end of each partition: the offset that its next record will get."""
        queries = OffsetQueries(dict.fromkeys(partitions, LATEST))
        return (self._look_up(queries, timeout_ms)).offsets()

    def offsets_for_times(
        self, timestamps_ms: Mapping[TopicPartition, int], *, timeout_ms: int | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record at or after a time in each partition; None: no record is so new."""
        queries = OffsetQueries(
            {
                name: broker_service_pb2.Position(timestamp_ms=time)
                for name, time in timestamps_ms.items()
            }
        )
        return (self._look_up(queries, timeout_ms)).times()

    def _look_up(self, queries: OffsetQueries, timeout_ms: int | None) -> OffsetQueries:
        self.start()
        limit_ms = self._config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        deadline_ms = self._now_ms() + limit_ms
        for topic in queries.topics:
            # An unknown topic is an error at once, and not when the time is over.
            self._client.topic(topic, timeout_ms=max(1, deadline_ms - self._now_ms()))
        with self._guard():
            queries.begin(self._core.lookups, self._now_ms(), deadline_ms)
            self._core.stir()
            self._pump()
            self._wait(lambda: queries.done, limit_ms)
        queries.check()
        return queries

    # --- inside -----------------------------------------------------------------------------------

    def _guard(self) -> AbstractContextManager[Any]:
        return self._client.changed

    def _now_ms(self) -> int:
        return self._client.now_ms()

    def _pump(self) -> None:
        self._driver.pump()

    def _pause(self, timeout_ms: int | None) -> None:
        """Wait until something happened, at most so long. Hold the guard."""
        self._client.changed.wait(None if timeout_ms is None else timeout_ms / 1000)

    def _wait(self, condition: Callable[[], bool], timeout_ms: int | None = None) -> None:
        """Wait until the condition holds; default.api.timeout.ms at most unless bounded. Hold the
        guard."""
        limit_ms = self._config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        deadline_ms = self._now_ms() + limit_ms
        while not condition():
            left_ms = deadline_ms - self._now_ms()
            if left_ms <= 0:
                return
            self._pause(left_ms)
            self._client.check_open()
