"""Hostile content on the quorum's port, from callers that get as far as a voter would: refused,
logged, and nothing changed. With TLS the caller holds a voter's certificate; without, it needs
none."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

import grpc
import pytest
from pysyncobj.poller import createPoller
from pysyncobj.tcp_connection import CONNECTION_STATE, TcpConnection

from millstream_server.local_cluster import NodePlan
from millstream_server.v1 import controller_service_pb2 as controller
from millstream_server.v1 import controller_service_pb2_grpc as controller_grpc
from millstream_server.v1 import raft_pb2 as wire
from tests.cluster.quorum_target import CLUSTER_ID, QuorumTarget, refusal
from tests.fakes.authority import Authority

MIB = 1024 * 1024
STREAM = "/millstream_server.v1.RaftService/SendMessages"


@pytest.fixture(scope="module", params=["tls", "plaintext"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QuorumTarget]:
    folder = tmp_path_factory.mktemp(request.param)
    authority = Authority(folder / "ca") if request.param == "tls" else None
    with QuorumTarget(folder / "cluster", authority) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_changes(target: QuorumTarget) -> Iterator[None]:
    with target.unchanged():
        yield


def follower_of(target: QuorumTarget) -> int:
    """A voter that does not lead: its stream may be replaced for a moment."""
    return 1 if target.leader().node_id != 1 else 2


def hello(from_node_id: int, to_node_id: int, cluster_id: str = CLUSTER_ID) -> bytes:
    greeting = wire.RaftHello(
        cluster_id=cluster_id, from_node_id=from_node_id, to_node_id=to_node_id
    )
    return wire.SendMessagesRequest(hello=greeting).SerializeToString()


def send(target: QuorumTarget, caller: int, frames: Sequence[bytes]) -> tuple[str, str]:
    """Send frames to the leader on a stream of a voter; the status that ends it."""
    held = threading.Event()

    def requests() -> Iterator[bytes]:
        yield from frames
        held.wait(10)

    with target.as_node(target.leader(), caller) as channel:
        call = channel.stream_unary(STREAM)
        try:
            with pytest.raises(grpc.RpcError) as caught:
                call(requests(), timeout=10)
        finally:
            held.set()
    code, details = refusal(caught.value)
    return code.name, details


def entries(*commands: bytes) -> bytes:
    """A leader's message with these commands, in a term far ahead."""
    made = [
        wire.RaftEntry(index=1000 + position, term=900, command=command)
        for position, command in enumerate(commands)
    ]
    append = wire.AppendEntries(term=900, commit_index=1, entries=made)
    message = wire.RaftMessage(sender_term=900, append_entries=append)
    batch = wire.RaftMessages(messages=[message])
    return wire.SendMessagesRequest(messages=batch).SerializeToString()


@pytest.mark.parametrize("kind", [2, 3, 4, 0x80], ids=["membership", "version", "unknown", "high"])
def test_a_forged_kind_of_command(target: QuorumTarget, kind: int) -> None:
    leader, caller = target.leader(), follower_of(target)
    forged = bytes([kind]) + b"cos\nsystem\n(S'touch /tmp/owned'\ntR."
    with target.told(leader, "malformed message"):
        code, _ = send(target, caller, [hello(caller, leader.node_id), entries(forged)])
    assert code == "INVALID_ARGUMENT"


def test_bytes_that_are_no_message(target: QuorumTarget) -> None:
    leader, caller = target.leader(), follower_of(target)
    with target.told(leader, "the bytes are no message"):
        code, _ = send(target, caller, [hello(caller, leader.node_id), b"\xff" * 64])
    assert code == "INVALID_ARGUMENT"


def test_messages_before_any_hello(target: QuorumTarget) -> None:
    with target.told(target.leader(), "a stream begins with a hello"):
        code, _ = send(target, follower_of(target), [entries(b"\0")])
    assert code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("wrong", ["cluster", "receiver", "no voter"])
def test_a_hello_to_or_from_somebody_else(target: QuorumTarget, wrong: str) -> None:
    leader, caller = target.leader(), follower_of(target)
    greeting = {
        "cluster": hello(caller, leader.node_id, "another"),
        "receiver": hello(caller, caller),
        "no voter": hello(4, leader.node_id),
    }[wrong]
    with target.told(leader, "peer refused"):
        code, _ = send(target, caller, [greeting])
    assert code == "PERMISSION_DENIED"


def test_an_oversized_frame(target: QuorumTarget) -> None:
    leader, caller = target.leader(), follower_of(target)
    with target.told(leader, "message too large", counted=False):
        code, details = send(target, caller, [hello(caller, leader.node_id), bytes(17 * MIB)])
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in details


def test_an_oversized_request_without_a_stream(target: QuorumTarget) -> None:
    with target.as_node(target.leader(), follower_of(target)) as channel:
        stub = controller_grpc.ControllerServiceStub(channel)
        assert stub.DescribeQuorum(controller.DescribeQuorumRequest(), timeout=10).last_index
        call = channel.unary_unary("/millstream_server.v1.ControllerService/DescribeQuorum")
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(17 * MIB), timeout=10)
    assert refusal(caught.value)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_stock_pysyncobj_gets_no_answer_and_is_disconnected(target: QuorumTarget) -> None:
    """It greets with its address and then asks for a vote, as zlib-compressed pickles."""
    poller = createPoller("auto")
    received: list[object] = []
    closed: list[bool] = []
    leader = target.leader()
    connection = TcpConnection(
        poller,
        onMessageReceived=received.append,
        onDisconnected=lambda: closed.append(True),
        timeout=10,
    )
    greeted = False
    with handshake_failure_told(target, leader):
        assert connection.connect("127.0.0.1", leader.port)
        for _ in range(1000):
            poller.poll(0.05)
            if connection.state == CONNECTION_STATE.CONNECTED and not greeted:
                greeted = True
                connection.send(f"127.0.0.1:{leader.port + 1}")
                connection.send({"type": "request_vote", "term": 900, "last_log_index": 1 << 40})
            if closed:
                break
        connection.disconnect()
    assert greeted
    assert closed
    assert received == []


@pytest.mark.parametrize(
    "said",
    [b"\xff" * 65_536, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x80\x04\x95" + bytes(64)],
    ids=["noise", "HTTP/1.1", "pickle"],
)
def test_garbage(target: QuorumTarget, said: bytes) -> None:
    leader = target.leader()
    with (
        handshake_failure_told(target, leader),
        socket.create_connection(("127.0.0.1", leader.port), timeout=10) as connection,
    ):
        try:
            connection.sendall(said)
            while connection.recv(65_536):
                pass
        except ConnectionError:
            pass


@contextlib.contextmanager
def handshake_failure_told(target: QuorumTarget, node: NodePlan) -> Iterator[None]:
    """gRPC's core logs what begins no TLS. What is no HTTP/2 on a plaintext port, it drops without
    a line."""
    if target.authority is None:
        yield
        return
    with target.told(node, "Handshake failed", counted=False):
        yield
