"""What a broker does now and then: retention, recovery points, removal of what was deleted."""

import asyncio
from functools import partial

import structlog

from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.image_follower import ImageFollower
from millstream_server.broker.jobs import run_job
from millstream_server.broker.metrics import BrokerMetrics
from millstream_server.broker.replica import Replica
from millstream_server.runtime.ports import Executor
from millstream_server.storage.errors import StorageError

_log = structlog.get_logger()
_ANSWERED_POLL_S = 0.02
# A steady stream of deletions must not keep everything that was set aside for ever.
_PATIENCE = 10


class Upkeep:
    """Looks after the logs of one broker, on the event loop; disk work runs on threads."""

    def __init__(
        self,
        hosted: HostedPartitions,
        follower: ImageFollower,
        metrics: BrokerMetrics,
        thread: Executor,
    ) -> None:
        self._hosted = hosted
        self._follower = follower
        self._metrics = metrics
        self._thread = thread
        self._retained_ms = hosted.clock.monotonic_ms()
        self._started_ms = self._retained_ms

    async def run(self) -> None:
        """Until cancelled."""
        interval_s = self._hosted.config.upkeep_interval_ms / 1000
        while True:
            try:
                await self.turn()
            except (StorageError, OSError) as error:
                _log.error("upkeep failed", error=str(error))
            await asyncio.sleep(interval_s)

    async def turn(self) -> None:
        """Do what is due now."""
        hosted = self._hosted
        offline = hosted.directory.offline_reason
        if offline is not None:
            hosted.go_offline(offline)
            return
        now_ms = hosted.clock.monotonic_ms()
        hosted.writer.maintain(now_ms)
        self._follower.try_again()
        usage = await run_job(self._thread, hosted.directory.disk_usage)
        self._metrics.disk_usage = usage
        hosted.note_usage(usage)
        due = now_ms - self._retained_ms >= hosted.config.retention_interval_ms
        if due:
            self._retained_ms = now_ms
            for replica in tuple(hosted.replicas.values()):
                self._retain(replica)
        if (due or self._follower.set_aside_ms) and self._may_empty_trash(now_ms):
            left = await run_job(self._thread, hosted.directory.trash.empty)
            if not left:
                self._follower.set_aside_ms.clear()

    def _retain(self, replica: Replica) -> None:
        """Drop old segments; consumers below hear of it."""
        hosted = self._hosted
        log = replica.log
        if log.failure is not None:
            return

        def done(removed: int | None, error: StorageError | None) -> None:
            if error is not None:
                hosted.note_failure(replica, error)
            elif removed:
                replica.deliver([])

        job = partial(log.retain, hosted.clock.wall_ms(), replica.state.high_watermark)
        hosted.writer.run(log, job, done)

    def _may_empty_trash(self, now_ms: int) -> bool:
        delay_ms = self._hosted.config.delete_delay_ms
        times = self._follower.set_aside_ms or [self._started_ms]
        return now_ms - times[-1] >= delay_ms or now_ms - times[0] >= _PATIENCE * delay_ms

    async def answered(self) -> None:
        """Wait until no append waits for its answer. Only for the stop, hence by looking."""
        while self._anything_waits():  # noqa: ASYNC110
            await asyncio.sleep(_ANSWERED_POLL_S)

    def _anything_waits(self) -> bool:
        return any(
            replica.state.waiting or replica.checking for replica in self._hosted.replicas.values()
        )
