"""Reads the logs of a broker slowly, from the front to what was synced, and verifies every byte.

Rot in records that nobody reads would be found only when they are needed, perhaps after the last
good copy went (invariant 31). What is found here is repaired from the leader like other rot.
"""

import asyncio

import structlog

from millstream_server.broker.byte_rate import ByteRate
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.jobs import run_job
from millstream_server.broker.replica import Replica
from millstream_server.broker.runs import Run, measure
from millstream_server.storage.errors import LogGoneError, OffsetOutOfRangeError, StorageError

_log = structlog.get_logger()
# Bytes of one read: small, because other readers wait behind it.
_READ_BYTES = 128 * 1024
# A node that starts has better things to do.
_FIRST_MS = 10 * 60 * 1000
_PAUSE_MS_MIN = 100


class Scrub:
    """Goes over all logs again and again, at most once per interval. On the event loop; the reads
    run on the read pool."""

    def __init__(self, hosted: HostedPartitions) -> None:
        self._hosted = hosted

    async def run(self) -> None:
        """Until cancelled; returns at once where it is switched off."""
        interval_ms = self._hosted.config.scrub_interval_ms
        if interval_ms is None:
            return
        wait_ms = min(interval_ms, _FIRST_MS)
        while True:
            await asyncio.sleep(max(wait_ms, _PAUSE_MS_MIN) / 1000)
            began_ms = self._hosted.clock.monotonic_ms()
            await self.go_over_all()
            wait_ms = interval_ms - (self._hosted.clock.monotonic_ms() - began_ms)

    async def go_over_all(self) -> None:
        """Verify every log that is here now."""
        clock = self._hosted.clock
        rate = ByteRate(self._hosted.config.scrub_bytes_per_s, clock.monotonic_ms())
        for key in sorted(self._hosted.replicas):
            replica = self._hosted.replicas.get(key)
            if replica is not None:
                await self._go_over(replica, rate)

    async def _go_over(self, replica: Replica, rate: ByteRate) -> None:
        hosted, log = self._hosted, replica.log
        offset = log.start_offset
        while log.failure is None and offset < log.recovery_point:
            wait_ms = rate.wait_ms(hosted.clock.monotonic_ms())
            if wait_ms:
                await asyncio.sleep(wait_ms / 1000)
                continue
            try:
                run = await self._read(replica, offset)
            except OffsetOutOfRangeError:
                if offset >= log.start_offset:
                    return  # it was cut; the next time sees all of it
                offset = log.start_offset  # records were deleted meanwhile
                continue
            except LogGoneError:
                return
            except StorageError as error:
                _log.warning("scrub met an error", partition=str(replica.state), error=str(error))
                hosted.note_failure(replica, error)
                return
            if run.next_offset <= offset:
                return
            rate.take(len(run.data))
            hosted.counters.scrubbed_bytes += len(run.data)
            offset = run.next_offset

    async def _read(self, replica: Replica, offset: int) -> Run:
        log = replica.log
        end_offset = log.recovery_point

        def read() -> Run:
            return measure(log.read(offset, _READ_BYTES, end_offset, verified=True), offset)

        return await run_job(self._hosted.reads, read)
