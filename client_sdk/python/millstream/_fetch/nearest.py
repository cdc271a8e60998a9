"""Which replica a consumer reads a partition from: the leader, or one in its own rack (KIP-392).

Pure.
"""

from collections.abc import Mapping
from typing import NamedTuple

from millstream._client.cluster import NodeInfo, PartitionInfo

# A replica that could not serve is left alone for so long; its leader serves meanwhile.
AVOID_MS = 5_000


class Source(NamedTuple):
    """Where to read a partition, and the epoch of its leader."""

    node_id: int
    epoch: int


def choose_source(
    info: PartitionInfo, nodes: Mapping[int, NodeInfo], rack: str, avoided: int | None
) -> Source | None:
    """The leader; or a replica in ``rack``, if the leader is in another one and that replica is not
    ``avoided``. None while the partition has no leader. A watch does not tell which replicas are
    in sync (invariant 40): one that is not refuses to be read from, and is avoided then.

    All consumers of a rack choose the same replica of a partition, so that its records are in one
    page cache, and different ones of several partitions.
    """
    leader = nodes.get(info.leader_id) if info.leader_id is not None else None
    if leader is None:
        return None
    if rack and leader.rack != rack:
        near = [
            node_id
            for node_id in info.replica_ids
            if node_id != avoided
            and (node := nodes.get(node_id)) is not None
            and node.rack == rack
            and not node.fenced
        ]
        if near:
            return Source(near[info.partition % len(near)], info.leader_epoch)
    return Source(leader.node_id, info.leader_epoch)
