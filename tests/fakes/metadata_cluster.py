"""One metadata node with real gRPC on loopback, and views of nodes that follow it."""

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
from prometheus_client import CollectorRegistry

from millstream_raft.consensus import StateMachine
from millstream_raft.decision import ClusterDefaults
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.metadata_plane import NodeRegistration
from millstream_server.cluster.metadata_servicer import MetadataServicer
from millstream_server.cluster.view import ClusterView
from millstream_server.metadata.app import MetadataApp
from millstream_server.metadata.config import MetadataConfig
from millstream_server.runtime.grpc_server import SERVER_OPTIONS
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.system import SystemClock
from tests.fakes.instant_consensus import InstantConsensus

CLUSTER_ID = "test-cluster"
METADATA_NODE_ID = 100


@dataclass
class FakeNode:
    """A broker or coordinator of which only the view is real."""

    identity: NodeIdentity
    view: ClusterView
    server: grpc.aio.Server
    epochs: list[int] = field(default_factory=list)
    sessions_lost: int = 0
    # For how long an operation on its disk has been running, as it says.
    stuck_ms: int = 0

    async def kill(self) -> None:
        """End without a word, as kill -9 does: nobody listens on the port any more."""
        await self.server.stop(None)
        await self.view.stop()


class MetadataCluster:
    """Made by ``running_cluster``."""

    def __init__(self, defaults: ClusterDefaults, session_timeout_ms: int) -> None:
        self._session_timeout_ms = session_timeout_ms
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self.bootstrap = ((METADATA_NODE_ID, self.address),)
        self.consensus: InstantConsensus | None = None
        self.registry = CollectorRegistry()
        self.nodes: list[FakeNode] = []
        self.app = MetadataApp(
            MetadataConfig(
                voters=self.bootstrap,
                session_timeout_ms=session_timeout_ms,
                session_timeout_min_ms=100,
                heartbeat_interval_ms=100,
                heartbeat_gather_ms=5,
                defaults=defaults,
            ),
            identity(METADATA_NODE_ID, port, {"metadata"}, b"m" * 16),
            self._consensus,
            clock=SystemClock(),
            random=random.Random(1),
            metrics=self.registry,
        )

    def _consensus(self, state_machine: StateMachine) -> InstantConsensus:
        self.consensus = InstantConsensus(state_machine, node_id=METADATA_NODE_ID)
        return self.consensus

    async def node(
        self,
        node_id: int,
        *roles: str,
        incarnation: bytes = b"a" * 16,
        previous_epoch: int = 0,
        clean_shutdown: bool = False,
        cut_logs: Sequence[tuple[bytes, int]] = (),
        port: int = 0,
        on_registered: Callable[[int], Awaitable[None]] | None = None,
    ) -> FakeNode:
        """Start a node; does not wait until it is registered."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        epochs: list[int] = []
        fake: FakeNode | None = None

        async def note_epoch(epoch: int) -> None:
            epochs.append(epoch)

        def on_session_lost() -> None:
            assert fake is not None
            fake.sessions_lost += 1

        def stuck_ms() -> int:
            return 0 if fake is None else fake.stuck_ms

        own = identity(node_id, port, set(roles or ("broker",)), incarnation)
        config = ClusterConfig(session_timeout_ms=self._session_timeout_ms, reconnect_ms_min=10)
        view = ClusterView(
            own,
            self.bootstrap,
            clock=SystemClock(),
            random=random.Random(node_id),
            config=config,
            registration=NodeRegistration(
                directory_id=bytes([node_id]) * 16 if "coordinator" not in roles else b"",
                previous_epoch=previous_epoch,
                clean_shutdown=clean_shutdown,
                cut_logs=cut_logs,
                on_registered=on_registered or note_epoch,
                on_session_lost=on_session_lost,
                stuck_ms=stuck_ms,
            ),
        )
        MetadataServicer(view, config, self.bootstrap).register(server)
        fake = FakeNode(own, view, server, epochs)
        await server.start()
        await view.start()
        self.nodes.append(fake)
        return fake


def identity(node_id: int, port: int, roles: set[str], incarnation: bytes) -> NodeIdentity:
    """An identity on loopback."""
    return NodeIdentity(
        cluster_id=CLUSTER_ID,
        node_id=node_id,
        incarnation_id=incarnation,
        host="127.0.0.1",
        port=port,
        rack="",
        roles=frozenset(roles),
        version="0.0.0",
    )


@contextlib.asynccontextmanager
async def running_cluster(
    *, defaults: ClusterDefaults | None = None, session_timeout_ms: int = 5_000
) -> AsyncIterator[MetadataCluster]:
    """A metadata node that is the active controller, and whatever nodes are started in it. A
    session that a test does not wait for the end of outlives a moment in which nothing runs."""
    cluster = MetadataCluster(defaults or ClusterDefaults(), session_timeout_ms)
    await cluster.app.open()
    cluster.app.register(cluster.server)
    await cluster.server.start()
    await cluster.app.start()
    try:
        yield cluster
    finally:
        for node in cluster.nodes:
            await node.view.stop()
            await node.server.stop(None)
        await cluster.app.stop()
        await cluster.server.stop(None)
