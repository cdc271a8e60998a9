"""The metadata cache: deltas, stale news, recreated topics."""

import pytest

from millstream import LeaderNotAvailableError, UnknownPartitionError, UnknownTopicError
from millstream._client.cluster import ClusterCache, ClusterChange
from millstream._client.connection import AddressBook, TopicFilter
from millstream.v1 import metadata_service_pb2 as pb

ID = b"\x01" * 16
OTHER = b"\x02" * 16


def _topic(topic_id: bytes = ID, leader: int | None = 1, epoch: int = 1) -> pb.Topic:
    topic = pb.Topic(name="t", topic_id=topic_id)
    topic.partitions.add(partition=0, leader_id=leader, leader_epoch=epoch)
    return topic


def _message(
    version: int, *topics: pb.Topic, complete: bool = False, **more: object
) -> pb.WatchClusterResponse:
    node = pb.Node(node_id=1, host="h", port=9, roles=[pb.NODE_ROLE_BROKER])
    nodes = [node] if complete else []
    return pb.WatchClusterResponse(
        version=version, complete=complete, cluster_id="c", topics=topics, nodes=nodes, **more
    )


def test_a_leader_is_found_by_topic_id() -> None:
    cache = ClusterCache()
    cache.apply(_message(1, _topic(), complete=True))
    node, epoch = cache.leader(ID, 0)
    assert (node.address, epoch) == ("h:9", 1)
    with pytest.raises(UnknownPartitionError):
        cache.leader(ID, 1)
    with pytest.raises(UnknownTopicError):
        cache.leader(OTHER, 0)
    cache.apply(_message(2, _topic(leader=None, epoch=2)))
    with pytest.raises(LeaderNotAvailableError):
        cache.leader(ID, 0)


def test_a_lagging_broker_does_not_bring_old_leaders_back() -> None:
    cache = ClusterCache()
    cache.apply(_message(5, _topic(epoch=5), complete=True))
    cache.apply(_message(3, _topic(epoch=3), complete=True))
    assert cache.leader(ID, 0)[1] == 5
    cache.apply(_message(4, _topic(epoch=4)))
    assert cache.leader(ID, 0)[1] == 5
    cache.apply(_message(6, _topic(epoch=6)))
    assert cache.leader(ID, 0)[1] == 6
    assert cache.version == 6


def test_a_topic_created_again_is_another_one() -> None:
    cache = ClusterCache()
    changes: list[ClusterChange] = []
    cache.subscribe(changes.append)
    cache.apply(_message(1, _topic(), complete=True))
    cache.apply(_message(2, _topic(OTHER)))
    assert [topic.topic_id for topic in changes[-1].removed_topics] == [ID]
    assert [topic.topic_id for topic in changes[-1].topics] == [OTHER]
    assert ID not in cache.topics_by_id


def test_missing_and_removed_topics_are_told() -> None:
    cache = ClusterCache()
    assert cache.apply(_message(1, complete=True, missing_topics=["t"])).missing_topics == {"t"}
    assert "t" in cache.missing
    cache.apply(_message(2, _topic()))
    assert "t" not in cache.missing
    change = cache.apply(_message(3, removed_topic_ids=[ID]))
    assert [topic.name for topic in change.removed_topics] == ["t"]
    with pytest.raises(UnknownTopicError):
        cache.topic("t")


def test_another_cluster_at_the_same_address_replaces_everything() -> None:
    cache = ClusterCache()
    cache.apply(_message(9, _topic(), complete=True))
    newer = pb.WatchClusterResponse(version=1, complete=True, cluster_id="another")
    cache.apply(newer)
    assert (cache.version, cache.topics, cache.nodes) == (1, {}, {})


def test_unwatched_topics_are_forgotten() -> None:
    cache = ClusterCache()
    cache.apply(_message(1, _topic(), complete=True, missing_topics=["gone"]))
    cache.forget_topics(["t", "gone"])
    assert not cache.topics
    assert not cache.topics_by_id
    assert not cache.missing


def test_known_brokers_are_asked_before_bootstrap_addresses() -> None:
    cache = ClusterCache()
    book = AddressBook(("b:1", "h:9"), cache)
    assert book.current() == "b:1"
    cache.apply(_message(1, complete=True))
    assert book.addresses() == ["h:9", "b:1"]
    book.failed("h:9")
    assert book.current() == "b:1"
    book.failed("h:9")
    assert book.current() == "b:1"


def test_the_filter_grows_with_use() -> None:
    topics = TopicFilter()
    assert topics.use("a")
    assert not topics.use("a")
    assert topics.use("b")
    topics.forget(["a"])
    assert topics.names == ["b"]
    for number in range(1_001):
        topics.use(str(number))
    assert topics.all_topics
    assert topics.names == []
