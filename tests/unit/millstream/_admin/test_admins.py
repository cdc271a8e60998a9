"""Both admin clients, which drive the same flows, over real sockets."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from millstream import (
    Admin,
    AsyncAdmin,
    ClientClosedError,
    InvalidPartitionCountError,
    InvalidRequestError,
    NewTopic,
    OffsetSpec,
    TimedOutError,
    TopicAlreadyExistsError,
    TopicPartition,
    UnknownTopicError,
)
from tests.fakes.broker import FakeCluster

Call = Callable[..., Any]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(1) as running:
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


def test_both_families_have_the_same_verbs() -> None:
    def verbs(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if not name.startswith("_") and callable(member)
        }

    own = verbs(AsyncAdmin)
    del own["start"], own["stop"]
    assert verbs(Admin) == own


def test_topics_are_created_described_grown_and_deleted(call: Call, cluster: FakeCluster) -> None:
    made = call("create_topics", [NewTopic("a", 2), "b"])
    assert [(topic.name, len(topic.partitions)) for topic in made] == [("a", 2), ("b", 1)]
    assert [topic.name for topic in call("list_topics")] == ["a", "b"]
    (topic,) = call("describe_topics", ["a"])
    assert topic.partitions[1].leader_id == 1
    assert len(call("create_partitions", {"a": 4})[0].partitions) == 4
    assert [topic.name for topic in call("wait_for_topics", ["a", "b"], timeout=5)] == ["a", "b"]
    call("delete_topics", ["a"])
    assert [topic.name for topic in call("list_topics")] == ["b"]


def test_all_items_are_tried_and_all_failures_are_told(call: Call, cluster: FakeCluster) -> None:
    cluster.create_topic("a")
    with pytest.raises(TopicAlreadyExistsError) as caught:
        call("create_topics", ["a", "b"])
    assert list(caught.value.failures) == ["a"]
    assert set(cluster.topics) == {"a", "b"}
    with pytest.raises(UnknownTopicError) as missing:
        call("delete_topics", ["nope", "b", "neither"])
    assert set(missing.value.failures) == {"nope", "neither"}
    assert set(cluster.topics) == {"a"}
    with pytest.raises(InvalidPartitionCountError):
        call("create_partitions", {"a": 1})


def test_a_write_whose_answer_was_lost_takes_effect_once(call: Call, cluster: FakeCluster) -> None:
    cluster.call_faults["CreateTopic:answer"].append("QUORUM_UNAVAILABLE")
    (topic,) = call("create_topics", ["a"])
    assert topic.topic_id == cluster.topics["a"].topic_id
    ids = [request.request_id for name, request in cluster.calls if name == "CreateTopic"]
    assert len(ids) == 2
    assert ids[0] == ids[1]
    cluster.call_faults["DeleteTopic:answer"].append("UNAVAILABLE")
    call("delete_topics", ["a"])
    assert not cluster.topics


def test_a_node_is_unregistered_under_one_request_id(call: Call, cluster: FakeCluster) -> None:
    cluster.call_faults["UnregisterNode"].append("QUORUM_UNAVAILABLE")
    call("unregister_node", 7)
    asked = [request for name, request in cluster.calls if name == "UnregisterNode"]
    assert [request.node_id for request in asked] == [7, 7]
    assert asked[0].request_id == asked[1].request_id


def test_names_are_resolved_once_by_a_linearizable_read(call: Call, cluster: FakeCluster) -> None:
    topic = cluster.create_topic("a")
    call("delete_topics", ["a"])
    reads = [request for name, request in cluster.calls if name == "DescribeTopics"]
    assert [request.consistency.linearizable for request in reads] == [True]
    (delete,) = [request for name, request in cluster.calls if name == "DeleteTopic"]
    assert delete.topic_id == topic.topic_id


def test_an_expired_session_is_opened_again(call: Call, cluster: FakeCluster) -> None:
    call("create_topics", ["a"])
    cluster.call_faults["CreateTopic"].append("UNKNOWN_SESSION")
    call("create_topics", ["b"])
    assert set(cluster.topics) == {"a", "b"}
    assert sum(name == "OpenRequestSession" for name, _ in cluster.calls) == 2


def test_retriable_failures_are_tried_again_and_others_are_not(
    call: Call, cluster: FakeCluster
) -> None:
    cluster.call_faults["DescribeCluster"].extend(["NODE_SHUTTING_DOWN", "QUORUM_UNAVAILABLE"])
    assert call("describe_cluster").controller_id == 1
    cluster.call_faults["DescribeCluster"].append("INVALID_REQUEST")
    with pytest.raises(InvalidRequestError, match="scripted"):
        call("describe_cluster")


def test_configs_change_key_by_key(call: Call, cluster: FakeCluster) -> None:
    cluster.create_topic("a", 1, **{"retention.ms": "5", "x": "1"})
    call("alter_configs", {"a": {"retention.ms": 10, "x": None, "flag": True}})
    found = call("describe_configs", ["a"])["a"]
    assert {key: entry.value for key, entry in found.items()} == {
        "retention.ms": "10",
        "flag": "true",
    }
    assert found["flag"].source == "topic"


def test_logs_and_quorum_are_described(call: Call, cluster: FakeCluster) -> None:
    cluster.create_topic("a", 2)
    places = {
        TopicPartition("a", 0): OffsetSpec.earliest(),
        TopicPartition("a", 1): OffsetSpec.latest(),
    }
    assert {place: info.offset for place, info in call("list_offsets", places).items()} == {
        TopicPartition("a", 0): 0,
        TopicPartition("a", 1): 0,
    }
    with pytest.raises(UnknownTopicError):
        call("list_offsets", {TopicPartition("nope", 0): OffsetSpec.latest()})
    assert call("delete_records", {TopicPartition("a", 0): 0}) == {TopicPartition("a", 0): 0}
    (log_dir,) = call("describe_log_dirs")
    assert (log_dir.node_id, log_dir.path) == (1, "/fake")
    with pytest.raises(InvalidRequestError, match="no node"):
        call("describe_log_dirs", [7])
    assert call("describe_quorum").term == 3


def test_waiting_for_topics_ends_in_time(call: Call, cluster: FakeCluster) -> None:
    with pytest.raises(TimedOutError):
        call("wait_for_topics", ["nope"], timeout=0.2)


def test_a_closed_client_refuses(cluster: FakeCluster) -> None:
    admin = Admin(bootstrap_servers=cluster.bootstrap)
    admin.close()
    with pytest.raises(ClientClosedError):
        admin.list_topics()
