"""What a ``Consumer`` asks and says about offsets, and how it waits."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from millstream._client import methods
from millstream._client.config import ConsumerConfig
from millstream._client.sync_io import SyncClient
from millstream._consumer.base import ConsumerBase, as_offsets
from millstream._consumer.lookups import EARLIEST, LATEST
from millstream._consumer.offsets import OffsetQueries, committed_request, read_committed
from millstream._consumer.record import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from millstream._consumer.sync_driver import SyncDriver
from millstream._errors import TimedOutError
from millstream._group.commits import CommitTicket
from millstream.v1 import broker_service_pb2


class OffsetCalls(ConsumerBase):
    """See the module. ``Consumer`` is the public class."""

    def __init__(self, config: ConsumerConfig, client: SyncClient) -> None:
        super().__init__(config, client.cluster)
        self._client = client
        self._driver = SyncDriver(self._core, client)

    @abstractmethod
    def start(self) -> None:
        """Connect."""

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
            group_id, methods.FETCH_OFFSETS, request, timeout_ms=timeout_ms
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
