"""The broker of a node: all its wiring, and its life from recovery to a clean stop."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from random import Random

import grpc
import structlog
from prometheus_client import CollectorRegistry

from millstream_server.broker.appender import Appender
from millstream_server.broker.broker_service import BrokerCalls
from millstream_server.broker.config import BrokerConfig
from millstream_server.broker.counters import BrokerCounters
from millstream_server.broker.hosted import HostedPartitions, ReadPool
from millstream_server.broker.image_follower import ImageFollower
from millstream_server.broker.jobs import run_job
from millstream_server.broker.log_reports import LogReports
from millstream_server.broker.metrics import BrokerMetrics
from millstream_server.broker.offsets import Offsets
from millstream_server.broker.peers import Peers
from millstream_server.broker.publishing import Publishing
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replication.followed_partitions import FollowedPartitions
from millstream_server.broker.replication.in_sync_keeper import InSyncKeeper
from millstream_server.broker.replication.leader import Leader
from millstream_server.broker.replication.servicer import ReplicationServicer
from millstream_server.broker.routing import Routing
from millstream_server.broker.scrub import Scrub
from millstream_server.broker.servicer import BrokerServicer
from millstream_server.broker.subscribing import Subscribing
from millstream_server.broker.upkeep import Upkeep
from millstream_server.cluster.metadata_plane import NodePlane, NodeRegistration, Unsubscribe
from millstream_server.runtime.callers import Callers, UnknownCallers
from millstream_server.runtime.channels import Dial, NodeChannels, dial_plaintext
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Clock, Executor, Files
from millstream_server.runtime.system import ThreadExecutor
from millstream_server.storage.config import DirectoryConfig
from millstream_server.storage.directory import LogDirectory, RecoveryProgress
from millstream_server.storage.errors import StorageError
from millstream_server.storage.writer import DirectoryWriter
from millstream_server.v1 import replication_service_pb2_grpc as replication_pb_grpc

_log = structlog.get_logger()
ExecutorFactory = Callable[[str], Executor]
# What helps against a disk that does not take the node epoch, by the reason of the error.
_ACTIONS = {"DISK_FULL": "make room on the disk: the node goes on by itself"}


class BrokerApp:
    """Use in this order: ``open``, ``attach`` the cluster, ``register``, ``start``, ``stop``."""

    def __init__(
        self,
        config: BrokerConfig,
        identity: NodeIdentity,
        path: str,
        *,
        clock: Clock,
        files: Files,
        random: Random,
        metrics: CollectorRegistry,
        executor: ExecutorFactory | None = None,
        dial: Dial = dial_plaintext,
        callers: Callers | None = None,
    ) -> None:
        """Nothing is started yet. ``path`` is the log directory; ``executor`` makes a thread of
        that name, by default a real one."""
        config.validate()
        self._config = config
        self._identity = identity
        self._path = path
        self._clock = clock
        self._random = random
        self._executor = executor
        self.counters = BrokerCounters()
        self._metrics = BrokerMetrics(metrics, self.counters, identity)
        self._callers = callers or UnknownCallers()
        self._peers = Peers(NodeChannels(dial))
        self.directory = LogDirectory(
            path,
            files,
            clock,
            DirectoryConfig(
                cluster_id=identity.cluster_id,
                node_id=identity.node_id,
                log_defaults=config.log_defaults,
            ),
            random=random,
        )
        self._executors: list[Executor] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: list[Unsubscribe] = []
        # Why the node epoch could not be recorded when that was tried last.
        self._epoch_trouble = ""

    # Life

    async def open(self, progress: Callable[[RecoveryProgress], None] | None = None) -> None:
        """Recover the logs. The node holds the lock on its folder. Raises StorageError.

        ``progress`` is called from another thread.
        """
        self._upkeep_thread = self._thread("log-upkeep")
        await run_job(self._upkeep_thread, partial(self.directory.open, progress))
        self.writer = DirectoryWriter(
            self.directory,
            self._thread("log-writer"),
            observe_flush=self._metrics.flushes.observe,
        )

    def _thread(self, name: str) -> Executor:
        make = self._executor
        executor = (
            make(name) if make is not None else ThreadExecutor(name, asyncio.get_running_loop())
        )
        self._executors.append(executor)
        return executor

    @property
    def registration(self) -> NodeRegistration:
        """What the node registers with; known after ``open``."""
        return NodeRegistration(
            directory_id=self.directory.directory_id,
            previous_epoch=self.directory.previous_node_epoch or 0,
            clean_shutdown=self.directory.clean_shutdown,
            cut_logs=self.directory.cut_logs,
            on_registered=self._record_epoch,
            stuck_ms=self.directory.health.stuck_ms,
            disk_refuses=self._disk_refuses,
        )

    def _disk_refuses(self) -> bool:
        return hasattr(self, "hosted") and self.hosted.disk_refuses

    async def _record_epoch(self, epoch: int) -> None:
        """Nothing is served under an epoch that the disk does not remember (invariant 7). Raises
        ServiceError: the session is tried again, and this with it."""
        try:
            await run_job(self._upkeep_thread, partial(self.directory.record_node_epoch, epoch))
        except StorageError as error:
            if str(error) != self._epoch_trouble:
                self._epoch_trouble = str(error)
                _log.error(
                    "the broker serves nothing until its disk takes the node epoch",
                    error=str(error),
                    action=_ACTIONS.get(error.reason, "look after the disk, then restart the node"),
                )
            raise ServiceError(error.reason, str(error)) from None
        self._epoch_trouble = ""

    def attach(self, cluster: NodePlane) -> None:
        """Give the broker its view of the cluster."""
        config = self._config
        self._cluster = cluster
        self.hosted = HostedPartitions(
            config,
            self._identity.node_id,
            clock=self._clock,
            counters=self.counters,
            cluster=cluster,
            directory=self.directory,
            writer=self.writer,
            reads=ReadPool(
                [self._thread(f"log-read-{n}") for n in range(config.cold_read_threads)]
            ),
            checks=self._thread("batch-check"),
        )
        self._appender = Appender(self.hosted)
        self._followed = FollowedPartitions(
            self.hosted, self._identity.cluster_id, self._leader_stub, self._random
        )
        self._keeper = InSyncKeeper(self.hosted)
        self._leader = Leader(self.hosted, self._identity.cluster_id, self._keeper)
        self._reports = LogReports(self.hosted)
        self._follower = ImageFollower(
            self.hosted, self._upkeep_thread, self._followed, self._reports
        )
        self._upkeep = Upkeep(self.hosted, self._follower, self._metrics, self._upkeep_thread)
        routing = Routing(config, self._identity.node_id, cluster)
        self._calls = BrokerCalls(
            self.hosted,
            self._appender,
            Publishing(config, self._appender, routing, self._peers, self._clock, self._random),
            Subscribing(self.hosted, routing, self._peers),
            Offsets(self.hosted, routing, self._peers),
            self._callers,
            self._path,
        )
        self._metrics.attach(self.hosted, self._path)

    def _leader_stub(self, node_id: int) -> "replication_pb_grpc.ReplicationServiceAsyncStub":
        return self._peers.replication_stub(self._cluster.image, node_id)

    def register(self, server: grpc.aio.Server) -> list[str]:
        """Add the services to a server; returns their full names."""
        return [
            BrokerServicer(self._calls).add_to(server),
            ReplicationServicer(self._leader, self.counters, self._callers).add_to(server),
        ]

    async def start(self) -> None:
        """Follow the image and look after the logs."""
        self._unsubscribe = [
            self._cluster.subscribe(subscriber)
            for subscriber in (
                self._follower.image_changed,
                self._leader.image_changed,
                self._keeper.image_changed,
            )
        ]
        self._tasks = [
            asyncio.create_task(self._follower.run(), name="broker-follows-image"),
            asyncio.create_task(self._upkeep.run(), name="broker-upkeep"),
            asyncio.create_task(Scrub(self.hosted).run(), name="broker-scrubs"),
            asyncio.create_task(self._reports.run(), name="broker-reports"),
            asyncio.create_task(self._keeper.run(), name="broker-keeps-in-sync-sets"),
        ]

    async def stop(self) -> None:
        """Stop without losing anything: refuse what is new, answer what waits, move leaders, flush,
        mark the stop as clean. May be called whatever was started."""
        if hasattr(self, "hosted"):
            await self._drain()
        if hasattr(self, "writer"):
            idle = asyncio.Event()
            self.writer.when_idle(idle.set)
            await idle.wait()
        await self._peers.close()
        if self._executors:
            await run_job(self._upkeep_thread, self.directory.close)
        for executor in self._executors:
            await asyncio.to_thread(executor.close)
        self._executors = []

    async def _drain(self) -> None:
        self._appender.close()
        timeout_s = self._config.drain_timeout_ms / 1000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._upkeep.answered()
        if self._tasks and not await self._cluster.drain(timeout_ms=self._config.drain_timeout_ms):
            _log.warning("leaders did not move in time")
        self._calls.end_streams()
        self._leader.stop()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._followed.close()
        stopping = Refusal("NODE_SHUTTING_DOWN", "the broker is stopping", indeterminate=True)
        for replica in tuple(self.hosted.replicas.values()):
            replica.deliver(replica.state.fail_waiting(stopping))
            replica.deliver(replica.state.resign(None))  # nothing is appended from now on
            replica.lose_readers(stopping)
        self.hosted.close()
