"""The verdict on a cluster."""

from typing import Any

from millstream_server.cli.health_assessment import Severity, assess, unreachable


def node(node_id: int, role: str, *, fenced: bool = False) -> dict[str, Any]:
    return {"nodeId": node_id, "roles": [role], "fenced": fenced}


def cluster(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"controllerId": 1, "nodes": list(nodes)}


def topic(leader: int | None = 1, in_sync: int = 1) -> dict[str, Any]:
    partition = {
        "partition": 0,
        "leaderId": leader,
        "replicaIds": [1, 2][: max(in_sync, 1)] if in_sync else [1],
        "inSyncReplicaIds": [1, 2][:in_sync],
    }
    return {"name": "logs", "partitions": [partition]}


GOOD = cluster(node(1, "metadata"), node(2, "broker"), node(3, "coordinator"))
QUORUM = {"leaderId": 1, "nodes": [{"nodeId": 1, "connected": True}]}


def test_a_healthy_cluster_is_ok():
    verdict = assess(GOOD, [topic()], QUORUM)
    assert verdict.severity is Severity.OK
    assert verdict.document()["healthy"] is True
    assert verdict.nagios_line() == (
        "MILLSTREAM OK - 1 broker, 1 coordinator, 1 topic, 1 partition | brokers=1 "
        "coordinators=1 topics=1 partitions=1 leaderless_partitions=0 "
        "under_replicated_partitions=0"
    )


def test_a_partition_without_a_leader_is_critical():
    verdict = assess(GOOD, [topic(leader=None)], QUORUM)
    assert verdict.severity is Severity.CRITICAL
    assert verdict.summary == "1 partition is without a leader (logs:0)"


def test_a_lagging_replica_is_a_warning():
    verdict = assess(GOOD, [topic(in_sync=0)], QUORUM)
    assert verdict.severity is Severity.WARNING
    assert "under-replicated" in verdict.summary


def test_a_broker_that_is_down_is_a_warning_and_all_of_them_critical():
    some = cluster(node(2, "broker"), node(4, "broker", fenced=True), node(3, "coordinator"))
    assert assess(some, [], QUORUM).summary == "broker 4 is down"
    none = cluster(node(4, "broker", fenced=True), node(3, "coordinator"))
    assert assess(none, [], QUORUM).severity is Severity.CRITICAL


def test_a_quorum_without_a_leader_is_critical():
    assert assess(GOOD, [], None).severity is Severity.CRITICAL
    assert assess(GOOD, [], {"nodes": []}).severity is Severity.CRITICAL


def test_a_metadata_node_apart_is_a_warning():
    quorum = {"leaderId": 1, "nodes": [{"nodeId": 5, "connected": False}]}
    assert assess(GOOD, [], quorum).summary == "metadata node 5 is not connected"


def test_the_worst_finding_is_the_summary():
    bad = cluster(node(2, "broker"), node(4, "broker", fenced=True), node(3, "coordinator"))
    verdict = assess(bad, [topic(leader=None)], QUORUM)
    assert len(verdict.findings) == 2
    assert "without a leader" in verdict.summary


def test_a_cluster_that_does_not_answer_is_critical():
    assert unreachable("nobody there").nagios_line() == "MILLSTREAM CRITICAL - nobody there | "
