"""Replicas move between real processes while records are written."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from millstream import Admin, NewTopic, Producer, TopicPartition
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("reassigned")
    config = {"broker.session.timeout.ms": "20000"}
    with LocalCluster.create(
        folder, metadata=1, brokers=4, coordinators=1, config=config
    ) as running:
        running.start()
        running.wait_ready()
        with Admin(bootstrap_servers=running.bootstrap_servers) as admin:
            admin.create_topics([NewTopic(TOPIC, 4)])
        yield running


def brokers(cluster: LocalCluster) -> list[int]:
    return [node.node_id for node in cluster.plan.with_role("broker")]


def millstream(cluster: LocalCluster, *arguments: str) -> Any:
    """What a command says, as JSON. Raises CalledProcessError."""
    done = subprocess.run(
        [sys.executable, "-m", "millstream_server.cli", *arguments, "--format", "json", "-y"],
        env={**os.environ, "MILLSTREAM_BOOTSTRAP_SERVERS": cluster.plan.bootstrap_servers},
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout) if done.stdout else None


def test_a_partition_moves_to_other_brokers_and_back_to_its_preferred_leader(
    cluster: LocalCluster,
) -> None:
    wait_in_sync(cluster)
    before = partitions(cluster)[0]
    absent = next(one for one in brokers(cluster) if one not in before.replica_ids)
    target = [absent, *before.replica_ids[:2]]
    with Writer(cluster) as writer:
        writer.wait_for_more(200)
        ids = ",".join(map(str, target))
        assert millstream(cluster, "partition", "reassign", f"{TOPIC}:0", "--to", ids) == [
            {"topic": TOPIC, "partition": 0, "replicaIds": target}
        ]
        wait_until(lambda: partitions(cluster)[0].replica_ids == tuple(target), "moved")
        moved = partitions(cluster)[0]
        assert set(moved.in_sync_replica_ids) == set(target)
        assert moved.leader_epoch > before.leader_epoch
        writer.wait_for_more(200)
        millstream(cluster, "partition", "elect", f"{TOPIC}:0")
        wait_until(lambda: partitions(cluster)[0].leader_id == absent, "its preferred leader leads")
        writer.wait_for_more(200)
    check_nothing_lost(cluster, writer)
    assert millstream(cluster, "partition", "reassignments")["reassignments"] == []


def test_a_decommissioned_broker_is_emptied_while_records_are_written(
    cluster: LocalCluster,
) -> None:
    leaving = brokers(cluster)[0]
    with Writer(cluster) as writer:
        writer.wait_for_more(200)
        arguments = ("decommission", str(leaving), "--wait", "--timeout", "90s")
        millstream(cluster, "broker", *arguments)
        writer.wait_for_more(200)
    for partition in partitions(cluster):
        assert leaving not in partition.replica_ids
        assert len(partition.replica_ids) == 3
    wait_in_sync(cluster)
    check_nothing_lost(cluster, writer)
    (row,) = [one for one in millstream(cluster, "broker", "list") if one["nodeId"] == leaving]
    assert (row["replicaCount"], row["leaderCount"], row["decommissioning"]) == (0, 0, True)
    elected = sample(cluster, "metadata-1", "millstream_leader_elections_total", kind="preferred")
    assert elected is not None
    assert elected >= 1


def test_a_drained_broker_leads_nothing_until_it_starts_again(cluster: LocalCluster) -> None:
    drained = brokers(cluster)[1]
    name = cluster.node_by_id(drained).name
    with Writer(cluster) as writer:
        writer.wait_for_more(100)
        millstream(cluster, "broker", "drain", str(drained))
        wait_until(lambda: all(one.leader_id != drained for one in partitions(cluster)), "drained")
        writer.wait_for_more(100)
        cluster.kill(name)
        cluster.restart(name)
        cluster.wait_ready()  # or it may still count as in sync since before it was killed
        wait_in_sync(cluster)
        millstream(cluster, "partition", "elect", "--all")
        writer.wait_for_more(100)
    check_nothing_lost(cluster, writer)


def test_a_throttled_move_takes_its_time_and_ends(cluster: LocalCluster) -> None:
    bytes_per_s, size = 2_000_000, 9_000_000
    servers = cluster.bootstrap_servers
    with Admin(bootstrap_servers=servers) as admin:
        admin.create_topics([NewTopic("big", 1, 1)])
        [topic] = admin.describe_topics(["big"])
    target = next(one for one in brokers(cluster)[1:] if one not in topic.partitions[0].replica_ids)
    with Producer(bootstrap_servers=servers) as producer:
        sent = [producer.send("big", b"x" * 100_000) for _ in range(size // 100_000)]
        for receipt in sent:
            receipt.result(60)
    began_s = time.monotonic()
    arguments = ("big:0", "--to", str(target), "--throttle", str(bytes_per_s))
    millstream(cluster, "partition", "reassign", *arguments)
    state = millstream(cluster, "partition", "reassignments")
    assert state["throttleBytesPerS"] == bytes_per_s
    wait_until(
        lambda: millstream(cluster, "partition", "reassignments")["reassignments"] == [], "moved"
    )
    # The last megabyte goes beside the limit.
    assert time.monotonic() - began_s > 0.8 * (size - 1_500_000) / bytes_per_s
    with Admin(bootstrap_servers=servers) as admin:
        [topic] = admin.describe_topics(["big"])
        assert topic.partitions[0].replica_ids == (target,)
        admin.alter_partition_reassignments({}, throttle_bytes_per_s=0)


def test_an_unclean_election_is_refused_while_there_is_a_leader(cluster: LocalCluster) -> None:
    with Admin(bootstrap_servers=cluster.bootstrap_servers) as admin:
        with pytest.raises(Exception, match="leads") as caught:
            admin.elect_leaders("unclean", [TopicPartition(TOPIC, 0)])
        assert caught.value.code == "ELECTION_NOT_NEEDED"  # type: ignore[attr-defined]
