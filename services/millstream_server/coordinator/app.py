"""The group coordinator of a node: all its wiring, and its life from start to a drained stop."""

import asyncio
from random import Random

import grpc
import structlog
from prometheus_client import CollectorRegistry

from millstream_server.cluster.metadata_plane import NodePlane, Unsubscribe
from millstream_server.coordinator.admission import Admission
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.end_offsets import EndOffsets
from millstream_server.coordinator.group_shard import GroupShard
from millstream_server.coordinator.log_client import BrokerChannels, BrokerShardLogs
from millstream_server.coordinator.log_ports import ShardLogs
from millstream_server.coordinator.metrics import CoordinatorMetrics
from millstream_server.coordinator.servicer import CoordinatorServicer
from millstream_server.coordinator.shards import Shards
from millstream_server.runtime.channels import Dial, NodeChannels, dial_plaintext
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Clock

_log = structlog.get_logger()


class CoordinatorApp:
    """Use in this order: ``register``, ``start``, ``stop``. There is nothing to open: all state is
    in the shards' logs."""

    def __init__(
        self,
        config: CoordinatorConfig,
        identity: NodeIdentity,
        *,
        cluster: NodePlane,
        clock: Clock,
        random: Random,
        metrics: CollectorRegistry,
        logs: ShardLogs | None = None,
        dial: Dial = dial_plaintext,
    ) -> None:
        """Nothing is started. ``logs`` replaces the partitions of ``__consumer_offsets`` on
        brokers. Raises ValueError for a bad configuration."""
        config.validate()
        self._config = config
        self._cluster = cluster
        self._random = random
        self._metrics = CoordinatorMetrics(metrics)
        self._channels = BrokerChannels(NodeChannels(dial))
        self._logs = logs or BrokerShardLogs(lambda: cluster.image, self._channels, config)
        self._end_offsets = EndOffsets(lambda: cluster.image, self._channels, config, clock)
        self._shards = Shards(config, identity, cluster, self._logs, clock, self._new_shard)
        self._servicer = CoordinatorServicer(
            self._shards, Admission(config), self._end_offsets, config
        )
        self._unsubscribe: Unsubscribe | None = None
        self._polling: asyncio.Task[None] | None = None

    def register(self, server: grpc.aio.Server) -> list[str]:
        """Add the service; returns full service names."""
        return [self._servicer.add_to(server)]

    async def start(self) -> None:
        """Follow the image: take over the shards that it leases to this node."""
        self._unsubscribe = self._cluster.subscribe(self._shards.follow)
        self._metrics.attach(self._shards, self._end_offsets)
        if self._config.lag_interval_ms:
            self._polling = asyncio.get_running_loop().create_task(self._poll_ends())

    async def stop(self) -> None:
        """Store what was taken in, hand the shards over, end."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
        await self._shards.drain()
        if self._unsubscribe is not None:
            if not await self._cluster.drain(timeout_ms=self._config.stop_timeout_ms):
                _log.warning("stopped before the shards were handed over")
            self._unsubscribe()
            self._unsubscribe = None
        await self._shards.close()
        self._metrics.detach()
        await self._end_offsets.close()
        await self._logs.close()
        await self._channels.close()

    def _new_shard(self) -> GroupShard:
        return GroupShard(self._config, self._metrics, self._new_member_id)

    def _new_member_id(self) -> str:
        return self._random.randbytes(16).hex()

    async def _poll_ends(self) -> None:
        """Ask for the ends of the logs that groups have positions in, at a slow pace."""
        while True:
            await asyncio.sleep(self._config.lag_interval_ms / 1000)
            groups = [
                group
                for shard in self._shards.serving()
                for group in shard.core.state.groups.values()
            ]
            known = self._shards.topics.by_id
            partitions = {
                partition
                for group in groups
                for partition in group.positions
                if partition[0] in known
            }
            self._end_offsets.forget_others(partitions)
            self._metrics.forget_others(group.group_id for group in groups)
            if partitions:
                await self._end_offsets.refresh(partitions)
