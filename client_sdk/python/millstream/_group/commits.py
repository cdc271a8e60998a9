"""Commits of a group member: one on the way at a time, so that their order is kept.

Pure: time comes in as ``now_ms`` (monotonic milliseconds).
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from millstream._client.retry import pause_ms
from millstream._consumer.record import OffsetAndMetadata, TopicPartition
from millstream._errors import (
    MillstreamError,
    StaleMemberEpochError,
    TimedOutError,
    UnknownTopicError,
)
from millstream.v1 import group_coordinator_service_pb2 as pb

# More commits than this do not wait; the application commits faster than the group can store.
COMMITS_WAITING_MAX = 10_000

OffsetsToCommit = Mapping[TopicPartition, tuple[bytes, OffsetAndMetadata]]
MakeError = Callable[[int, str], MillstreamError]


class CommitTicket:
    """A commit under way. ``done`` turns true once; ``errors`` then holds what failed."""

    __slots__ = ("deadline_ms", "done", "errors", "listeners", "offsets")

    def __init__(self, offsets: OffsetsToCommit, deadline_ms: int) -> None:
        self.offsets = dict(offsets)
        self.deadline_ms = deadline_ms
        self.done = not offsets
        self.errors: dict[TopicPartition, MillstreamError] = {}
        # Each is called once, when done.
        self.listeners: list[Callable[[CommitTicket], None]] = []

    def finish(self, errors: Mapping[TopicPartition, MillstreamError]) -> None:
        """The fate of every offset is known; those without an error are stored."""
        if self.done:
            return
        self.errors.update(errors)
        self.done = True
        for listener in self.listeners:
            listener(self)

    def fail(self, error: MillstreamError) -> None:
        """Everything whose fate is not known yet failed."""
        self.finish(dict.fromkeys(self.offsets, error))

    def first_error(self) -> MillstreamError | None:
        """An error, if any offset could not be committed, or if its fate is not known yet."""
        if not self.done:
            return TimedOutError("the commit was not answered in time")
        return next(iter(self.errors.values()), None)


def offset_messages(offsets: OffsetsToCommit) -> list[pb.OffsetCommit]:
    """The offsets as the wire has them."""
    return [
        pb.OffsetCommit(
            topic=name.topic,
            topic_id=topic_id,
            partition=name.partition,
            offset=offset.offset,
            leader_epoch=offset.leader_epoch,
            metadata=offset.metadata,
        )
        for name, (topic_id, offset) in offsets.items()
    ]


def sort_results(
    offsets: OffsetsToCommit, results: Iterable[Any], make_error: MakeError
) -> tuple[dict[TopicPartition, MillstreamError], dict[TopicPartition, MillstreamError]]:
    """(errors worth another try, final errors) of a commit's results, by partition.

    Partitions that the results do not name failed.
    """
    missing = make_error(1, "the coordinator did not answer for this partition")
    outcome: dict[TopicPartition, MillstreamError | None] = dict.fromkeys(offsets, missing)
    for name, result in zip(offsets, results, strict=False):
        outcome[name] = make_error(result.error, result.message) if result.error else None
    again: dict[TopicPartition, MillstreamError] = {}
    final: dict[TopicPartition, MillstreamError] = {}
    for name, error in outcome.items():
        if error is not None:
            # A topic that was read by its id and is unknown now was deleted, and will not be back:
            # trying again would only hold up the release of its partitions.
            deleted = isinstance(error, UnknownTopicError) and bool(offsets[name][0])
            (again if error.retriable and not deleted else final)[name] = error
    return again, final


class CommitQueue:
    """Commits of one member, oldest first."""

    def __init__(self, backoff_ms: int, make_error: MakeError) -> None:
        # When the commit on hold may be sent again; None: nothing is on hold.
        self.retry_at_ms: int | None = None
        self._backoff_ms = backoff_ms
        self._make_error = make_error
        self._waiting: deque[CommitTicket] = deque()
        self._sent: CommitTicket | None = None
        self._sent_correlation_id = 0
        self._sent_epoch = 0
        self._attempts = 0

    def __len__(self) -> int:
        """Commits whose fate is not known yet."""
        return len(self._waiting) + (self._sent is not None)

    def add(self, offsets: OffsetsToCommit, deadline_ms: int) -> CommitTicket:
        """Queue a commit. It fails at its deadline (monotonic milliseconds)."""
        ticket = CommitTicket(offsets, deadline_ms)
        if len(self._waiting) >= COMMITS_WAITING_MAX:
            ticket.fail(TimedOutError("too many commits are waiting", indeterminate=False))
        if not ticket.done:
            self._waiting.append(ticket)
        return ticket

    def next_to_send(self, now_ms: int) -> CommitTicket | None:
        """The commit to send now, if none is on the way."""
        if self._sent is not None or not self._waiting:
            return None
        if self.retry_at_ms is not None and now_ms < self.retry_at_ms:
            return None
        self.retry_at_ms = None
        return self._waiting[0]

    def sent(self, correlation_id: int, member_epoch: int) -> None:
        """The commit from ``next_to_send`` is on the way."""
        self._sent = self._waiting.popleft()
        self._sent_correlation_id = correlation_id
        self._sent_epoch = member_epoch

    def stream_ended(self) -> None:
        """The answer will not come: send the same again first (a commit may be repeated)."""
        if self._sent is not None and not self._sent.done:
            self._waiting.appendleft(self._sent)
        self._sent = None

    def answered(
        self,
        correlation_id: int,
        results: Iterable[Any],
        member_epoch: int,
        owned: Collection[TopicPartition],
        now_ms: int,
    ) -> None:
        """The coordinator answered; what is worth another try goes first in the queue."""
        ticket = self._sent
        if ticket is None or correlation_id != self._sent_correlation_id:
            return
        self._sent = None
        again, final = sort_results(ticket.offsets, results, self._make_error)
        for name in [name for name in again if name not in owned]:
            # Whoever owns it now commits it; a late commit could only take it back.
            final[name] = again.pop(name)
        if not again:
            self._attempts = 0
            ticket.finish({**ticket.errors, **final})
            return
        ticket.errors.update(final)
        ticket.offsets = {name: ticket.offsets[name] for name in again}
        self._waiting.appendleft(ticket)
        stale = all(isinstance(error, StaleMemberEpochError) for error in again.values())
        if stale and member_epoch != self._sent_epoch:
            return  # the newer epoch is known already
        delay_ms = pause_ms(self._backoff_ms, self._attempts)
        self._attempts += 1
        self.retry_at_ms = now_ms + delay_ms

    def failed(self, correlation_id: int, error: MillstreamError) -> None:
        """The commit on the way failed as a whole."""
        ticket = self._sent
        if ticket is not None and correlation_id == self._sent_correlation_id:
            self._sent = None
            ticket.fail(error)

    def expire(self, now_ms: int) -> bool:
        """Fail commits whose deadline has passed; true if the one on the way is among them."""
        tickets = [*self._waiting, *([self._sent] if self._sent is not None else [])]
        overdue = [one for one in tickets if now_ms >= one.deadline_ms and not one.done]
        for ticket in overdue:
            ticket.fail(TimedOutError("the commit was not answered in time"))
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.done)
        return any(ticket is self._sent for ticket in overdue)

    def next_expiry_ms(self) -> int | None:
        """When ``expire`` has something to do; None: never."""
        deadlines = [ticket.deadline_ms for ticket in self._waiting]
        if self._sent is not None and not self._sent.done:
            deadlines.append(self._sent.deadline_ms)
        return min(deadlines, default=None)

    def fail_all(self, error: MillstreamError) -> None:
        """The member is none any more."""
        tickets = [*([self._sent] if self._sent is not None else []), *self._waiting]
        self._waiting.clear()
        self._sent = None
        self.retry_at_ms = None
        for ticket in tickets:
            ticket.fail(error)
