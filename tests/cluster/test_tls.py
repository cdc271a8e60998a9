"""A cluster over mutual TLS: it works as without, and whoever has not the right certificate is
refused, told to the operator, and changes nothing. The last test kills its leader."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from millstream import Admin, Consumer, NewTopic, Producer
from millstream_server.local_cluster import LocalCluster
from millstream_server.v1 import controller_service_pb2 as controller
from millstream_server.v1 import controller_service_pb2_grpc as controller_grpc
from millstream_server.v1 import raft_pb2 as raft
from millstream_server.v1 import replication_service_pb2 as replication
from millstream_server.v1 import replication_service_pb2_grpc as replication_grpc
from tests.cluster.quorum_target import CLUSTER_ID, QuorumTarget, refusal
from tests.fakes.authority import LOOPBACK, Authority, node_name

BROKERS = 2
BROKER_ID, COORDINATOR_ID = 4, 6
INTERNAL = {
    f"/{service.full_name}/{method.name}": method
    for module in (controller, raft, replication)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def target(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QuorumTarget]:
    folder = tmp_path_factory.mktemp("cluster")
    with QuorumTarget(folder, authority, brokers=BROKERS) as made:
        yield made


def produce_and_consume(target: QuorumTarget, values: Sequence[bytes], group: str) -> None:
    """Through a topic of its own, and a group that commits."""
    topic = f"topic-of-{group}"
    with Producer.from_config(target.client_properties()) as producer:
        for value in values:
            producer.send(topic, value)
    consuming = {**target.client_properties(), "group.id": group, "auto.offset.reset": "earliest"}
    read: list[bytes] = []
    with Consumer.from_config(consuming) as consumer:
        consumer.subscribe([topic])
        deadline = time.monotonic() + 60
        while len(read) < len(values) and time.monotonic() < deadline:
            read += [bytes(record.value) for record in consumer.consume(len(values), timeout=1.0)]
        consumer.commit()
    assert sorted(read) == sorted(values)


def create_topic(target: QuorumTarget, name: str) -> None:
    with Admin.from_config(target.client_properties()) as admin:
        admin.create_topics([NewTopic(name, partitions=1, replication_factor=BROKERS)])


def test_clients_produce_consume_and_commit_on_replicated_partitions(target: QuorumTarget) -> None:
    """Acknowledged by all: the other broker copied the records over TLS."""
    create_topic(target, "topic-of-readers")
    produce_and_consume(target, [b"%d" % n for n in range(500)], "readers")
    with Admin.from_config(target.client_properties()) as admin:
        (topic,) = admin.describe_topics(["topic-of-readers"])
    assert len(topic.partitions[0].in_sync_replica_ids) == BROKERS


def test_the_command_line_works_and_tells_the_quorum(target: QuorumTarget, tmp_path: Path) -> None:
    properties = tmp_path / "client.properties"
    lines = [f"{key}={value}" for key, value in target.client_properties().items()]
    properties.write_text("\n".join(lines))
    command = [sys.executable, "-m", "millstream_server.cli", "metadata", "quorum", "describe"]
    done = subprocess.run(
        [*command, "--config", str(properties), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    quorum = json.loads(done.stdout)
    assert quorum["leaderId"] == target.world().leader_id
    assert all(node["connected"] for node in quorum["nodes"])


def outcome(channel: grpc.Channel, path: str) -> tuple[grpc.StatusCode, str]:
    """How a call of an internal method ends, with an empty request."""
    method = INTERNAL[path]
    kinds = ("unary", "stream")
    opened: Any = getattr(
        channel, f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
    )(path)
    try:
        answer = opened(iter([b""]) if method.client_streaming else b"", timeout=10)
        list(answer if method.server_streaming else [answer])
    except grpc.RpcError as error:
        return refusal(error)
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("wrong", ["none", "of another authority", "expired"])
def test_a_wrong_certificate_gets_no_connection(
    target: QuorumTarget, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    """Whatever it says: each names the node that it should, and fails at another thing."""
    name = node_name(CLUSTER_ID, 1)
    files = {
        "none": None,
        "of another authority": Authority(tmp_path).issue("forged", name),
        "expired": authority.issue("expired", name, expired=True),
    }[wrong]
    leader = target.leader()
    said = {
        "none": "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        "of another authority": "unable to get local issuer certificate",
        "expired": "certificate has expired",
    }[wrong]
    with (
        target.unchanged(),
        target.told(leader, said, counted=False),
        target.channel(leader, files) as channel,
    ):
        code, _ = outcome(channel, "/millstream_server.v1.ControllerService/DescribeQuorum")
        assert code is grpc.StatusCode.UNAVAILABLE


def test_a_client_in_plaintext_gets_no_connection(target: QuorumTarget) -> None:
    leader = target.leader()
    with (
        target.unchanged(),
        target.told(leader, "Handshake failed", counted=False),
        grpc.insecure_channel(leader.address) as channel,
    ):
        code, _ = outcome(channel, "/millstream_server.v1.ControllerService/DescribeQuorum")
        assert code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("path", INTERNAL)
def test_a_client_may_call_nothing_internal(
    target: QuorumTarget, authority: Authority, path: str
) -> None:
    serving = target.cluster.node("broker-1") if "Replication" in path else target.leader()
    files = authority.issue("client")
    with (
        target.unchanged(),
        target.told(serving, f'"method": "{path}"'),
        target.channel(serving, files) as channel,
    ):
        code, _ = outcome(channel, path)
        assert code is grpc.StatusCode.PERMISSION_DENIED


def test_a_node_may_not_speak_as_a_voter_that_it_is_not(target: QuorumTarget) -> None:
    leader = target.leader()
    voter = 1 if leader.node_id != 1 else 2
    greeting = raft.RaftHello(cluster_id=CLUSTER_ID, from_node_id=voter, to_node_id=leader.node_id)
    request = raft.SendMessagesRequest(hello=greeting)
    with (
        target.unchanged(),
        target.told(leader, f"the certificate is not that of node {voter}"),
        target.as_node(leader, BROKER_ID) as channel,
    ):
        call = channel.stream_unary(
            "/millstream_server.v1.RaftService/SendMessages",
            request_serializer=raft.SendMessagesRequest.SerializeToString,
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(iter([request]), timeout=10)
        assert refusal(caught.value)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_node_may_not_register_as_another(target: QuorumTarget) -> None:
    leader = target.leader()
    registration = controller.Registration(
        cluster_id=CLUSTER_ID, node_id=COORDINATOR_ID, incarnation_id=bytes(16), roles=[1]
    )
    request = controller.NodeSessionRequest(registration=registration)
    with (
        target.unchanged(),
        target.told(leader, f"the certificate is not that of node {COORDINATOR_ID}"),
        target.as_node(leader, BROKER_ID) as channel,
    ):
        answers = controller_grpc.ControllerServiceStub(channel).NodeSession(
            iter([request]), timeout=10
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert refusal(caught.value)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_node_may_not_follow_as_another(target: QuorumTarget) -> None:
    broker = target.cluster.node("broker-1")
    hello = replication.ReplicationHello(
        cluster_id=CLUSTER_ID,
        follower_id=COORDINATOR_ID,
        leader_id=BROKER_ID,
        session_id=1,
        lane=replication.REPLICATION_LANE_TAIL,
    )
    with (
        target.unchanged(),
        target.told(broker, f"the certificate is not that of node {COORDINATOR_ID}"),
        target.as_node(broker, 1) as channel,
    ):
        answers = replication_grpc.ReplicationServiceStub(channel).Replicate(
            iter([replication.ReplicateRequest(hello=hello)]), timeout=10
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert refusal(caught.value)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_no_key_is_logged_and_the_certificates_end_is_measured(target: QuorumTarget) -> None:
    for node in target.cluster.plan.nodes:
        key = Path(node.config["tls.key.file"]).read_text().split("\n")[1]
        assert key not in target.log(node)
        assert "PRIVATE KEY" not in target.log(node)
        assert "millstream_certificate_expiry_timestamp_seconds" in target.metrics(node)


def test_a_node_with_a_wrong_certificate_does_not_start(
    target: QuorumTarget, authority: Authority, tmp_path: Path
) -> None:
    """A broker with the certificate of another: it says so and ends."""
    cluster: LocalCluster = target.cluster
    broker = cluster.node("broker-1")
    keys = authority.node_keys(*authority.issue("stray", node_name(CLUSTER_ID, 7), *LOOPBACK))
    settings = {
        **broker.config,
        **keys,
        "listeners": "127.0.0.1:0",
        "admin.listener": "",
        "data.dir": str(tmp_path / "data"),
        "controller.quorum.voters": ",".join(broker.config["controller.quorum.voters"]),
        "process.roles": "broker",
    }
    arguments = [part for key, value in settings.items() for part in ("-X", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "millstream_server.cli", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "must name a node" in done.stderr
    assert node_name(CLUSTER_ID, BROKER_ID) in done.stderr


def test_the_quorum_elects_after_kill_9_of_its_leader_and_goes_on(target: QuorumTarget) -> None:
    killed = target.leader()
    create_topic(target, "topic-of-survivors")
    target.cluster.kill(killed.name)
    produce_and_consume(target, [b"%d" % n for n in range(100)], "survivors")
    create_topic(target, "after-the-election")
    assert target.leader().node_id != killed.node_id
    target.cluster.restart(killed.name)
    target.cluster.wait_ready()
