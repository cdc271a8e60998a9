"""A whole node in the test's own loop: it starts, serves, says why it cannot, and stops."""

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import broker_service_pb2_grpc as broker_grpc
from millstream.v1 import group_coordinator_service_pb2 as group
from millstream.v1 import group_coordinator_service_pb2_grpc as group_grpc
from millstream_server.node.config import NodeConfig
from millstream_server.node.config_sources import load_config
from millstream_server.node.data_folder import DataFolderError
from millstream_server.node.format import format_folder, inspect_peers
from millstream_server.node.node import Node, NodeStartError
from millstream_server.runtime.system import SystemClock, SystemFiles


def config(folder: Path, **keys: object) -> NodeConfig:
    given = {key.replace("__", "."): value for key, value in keys.items()}
    fixed = {"data.dir": str(folder), "listeners": "127.0.0.1:0", "admin.listener": "127.0.0.1:0"}
    return load_config(None, {}, {**fixed, **given}).config


async def formatted(folder: Path, **keys: object) -> NodeConfig:
    settings = config(folder, **keys)
    await format_folder(settings, SystemFiles(), lambda: "c", inspect_peers)
    return settings


def node(settings: NodeConfig) -> Node:
    return Node(settings, clock=SystemClock(), files=SystemFiles())


async def test_an_embedded_node_serves_all_roles_and_stops(tmp_path: Path) -> None:
    settings = await formatted(tmp_path, auto__create__topics__enable=True)
    subject = node(settings)
    await subject.start()
    await subject.become_ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{subject.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in (
            "",
            "startup",
            "ready",
            "millstream.v1.BrokerService",
            "millstream.v1.MetadataService",
            "millstream.v1.GroupCoordinatorService",
        ):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
        request = broker.PublishRequest(topic="t", records=[broker.PublishRecord(value=b"v")])
        with pytest.raises(grpc.aio.AioRpcError, match="there is no group"):
            await group_grpc.GroupCoordinatorServiceStub(channel).DescribeGroup(
                group.DescribeGroupRequest(group_id="nobody")
            )
        published = await broker_grpc.BrokerServiceStub(channel).Publish(request)
        assert published.records[0].offset == 0
    await subject.stop()
    again = node(settings)
    await again.start()
    await again.become_ready()
    await again.stop()


async def test_an_unformatted_metadata_node_refuses_to_start(tmp_path: Path) -> None:
    subject = node(config(tmp_path))
    with pytest.raises(NodeStartError, match="run 'millstream format' once"):
        await subject.start()
    await subject.stop()


async def test_a_folder_of_another_cluster_is_refused(tmp_path: Path) -> None:
    await formatted(tmp_path)
    subject = node(config(tmp_path, cluster__id="other"))
    with pytest.raises(DataFolderError, match="belongs to cluster c"):
        await subject.start()
    await subject.stop()


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    first = node(await formatted(tmp_path / "first"))
    await first.start()
    taken = f"127.0.0.1:{first.port}"
    second = node(await formatted(tmp_path / "second", listeners=taken))
    with pytest.raises(NodeStartError, match=f"cannot listen on {taken}"):
        await second.start()
    await second.stop()
    await first.stop()


async def test_a_damaged_quorum_folder_is_refused_with_a_sentence(tmp_path: Path) -> None:
    settings = await formatted(tmp_path)
    identity = tmp_path / "metadata" / "identity"
    identity.write_bytes(identity.read_bytes()[:-3] + b"xyz")
    subject = node(settings)
    with pytest.raises(NodeStartError, match="identity"):
        await subject.start()
    await subject.stop()
