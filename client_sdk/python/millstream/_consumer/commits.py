"""Commits of a consumer: as a member, or for a group without members; by hand or by the clock.

Pure: time comes in as ``now_ms`` (monotonic milliseconds).
"""

import logging
from collections.abc import Iterable

from millstream._client import methods
from millstream._client.config import ConsumerConfig
from millstream._consumer.effects import Call
from millstream._consumer.record import OffsetAndMetadata, TopicPartition
from millstream._errors import InvalidConfigError, MillstreamError
from millstream._fetch.fetcher import Fetcher, MakeError
from millstream._fetch.partition import Mark
from millstream._group.commits import (
    CommitQueue,
    CommitTicket,
    OffsetsToCommit,
    offset_messages,
)
from millstream._group.session import GroupSession
from millstream.v1 import group_coordinator_service_pb2

_log = logging.getLogger("millstream")


class Commits:
    """Sends commits the way that the subscription asks for, in order."""

    def __init__(
        self, fetcher: Fetcher, group: GroupSession, config: ConsumerConfig, make_error: MakeError
    ) -> None:
        self._fetcher = fetcher
        self._group = group
        self._config = config
        # Commits without membership; their correlation ids are counted here.
        self._queue = CommitQueue(config.retry_backoff_ms, make_error)
        self._correlation_id = 0

    @property
    def possible(self) -> bool:
        """True if there is a group to commit for."""
        return bool(self._config.group_id)

    def positions(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """The position of every partition that has one, as an offset to commit."""
        return {
            name: as_commit(partition.position)
            for name, partition in self._fetcher.partitions.items()
            if partition.position is not None
        }

    def commit(
        self, offsets: OffsetsToCommit, as_member: bool, now_ms: int, deadline_ms: int
    ) -> CommitTicket:
        """Commit after all earlier commits. Raises InvalidConfigError without a group."""
        if not self.possible:
            raise InvalidConfigError("commit() needs group.id")
        if as_member:
            ticket = self._group.commit(offsets, now_ms, deadline_ms)
        else:
            ticket = self._queue.add(offsets, deadline_ms)
        self._note(ticket)
        return ticket

    def _note(self, ticket: CommitTicket) -> None:
        """Remember what is stored when it is."""
        offsets = dict(ticket.offsets)

        def done(ticket: CommitTicket) -> None:
            for name, (topic_id, offset) in offsets.items():
                partition = self._fetcher.partitions.get(name)
                if partition is None or partition.topic_id != topic_id or name in ticket.errors:
                    continue
                partition.committed = max(offset.offset, partition.committed or 0)

        if ticket.done:
            done(ticket)
        else:
            ticket.listeners.append(done)

    def next_tick_ms(self) -> int | None:
        """When ``take`` has something to do; None: never."""
        times = (self._queue.next_expiry_ms(), self._queue.retry_at_ms)
        return min((time for time in times if time is not None), default=None)

    def take(self, now_ms: int) -> Call | None:
        """The call to make now for a commit without membership."""
        self._queue.expire(now_ms)
        ticket = self._queue.next_to_send(now_ms)
        if ticket is None:
            return None
        self._correlation_id += 1
        correlation_id = self._correlation_id
        self._queue.sent(correlation_id, 0)
        request = group_coordinator_service_pb2.CommitOffsetsRequest(
            group_id=self._config.group_id, offsets=offset_messages(ticket.offsets)
        )
        timeout_ms = max(1, ticket.deadline_ms - now_ms)

        def answered(
            response: group_coordinator_service_pb2.CommitOffsetsResponse | None,
            error: MillstreamError | None,
            now_ms: int,
        ) -> None:
            if response is None:
                assert error is not None
                self._queue.failed(correlation_id, error)
            else:
                self._queue.answered(
                    correlation_id, response.results, 0, ticket.offsets.keys(), now_ms
                )

        return Call(methods.COMMIT_OFFSETS, request, True, timeout_ms, answered)


class AutoCommit:
    """Commits what is processed, at the interval, whenever the application comes back."""

    def __init__(self, commits: Commits, fetcher: Fetcher, config: ConsumerConfig) -> None:
        self._commits = commits
        self._fetcher = fetcher
        self._enabled = config.enable_auto_commit and commits.possible
        self._interval_ms = config.auto_commit_interval_ms
        self._timeout_ms = config.request_timeout_ms
        self._due_at_ms: int | None = None
        # The last automatic commit; another one waits for its end.
        self._ticket: CommitTicket | None = None
        # True: due, and the application has been asked to come back.
        self._called_back = False

    @property
    def enabled(self) -> bool:
        """True if commits are made by the clock."""
        return self._enabled

    def step(self, as_member: bool, now_ms: int) -> None:
        """The application came back."""
        if not self._enabled:
            return
        self._called_back = False
        if self._due_at_ms is None:
            self._due_at_ms = now_ms + self._interval_ms
        elif now_ms >= self._due_at_ms:
            self._due_at_ms = now_ms + self._interval_ms
            if self._ticket is None or self._ticket.done:
                self._ticket = self.commit_now(list(self._fetcher.partitions), as_member, now_ms)

    def tick(self, waiting: bool, as_member: bool, now_ms: int) -> bool:
        """True if the application should come back, because a commit is due."""
        due = self._due_at_ms is not None and now_ms >= self._due_at_ms
        if not due or self._called_back:
            return False
        if waiting:
            self.step(as_member, now_ms)
            return False
        self._called_back = True
        return True

    def next_tick_ms(self) -> int | None:
        """When ``tick`` has something to do; None: never."""
        return None if self._called_back else self._due_at_ms

    def commit_now(
        self, names: Iterable[TopicPartition], as_member: bool, now_ms: int
    ) -> CommitTicket | None:
        """Commit what is processed of these partitions and not committed yet; None: nothing."""
        if not self._enabled:
            return None
        offsets = {}
        for name in names:
            partition = self._fetcher.partitions.get(name)
            if partition is None or partition.processed is None:
                continue
            if partition.committed is None or partition.processed.offset > partition.committed:
                offsets[name] = (partition.topic_id, as_commit(partition.processed))
        if not offsets:
            return None
        ticket = self._commits.commit(offsets, as_member, now_ms, now_ms + self._timeout_ms)
        ticket.listeners.append(_warn)
        return ticket


def _warn(ticket: CommitTicket) -> None:
    for name, error in ticket.errors.items():
        _log.warning("automatic commit of %s-%d failed: %s", name.topic, name.partition, error)


def as_commit(mark: Mark) -> OffsetAndMetadata:
    """A place in a log as an offset to commit."""
    return OffsetAndMetadata(mark.offset, "", mark.epoch)
