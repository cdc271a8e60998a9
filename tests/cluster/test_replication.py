"""Three replicas in real processes: whatever dies, what was acknowledged stays."""

import os
import signal
from collections.abc import Iterator

import pytest

from millstream import Admin, NewTopic
from millstream_server.local_cluster.supervisor import LocalCluster
from tests.cluster.replicated import (
    TOPIC,
    Writer,
    check_nothing_lost,
    partitions,
    sample,
    wait_in_sync,
    wait_until,
)

pytestmark = pytest.mark.timeout(600)

BROKERS = ("broker-1", "broker-2", "broker-3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("replicated")
    config = {"replica.lag.time.max.ms": "2000", "broker.session.timeout.ms": "20000"}
    with LocalCluster.create(
        folder, metadata=1, brokers=3, coordinators=1, config=config
    ) as running:
        running.start()
        running.wait_ready()
        with Admin(bootstrap_servers=running.bootstrap_servers) as admin:
            admin.create_topics([NewTopic(TOPIC, 3, 3)])
        yield running


def name_of(cluster: LocalCluster, node_id: int | None) -> str:
    assert node_id is not None
    return cluster.node_by_id(node_id).name


def test_a_follower_that_stops_falls_out_of_sync_and_comes_back(cluster: LocalCluster) -> None:
    wait_in_sync(cluster)
    leader = name_of(cluster, partitions(cluster)[0].leader_id)
    stopped = next(name for name in BROKERS if name != leader)
    replica = str(cluster.node(stopped).node_id)

    def of_leader(name: str, **labels: str) -> float:
        value = sample(cluster, leader, name, topic=TOPIC, partition="0", **labels)
        return -1.0 if value is None else value

    with Writer(cluster) as writer:
        writer.wait_for_more(100)
        pid = cluster.pid(stopped)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(
                lambda: of_leader("millstream_replica_lag_records", replica=replica) > 0,
                "a lag in records",
            )
            wait_until(
                lambda: of_leader("millstream_replica_lag_seconds", replica=replica) > 0.5,
                "a lag in seconds",
            )
            wait_until(
                lambda: of_leader("millstream_partition_in_sync_replicas") == 2,
                "two in sync",
            )
            assert of_leader("millstream_partition_under_replicated") == 1
            writer.wait_for_more(100)  # the others go on without it
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: of_leader("millstream_partition_in_sync_replicas") == 3, "three in sync")
    wait_until(lambda: of_leader("millstream_replica_lag_records", replica=replica) == 0, "no lag")
    wait_until(lambda: of_leader("millstream_replica_lag_seconds", replica=replica) == 0, "no lag")
    shrinks = [sample(cluster, name, "millstream_isr_shrinks_total") or 0 for name in BROKERS]
    expands = [sample(cluster, name, "millstream_isr_expands_total") or 0 for name in BROKERS]
    assert sum(shrinks) >= 1
    assert sum(expands) >= 1
    check_nothing_lost(cluster, writer)


def test_a_leader_that_is_killed_is_replaced_and_nothing_is_lost(cluster: LocalCluster) -> None:
    wait_in_sync(cluster)
    with Writer(cluster) as writer:
        for _ in range(2):
            writer.wait_for_more(100)
            before = partitions(cluster)[0]
            leader = name_of(cluster, before.leader_id)
            cluster.kill(leader)
            writer.wait_for_more(100)
            after = partitions(cluster)[0]
            assert after.leader_id != before.leader_id
            assert after.leader_epoch > before.leader_epoch
            cluster.restart(leader)
            wait_in_sync(cluster)
    check_nothing_lost(cluster, writer)


def test_when_all_brokers_are_killed_nothing_is_lost(cluster: LocalCluster) -> None:
    wait_in_sync(cluster)
    with Writer(cluster) as writer:
        writer.wait_for_more(200)
        for name in BROKERS:
            cluster.kill(name)
        for name in BROKERS:
            cluster.restart(name)
        writer.wait_for_more(200)
    wait_in_sync(cluster)
    check_nothing_lost(cluster, writer)
