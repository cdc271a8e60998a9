"""Where partitions and shards go. Pure: the same nodes and counts give the same answer on every
node, so nothing here iterates over a set without sorting."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from millstream_raft.image import Image, NodeState, ShardLease


@dataclass(frozen=True, slots=True)
class BrokerLoad:
    """A broker that may take partitions, and what it has already."""

    node_id: int
    rack: str
    # Partitions of which it is the preferred leader, and all its replicas.
    leaders: int
    replicas: int


def broker_loads(image: Image) -> list[BrokerLoad]:
    """The brokers that may take partitions, by node id. Walks the whole image."""
    leaders: Counter[int] = Counter()
    replicas: Counter[int] = Counter()
    for topic in image.topics.values():
        for partition in topic.partitions:
            leaders[partition.replicas[0]] += 1
            for node_id in partition.replicas:
                replicas[node_id] += 1
    return [
        BrokerLoad(node_id, node.rack, leaders[node_id], replicas[node_id])
        for node_id, node in sorted(image.nodes.items())
        if node.may_lead and not node.decommissioning
    ]


def place_partitions(
    loads: Sequence[BrokerLoad], count: int, factor: int, *, topic_leaders: Mapping[int, int]
) -> list[tuple[int, ...]]:
    """Replicas of ``count`` new partitions, the preferred leader first.

    Leaders are spread evenly within the topic first (``topic_leaders`` counts those that it has),
    then over the cluster; the other replicas go to other racks as long as there are any, and to
    the emptiest brokers. Raises ValueError if there are fewer brokers than ``factor``.
    """
    if not 1 <= factor <= len(loads):
        raise ValueError(f"{factor} replicas need as many brokers, and {len(loads)} are there")
    own = {load.node_id: topic_leaders.get(load.node_id, 0) for load in loads}
    leaders = {load.node_id: load.leaders for load in loads}
    replicas = {load.node_id: load.replicas for load in loads}
    racks = {load.node_id: load.rack for load in loads}
    placed = []
    for _ in range(count):
        leader = min(own, key=lambda one: (own[one], leaders[one], replicas[one], one))
        own[leader] += 1
        leaders[leader] += 1
        chosen = [leader]
        while len(chosen) < factor:
            used = Counter(racks[one] for one in chosen)
            rest = [one for one in own if one not in chosen]
            chosen.append(min(rest, key=lambda one: (used[racks[one]], replicas[one], one)))
        for one in chosen:
            replicas[one] += 1
        placed.append(tuple(chosen))
    return placed


def add_replicas(
    loads: Sequence[BrokerLoad], kept: Sequence[int], count: int, racks: Mapping[int, str]
) -> list[int]:
    """``count`` brokers for further replicas of a partition that keeps those on ``kept``: in other
    racks as long as there are any, the emptiest first. ``racks`` also knows brokers that may take
    nothing. Fewer, if there are not as many."""
    chosen = list(kept)
    for _ in range(count):
        used = Counter(racks[one] for one in chosen)
        rest = [load for load in loads if load.node_id not in chosen]
        if not rest:
            break
        best = min(rest, key=lambda load: (used[load.rack], load.replicas, load.node_id))
        chosen.append(best.node_id)
    return chosen[len(kept) :]


def lease_shards(
    leases: Sequence[ShardLease], nodes: Mapping[int, NodeState]
) -> tuple[ShardLease, ...]:
    """The leases after owners came or went: even to within one shard, and with as few moves as
    that allows. A lease that changes its owner has its epoch stepped (invariant 28)."""
    live = sorted(node_id for node_id, node in nodes.items() if node.may_coordinate)
    if not live:
        return tuple(_leased(lease, None) for lease in leases)
    targets = _even_targets(leases, live)
    kept: Counter[int] = Counter()
    owners: list[int | None] = []
    for lease in leases:
        owner = lease.owner_id
        stays = owner in targets and kept[owner] < targets[owner]
        if owner is not None and stays:
            kept[owner] += 1
        owners.append(owner if stays else None)
    for number, owner in enumerate(owners):
        if owner is None:
            taker = max(live, key=lambda one: (targets[one] - kept[one], -one))
            kept[taker] += 1
            owners[number] = taker
    return tuple(_leased(lease, owner) for lease, owner in zip(leases, owners, strict=True))


def _even_targets(leases: Sequence[ShardLease], live: Collection[int]) -> dict[int, int]:
    # Those who own most get the larger shares, so that the fewest shards move.
    owned = Counter(lease.owner_id for lease in leases)
    share, larger = divmod(len(leases), len(live))
    by_owned = sorted(live, key=lambda one: (-owned[one], one))
    return {one: share + (1 if rank < larger else 0) for rank, one in enumerate(by_owned)}


def _leased(lease: ShardLease, owner: int | None) -> ShardLease:
    if lease.owner_id == owner:
        return lease
    return replace(lease, owner_id=owner, shard_epoch=lease.shard_epoch + 1)
