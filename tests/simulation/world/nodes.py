"""Brokers and metadata nodes of the simulated cluster: production's classes, wired as in a node.

``Machine`` outlives the processes on it: it has the host name, the disk and the address.
"""

import asyncio
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from prometheus_client import CollectorRegistry

from millstream_raft.decision import ClusterDefaults
from millstream_server.broker.app import BrokerApp
from millstream_server.broker.config import BrokerConfig
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.metadata_servicer import MetadataServicer
from millstream_server.cluster.view import ClusterView
from millstream_server.metadata.app import MetadataApp
from millstream_server.metadata.config import MetadataConfig
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.storage.errors import StorageError
from tests.fakes.memory_files import MemoryFiles
from tests.simulation.world.channel import SimChannel
from tests.simulation.world.decisions import JudgedMachine
from tests.simulation.world.executor import SimExecutor, Speed
from tests.simulation.world.loop import CURRENT
from tests.simulation.world.process import Killed, Process
from tests.simulation.world.server import SimServer
from tests.simulation.world.voter import ModelConsensus

if TYPE_CHECKING:
    from tests.simulation.world.world import World

CLUSTER_ID = "simulated"
_PORT = 9092
_LOG_PATH = "/data/log"
_STOP_S = 30.0
# Rot is to be found while a schedule lasts.
_SCRUB_MS = 1_500


class Machine(ABC):
    """A computer with a disk, on which one node runs, again and again."""

    def __init__(self, world: "World", node_id: int, host: str) -> None:
        self.world = world
        self.node_id = node_id
        self.host = host
        self.address = f"{host}:{_PORT}"
        self.disk = MemoryFiles()
        self.disk.make_directory("/data")
        self.disk.before = self._before_operation
        self.speed = Speed()
        self.process: Process | None = None
        # Parts per million that its monotonic clock is off, and how far its wall clock is.
        self.drift_ppm = 0
        self.wall_offset_ms = 0
        # The machine dies before so many more operations of its disk, by loss of power or not.
        self.dies_in: int | None = None
        self.dies_dark = False
        self.died: Callable[[], None] = lambda: None
        # Why the program ended by itself the last time.
        self.gave_up: BaseException | None = None
        self._starts = 0

    @property
    def running(self) -> bool:
        """True while a process of the node runs, paused or not."""
        return self.process is not None and self.process.alive

    def boot(self) -> Process:
        """Start the node's program."""
        if self.running:
            raise RuntimeError(f"{self.host} runs already")
        self._starts += 1
        self.gave_up = None
        self.forget()
        world = self.world
        world.network.host_returned(self.host)
        process = self.process = world.process(
            f"{self.host}#{self._starts}",
            self.host,
            rate=1 + self.drift_ppm / 1e6,
            wall_offset_ms=self.wall_offset_ms,
        )
        process.on_death(self._clean_up)
        self._starting = process.spawn(self._main(process))
        return process

    def forget(self) -> None:  # noqa: B027 - not every kind of node keeps some
        """Forget the objects of the process before."""

    def _clean_up(self) -> None:
        self.disk.release_locks()

    async def _main(self, process: Process) -> None:
        try:
            await self.start(process)
        except (StorageError, ServiceError, OSError) as error:
            # As the real program does: it says why, and ends.
            self.gave_up = error
            process.loop.call_in(0, process.kill, context=contextvars.Context())

    @abstractmethod
    async def start(self, process: Process) -> None:
        """Start the roles of the node."""

    @abstractmethod
    async def stop_roles(self) -> None:
        """Stop them as on SIGTERM."""

    # What happens to it

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()

    def _before_operation(self, operation: str) -> None:
        process = CURRENT.get()
        if process is not None and not process.alive:
            raise Killed
        if self.dies_in is None or not self.running:
            return
        self.dies_in -= 1
        if self.dies_in < 0:
            self.dies_in = None
            if self.dies_dark:
                self.world.network.dark.add(self.host)
            self.kill()
            # The disk loses what it loses once the call is over.
            self.world.loop.call_in(0, self._gone_dark, context=contextvars.Context())
            raise Killed

    def _gone_dark(self) -> None:
        if self.dies_dark and not self.running:
            self.disk.power_loss(self.world.faults_random, self.world.faults_random.random())
        self.died()

    def lose_power(self, keep: float) -> None:
        """Cut the power: of what was not synced, each page stays with this probability."""
        self.world.network.dark.add(self.host)
        if self.running:
            self.kill()
        self.disk.power_loss(self.world.faults_random, keep)

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        before, self.disk.before = self.disk.before, None
        self.disk.remove_tree("/data")
        self.disk.make_directory("/data")
        self.disk.before = before

    def rot(self, number: int, where: float, *, cached: bool) -> str | None:
        """Flip a byte of a log on the disk; returns which file, None if no log has anything on the
        disk yet. If it is not ``cached``, a byte that was written long ago, which is read from the
        disk; what was written lately is in memory, and trusted."""
        found = sorted(path for path in self.disk.paths() if path.endswith(".log"))
        if not cached:
            newest = {path.rpartition("/")[0]: path for path in found}
            found = [path for path in found if path not in newest.values()]
        found = [path for path in found if self.disk.durable_size(path)]
        if not found:
            return None
        path = found[number % len(found)]
        position = int(where * self.disk.durable_size(path))
        self.disk.rot(path, position, 1 << number % 8, cached=cached)
        return path

    def terminate(self) -> None:
        """SIGTERM: stop in an orderly way, then end."""
        assert self.process is not None
        self.process.spawn(self._terminate(self.process))

    async def _terminate(self, process: Process) -> None:
        # As the real program: the signal is heard once the start is over.
        await asyncio.wait((self._starting,))
        if self.gave_up is not None:
            return  # it ends by itself
        try:
            async with asyncio.timeout(_STOP_S):
                await self.stop_roles()
        except TimeoutError:
            self.world.count("stops_too_slow")
        except Exception as error:  # noqa: BLE001 - a stop that fails is a violation
            process.loop.call_exception_handler({"message": "the stop failed", "exception": error})
        process.loop.call_in(0, process.kill, context=contextvars.Context())

    # Ports

    def dial(
        self, process: Process, node_id: int, address: str, options: Any
    ) -> "grpc.aio.Channel":
        """See ``runtime.channels.Dial``."""
        channel: Any = SimChannel(self.world.network, process, address, options)
        return channel  # type: ignore[no-any-return]

    def identity(self, process: Process, role: str) -> NodeIdentity:
        """Who the process is."""
        return NodeIdentity(
            cluster_id=CLUSTER_ID,
            node_id=self.node_id,
            incarnation_id=process.random.randbytes(16),
            host=self.host,
            port=_PORT,
            rack="",
            roles=frozenset({role}),
            version="simulated",
        )


class BrokerMachine(Machine):
    """A broker."""

    app: BrokerApp
    view: ClusterView

    def forget(self) -> None:
        """See ``Machine``."""
        self.__dict__.pop("app", None)

    async def start(self, process: Process) -> None:
        """See ``Machine``."""
        world = self.world
        identity = self.identity(process, "broker")
        dial = partial(self.dial, process)
        server = SimServer(world.network, process)
        app = BrokerApp(
            world.settings.broker,
            identity,
            _LOG_PATH,
            clock=process,
            files=self.disk,
            random=process.random,
            metrics=CollectorRegistry(),
            executor=lambda name: SimExecutor(process, name, self.speed),
            dial=dial,
        )
        server.add_insecure_port(self.address)
        await app.open()
        view = ClusterView(
            identity,
            world.voters,
            clock=process,
            random=process.random,
            config=world.settings.cluster,
            registration=app.registration,
            dial=dial,
        )
        public = MetadataServicer(view, world.settings.cluster, world.voters)
        app.attach(view)
        public.register(server)  # type: ignore[arg-type]
        app.register(server)  # type: ignore[arg-type]
        self.app, self.view, self._public, self._server = app, view, public, server
        world.observe_broker(self)
        await server.start()
        await view.start()
        await app.start()

    async def stop_roles(self) -> None:
        """See ``Machine``."""
        await self.app.stop()
        self._public.stop()
        await self.view.stop()
        await self._server.stop(1.0)

    @property
    def serves(self) -> bool:
        """True if the broker runs and has its partitions."""
        return self.running and "app" in self.__dict__ and hasattr(self.app, "hosted")

    @property
    def stopped_cleanly(self) -> bool:
        """True while the disk says that the last process closed its logs."""
        return self.disk.exists(f"{_LOG_PATH}/clean-shutdown")


class SimReconnectProbe:
    """See ``metadata.reconnect_probe``."""

    def __init__(self, world: "World", host: str) -> None:
        self._world = world
        self._host = host

    async def is_refused(self, host: str, port: int, timeout_ms: int) -> bool:
        """See ``ReconnectProbe``."""
        network = self._world.network
        if not network.reaches(self._host, host):
            await asyncio.sleep(timeout_ms / 1000)
            return False
        await asyncio.sleep(network.link(self._host, host).draw_s(network.random))
        return f"{host}:{port}" not in network.servers or not any(
            machine.running for machine in self._world.brokers if machine.host == host
        )


class MetadataMachine(Machine):
    """A metadata node; what it must not forget is in the world's quorum."""

    app: MetadataApp
    consensus: ModelConsensus

    async def start(self, process: Process) -> None:
        """See ``Machine``."""
        world = self.world
        server = SimServer(world.network, process)
        server.add_insecure_port(self.address)

        def consensus(machine: Any) -> ModelConsensus:
            judged = JudgedMachine(machine, world.decisions)
            self.consensus = ModelConsensus(world.quorum, process, self.node_id, judged)
            return self.consensus

        self.app = MetadataApp(
            world.settings.metadata,
            self.identity(process, "metadata"),
            consensus,
            clock=process,
            random=process.random,
            metrics=CollectorRegistry(),
            probe=SimReconnectProbe(world, self.host),
        )
        self._server = server
        await self.app.open()
        self.app.register(server)  # type: ignore[arg-type]
        await server.start()
        await self.app.start()

    async def stop_roles(self) -> None:
        """See ``Machine``."""
        await self.app.stop()
        await self._server.stop(1.0)


class Settings:
    """Configuration of all nodes."""

    def __init__(
        self, voters: tuple[tuple[int, str], ...], topic_configs: dict[str, str], lag_ms: int
    ) -> None:
        self.broker = BrokerConfig(
            topic_defaults=topic_configs,
            drain_timeout_ms=5_000,
            replica_lag_time_ms_max=lag_ms,
            in_sync_check_ms=min(1_000, lag_ms // 2),
            scrub_interval_ms=_SCRUB_MS,
        )
        self.cluster = ClusterConfig(topic_configs=topic_configs)
        self.metadata = MetadataConfig(
            voters=voters, defaults=ClusterDefaults(topic_configs=topic_configs)
        )
