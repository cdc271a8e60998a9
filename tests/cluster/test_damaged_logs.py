"""Damaged files of a broker are found, never served, and repaired from its peers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from millstream import Admin, Consumer, NewTopic, Producer, TopicPartition
from millstream_server.local_cluster.supervisor import LocalCluster
from tests.campaigns.damage import CONFIG, damage
from tests.cluster.damages import is_sound, log_folder
from tests.cluster.replicated import TOPIC, partitions, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_one_brokers_damaged_files_are_repaired_from_its_peers(tmp_path: Path) -> None:
    result = damage(6, 1, tmp_path)
    assert result["cases"] >= 30
    assert result["set_aside"] > 0
    assert result["served"] == 0
    assert result["spread"] == []
    assert "LOG_DAMAGED" not in result["reader_errors"]


def elect(cluster: LocalCluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """As ``deploy/OPERATIONS.md`` says."""
    command = [sys.executable, "-m", "millstream_server.cli", "partition", "elect"]
    return subprocess.run(
        [*command, f"{TOPIC}:0", "--unclean", *arguments, "-y", "--format", "json"],
        env={**os.environ, "MILLSTREAM_BOOTSTRAP_SERVERS": cluster.plan.bootstrap_servers},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read_values(cluster: LocalCluster) -> list[bytes | None]:
    part = TopicPartition(TOPIC, 0)
    servers = cluster.bootstrap_servers
    with Consumer(bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        end = consumer.end_offsets([part])[part]
        consumer.assign([part])
        values: list[bytes | None] = []
        while len(values) < end:
            for records in consumer.getmany(timeout_ms=5000).values():
                values += [record.value for record in records]
    return values


@pytest.mark.parametrize("restarted", [False, True])
def test_a_damaged_sole_copy_leads_again_only_by_an_order_that_names_it(
    tmp_path: Path, restarted: bool
) -> None:
    with LocalCluster.create(
        tmp_path, metadata=1, brokers=1, coordinators=1, config=CONFIG
    ) as cluster:
        cluster.start()
        cluster.wait_ready()
        servers = cluster.bootstrap_servers
        with Admin(bootstrap_servers=servers) as admin:
            admin.create_topics([NewTopic(TOPIC, 1, 1)])
            topic_id = admin.describe_topics([TOPIC])[0].topic_id
        written = [b"%d" % number + b"." * 1000 for number in range(300)]
        with Producer(bootstrap_servers=servers) as producer:
            for value in written:
                producer.send_and_wait(TOPIC, value)
        broker = cluster.node("broker-1")
        folder = log_folder(broker.folder, topic_id, 0)
        spoil_second_segment(folder)
        wait_until(
            lambda: partitions(cluster)[0].damaged_replica_ids == (broker.node_id,),
            "the damage is known",
        )
        assert partitions(cluster)[0].leader_id is None
        if restarted:
            cluster.kill("broker-1")
            cluster.restart("broker-1")
            cluster.wait_ready()
        refused = elect(cluster)
        assert refused.returncode != 0
        assert "must be named" in refused.stdout + refused.stderr
        ordered = elect(cluster, "--replica", str(broker.node_id))
        assert ordered.returncode == 0, ordered.stderr
        with Producer(bootstrap_servers=servers) as producer:
            producer.send_and_wait(TOPIC, b"new")
        values = read_values(cluster)
        kept = len(values) - 1
        assert 50 < kept < 200
        assert values == [*written[:kept], b"new"]
        assert is_sound(folder)


def spoil_second_segment(folder: Path) -> None:
    path = sorted(folder.glob("*.log"))[1]
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"rot")
