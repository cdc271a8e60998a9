"""Streams between voters on loopback: order, refusals, reconnection."""

import asyncio

import grpc
import pytest
from structlog.testing import capture_logs

from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_messages import (
    AppendEntries,
    AppendReply,
    Envelope,
    InstallSnapshot,
    LogEntry,
    Position,
    SnapshotPart,
)
from millstream_raft.transport import (
    Link,
    PeerQueue,
    RaftServicer,
    accept_any_peer,
    open_plaintext_channel,
)
from millstream_server.v1 import raft_pb2 as wire
from millstream_server.v1 import raft_pb2_grpc
from tests.fakes.waiting import until

CLUSTER = "cluster"


class Heard:
    """Events, kept."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[int, Envelope]] = asyncio.Queue()
        self.connections: asyncio.Queue[tuple[int, bool]] = asyncio.Queue()

    def message_arrived(self, sender: int, envelope: Envelope) -> None:
        self.messages.put_nowait((sender, envelope))

    def peer_connected(self, peer: int) -> None:
        self.connections.put_nowait((peer, True))

    def peer_disconnected(self, peer: int) -> None:
        self.connections.put_nowait((peer, False))

    async def next_message(self) -> tuple[int, Envelope]:
        return await asyncio.wait_for(self.messages.get(), 10)

    async def next_connection(self) -> tuple[int, bool]:
        return await asyncio.wait_for(self.connections.get(), 10)


class Receiver:
    """Node 1 with the voters 2 and 3."""

    def __init__(self, peer_check=accept_any_peer, port: int = 0) -> None:
        self.heard = Heard()
        self.server = grpc.aio.server()
        self.servicer = RaftServicer(CLUSTER, 1, frozenset((2, 3)), self.heard, peer_check)
        raft_pb2_grpc.add_RaftServiceServicer_to_server(self.servicer, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"


@pytest.fixture
async def receiver():
    receiver = Receiver()
    await receiver.server.start()
    yield receiver
    await receiver.server.stop(0)


def hello(**changes) -> wire.SendMessagesRequest:
    fields = {"cluster_id": CLUSTER, "from_node_id": 2, "to_node_id": 1, **changes}
    return wire.SendMessagesRequest(hello=wire.RaftHello(**fields))


def messages(*some: wire.RaftMessage) -> wire.SendMessagesRequest:
    return wire.SendMessagesRequest(messages=wire.RaftMessages(messages=some))


async def status_of(address: str, *requests: wire.SendMessagesRequest) -> grpc.StatusCode:
    async with open_plaintext_channel(1, address) as channel:
        call = raft_pb2_grpc.RaftServiceStub(channel).SendMessages(iter(requests))
        return await asyncio.wait_for(call.code(), 10)


def reply(number: int) -> Envelope:
    return Envelope(3, AppendReply(number, success=True, reset=False))


@pytest.mark.parametrize(
    ("requests", "status"),
    [
        ([messages()], grpc.StatusCode.INVALID_ARGUMENT),
        ([wire.SendMessagesRequest()], grpc.StatusCode.INVALID_ARGUMENT),
        ([hello(cluster_id="other")], grpc.StatusCode.PERMISSION_DENIED),
        ([hello(to_node_id=3)], grpc.StatusCode.PERMISSION_DENIED),
        ([hello(from_node_id=1)], grpc.StatusCode.PERMISSION_DENIED),
        ([hello(from_node_id=9)], grpc.StatusCode.PERMISSION_DENIED),
        ([hello(), hello()], grpc.StatusCode.INVALID_ARGUMENT),
        ([hello(), messages(wire.RaftMessage())], grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_stream_of_no_voter_is_refused(receiver, requests, status):
    assert await status_of(receiver.address, *requests) == status
    assert receiver.heard.messages.empty()


async def test_bytes_that_are_no_message_are_refused(receiver):
    async with open_plaintext_channel(1, receiver.address) as channel:
        call = channel.stream_unary("/millstream_server.v1.RaftService/SendMessages")(
            iter([b"\x80\x02pickle"])
        )
        assert await asyncio.wait_for(call.code(), 10) is not grpc.StatusCode.OK
    assert receiver.heard.messages.empty()


async def test_peer_that_is_not_who_it_says_is_refused():
    receiver = Receiver(peer_check=lambda context, peer_id: peer_id == 3)
    await receiver.server.start()
    try:
        code = await status_of(receiver.address, hello(from_node_id=2))
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert await status_of(receiver.address, hello(from_node_id=3)) == grpc.StatusCode.OK
    finally:
        await receiver.server.stop(0)


async def test_stopped_node_takes_no_messages(receiver):
    receiver.servicer.stop()
    assert await status_of(receiver.address, hello()) == grpc.StatusCode.UNAVAILABLE


def make_link(address: str, heard: Heard, **changes) -> Link:
    greeting = hello(**changes).hello
    config = RaftConfig(reconnect_pause_ms=10)
    return Link(1, address, greeting, heard, config, open_plaintext_channel)


async def test_link_delivers_in_order(receiver):
    heard = Heard()
    link = make_link(receiver.address, heard)
    link.send(reply(2))  # not connected: forgotten, never sent late
    link.start()
    assert await heard.next_connection() == (1, True)
    for number in range(3, 200):
        link.send(reply(number))
    for number in range(3, 200):
        assert await receiver.heard.next_message() == (2, reply(number))
    await link.stop()
    assert await heard.next_connection() == (1, False)


async def test_link_connects_again_after_a_restart_of_the_peer(receiver):
    heard = Heard()
    link = make_link(receiver.address, heard)
    link.start()
    assert await heard.next_connection() == (1, True)
    await receiver.server.stop(0)
    assert await heard.next_connection() == (1, False)
    link.send(reply(2))
    restarted = Receiver(port=receiver.port)
    await restarted.server.start()
    assert await heard.next_connection() == (1, True)
    link.send(reply(3))
    assert await restarted.heard.next_message() == (2, reply(3)), "nothing from before"
    await link.stop()
    await restarted.server.stop(0)


async def test_stopped_node_ends_the_streams_that_are_silent(receiver):
    heard = Heard()
    link = make_link(receiver.address, heard)
    link.start()
    assert await heard.next_connection() == (1, True)
    receiver.servicer.stop()
    assert await heard.next_connection() == (1, False)
    async with asyncio.timeout(30):  # far below the grace: nothing is left to wait for
        await receiver.server.stop(600)
    await link.stop()


async def test_newer_stream_of_a_voter_replaces_the_older_one(receiver):
    first, second = Heard(), Heard()
    older, newer = make_link(receiver.address, first), make_link(receiver.address, second)
    older.start()
    assert await first.next_connection() == (1, True)
    newer.start()
    assert await second.next_connection() == (1, True)
    older.send(reply(2))
    assert await first.next_connection() == (1, False)
    await older.stop()
    await newer.stop()


async def test_refused_link_is_never_connected_and_says_why_once(receiver):
    heard = Heard()
    link = make_link(receiver.address, heard, cluster_id="other")
    with capture_logs() as lines:
        link.start()
        await until(lambda: bool(reasons(lines)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(heard.connections.get(), 0.5)
        await link.stop()
    assert reasons(lines) == [f"this is node 1 of cluster {CLUSTER}"]


def reasons(lines):
    return [line["why"] for line in lines if line["event"] == "voter not reached"]


def test_queue_drops_what_is_beyond_its_messages():
    queue = PeerQueue(RaftConfig(queue_messages_max=3))
    assert [queue.put(reply(number)) for number in range(2, 6)] == [True, True, True, False]
    assert [each.message.next_index for each in queue.take()] == [2, 3, 4]
    assert queue.put(reply(9))


def test_queue_drops_what_is_beyond_its_bytes_but_keeps_a_snapshot_whole():
    config = RaftConfig(queue_bytes_max=10_000, snapshot_bytes_max=100_000)
    queue = PeerQueue(config)
    entry = LogEntry(b"\0" + bytes(6_000), 2, 1)
    append = Envelope(1, AppendEntries(1, 1, Position(1, 0), (entry,)))
    assert queue.put(append)
    assert not queue.put(append)
    part = SnapshotPart(Position(9, 1), 0, bytes(6_000), False)
    assert all(queue.put(Envelope(1, InstallSnapshot(1, 0, part))) for _ in range(10))
    assert not queue.put(append)


def test_queue_hands_out_pieces_that_fit_a_message():
    queue = PeerQueue(RaftConfig())
    part = SnapshotPart(Position(9, 1), 0, bytes(400_000), False)
    for _ in range(5):
        queue.put(Envelope(1, InstallSnapshot(1, 0, part)))
    assert [len(queue.take()) for _ in range(4)] == [2, 2, 1, 0]
    queue.put(reply(2))
    queue.clear()
    assert len(queue) == 0
