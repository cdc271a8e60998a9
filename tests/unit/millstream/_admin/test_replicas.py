"""Elections, reassignments and brokers that are emptied, by both admin clients."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from millstream import (
    Admin,
    AsyncAdmin,
    BrokerInfo,
    ElectionNotNeededError,
    InvalidRequestError,
    TopicPartition,
    UnknownTopicError,
)
from millstream.v1 import metadata_service_pb2 as pb
from tests.fakes.broker import FakeCluster

Call = Callable[..., Any]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(1) as running:
        running.create_topic("a", 2)
        yield running


@pytest.fixture(params=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest, cluster: FakeCluster) -> Iterator[Call]:
    """``call("verb", …)`` on either family."""
    options = {"bootstrap_servers": cluster.bootstrap, "retry_backoff_ms": 5}
    if request.param == "blocking":
        with Admin(options) as admin:
            yield lambda verb, *args, **more: getattr(admin, verb)(*args, **more)
        return
    with asyncio.Runner() as runner:
        async_admin = AsyncAdmin(options)
        runner.run(async_admin.start())
        yield lambda verb, *args, **more: runner.run(getattr(async_admin, verb)(*args, **more))
        runner.run(async_admin.close())


def asked(cluster: FakeCluster, name: str) -> list[Any]:
    return [request for called, request in cluster.calls if called == name]


def test_leaders_are_elected_by_topic_id_and_each_failure_is_told(
    call: Call, cluster: FakeCluster
) -> None:
    first, second = TopicPartition("a", 0), TopicPartition("a", 1)
    assert call("elect_leaders", "preferred", [first]) == {first: 1}
    assert call("elect_leaders", "unclean", {first: 3}) == {first: 3}
    assert call("elect_leaders", "preferred", [first, second]) == {first: 1, second: 1}
    with pytest.raises(ElectionNotNeededError) as caught:
        call("elect_leaders", "unclean", [first, second])
    assert set(caught.value.failures) == {second}
    requests = asked(cluster, "ElectLeaders")
    assert [one.kind for one in requests[:2]] == [
        pb.ELECTION_KIND_PREFERRED,
        pb.ELECTION_KIND_UNCLEAN,
    ]
    assert not requests[0].partitions[0].HasField("replica_id")
    assert {one.request_id.sequence for one in requests} == {1, 2, 3, 4}
    with pytest.raises(InvalidRequestError):
        call("elect_leaders", "any", [first])
    with pytest.raises(UnknownTopicError):
        call("elect_leaders", "preferred", [TopicPartition("b", 0)])


def test_all_elections_are_asked_for_until_none_is_left(call: Call, cluster: FakeCluster) -> None:
    assert call("elect_leaders") == {TopicPartition("a", 0): 1, TopicPartition("a", 1): 1}
    assert len(asked(cluster, "ElectLeaders")) == 2


def test_partitions_are_moved_to_brokers_or_numbers_or_not_at_all(
    call: Call, cluster: FakeCluster
) -> None:
    first, second = TopicPartition("a", 0), TopicPartition("a", 1)
    moved = call("alter_partition_reassignments", {first: [3, 1], second: 2})
    assert moved == {first: (3, 1), second: (1, 2)}
    call("alter_partition_reassignments", {first: None}, throttle_bytes_per_s=0)
    call("alter_partition_reassignments", {}, throttle_bytes_per_s=9)
    requests = asked(cluster, "AlterPartitionReassignments")
    assert not requests[0].HasField("throttle_bytes_per_s")
    assert requests[1].HasField("throttle_bytes_per_s")
    assert not requests[1].partitions[0].replica_ids
    assert (len(requests[2].partitions), requests[2].throttle_bytes_per_s) == (0, 9)
    for nothing in ([], 0):
        with pytest.raises(InvalidRequestError):
            call("alter_partition_reassignments", {first: nothing})


def test_moves_are_listed_page_by_page(call: Call, cluster: FakeCluster) -> None:
    found = call("list_partition_reassignments", ["a"])
    assert [one.partition for one in found.reassignments] == [0, 1]
    assert found.reassignments[0].adding_replica_ids == (2,)
    assert found.throttle_bytes_per_s == 7


def test_brokers_are_described_drained_and_decommissioned(call: Call, cluster: FakeCluster) -> None:
    (broker,) = call("describe_brokers")
    assert isinstance(broker, BrokerInfo)
    assert (broker.node.node_id, broker.leader_count, broker.replica_count) == (1, 2, 5)
    call("drain_broker", 1)
    assert call("decommission_broker", 1) == 3
    call("decommission_broker", 1, cancel=True)
    assert [one.cancel for one in asked(cluster, "DecommissionBroker")] == [False, True]
    assert asked(cluster, "DrainBroker")[0].node_id == 1
