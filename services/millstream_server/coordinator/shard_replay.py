"""Replay of a shard's partition, from the log's start through the owner's fence to the end."""

import asyncio
from collections.abc import Callable

import structlog

from millstream.record.batch import SEQUENCE_MODULUS
from millstream_raft.image import ShardLease
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.log_ports import LogChunk, LogUnavailable, ShardLog
from millstream_server.coordinator.record_codec import UnknownRecordError
from millstream_server.coordinator.records import Record
from millstream_server.coordinator.shard_batches import open_batch, records_in
from millstream_server.coordinator.shard_writer import WriteRefused

_log = structlog.get_logger()
# Records replayed in one turn of the event loop.
_RECORDS_PER_TURN = 2_000


class ShardReplay:
    """One replay, resumed where it was when the log went away. The fence is stored already."""

    def __init__(
        self,
        lease: ShardLease,
        log: ShardLog,
        apply: Callable[[Record], None],
        config: CoordinatorConfig,
    ) -> None:
        self._lease = lease
        self._partition = log
        self._apply = apply
        self._config = config
        self._offset = 0
        self._applied = 0
        self._fence_seen = False
        # Sequence number of the next record under this epoch.
        self.sequence = 0

    async def run(self) -> None:
        """Replay everything.

        Raises WriteRefused if a newer owner wrote, CorruptBatchError and the like for bytes that
        are no records, LogUnavailable if the fence is missing.
        """
        delay_ms = self._config.log_retry_ms
        while True:
            try:
                await self._read_to_end()
                break
            except LogUnavailable as error:
                _log.info("replay interrupted", shard=self._lease.shard, reason=str(error))
                await asyncio.sleep(delay_ms / 1000)
                delay_ms = min(2 * delay_ms, self._config.log_retry_ms_max)
        if not self._fence_seen:
            raise LogUnavailable("the log ends before the fence")

    async def _read_to_end(self) -> None:
        async for chunk in self._partition.read(self._offset):
            await self._take(chunk)
            if self._offset >= chunk.high_watermark:
                return
        raise LogUnavailable("the read ended early")

    async def _take(self, chunk: LogChunk) -> None:
        self._offset = max(self._offset, chunk.log_start_offset)
        for batch in chunk.batches:
            header = open_batch(batch)
            if header.next_offset <= self._offset:
                continue
            if header.producer_id == self._lease.producer_id:
                self._check_epoch(header.producer_epoch)
                if header.producer_epoch == self._lease.shard_epoch:
                    self._fence_seen = True
                    self.sequence = (header.last_sequence + 1) % SEQUENCE_MODULUS
            for record in records_in(batch, header):
                if isinstance(record, UnknownRecordError):
                    # A newer version wrote it; what this one knows is not changed by it.
                    _log.warning("unknown record skipped", shard=self._lease.shard)
                else:
                    self._apply(record)
            self._offset = header.next_offset
            self._applied += header.record_count
            if self._applied >= _RECORDS_PER_TURN:
                self._applied = 0
                await asyncio.sleep(0)

    def _check_epoch(self, epoch: int) -> None:
        if epoch > self._lease.shard_epoch:
            raise WriteRefused("INVALID_PRODUCER_EPOCH", "a newer owner took the shard")
