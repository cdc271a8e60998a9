"""Where partitions and shards go."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream_raft.image import ShardLease
from millstream_raft.placement import BrokerLoad, broker_loads, lease_shards, place_partitions
from tests.fakes import metadata_images as images


def loads(*racks: str) -> list[BrokerLoad]:
    return [BrokerLoad(number, rack, 0, 0) for number, rack in enumerate(racks, 1)]


@given(st.integers(1, 7), st.integers(1, 40))
def test_leaders_are_even_to_within_one(brokers: int, count: int) -> None:
    placed = place_partitions(loads(*"a" * brokers), count, 1, topic_leaders={})
    led = Counter(replicas[0] for replicas in placed)
    assert sum(led.values()) == count
    assert max(led.values()) - min(led[one] for one in range(1, brokers + 1)) <= 1


def test_replicas_go_to_different_racks_first() -> None:
    for replicas in place_partitions(loads("a", "a", "b", "b", "c"), 10, 3, topic_leaders={}):
        assert len(set(replicas)) == 3
        racks = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c"}
        assert {racks[one] for one in replicas} == {"a", "b", "c"}


def test_more_replicas_than_brokers_are_impossible() -> None:
    with pytest.raises(ValueError, match="2 are there"):
        place_partitions(loads("", ""), 1, 3, topic_leaders={})


def test_a_broker_that_was_away_is_filled_first() -> None:
    image = images.after(images.image_with(1, 2), images.add_topic(1, (1,), (2,), (1,), (2,)))
    image = images.with_nodes(image, 3)
    placed = place_partitions(broker_loads(image), 3, 1, topic_leaders={})
    assert sorted(replicas[0] for replicas in placed) == [1, 2, 3]
    alone = place_partitions(broker_loads(image), 1, 1, topic_leaders={})
    assert alone == [(3,)]


@given(st.lists(st.sets(st.integers(1, 6)), min_size=1, max_size=6), st.integers(1, 20))
def test_shards_are_even_and_move_only_when_they_must(
    live_sets: list[set[int]], count: int
) -> None:
    everybody = images.image_with(1, 2, 3, 4, 5, 6, roles=("coordinator",)).nodes
    leases = tuple(ShardLease(shard, None, 0, shard + 1) for shard in range(count))
    for live in live_sets:
        nodes = {node_id: everybody[node_id] for node_id in live}
        before, leases = leases, lease_shards(leases, nodes)
        owned = Counter(lease.owner_id for lease in leases)
        if not live:
            assert set(owned) == {None}
            continue
        counts = [owned[node_id] for node_id in live]
        assert sum(counts) == count
        assert max(counts) - min(counts) <= 1
        fair = -(-count // len(live))
        for old, new in zip(before, leases, strict=True):
            moved = old.owner_id != new.owner_id
            assert new.shard_epoch == old.shard_epoch + moved
            assert new.producer_id == old.producer_id
        kept = Counter(
            new.owner_id
            for old, new in zip(before, leases, strict=True)
            if old.owner_id == new.owner_id
        )
        had = Counter(old.owner_id for old in before)
        for node_id in live:
            assert kept[node_id] >= min(had[node_id], fair - 1)
        assert lease_shards(leases, nodes) == leases
