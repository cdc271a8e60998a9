"""Which in-sync set a leader asks for, by what it knows of its followers (invariants 4, 7, 12).

Pure. ``eligible`` holds the node epochs of the brokers that are unfenced and not stopping, by the
leader's image; times are monotonic milliseconds.
"""

from collections.abc import Mapping

from millstream_server.broker.partition import Partition


def wanted_in_sync(
    partition: Partition, eligible: Mapping[int, int], now_ms: int, lag_ms_max: int
) -> tuple[int, ...] | None:
    """The members to ask for; None to leave the set as it is."""
    if partition.recovering:
        return _end_of_recovery(partition, eligible, now_ms, lag_ms_max)
    committed = partition.in_sync.committed
    wanted = tuple(
        node_id
        for node_id in partition.replicas
        if node_id == partition.node_id
        or (
            partition.lag_ms(node_id, now_ms) <= lag_ms_max
            if node_id in committed
            else partition.followers.is_known(node_id, eligible) and partition.may_join(node_id)
        )
    )
    return wanted if committed != frozenset(wanted) else None


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
