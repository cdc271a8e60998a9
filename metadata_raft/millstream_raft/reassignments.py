"""Partitions on their way to other replicas. Pure, like ``elections.py``.

Replicas are added first, and the old ones leave only when all of the target are in sync, so that
no acknowledged record is ever held by fewer. The end steps the leader epoch (invariant 2).
"""

from dataclasses import replace

from millstream_raft.elections import Nodes, elected, stepped
from millstream_raft.image import PartitionState, Reassignment
from millstream_raft.refusal import Refused


def begun(
    partition: PartitionState, target: tuple[int, ...], min_isr: int, nodes: Nodes
) -> PartitionState:
    """The partition on its way to ``target``, or there already; another reassignment of it ends.

    Raises Refused INVALID_REPLICA_ASSIGNMENT if that one cannot end.
    """
    if not target or len(set(target)) != len(target):
        raise Refused("INVALID_REPLICA_ASSIGNMENT", f"replicas {list(target)}: none, or repeated")
    before = _reverted(partition)
    adding = tuple(one for one in target if one not in before.replicas)
    if not adding and target == before.replicas:
        return stepped(partition, elected(before, nodes))
    moving = replace(
        before,
        replicas=(*before.replicas, *adding),
        reassignment=Reassignment(target, adding, min_isr),
    )
    return finished(partition, stepped(partition, elected(moving, nodes)), nodes)


def cancelled(partition: PartitionState, nodes: Nodes) -> PartitionState:
    """The partition with the replicas from before. Raises Refused NO_REASSIGNMENT_IN_PROGRESS, and
    INVALID_REPLICA_ASSIGNMENT if only added replicas hold everything."""
    if partition.reassignment is None:
        raise Refused("NO_REASSIGNMENT_IN_PROGRESS", "the partition is not being reassigned")
    return stepped(partition, elected(_reverted(partition), nodes))


def finished(before: PartitionState, after: PartitionState, nodes: Nodes) -> PartitionState:
    """``after``, which came from ``before`` by one command, with its reassignment finished if all
    of the target are in sync; the leader epoch is stepped then (invariant 2)."""
    moved = after.reassignment
    if moved is None or not set(moved.target) <= set(after.isr):
        return after
    there = replace(
        after,
        replicas=moved.target,
        isr=moved.target,
        elr=(),
        min_isr=moved.min_isr,
        damaged=tuple(one for one in after.damaged if one in moved.target),
        reassignment=None,
    )
    there = elected(there, nodes)
    return replace(
        there,
        leader_epoch=before.leader_epoch + 1,
        partition_epoch=before.partition_epoch + 1,
    )


def _reverted(partition: PartitionState) -> PartitionState:
    if partition.reassignment is None:
        return partition
    replicas = partition.settled

    def stay(node_ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(one for one in node_ids if one in replicas)

    for place in (partition.isr, partition.elr, partition.last_known_elr):
        if place:
            if not stay(place):
                raise Refused(
                    "INVALID_REPLICA_ASSIGNMENT",
                    f"only added replicas {list(place)} hold everything",
                )
            break
    return replace(
        partition,
        replicas=replicas,
        isr=stay(partition.isr),
        elr=stay(partition.elr),
        last_known_elr=stay(partition.last_known_elr),
        recovered_logs=tuple(one for one in partition.recovered_logs if one.node_id in replicas),
        damaged=stay(partition.damaged),
        reassignment=None,
    )
