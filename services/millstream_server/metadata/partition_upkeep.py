"""What the active controller does to partitions without being asked.

It gives leads back to preferred leaders, takes them from brokers whose disks refuse appends, moves
replicas away from brokers that are decommissioned, and tells of elections after which records may
be missing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial

import structlog

from millstream_raft.decide_elections import balancing, relieving
from millstream_raft.decide_reassignments import Commands, decommissioning
from millstream_raft.delta import UNCLEAN, Delta
from millstream_raft.image import Image
from millstream_server.metadata.config import MetadataConfig
from millstream_server.metadata.controller import Controller
from millstream_server.metadata.metrics import MetadataMetrics
from millstream_server.metadata.replicated_image import ReplicatedImage
from millstream_server.runtime.errors import ServiceError

_log = structlog.get_logger()
# Of one kind in a row: clients' writes come between, and the image is new after each.
_BATCHES_MAX = 100


class PartitionUpkeep:
    """Runs on every metadata node; acts where the active controller is."""

    def __init__(
        self,
        controller: Controller,
        replicated: ReplicatedImage,
        config: MetadataConfig,
        metrics: MetadataMetrics,
        refusing: Collection[int],
    ) -> None:
        """``refusing`` is a view of the nodes whose disks refuse appends now."""
        self._controller = controller
        self._refusing = refusing
        self._config = config
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        replicated.subscribe(self._image_changed)

    def start(self) -> None:
        """Begin to act."""
        config = self._config
        self._spawn(config.decommission_interval_ms, self.move_replicas_away)
        self._spawn(config.relieve_interval_ms, self.relieve_full_disks)
        if config.auto_leader_rebalance:
            self._spawn(config.leader_imbalance_check_interval_ms, self.balance_leaders)

    async def stop(self) -> None:
        """Do nothing more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def balance_leaders(self) -> None:
        """Let preferred leaders lead where they are in sync. Raises ServiceError."""
        await self._commit_batches(partial(balancing, refusing=self._refusing))

    async def relieve_full_disks(self) -> None:
        """Let others lead where a leader's disk refuses appends. Raises ServiceError."""
        if self._refusing:
            await self._commit_batches(partial(relieving, refusing=self._refusing))

    async def move_replicas_away(self) -> None:
        """Begin the next reassignments away from brokers that leave. Raises ServiceError."""
        decide = partial(
            decommissioning,
            defaults=self._config.defaults,
            ongoing_max=self._config.decommission_partitions_max,
        )
        await self._commit_batches(decide)

    async def _commit_batches(self, decide: Callable[[Image], Commands]) -> None:
        for _ in range(_BATCHES_MAX):
            if not await self._controller.decide_and_commit(decide):
                return

    def _spawn(self, interval_ms: int, act: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(interval_ms, act)))

    async def _run(self, interval_ms: int, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval_ms / 1000)
            if not self._controller.is_active:
                continue
            try:
                await act()
            except ServiceError as error:  # tried again after the interval
                _log.info("partitions not changed", error=str(error))

    def _image_changed(self, delta: Delta) -> None:
        if not self._controller.is_active:
            return
        for kind, count in delta.elections.items():
            self._metrics.leader_elections.labels(kind).inc(count)
        for election in delta.lossy_elections:
            topic = delta.image.topics.get(election.topic_id)
            partition = delta.image.partition(election.topic_id, election.partition)
            if topic is None or partition is None:
                continue
            if election.possible_loss:
                self._metrics.possible_losses.inc()
            _log.warning(
                "unclean leader election"
                if election.kind == UNCLEAN
                else "leader elected among replicas that had lost their place",
                topic=topic.name,
                partition=election.partition,
                leader_id=election.leader_id,
                leader_epoch=partition.leader_epoch,
                flush_mode=partition.flush_mode,
                possible_data_loss=election.possible_loss,
            )
