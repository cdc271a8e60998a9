"""Offsets that have to be looked up: by position or time, one call for all that are wanted now.

Pure: time comes in as ``now_ms`` (monotonic milliseconds).
"""

from collections.abc import Callable
from dataclasses import dataclass

from millstream._client import methods
from millstream._client.retry import pause_ms
from millstream._consumer.effects import Call
from millstream._consumer.record import TopicPartition
from millstream._errors import MillstreamError, TimedOutError
from millstream._fetch.fetcher import MakeError
from millstream.v1 import broker_service_pb2 as pb

EARLIEST = pb.Position(earliest=True)
LATEST = pb.Position(latest=True)

# Queries in one request.
_QUERIES_MAX = 1000

# Called with (answer, None) or (None, error).
Found = Callable[[pb.OffsetAnswer | None, MillstreamError | None], None]


@dataclass(eq=False, slots=True)
class _Lookup:
    partition: TopicPartition
    topic_id: bytes
    position: pb.Position
    # None: for ever, until the answer cannot be had at all.
    deadline_ms: int | None
    found: Found
    retry_at_ms: int
    attempts: int = 0
    under_way: bool = False


class OffsetLookups:
    """Lookups that have no answer yet."""

    def __init__(self, make_error: MakeError, backoff_ms: int, call_timeout_ms: int) -> None:
        self._make_error = make_error
        self._backoff_ms = backoff_ms
        self._call_timeout_ms = call_timeout_ms
        self._lookups: list[_Lookup] = []

    def add(
        self,
        partition: TopicPartition,
        topic_id: bytes,
        position: pb.Position,
        found: Found,
        now_ms: int,
        deadline_ms: int | None = None,
    ) -> None:
        """Look an offset up; by name if the topic id is empty."""
        self._lookups.append(_Lookup(partition, topic_id, position, deadline_ms, found, now_ms))

    def next_tick_ms(self) -> int | None:
        """When ``take`` has something to do; None: never."""
        times = [lookup.retry_at_ms for lookup in self._lookups if not lookup.under_way]
        times += [lookup.deadline_ms for lookup in self._lookups if lookup.deadline_ms is not None]
        return min(times, default=None)

    def take(self, now_ms: int) -> Call | None:
        """The call to make now for everything that is due."""
        for lookup in [one for one in self._lookups if _expired(one, now_ms)]:
            self._end(lookup, None, TimedOutError("the offset was not found out in time"))
        due = [
            lookup
            for lookup in self._lookups
            if not lookup.under_way and lookup.retry_at_ms <= now_ms
        ][:_QUERIES_MAX]
        if not due:
            return None
        for lookup in due:
            lookup.under_way = True
        request = pb.ListOffsetsRequest(
            queries=[
                pb.OffsetQuery(
                    topic=lookup.partition.topic,
                    topic_id=lookup.topic_id,
                    partition=lookup.partition.partition,
                    position=lookup.position,
                )
                for lookup in due
            ]
        )

        def answered(
            response: pb.ListOffsetsResponse | None, error: MillstreamError | None, now_ms: int
        ) -> None:
            answers = [] if response is None else list(response.answers)
            if error is None and len(answers) != len(due):
                error = self._make_error(1, "the broker did not answer every query")
            for index, lookup in enumerate(due):
                answer = answers[index] if index < len(answers) else None
                self._settle(lookup, answer, error if answer is None else None, now_ms)

        return Call(methods.LIST_OFFSETS, request, False, self._call_timeout_ms, answered)

    def _settle(
        self,
        lookup: _Lookup,
        answer: pb.OffsetAnswer | None,
        error: MillstreamError | None,
        now_ms: int,
    ) -> None:
        lookup.under_way = False
        if answer is not None and answer.error:
            error = self._make_error(answer.error, answer.message)
        if error is None:
            self._end(lookup, answer, None)
        elif error.retriable:
            delay_ms = pause_ms(self._backoff_ms, lookup.attempts)
            lookup.attempts += 1
            lookup.retry_at_ms = now_ms + max(delay_ms, error.retry_after_ms)
        else:
            self._end(lookup, None, error)

    def _end(
        self, lookup: _Lookup, answer: pb.OffsetAnswer | None, error: MillstreamError | None
    ) -> None:
        if lookup in self._lookups:
            self._lookups.remove(lookup)
            lookup.found(answer, error)


def _expired(lookup: _Lookup, now_ms: int) -> bool:
    return lookup.deadline_ms is not None and now_ms >= lookup.deadline_ms
