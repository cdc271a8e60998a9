"""Which in-sync set a leader asks for, by what it knows of its followers (invariants 4, 7, 12).

Pure; times are monotonic milliseconds.

A member that was not heard of under this leader epoch may be the leader from before: a live broker
that lost the lead to a reassignment, a drain or a preferred election, and has not heard of it. It
answers on within its session, and the high watermark has to wait for it so long (invariant 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from millstream_raft.image import Image
from millstream_server.broker.partition import Partition


@dataclass(frozen=True, slots=True)
class Brokers:
    """The brokers as the leader's image shows them."""

    # Node epochs of those that may be in sync: neither fenced nor stopping (invariant 12).
    eligible: Mapping[int, int]
    # Node ids of those that stop, or should.
    draining: frozenset[int] = frozenset()
    # Time-outs of the sessions.
    session_ms: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Image) -> Self:
        """Those of an image."""
        nodes = image.nodes.values()
        return cls(
            {node.node_id: node.epoch for node in nodes if node.may_lead},
            frozenset(node.node_id for node in nodes if node.shutting_down and not node.fenced),
            {node.node_id: node.session_timeout_ms for node in nodes},
        )


def wanted_in_sync(
    partition: Partition, brokers: Brokers, now_ms: int, lag_ms_max: int
) -> tuple[int, ...] | None:
    """The members to ask for; None to leave the set as it is."""
    if partition.recovering:
        return _end_of_recovery(partition, brokers.eligible, now_ms, lag_ms_max)
    committed = partition.in_sync.committed
    wanted = [
        node_id
        for node_id in partition.replicas
        if node_id == partition.node_id
        or (
            _stays(partition, node_id, brokers, now_ms, lag_ms_max)
            if node_id in committed
            else _joins(partition, node_id, brokers, now_ms, lag_ms_max)
        )
    ]
    target = partition.target
    enough = len(target.intersection(wanted)) >= partition.target_in_sync_min
    # Where not all of the target are needed: those that are there.
    enough = enough and all(one in wanted or one not in brokers.eligible for one in target)
    if enough and partition.node_id in target < set(partition.replicas):
        # The end of the reassignment.
        wanted = [one for one in wanted if one in target or not _heard(partition, one)]
    return tuple(wanted) if committed != frozenset(wanted) else None


def _joins(
    partition: Partition, node_id: int, brokers: Brokers, now_ms: int, lag_ms_max: int
) -> bool:
    """While the high watermark stands still, a follower that lags may have reached it: it would be
    put out again at once."""
    return (
        partition.followers.is_known(node_id, brokers.eligible)
        and partition.may_join(node_id)
        and partition.lag_ms(node_id, now_ms) <= lag_ms_max
    )


def _stays(
    partition: Partition, node_id: int, brokers: Brokers, now_ms: int, lag_ms_max: int
) -> bool:
    lag_ms = partition.lag_ms(node_id, now_ms)
    if not _heard(partition, node_id):
        return lag_ms <= max(lag_ms_max, brokers.session_ms.get(node_id, 0))
    return lag_ms <= lag_ms_max and node_id not in brokers.draining


def _heard(partition: Partition, node_id: int) -> bool:
    """True if a follower copies, or did, and so knows who leads."""
    return partition.followers.node_epoch(node_id) > 0


def _end_of_recovery(
    partition: Partition, eligible: Mapping[int, int], now_ms: int, lag_ms_max: int
) -> tuple[int, ...] | None:
    """Until the leader's first change its followers may cut what was committed (7, 14): those
    that are there get the time for it."""
    looked_ms = partition.followers.looked_ms
    if looked_ms is None:
        return None
    all_cut = all(
        node_id == partition.node_id
        or node_id not in eligible
        or partition.followers.is_known(node_id, eligible)
        for node_id in partition.replicas
    )
    return (partition.node_id,) if all_cut or now_ms - looked_ms > lag_ms_max else None
