"""A stopped metadata node holds up nobody for long: not those who follow its image, not writes."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from millstream import Admin, NewTopic
from millstream.v1 import metadata_service_pb2 as metadata
from millstream.v1 import metadata_service_pb2_grpc as metadata_grpc
from millstream_server.local_cluster import LocalCluster, NodePlan
from tests.cluster.quorum_leader import agreed_leader, leader_told_by

_LIMIT_S = 30.0
# A pause that nobody was meant to sit out; noticing it takes about a second.
_NOTICED_S = 8.0
# A write that waited for the stopped controller itself would take five seconds and more, each time.
_WRITE_S = 4.5
_TRIES = 3
_FOLLOWED = re.compile(
    r'"address": ?"([^"]+)".*image is followed"|image is followed\b.*address=(\S+)'
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    # Longer than _NOTICED_S, and than a busy machine may hold up a broker.
    config = {
        "log.level": "debug",
        "default.replication.factor": 1,
        "broker.session.timeout.ms": 15_000,
    }
    made = LocalCluster.create(
        tmp_path_factory.mktemp("pauses"), brokers=2, coordinators=1, config=config
    )
    with made:
        made.start()
        yield made


def until(condition: Callable[[], bool], limit_s: float = _LIMIT_S) -> float:
    """Wait; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, "it did not come about in time"
        time.sleep(0.02)
    return time.monotonic() - began


def followed_by(node: NodePlan) -> str:
    """Address of the metadata node whose image a node follows, by its log."""
    found = [one or two for one, two in _FOLLOWED.findall(node.log_path.read_text())]
    return found[-1] if found else ""


def knows(node: NodePlan, topic: str) -> bool:
    """True if the node's own image has the topic; an admin client might ask another node."""
    with grpc.insecure_channel(node.address) as channel:
        stub = metadata_grpc.MetadataServiceStub(channel)
        listed = stub.ListTopics(metadata.ListTopicsRequest(), timeout=_LIMIT_S)
    return topic in {one.name for one in listed.topics}


def stop(cluster: LocalCluster, node: NodePlan) -> Callable[[], None]:
    """SIGSTOP; returns what lets the node go on."""
    pid = cluster.pid(node.name)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


def test_a_broker_leaves_a_stopped_metadata_node_within_its_session(cluster: LocalCluster) -> None:
    broker, other = cluster.plan.with_role("broker")
    by_address = {node.address: node for node in cluster.plan.with_role("metadata")}
    with (
        Admin(bootstrap_servers=broker.address) as admin,
        Admin(bootstrap_servers=other.address) as elsewhere,
    ):
        until(lambda: followed_by(broker) in by_address)
        stopped = by_address[followed_by(broker)]
        epochs = {node.node_id: node.epoch for node in admin.describe_cluster().nodes}
        go_on = stop(cluster, stopped)
        try:
            elsewhere.create_topics([NewTopic("while-stopped", 1)])
            until(lambda: knows(broker, "while-stopped"), _NOTICED_S)
            assert followed_by(broker) != stopped.address
            nodes = {node.node_id: node for node in elsewhere.describe_cluster().nodes}
        finally:
            go_on()
        for one in (broker, other):
            assert not nodes[one.node_id].fenced
            assert nodes[one.node_id].epoch == epochs[one.node_id]


def test_a_stopped_controller_holds_up_no_write(cluster: LocalCluster) -> None:
    times: list[float] = []
    # A machine that is busy may hold up one write, too.
    while len(times) < _TRIES and min(times, default=_WRITE_S) >= _WRITE_S:
        times.append(write_without_controller(cluster, f"without-controller-{len(times)}"))
    assert min(times) < _WRITE_S, times


def write_without_controller(cluster: LocalCluster, topic: str) -> float:
    """The seconds that it takes to create a topic while the controller is stopped."""
    broker = cluster.plan.with_role("broker")[0]
    with Admin(bootstrap_servers=broker.address) as admin:
        leader = agreed_leader(cluster)
        others = [node for node in cluster.plan.with_role("metadata") if node != leader]
        go_on = stop(cluster, leader)
        try:
            began = time.monotonic()
            admin.create_topics([NewTopic(topic, 1)])
            took_s = time.monotonic() - began
            until(lambda: any(leader_told_by(one) not in (None, leader.node_id) for one in others))
        finally:
            go_on()
        assert admin.describe_topics([topic])
    return took_s
