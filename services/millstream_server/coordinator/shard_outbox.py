"""Group commit of one shard: collects records into batches, and answers when they are stored.

Everything that comes within a turn of the event loop shares a batch; while enough batches are
under way the open one grows. Answers leave in the order in which they came, those without records
behind the records before them: nobody hears of a state that might not last.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from millstream.record.batch import SEQUENCE_MODULUS
from millstream_raft.image import ShardLease
from millstream_server.coordinator.changes import Result
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.record_codec import encode_record
from millstream_server.coordinator.shard_batches import EncodedRecord, records_batch
from millstream_server.coordinator.shard_writer import ShardWriter
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.ports import Clock

# Called once: without an error when everything so far is stored.
Finish = Callable[[ServiceError | None], None]


class _Waiting:
    """Records of one batch, and who waits for them."""

    __slots__ = ("finish", "records", "size")

    def __init__(self) -> None:
        self.records: list[EncodedRecord] = []
        self.size = 0
        self.finish: list[Finish] = []


class ShardOutbox:
    """See the module. ``sequence`` is the sequence number of the next record."""

    def __init__(
        self,
        lease: ShardLease,
        writer: ShardWriter,
        sequence: int,
        config: CoordinatorConfig,
        clock: Clock,
    ) -> None:
        self._lease = lease
        self._writer = writer
        self._sequence = sequence
        self._config = config
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._open = _Waiting()
        self._sent: deque[_Waiting] = deque()
        self._flush_planned = False
        self._closed = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are not known to be stored."""
        return self._open.size + self._writer.waiting_bytes

    def put(self, result: Result[Any], finish: Finish) -> None:
        """Store the records of a result, and call ``finish`` when all so far is stored."""
        for record in result.records:
            key, value = encode_record(record)
            self._open.records.append((key, value))
            self._open.size += len(key) + len(value or b"")
            if result.divisible and self._open.size >= self._config.batch_bytes_max:
                self._send()
        if self._open.records:
            self._open.finish.append(finish)
            if self._open.size >= self._config.batch_bytes_max:
                self._send()
            elif not self._flush_planned:
                self._flush_planned = True
                self._loop.call_soon(self._flush)
        elif self._sent:
            self._sent[-1].finish.append(finish)
        else:
            finish(None)

    async def flushed(self) -> None:
        """Wait until the fate of everything so far is known."""
        if not self._closed and self._open.records:
            self._send()
        await self._writer.flushed()

    def close(self) -> None:
        """Fail everything that waits; nothing is sent any more."""
        self._closed = True
        sent, self._sent = self._sent, deque()
        unsent, self._open = self._open, _Waiting()
        for waiting in sent:
            for finish in waiting.finish:
                finish(
                    ServiceError(
                        "UNAVAILABLE",
                        "the coordinator gave the shard up; the change may have happened",
                        {"indeterminate": "true"},
                    )
                )
        for finish in unsent.finish:
            finish(ServiceError("NOT_COORDINATOR", "the coordinator gave the shard up"))

    def _flush(self) -> None:
        self._flush_planned = False
        room = self._writer.waiting < self._config.writes_in_flight_max
        if self._open.records and room and not self._closed:
            self._send()

    def _send(self) -> None:
        waiting, self._open = self._open, _Waiting()
        batch = records_batch(
            waiting.records,
            producer_id=self._lease.producer_id,
            shard_epoch=self._lease.shard_epoch,
            sequence=self._sequence,
            wall_ms=self._clock.wall_ms(),
        )
        self._sequence = (self._sequence + len(waiting.records)) % SEQUENCE_MODULUS
        self._sent.append(waiting)
        self._writer.append(batch, partial(self._stored, waiting))

    def _stored(self, waiting: _Waiting) -> None:
        if not self._sent or self._sent[0] is not waiting:
            return  # has failed already
        self._sent.popleft()
        for finish in waiting.finish:
            finish(None)
        self._flush()
