"""The metadata service on the consensus of production: real files, real gRPC, real elections."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.directory import format_node
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_messages import FIRST_ENTRY
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.metadata_plane import NodeRegistration
from millstream_server.cluster.view import ClusterView
from millstream_server.metadata.app import MetadataApp, quorum_on_disk
from millstream_server.metadata.config import MetadataConfig
from millstream_server.node.format import inspect_peers
from millstream_server.runtime.grpc_server import SERVER_OPTIONS
from millstream_server.runtime.system import SystemClock, SystemFiles
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes.metadata_cluster import CLUSTER_ID, identity
from tests.fakes.waiting import until

# The process may stand still for a moment, and no leader is to be replaced for that.
PATIENT = RaftConfig(
    election_timeout_min_ms=1_000, election_timeout_max_ms=2_000, leader_fallback_ms=3_000
)


class Quorum:
    """Metadata nodes of this process, each with its own port and folder."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._servers: dict[int, grpc.aio.Server] = {}
        self.apps: dict[int, MetadataApp] = {}
        self._ports = {}
        for node_id in range(1, size + 1):
            server = grpc.aio.server(options=SERVER_OPTIONS)
            self._ports[node_id] = server.add_insecure_port("127.0.0.1:0")
            self._servers[node_id] = server
            format_node(self._path(node_id), CLUSTER_ID, node_id, range(1, size + 1), SystemFiles())
        self.voters = tuple((node, f"127.0.0.1:{port}") for node, port in self._ports.items())

    def _path(self, node_id: int) -> str:
        return str(self._folder / str(node_id))

    async def start(self, node_id: int) -> None:
        server = self._servers.get(node_id)
        if server is None:
            server = self._servers[node_id] = grpc.aio.server(options=SERVER_OPTIONS)
            server.add_insecure_port(f"127.0.0.1:{self._ports[node_id]}")
        config = MetadataConfig(voters=self.voters)
        own = identity(node_id, self._ports[node_id], {"metadata"}, bytes([node_id]) * 16)
        chance = random.Random(node_id)
        app = MetadataApp(
            config,
            own,
            quorum_on_disk(
                config,
                own,
                self._path(node_id),
                PATIENT,
                clock=SystemClock(),
                files=SystemFiles(),
                random=chance,
            ),
            clock=SystemClock(),
            random=chance,
            metrics=CollectorRegistry(),
        )
        self.apps[node_id] = app
        await app.open()
        app.register(server)
        await server.start()
        await app.start()

    async def stop(self, node_id: int) -> None:
        await self.apps.pop(node_id).stop()
        await self._servers.pop(node_id).stop(None)

    def active(self) -> int | None:
        return next((key for key, app in self.apps.items() if app.controller.is_active), None)

    def view(self, node_id: int = 50) -> ClusterView:
        return ClusterView(
            identity(node_id, 1, {"broker"}, b"v" * 16),
            self.voters,
            clock=SystemClock(),
            random=random.Random(node_id),
            config=ClusterConfig(reconnect_ms_min=20),
            registration=NodeRegistration(directory_id=b"d" * 16),
        )


@pytest.fixture
async def quorum(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Quorum]:
    made = Quorum(tmp_path, request.param)
    await asyncio.gather(*(made.start(node_id) for node_id, _ in made.voters))
    yield made
    for node_id in list(made.apps):
        await made.stop(node_id)


def create(name: str) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(create_topic=public.CreateTopicRequest(name=name))


@pytest.mark.parametrize("quorum", [3], indirect=True)
async def test_writes_go_on_after_the_active_controller_stopped(quorum: Quorum) -> None:
    view = quorum.view()
    await view.start()
    try:
        epoch = await view.wait_registered()
        await view.execute(create("before"))
        active = quorum.active()
        assert active is not None
        await quorum.stop(active)
        after = await view.execute(create("after"), timeout_ms=20_000)
        image = await view.wait_for_version(after.version)
        assert image.topic_ids.keys() == {"before", "after"}
        assert image.controller_epoch >= 2
        assert await view.wait_registered() == epoch
        assert not image.nodes[50].fenced
        newest = await view.read_barrier()
        assert newest.version >= after.version
        await quorum.start(active)
        described = await view.describe_quorum()
        assert described.quorum.leader_id in quorum.apps
    finally:
        await view.stop()


@pytest.mark.parametrize("quorum", [3], indirect=True)
async def test_a_controller_that_stops_hands_over_before_it_is_gone(quorum: Quorum) -> None:
    view = quorum.view()
    await view.start()
    try:
        epoch = await view.wait_registered()
        active = quorum.active()
        assert active is not None
        controller_epoch = view.image.controller_epoch
        await quorum.stop(active)
        assert any(app.consensus.is_leader for app in quorum.apps.values())
        await until(lambda: quorum.active() is not None)
        written = await view.execute(create("after"), timeout_ms=20_000)
        image = await view.wait_for_version(written.version)
        assert image.controller_epoch > controller_epoch
        assert image.controller_id == quorum.active()
        assert await view.wait_registered() == epoch
    finally:
        await view.stop()


@pytest.mark.parametrize("quorum", [3], indirect=True)
async def test_formatting_learns_that_the_peers_of_a_lost_disk_have_a_log(quorum: Quorum) -> None:
    view = quorum.view()
    await view.start()
    try:
        await view.wait_registered()
        others = {node: address for node, address in quorum.voters if node != 1}
        logs = await inspect_peers(others)
        assert {log.node_id for log in logs} == {2, 3}
        assert {log.cluster_id for log in logs} == {CLUSTER_ID}
        assert all(log.last_index > FIRST_ENTRY.index for log in logs)
    finally:
        await view.stop()


@pytest.mark.parametrize("quorum", [1], indirect=True)
async def test_everything_is_there_after_a_restart(quorum: Quorum) -> None:
    view = quorum.view()
    await view.start()
    try:
        await view.wait_registered()
        written = await view.execute(create("kept"))
        image = await view.wait_for_version(written.version)
        topic_id = image.topic_ids["kept"]
        await quorum.stop(1)
        await quorum.start(1)
        more = await view.execute(create("more"))
        image = await view.wait_for_version(more.version)
        assert image.topic_ids["kept"] == topic_id
        assert image.controller_epoch == 2
        assert image.topics[topic_id].partitions[0].leader_id == 50
    finally:
        await view.stop()
