"""Finding the active controller: hints, retries, and an end within the deadline."""

import asyncio
import random
import socket

import grpc
import pytest

from millstream.v1 import metadata_service_pb2 as public
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.controller_client import ControllerClient, OutcomeDoubt
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.cluster.request_sessions import RequestSessions
from millstream_server.runtime.errors import ServiceError, abort
from millstream_server.runtime.system import SystemClock
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc
from tests.fakes.image_servers import image_servers

CONFIG = ClusterConfig(reconnect_ms_min=5, reconnect_ms_max=20, try_timeout_ms=300)


class Scripted(pb_grpc.ControllerServiceServicer):
    """Answers with the errors given, then with success; remembers what it was asked."""

    def __init__(self) -> None:
        self.errors: list[ServiceError] = []
        self.requests: list[pb.ExecuteRequest] = []
        self.address = ""
        # What it says of the quorum.
        self.quorum = public.DescribeQuorumResponse()
        self._sessions = 0

    async def DescribeQuorum(self, request, context):  # type: ignore[no-untyped-def]
        return pb.DescribeQuorumResponse(quorum=self.quorum)

    async def Execute(self, request, context):  # type: ignore[no-untyped-def]
        self.requests.append(request)
        if request.WhichOneof("kind") == "open_request_session":
            self._sessions += 1
            response = pb.ExecuteResponse(version=1)
            response.open_request_session.session_id = self._sessions
            return response
        if self.errors:
            await abort(context, self.errors.pop(0))
        return pb.ExecuteResponse(version=7)


@pytest.fixture
async def nodes():  # type: ignore[no-untyped-def]
    made, servers = [], []
    for _ in range(2):
        servicer, server = Scripted(), grpc.aio.server()
        servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        pb_grpc.add_ControllerServiceServicer_to_server(servicer, server)
        await server.start()
        made.append(servicer)
        servers.append(server)
    yield made
    for server in servers:
        await server.stop(None)


def client_of(
    *addresses: str, config: ClusterConfig = CONFIG
) -> tuple[MetadataChannels, ControllerClient]:
    channels = MetadataChannels(list(enumerate(addresses, 1)))
    return channels, ControllerClient(channels, config, SystemClock(), random.Random(1))


def delete() -> pb.ExecuteRequest:
    return pb.ExecuteRequest(delete_topic=public.DeleteTopicRequest(topic_id=b"t" * 16))


def not_controller(address: str) -> ServiceError:
    return ServiceError(
        "NOT_CONTROLLER", "elsewhere", {"leader_id": "9", "leader_address": address}
    )


async def test_a_hint_is_followed_only_to_configured_nodes(nodes: list[Scripted]) -> None:
    one, two = nodes
    channels, client = client_of(one.address, two.address)
    one.errors = [not_controller("127.0.0.1:1"), not_controller(two.address)]
    two.errors = [not_controller(one.address)]
    assert (await client.execute(delete(), 5_000)).version == 7
    assert len(one.requests) + len(two.requests) >= 3
    await channels.close()


async def test_errors_of_the_request_are_not_retried(nodes: list[Scripted]) -> None:
    one = nodes[0]
    channels, client = client_of(one.address)
    one.errors = [ServiceError("UNKNOWN_TOPIC", "gone")]
    with pytest.raises(ServiceError, match="UNKNOWN_TOPIC"):
        await client.execute(delete(), 5_000)
    assert len(one.requests) == 1
    await channels.close()


async def test_an_absent_quorum_is_an_error_in_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        channels, client = client_of(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ServiceError) as caught:
            await client.execute(delete(), 200)
    assert caught.value.reason == "QUORUM_UNAVAILABLE"
    await channels.close()


async def test_the_quorum_is_described_by_its_leader_or_by_who_knows_of_one(
    nodes: list[Scripted],
) -> None:
    channels, client = client_of(*(node.address for node in nodes))
    nodes[0].quorum = public.DescribeQuorumResponse(term=1)  # woken up a moment ago
    nodes[1].quorum = public.DescribeQuorumResponse(term=2, leader_id=2)
    nodes[1].quorum.nodes.add(node_id=2, address=nodes[1].address)
    assert (await client.describe_quorum()).quorum.term == 2
    nodes[1].quorum.nodes[0].address = "127.0.0.1:1"  # it leads, but does not answer
    assert (await client.describe_quorum()).quorum.leader_id == 2
    nodes[1].quorum = public.DescribeQuorumResponse(term=3)
    assert not (await client.describe_quorum()).quorum.HasField("leader_id")
    await channels.close()


async def test_retries_of_one_write_carry_one_request_id(nodes: list[Scripted]) -> None:
    one = nodes[0]
    channels, client = client_of(one.address)
    sessions = RequestSessions(client, 1)
    one.errors = [ServiceError("QUORUM_UNAVAILABLE", "lost")]
    await sessions.execute(delete(), 5_000)
    await sessions.execute(delete(), 5_000)
    ids = [
        (request.delete_topic.request_id.session_id, request.delete_topic.request_id.sequence)
        for request in one.requests
        if request.WhichOneof("kind") == "delete_topic"
    ]
    assert ids == [(1, 1), (1, 1), (1, 2)]
    await channels.close()


async def test_an_expired_session_is_opened_anew_unless_the_outcome_is_in_doubt(
    nodes: list[Scripted],
) -> None:
    one = nodes[0]
    channels, client = client_of(one.address)
    sessions = RequestSessions(client, 1)
    one.errors = [ServiceError("UNKNOWN_SESSION", "expired")]
    assert (await sessions.execute(delete(), 5_000)).version == 7
    assert one.requests[-1].delete_topic.request_id.session_id == 2
    one.errors = [ServiceError("QUORUM_UNAVAILABLE", "?"), ServiceError("UNKNOWN_SESSION", "?")]
    with pytest.raises(ServiceError, match="may have taken effect"):
        await sessions.execute(delete(), 5_000)
    await channels.close()


async def test_an_election_ends_the_call_to_a_hung_controller_and_keeps_the_request_id(
    nodes: list[Scripted],
) -> None:
    _, two = nodes
    async with image_servers(1) as (hung,):
        patient = ClusterConfig(try_timeout_ms=60_000)
        channels, client = client_of(hung.address, two.address, config=patient)
        request = delete()
        request.delete_topic.request_id.session_id = 41
        client.controller_elected(1, epoch=1)
        doubt = OutcomeDoubt()
        call = asyncio.create_task(client.execute(request, 60_000, doubt))
        async with asyncio.timeout(5):
            await hung.asked.wait()
            client.controller_elected(2, epoch=2)
            client.controller_elected(1, epoch=1)  # old news
            assert (await call).version == 7
        assert two.requests == [request]
        assert doubt.exists
        await channels.close()


async def test_one_try_at_a_hung_controller_does_not_take_all_the_time(
    nodes: list[Scripted],
) -> None:
    async with image_servers(1) as (hung,):
        channels, client = client_of(hung.address, nodes[1].address)
        assert (await client.execute(delete(), 60_000)).version == 7
        assert hung.asked.is_set()
        await channels.close()


async def test_an_election_ends_a_pause_between_tries() -> None:
    channels, client = client_of("127.0.0.1:1", "127.0.0.1:2")
    pause = asyncio.create_task(client.pause(60_000))
    await asyncio.sleep(0)
    client.controller_elected(2, epoch=1)
    async with asyncio.timeout(5):
        await pause
    await channels.close()


async def test_a_callers_request_id_goes_through_unchanged(nodes: list[Scripted]) -> None:
    one = nodes[0]
    channels, client = client_of(one.address)
    request = delete()
    request.delete_topic.request_id.session_id = 41
    request.delete_topic.request_id.sequence = 3
    await RequestSessions(client, 1).execute(request, 5_000)
    assert one.requests == [request]
    await channels.close()
