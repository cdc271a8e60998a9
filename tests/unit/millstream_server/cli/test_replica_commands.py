"""``millstream partition`` and ``millstream broker`` against a fake cluster."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from millstream.v1 import metadata_service_pb2 as pb
from millstream_server.cli.main import main
from tests.fakes.broker import FakeCluster

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(1) as running:
        running.create_topic("a", 2)
        yield running


@pytest.fixture
def run(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; exit code, stdout and stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "-b", cluster.bootstrap])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def asked(cluster: FakeCluster, name: str) -> list[Any]:
    return [request for called, request in cluster.calls if called == name]


def test_preferred_leaders_are_elected_for_one_partition_or_all(
    run: Run, cluster: FakeCluster
) -> None:
    code, out, _ = run("partition", "elect", "a:0", "--format", "json")
    assert (code, json.loads(out)) == (0, [{"topic": "a", "partition": 0, "leaderId": 1}])
    assert run("partition", "elect", "--all")[0] == 0
    assert run("partition", "elect", "a")[0] == 0, "one is led as it should be already"
    kinds = {one.kind for one in asked(cluster, "ElectLeaders")}
    assert kinds == {pb.ELECTION_KIND_PREFERRED}


def test_unclean_elections_are_asked_about_first(run: Run, cluster: FakeCluster) -> None:
    assert run("partition", "elect", "a:0", "--unclean")[0] == 1
    assert not asked(cluster, "ElectLeaders")
    assert run("partition", "elect", "a:0", "--unclean", "--replica", "3", "-y")[0] == 0
    (request,) = asked(cluster, "ElectLeaders")
    assert (request.kind, request.partitions[0].replica_id) == (pb.ELECTION_KIND_UNCLEAN, 3)


def test_partitions_are_reassigned_and_followed(run: Run, cluster: FakeCluster) -> None:
    code, out, _ = run("partition", "reassign", "a", "--to", "3,1", "--format", "json")
    assert code == 0
    assert [one["replicaIds"] for one in json.loads(out)] == [[3, 1], [3, 1]]
    assert run("partition", "reassign", "a:1", "-r", "2", "--throttle", "1000", "--dry-run")[0] == 0
    assert run("partition", "reassign", "a:1", "--cancel")[0] == 0
    assert run("partition", "reassign", "--throttle", "0")[0] == 0
    first, second, third, fourth = asked(cluster, "AlterPartitionReassignments")
    assert len(first.partitions) == 2
    assert (second.partitions[0].replication_factor, second.validate_only) == (2, True)
    assert not third.partitions[0].replica_ids
    assert (len(fourth.partitions), fourth.throttle_bytes_per_s) == (0, 0)
    code, out, _ = run("partitions", "reassignments", "a", "--format", "json")
    document = json.loads(out)
    assert [one["partition"] for one in document["reassignments"]] == [0, 1]
    assert document["throttleBytesPerS"] == 7
    assert "At most 7 bytes/s" in run("partition", "reassignments")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["elect"], "name partitions"),
        (["elect", "a", "--all"], "name partitions"),
        (["elect", "a:0", "--replica", "1"], "--unclean"),
        (["elect", "a:x"], "topic:number"),
        (["reassign", "a"], "name partitions"),
        (["reassign", "a", "--to", "1", "--cancel"], "name partitions"),
        (["reassign", "--cancel"], "name partitions"),
        (["reassign", "a", "--to", "1,b"], "broker ids"),
    ],
)
def test_wrong_use_is_told(run: Run, arguments: list[str], words: str) -> None:
    code, _, err = run("partition", *arguments)
    assert (code, words in err) == (2, True), err


def test_brokers_are_listed_and_described_with_what_they_hold(run: Run) -> None:
    code, out, _ = run("broker", "list", "--format", "json")
    (broker,) = json.loads(out)
    assert (code, broker["nodeId"], broker["leaderCount"], broker["replicaCount"]) == (0, 1, 2, 5)
    assert "fenced" in broker
    assert "broker" in run("brokers", "ls")[1].lower()
    code, out, _ = run("broker", "describe", "1", "--format", "json")
    assert [one["topic"] for one in json.loads(out)["replicas"]] == ["a", "a"]
    code, _, err = run("broker", "describe", "9")
    assert (code, "there is no broker 9" in err) == (1, True)


def test_brokers_are_drained_and_decommissioned_when_it_is_confirmed(
    run: Run, cluster: FakeCluster
) -> None:
    assert run("broker", "drain", "1")[0] == 1
    assert run("broker", "decommission", "1")[0] == 1
    assert run("broker", "drain", "1", "--dry-run")[0] == 0
    assert "5 replicas" in run("broker", "decommission", "1", "--dry-run")[2]
    assert not asked(cluster, "DrainBroker")
    assert not asked(cluster, "DecommissionBroker")
    assert run("broker", "drain", "1", "-y")[0] == 0
    assert "3 replicas" in run("broker", "decommission", "1", "-y")[2]
    assert run("broker", "decommission", "1", "--cancel")[0] == 0
    assert [one.cancel for one in asked(cluster, "DecommissionBroker")] == [False, True]
    code, _, err = run("broker", "decommission", "1", "-y", "--wait", "--timeout", "1s")
    assert (code, "still" in err) == (1, True)
