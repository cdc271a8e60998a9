"""Every process of a cluster tells what the dashboard and the operators ask for."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from millstream import Admin, Consumer, NewTopic, Producer
from millstream_server.local_cluster.supervisor import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
RECORDS = 300
# Every replica shows its partition.
REPLICAS = 3
PARTITIONS = 3
GROUP = "readers"

EVERYWHERE = {
    "millstream_build_info",
    "millstream_event_loop_lag_seconds",
    "millstream_connections",
}
# Where a method was called at least once.
OF_CALLS = {
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "grpc_server_handling_seconds_count",
}
OF_ROLE = {
    "broker": {
        "millstream_broker_info",
        "millstream_topic_bytes_in_total",
        "millstream_topic_bytes_out_total",
        "millstream_topic_records_in_total",
        "millstream_topic_records_out_total",
        "millstream_request_duration_seconds_bucket",
        "millstream_request_stage_seconds_sum",
        "millstream_partition_log_start_offset",
        "millstream_partition_log_end_offset",
        "millstream_partition_high_watermark",
        "millstream_partition_leader_epoch",
        "millstream_partition_size_bytes",
        "millstream_partition_replicas",
        "millstream_partition_in_sync_replicas",
        "millstream_partition_under_replicated",
        "millstream_partition_under_min_isr",
        "millstream_partition_at_min_isr",
        "millstream_partition_offline",
        "millstream_replica_lag_records",
        "millstream_replica_lag_seconds",
        "millstream_isr_shrinks_total",
        "millstream_isr_expands_total",
        "millstream_log_flush_duration_seconds_bucket",
        "millstream_log_segments",
        "millstream_disk_free_bytes",
        "millstream_log_dir_offline",
        "millstream_throttle_seconds_total",
    },
    "metadata": {
        "millstream_raft_term",
        "millstream_raft_commit_index",
        "millstream_raft_last_log_index",
        "millstream_raft_applied_index",
        "millstream_raft_state",
        "millstream_raft_leader_changes_total",
        "millstream_raft_commit_duration_seconds_bucket",
        "millstream_raft_snapshot_size_bytes",
        "millstream_active_controller",
    },
    "coordinator": {
        "millstream_consumer_group_lag_records",
        "millstream_consumer_group_lag_seconds",
        "millstream_consumer_group_committed_offset",
        "millstream_consumer_group_members",
        "millstream_consumer_group_state",
        "millstream_consumer_group_rebalances_total",
    },
}


class Scrapes:
    """What all nodes of a role said at one time."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.texts: dict[str, str] = {}
        self._families: dict[str, list[Metric]] = {}
        self._roles = {node.name: node.role for node in cluster.plan.nodes}
        for node in cluster.plan.nodes:
            url = f"http://127.0.0.1:{node.admin_port}/metrics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
            self.texts[node.name] = text
            self._families[node.name] = list(text_string_to_metric_families(text))

    def names(self, *, node: str = "", role: str = "") -> set[str]:
        """Names of the series of one node, or of all nodes of a role."""
        return {
            sample.name
            for name, families in self._families.items()
            if node == name or (role and role == self._roles[name])
            for family in families
            for sample in family.samples
        }

    def values(self, series: str, **labels: str) -> list[float]:
        """The values of a series on all nodes, where the labels fit."""
        return [
            sample.value
            for families in self._families.values()
            for family in families
            for sample in family.samples
            if sample.name == series and labels.items() <= sample.labels.items()
        ]

    def labels(self, series: str) -> set[str]:
        """Keys of the labels of a series."""
        return {
            key
            for families in self._families.values()
            for family in families
            for sample in family.samples
            if sample.name == series
            for key in sample.labels
        }


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrapes]:
    """All nodes of a cluster in which a group reads and commits what was produced."""
    with LocalCluster.create(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.start()
        servers = cluster.bootstrap_servers
        with Admin(bootstrap_servers=servers) as admin:
            admin.create_topics([NewTopic("logs", PARTITIONS)])
        with Producer(bootstrap_servers=servers) as producer:
            for number in range(RECORDS):
                producer.send("logs", b"line", partition=number % PARTITIONS)
            producer.flush()
        with Consumer(
            bootstrap_servers=servers, group_id=GROUP, auto_offset_reset="earliest"
        ) as consumer:
            consumer.subscribe(["logs"])
            left = RECORDS
            while left:
                batches = consumer.getmany(timeout_ms=20_000)
                assert batches
                left -= sum(map(len, batches.values()))
            consumer.commit()
            found = Scrapes(cluster)
            deadline = time.monotonic() + 60
            while not settled(found) and time.monotonic() < deadline:
                time.sleep(0.2)
                found = Scrapes(cluster)
            yield found


def settled(scrapes: Scrapes) -> bool:
    """True once the nodes tell of all that was done; each of them does so a little later, and a
    quorum may elect anew meanwhile."""

    def total(series: str, **labels: str) -> float:
        return sum(scrapes.values(f"millstream_{series}", **labels))

    return (
        total("consumer_group_committed_offset") >= RECORDS
        and len(scrapes.values("millstream_consumer_group_lag_records")) >= 3
        and total("active_controller") == 1
        and total("raft_state", state="leader") == 1
        and total("replica_lag_records") == 0
        and total("partition_high_watermark", topic="logs") == REPLICAS * RECORDS
    )


def test_every_process_has_every_series_of_its_role(scrapes: Scrapes) -> None:
    assert {name: EVERYWHERE - scrapes.names(node=name) for name in scrapes.texts} == {
        name: set() for name in scrapes.texts
    }
    missing = {
        role: (names | OF_CALLS) - scrapes.names(role=role) for role, names in OF_ROLE.items()
    }
    assert missing == {role: set() for role in OF_ROLE}


def test_the_values_are_those_of_the_load(scrapes: Scrapes) -> None:
    def total(series: str, **labels: str) -> float:
        return sum(scrapes.values(f"millstream_{series}", **labels))

    logs = {"topic": "logs"}
    assert total("broker_info") == 3
    assert total("active_controller") == 1
    assert total("raft_state", state="leader") == 1
    assert total("raft_state") == 3
    assert total("topic_records_in_total", **logs) == RECORDS
    assert total("topic_records_out_total", **logs) == RECORDS
    assert total("partition_log_end_offset", **logs) == REPLICAS * RECORDS
    assert total("partition_high_watermark", **logs) == REPLICAS * RECORDS
    assert total("partition_in_sync_replicas", **logs) == PARTITIONS * REPLICAS * REPLICAS
    assert total("partition_replicas", **logs) == PARTITIONS * REPLICAS * REPLICAS
    assert total("partition_under_replicated") == 0
    assert total("partition_offline") == 0
    assert total("replica_lag_records") == 0
    assert total("log_dir_offline") == 0
    assert total("consumer_group_committed_offset", group=GROUP) == RECORDS
    assert total("consumer_group_lag_records", group=GROUP) == 0
    assert total("consumer_group_members", group=GROUP) == 1
    assert total("consumer_group_state", group=GROUP, state="stable") == 1
    assert min(scrapes.values("millstream_disk_free_bytes")) > 0
    assert max(scrapes.values("millstream_connections")) >= 1
    assert max(scrapes.values("millstream_event_loop_lag_seconds")) < 5
    for stage in ("queue", "append", "replicate", "respond"):
        assert total("request_stage_seconds_count", stage=stage) > 0, stage


def test_the_dashboard_asks_for_series_that_exist(scrapes: Scrapes) -> None:
    board = json.loads((ROOT / "deploy/grafana/millstream-overview.json").read_text())
    selectors = {
        selector
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for selector in re.findall(r"(millstream_\w+)\{([^}]*)\}", target["expr"])
    }
    assert len(selectors) > 10
    for series, labels in sorted(selectors):
        pairs = re.findall(r'(\w+)=~?"([^"]*)"', labels)
        # Prometheus adds the cluster, and the reader chooses what begins with a dollar sign.
        wanted = {key: value for key, value in pairs if not value.startswith("$")}
        chosen = {key for key, _ in pairs} - {"cluster"}
        assert scrapes.values(series, **wanted), (series, labels)
        assert chosen <= scrapes.labels(series), (series, labels)


def test_the_names_are_as_prometheus_wants_them(scrapes: Scrapes, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for name, text in scrapes.texts.items():
        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=text,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), name
