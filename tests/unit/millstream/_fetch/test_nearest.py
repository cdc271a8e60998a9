"""A consumer with a rack reads from a replica there, and from the leader where none serves."""

import pytest

from millstream._client.cluster import NodeInfo, PartitionInfo
from millstream._consumer.record import TopicPartition
from millstream._errors.status import from_reason
from millstream._fetch.fetcher import Fetcher
from millstream._fetch.nearest import AVOID_MS, Source, choose_source
from millstream._fetch.partition import Mark
from millstream._fetch.session import FetchLimits
from millstream.record.wire import RawFetchedPartition, RawFetchResponse
from tests.fakes.fetch_broker import reason


def node(node_id: int, rack: str, *, fenced: bool = False) -> NodeInfo:
    return NodeInfo(node_id, "host", 9000 + node_id, rack, frozenset({"broker"}), 1, fenced, "")


NODES = {1: node(1, "a"), 2: node(2, "b"), 3: node(3, "b"), 4: node(4, "c", fenced=True)}


def partition(number: int = 0, leader: int | None = 1, *replicas: int) -> PartitionInfo:
    return PartitionInfo(number, leader, 7, replica_ids=replicas or (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("rack", "avoided", "node_id"),
    [
        ("", None, 1),
        ("a", None, 1),
        ("b", None, 2),
        # The other one in the rack; then the leader.
        ("b", 2, 3),
        # Its node is fenced.
        ("c", None, 1),
        ("nowhere", None, 1),
    ],
)
def test_the_nearest_replica_is_read(rack: str, avoided: int | None, node_id: int) -> None:
    assert choose_source(partition(), NODES, rack, avoided) == Source(node_id, 7)


def test_partitions_spread_over_the_replicas_of_a_rack() -> None:
    sources = [choose_source(partition(number), NODES, "b", None) for number in range(4)]
    assert [one.node_id for one in sources if one is not None] == [2, 3, 2, 3]


def test_only_replicas_are_read() -> None:
    assert choose_source(partition(0, 1, 1, 3), NODES, "b", None) == Source(3, 7)
    assert choose_source(partition(0, 1, 1), NODES, "b", None) == Source(1, 7)


def test_without_a_leader_nothing_is_read() -> None:
    # Its epoch is about to change, and with it what a follower may serve.
    assert choose_source(partition(0, None), NODES, "b", None) is None


def test_a_consumer_falls_back_to_the_leader_and_returns_after_a_while() -> None:
    fetcher = Fetcher(
        FetchLimits(
            window_bytes=1000, partition_bytes_max=1000, bytes_min=1, wait_ms_max=1, rack="b"
        ),
        from_reason,
    )
    one = fetcher.assign(TopicPartition("t", 0), bytes(16))
    fetcher.seek(one, Mark(0))

    def find(_: bytes, __: int, avoided: int | None) -> Source | None:
        return choose_source(partition(0, 1, 1, 2), NODES, "b", avoided)

    fetcher.place(0, find)
    session = fetcher.sessions[2]
    fetcher.opened(session, 1)
    entry = RawFetchedPartition(
        topic_id=bytes(16), token=one.token, error=reason("OFFSET_NOT_AVAILABLE")
    )
    fetcher.received(session, RawFetchResponse(partitions=[entry]), 10)
    fetcher.place(one.retry_at_ms, find)
    assert one.session is fetcher.sessions[1]
    fetcher.leaders_changed(one.retry_at_ms, find)
    assert one.session is fetcher.sessions[1]
    fetcher.leaders_changed(10 + AVOID_MS, find)
    fetcher.place(10 + AVOID_MS, find)
    assert one.session is session
