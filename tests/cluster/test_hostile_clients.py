"""Clients that send garbage, too much or nothing at all: refused, and nobody else notices."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import group_coordinator_service_pb2 as groups
from millstream.v1 import metadata_service_pb2 as metadata
from millstream_server.local_cluster.readiness import is_ready
from millstream_server.v1 import controller_service_pb2 as controller
from millstream_server.v1 import raft_pb2 as raft
from tests.campaigns.embedded import EmbeddedNode
from tests.campaigns.figures import rss_megabytes
from tests.cluster.plain_client import PlainClient, encode, refusal_of
from tests.cluster.replicated import wait_until

MIB = 1024 * 1024
BATCHES = 28
SERVICES = [
    (broker, "BrokerService"),
    (groups, "GroupCoordinatorService"),
    (metadata, "MetadataService"),
    (controller, "ControllerService"),
    (raft, "RaftService"),
]
METHODS = {
    f"{service.name}/{method.name}": method
    for module, name in SERVICES
    for service in [module.DESCRIPTOR.services_by_name[name]]
    for method in service.methods
}
# A field that never ends, a group that was never begun, and a tag of zero.
GARBAGE = [b"\x0a\xff\xff\xff\xff\x0f", b"\x0c", b"\x00", b"\xff" * 64]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainClient]:
    node = EmbeddedNode(tmp_path_factory.mktemp("node"))
    node.start()
    made = PlainClient(node, "target")
    yield made
    made.close()
    assert node.stop()


@pytest.fixture(autouse=True)
def others_do_not_notice(client: PlainClient) -> Iterator[None]:
    with client.unchanged():
        yield
    wait_until(lambda: is_ready("127.0.0.1", client.node.admin_port), "it is ready")


def call(client: PlainClient, name: str, body: bytes) -> Any:
    """Send bytes as the request of a method, or as the first message of its stream."""
    method = METHODS[name]
    kinds = ("unary", "stream")
    opened = getattr(
        client.channel,
        f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}",
    )(f"/{method.containing_service.full_name}/{method.name}")
    answer = opened(iter([body]) if method.client_streaming else body, timeout=10)
    return list(answer) if method.server_streaming else answer


@pytest.mark.parametrize("name", METHODS)
def test_bytes_that_are_no_message(client: PlainClient, name: str) -> None:
    for body in GARBAGE:
        with pytest.raises(grpc.RpcError) as caught:
            call(client, name, body)
        refused = refusal_of(caught.value)
        assert (refused.status, refused.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        ), refused
        assert refused.message


@pytest.mark.parametrize("name", ["BrokerService/Produce", "BrokerService/Publish"])
def test_an_oversized_frame(client: PlainClient, name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(client, name, bytes(17 * MIB))
    refused = refusal_of(caught.value)
    assert refused.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in refused.message


def test_a_method_that_does_not_exist(client: PlainClient) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary("/millstream.v1.BrokerService/Nonsense")(b"", timeout=10)
    assert refusal_of(caught.value).status is grpc.StatusCode.UNIMPLEMENTED


def connect(client: PlainClient) -> socket.socket:
    host, _, port = client.node.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"\xff" * 65_536,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 256,
    ],
    ids=["HTTP/1.1", "TLS", "noise", "noise after the preface"],
)
def test_a_connection_of_another_kind_is_closed(client: PlainClient, said: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(said)
        try:
            while connection.recv(65_536):
                pass
        except ConnectionResetError:
            pass


def test_two_hundred_idle_connections(client: PlainClient) -> None:
    idle = [connect(client) for _ in range(200)]
    try:
        client.world()
    finally:
        for connection in idle:
            connection.close()


@pytest.fixture(scope="module")
def big_topic(client: PlainClient) -> bytes:
    """Id of a topic with BATCHES batches of nearly a megabyte."""
    made = client.metadata.CreateTopic(
        metadata.CreateTopicRequest(
            request_id=client.request_id(), name="big", partition_count=1, replication_factor=1
        ),
        timeout=10,
    )
    topic_id = made.topic.topic_id
    batch = encode([bytes(MIB - 1024)])
    for _ in range(BATCHES // 7):
        client.produce(*[batch] * 7, topic_id=topic_id)
    return topic_id


def test_readers_that_never_read(client: PlainClient, big_topic: bytes) -> None:
    """They cost the node little memory, and another reader nothing."""
    position = broker.FetchPosition(topic_id=big_topic)
    request = broker.FetchRequest(positions=[position], credit_bytes=1 << 40)
    before = rss_megabytes(client.node.pid)
    done = threading.Event()

    def held_open() -> Iterator[bytes]:
        yield request.SerializeToString()
        done.wait(30)

    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(client.node.address, options=options) as channel:
        path = "/millstream.v1.BrokerService/Fetch"
        streams = [channel.stream_stream(path)(held_open(), timeout=60) for _ in range(20)]
        reader = client.broker.Fetch(iter([request]), timeout=20)
        received = 0
        while received < BATCHES:
            received += sum(len(entry.batches) for entry in next(reader).partitions)
        reader.cancel()
        assert received == BATCHES
        assert rss_megabytes(client.node.pid) - before < 64
        done.set()
        for stream in streams:
            stream.cancel()
