"""Partitions on their way to other replicas. Pure, like ``elections.py``.

Replicas are added first, and the old ones leave only when all of the target are in sync, so that
no acknowledged record is ever held by fewer. The end steps the leader epoch (invariant 2).

A leader that is not in the target loses the lead first, and stays in sync: a live broker goes on
answering for as long as it has not heard, and its session lasts (invariant 3). While it counts for
the high watermark, nothing is committed that its answers lack. So nobody who is in sync is put out
here: the leader does that, once the others copy from it; see ``in_sync_changes``.
"""

from dataclasses import replace

from millstream_raft.elections import Nodes, elected, stepped
from millstream_raft.image import PartitionState, Reassignment
from millstream_raft.refusal import Refused


def begun(
    partition: PartitionState, target: tuple[int, ...], min_isr: int, nodes: Nodes
) -> PartitionState:
    """The partition on its way to ``target``. Replicas that a former
    reassignment was adding stay only if the target has them too, or while they are in sync.

    Raises Refused INVALID_REPLICA_ASSIGNMENT if it is not known yet who holds everything.
    """
    if not target or len(set(target)) != len(target):
        raise Refused("INVALID_REPLICA_ASSIGNMENT", f"replicas {list(target)}: none, or repeated")
    added = tuple(one for one in target if one not in partition.settled)
    return _moved(partition, target, added, min_isr, nodes)


def cancelled(partition: PartitionState, nodes: Nodes) -> PartitionState:
    """The partition with the replicas from before, or on its way to them if added ones are in sync:
    these go once at least min.insync.replicas of the others are.
    Raises Refused NO_REASSIGNMENT_IN_PROGRESS, and INVALID_REPLICA_ASSIGNMENT if it is not known
    yet who holds everything."""
    if partition.reassignment is None:
        raise Refused("NO_REASSIGNMENT_IN_PROGRESS", "the partition is not being reassigned")
    return _moved(partition, partition.settled, (), partition.min_isr, nodes)


def carried_on(before: PartitionState, after: PartitionState, nodes: Nodes) -> PartitionState:
    """``after``, which came from ``before`` by one command, with the next step of its reassignment
    taken if enough of the target are in sync: one of them leads, and once nobody else is in sync
    the reassignment is finished, which steps the leader epoch (invariant 2). Whatever changes a
    partition may carry it on: an election can leave a sole in-sync replica that is the target."""
    moved = after.reassignment
    if moved is None:
        return after
    there = tuple(one for one in moved.target if one in after.isr)
    if len(there) < after.target_in_sync_min:
        return after
    led = after
    if after.leader_id not in (None, *moved.target):
        able = (one for one in there if (node := nodes.get(one)) and node.may_lead)
        leader_id = next(able, None)
        if leader_id is not None:
            led = replace(after, leader_id=leader_id)
    if len(there) == len(led.isr):
        finished = replace(
            led,
            replicas=moved.target,
            isr=there,
            elr=(),
            min_isr=moved.min_isr,
            damaged=tuple(one for one in after.damaged if one in moved.target),
            reassignment=None,
        )
        led = elected(finished, nodes)
    elif led is after:
        return after
    return replace(
        led,
        leader_epoch=before.leader_epoch + 1,
        partition_epoch=before.partition_epoch + 1,
    )


def _moved(
    partition: PartitionState,
    target: tuple[int, ...],
    added: tuple[int, ...],
    min_isr: int,
    nodes: Nodes,
) -> PartitionState:
    stays = {*partition.settled, *added}
    added = (*added, *(one for one in (*partition.isr, *partition.elr) if one not in stays))
    moving = _held_by(partition, (*partition.settled, *added))
    if target != moving.replicas or added:
        moving = replace(moving, reassignment=Reassignment(target, added, min_isr))
    return stepped(partition, elected(moving, nodes))


def _held_by(partition: PartitionState, replicas: tuple[int, ...]) -> PartitionState:
    """The partition with exactly these replicas, on its way nowhere."""

    def stay(node_ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(one for one in node_ids if one in replicas)

    compared = partition.last_known_elr
    if stay(compared) != compared:  # the longest log may be the one that would go (invariant 7)
        raise Refused(
            "INVALID_REPLICA_ASSIGNMENT",
            f"the logs of {list(compared)} have to be compared before one of these replicas goes",
        )
    return replace(
        partition,
        replicas=replicas,
        damaged=stay(partition.damaged),
        reassignment=None,
    )
