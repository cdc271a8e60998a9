"""The controller over a consensus that commits at once, with a clock that is told to move."""

import asyncio
import random

from prometheus_client import CollectorRegistry

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.consensus import StateMachine
from millstream_server.metadata.app import MetadataApp
from millstream_server.metadata.config import MetadataConfig
from millstream_server.metadata.node_liveness import SessionStream
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes.instant_consensus import InstantConsensus
from tests.fakes.manual_clock import ManualClock
from tests.fakes.metadata_cluster import identity
from tests.fakes.waiting import until

OTHER = 2


class FakeProbe:
    """Refuses connections to the ports named."""

    def __init__(self) -> None:
        self.refused: set[int] = set()
        self.tries = asyncio.Event()

    async def is_refused(self, host: str, port: int, timeout_ms: int) -> bool:
        """See ``ReconnectProbe``."""
        self.tries.set()
        return port in self.refused

    async def tried(self, times: int) -> None:
        """Wait until so many further connections were tried."""
        for _ in range(times):
            self.tries.clear()
            await self.tries.wait()


class ControllerBench:
    """Everything that a metadata node runs but gRPC and Raft."""

    def __init__(self, **config: object) -> None:
        self.clock = ManualClock()
        self.probe = FakeProbe()
        self.registry = CollectorRegistry()
        values: dict[str, object] = {
            "voters": ((1, "127.0.0.1:1"), (OTHER, "127.0.0.1:2")),
            "heartbeat_gather_ms": 0,
            "probe_interval_ms": 1,
            "reconnect_grace_ms": 1,
        }
        values.update(config)
        made: list[InstantConsensus] = []

        def consensus(machine: StateMachine) -> InstantConsensus:
            made.append(InstantConsensus(machine, node_id=1))
            return made[0]

        self.app = MetadataApp(
            MetadataConfig(**values),  # type: ignore[arg-type]
            identity(1, 1, {"metadata"}, b"m" * 16),
            consensus,
            clock=self.clock,
            random=random.Random(1),
            metrics=self.registry,
            probe=self.probe,
        )
        self.consensus = made[0]
        self.controller, self.liveness = self.app.controller, self.app.liveness

    async def active(self) -> None:
        """Wait until it is the controller."""
        await until(lambda: self.controller.is_active)

    async def register(self, node_id: int, **fields: object) -> tuple[SessionStream, pb.Registered]:
        """Register a node, of its usual folder unless told otherwise."""
        values: dict[str, object] = {
            "cluster_id": "test-cluster",
            "node_id": node_id,
            "incarnation_id": b"i" * 16,
            "roles": [1],
            "host": "127.0.0.1",
            "port": 9000 + node_id,
            "directory_id": bytes([node_id]) * 16,
        }
        values.update(fields)
        return await self.liveness.register(pb.Registration(**values))  # type: ignore[arg-type]

    async def live(self, node_id: int) -> SessionStream:
        """Register a node and bring it to life."""
        stream, registered = await self.register(node_id)
        await self.beat(stream, registered.version)
        return stream

    async def beat(self, stream: SessionStream, version: int, **more: bool) -> pb.NodeHeartbeatAck:
        """A heartbeat of a node whose image has this version."""
        return await self.liveness.heartbeat(
            stream,
            pb.NodeHeartbeat(node_epoch=stream.node_epoch, sequence=1, version=version, **more),
        )

    def fenced(self, node_id: int) -> bool:
        """True if a node is fenced."""
        return self.controller.image.nodes[node_id].fenced


def create(name: str) -> pb.ExecuteRequest:
    """A request that makes a topic."""
    return pb.ExecuteRequest(create_topic=public.CreateTopicRequest(name=name))
