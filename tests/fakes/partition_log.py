"""Partitions of ``__consumer_offsets`` in memory, with the broker's own rules for producers.

Everything appended is below the high watermark at once. Tests stop a partition, lose its answers,
cut its links, and read what it holds.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from millstream.record import parse_header
from millstream.record.batch import BROKER_BYTES, broker_head
from millstream_server.coordinator.log_ports import (
    LogChunk,
    LogUnavailable,
    WriteAnswer,
)
from millstream_server.storage.producers import Decision, ProducerTable

_REASONS = {
    Decision.APPEND: "",
    Decision.DUPLICATE_HIT: "",
    Decision.DUPLICATE: "DUPLICATE_SEQUENCE",
    Decision.UNKNOWN_PRODUCER: "UNKNOWN_PRODUCER",
    Decision.OUT_OF_ORDER: "OUT_OF_ORDER_SEQUENCE",
    Decision.INVALID_EPOCH: "INVALID_PRODUCER_EPOCH",
}


class FakePartitionLog:
    """One partition; see the module. Implements ``ShardLog``."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.producers = ProducerTable()
        self.end_offset = 0
        # False: the leader is away.
        self.available = True
        # Reasons to answer to the next batches instead of appending them.
        self.refusals: deque[str] = deque()
        # The next so many batches are appended, but their link breaks before the answer.
        self.answers_to_lose = 0
        # Answers are held back while this is clear.
        self.answering = asyncio.Event()
        self.answering.set()
        # How often each (epoch, sequence) was sent.
        self.sent: list[tuple[int, int]] = []
        self.in_flight_max = 0
        self._links: set[_FakeLink] = set()

    async def connect(self) -> "_FakeLink":
        """See ``ShardLog``."""
        if not self.available:
            raise LogUnavailable("the leader is away")
        link = _FakeLink(self)
        self._links.add(link)
        return link

    async def read(self, offset: int) -> AsyncIterator[LogChunk]:
        """See ``ShardLog``; a chunk per batch."""
        if not self.available:
            raise LogUnavailable("the leader is away")
        found = [batch for batch in self.batches if parse_header(batch).next_offset > offset]
        if not found:
            yield LogChunk((), self.end_offset, 0)
        for batch in found:
            yield LogChunk((batch,), self.end_offset, 0)

    def stop(self) -> None:
        """The leader goes away; its links break."""
        self.available = False
        self.cut()

    def restart(self) -> None:
        """The leader is back."""
        self.available = True

    def cut(self) -> None:
        """Break all links."""
        for link in list(self._links):
            link.abort()

    def append(self, batch: bytes) -> str:
        """Judge and append a batch as a broker does; returns the reason, empty for success."""
        header = parse_header(batch)
        self.sent.append((header.producer_epoch, header.base_sequence))
        verdict = self.producers.check(header)
        if verdict.decision is Decision.APPEND:
            head = broker_head(
                header.crc,
                base_offset=self.end_offset,
                leader_epoch=1,
                append_timestamp_ms=header.max_timestamp_ms,
                synced_end_offset=self.end_offset,
            )
            stored = head + batch[BROKER_BYTES:]
            self.batches.append(stored)
            self.producers.apply(parse_header(stored))
            self.end_offset += header.record_count
        return _REASONS[verdict.decision]

    def forget(self, link: "_FakeLink") -> None:
        """A link is over."""
        self._links.discard(link)


class _FakeLink:
    def __init__(self, log: FakePartitionLog) -> None:
        self._log = log
        self._answers: asyncio.Queue[WriteAnswer | None] = asyncio.Queue()
        self._unanswered = 0
        self._broken = False

    async def send(self, number: int, batch: bytes) -> None:
        if self._broken:
            raise LogUnavailable("the link is broken")
        self._unanswered += 1
        self._log.in_flight_max = max(self._log.in_flight_max, self._unanswered)
        if self._log.refusals and (reason := self._log.refusals.popleft()):
            self._answers.put_nowait(WriteAnswer(number, reason, "as the test says"))
            return
        reason = self._log.append(batch)
        if self._log.answers_to_lose:
            self._log.answers_to_lose -= 1
            self.abort()
            return
        self._answers.put_nowait(WriteAnswer(number, reason))

    async def receive(self) -> Sequence[WriteAnswer]:
        answer = await self._answers.get()
        waiting = asyncio.ensure_future(self._log.answering.wait())
        try:
            await waiting
        finally:
            waiting.cancel()
        if answer is None or self._broken:
            raise LogUnavailable("the link is broken")
        self._unanswered -= 1
        return [answer]

    def abort(self) -> None:
        self._broken = True
        self._log.forget(self)
        self._answers.put_nowait(None)


class FakeShardLogs:
    """Implements ``ShardLogs``; the logs outlive the coordinators that use them."""

    def __init__(self, count: int) -> None:
        self.logs = [FakePartitionLog() for _ in range(count)]

    def shard(self, number: int) -> FakePartitionLog:
        """See ``ShardLogs``."""
        return self.logs[number]

    async def close(self) -> None:
        """See ``ShardLogs``."""
