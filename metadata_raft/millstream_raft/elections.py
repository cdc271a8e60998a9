"""Leaders and replica sets of one partition after something happened to a replica.

All functions are pure: partition and nodes in, partition out. A result that differs has its
partition epoch stepped by one, and its leader epoch if the leader changed (invariants 1 and 2).
The terms ISR, ELR and LastKnownELR are those of KIP-966 (invariants 5 to 7).
"""

from collections.abc import Mapping
from dataclasses import replace

from millstream_raft.image import FLUSH_FSYNC, NodeState, PartitionState

Nodes = Mapping[int, NodeState]


def without_replica(partition: PartitionState, node_id: int, nodes: Nodes) -> PartitionState:
    """The partition after a replica's session ended, or while it stops: it leaves the ISR, into
    the ELR where the ISR falls below its minimum (invariant 6), and another leader is elected."""
    if node_id not in partition.isr and partition.leader_id != node_id:
        return partition
    isr = _without(partition.isr, node_id)
    elr = partition.elr
    if len(isr) < partition.min_isr and node_id in partition.isr and node_id not in elr:
        elr = (*elr, node_id)
    return _stepped(partition, _elected(_with_sets(partition, isr, elr), nodes))


def without_damaged_replica(
    partition: PartitionState, node_id: int, nodes: Nodes, *, directory_kept: bool
) -> PartitionState:
    """The partition after a replica's disk failed or was changed: it leaves ISR, ELR and
    LastKnownELR at once (invariant 6).

    A sole copy whose directory is still the same stays in LastKnownELR: no other log could be
    better, and a later start has to recover it before it may lead (invariants 7 and 34).
    """
    sole = directory_kept and partition.replicas == (node_id,)
    changed = replace(
        _with_sets(partition, _without(partition.isr, node_id), _without(partition.elr, node_id)),
        last_known_elr=(node_id,) if sole else _without(partition.last_known_elr, node_id),
    )
    return _stepped(partition, _elected(changed, nodes))


def after_registration(
    partition: PartitionState,
    before: NodeState,
    after: NodeState,
    previous_epoch: int,
    nodes: Nodes,
) -> PartitionState:
    """The partition after a new incarnation of one of its replicas registered (invariant 7).

    ``before`` is the registration replaced, ``previous_epoch`` what the node's disk remembers.
    """
    node_id = after.node_id
    if before.directory_id != after.directory_id:
        return without_damaged_replica(partition, node_id, nodes, directory_kept=False)
    if _keeps_its_place(partition, before, after, previous_epoch):
        return without_replica(partition, node_id, nodes)
    isr, elr = _without(partition.isr, node_id), _without(partition.elr, node_id)
    changed = _with_sets(partition, isr, elr)
    held_a_place = node_id in partition.isr or node_id in partition.elr
    if held_a_place and not isr and not elr and node_id not in partition.last_known_elr:
        changed = replace(changed, last_known_elr=(*partition.last_known_elr, node_id))
    return _stepped(partition, _elected(changed, nodes))


def with_live_replica(partition: PartitionState, nodes: Nodes) -> PartitionState:
    """The partition after a replica became able to lead: a leader is elected if there is none."""
    return _stepped(partition, _elected(partition, nodes))


def with_in_sync_replicas(
    partition: PartitionState, isr: tuple[int, ...], leader_id: int | None, nodes: Nodes
) -> PartitionState:
    """The partition after a decision on its ISR and, unless None, its leader. The caller has
    checked both against replicas and registrations (invariant 4)."""
    removed = tuple(one for one in partition.isr if one not in isr)
    elr = tuple(one for one in partition.elr if one not in isr)
    if len(isr) < partition.min_isr:
        elr = (*elr, *(one for one in removed if one not in elr))
    changed = _with_sets(partition, isr, elr)
    if leader_id is not None:
        changed = replace(changed, leader_id=leader_id)
    changed = replace(_elected(changed, nodes), recovering=False)
    return replace(_stepped(partition, changed), partition_epoch=partition.partition_epoch + 1)


def with_settings(
    partition: PartitionState, min_isr: int, flush_mode: str, node_epoch: int
) -> PartitionState:
    """The partition after its minimum or its flush mode changed, which are partition state
    (invariant 1). ``node_epoch`` is the highest one handed out: up to it, the partition may have
    been served in the mode before."""
    changed = replace(partition, min_isr=min_isr, flush_mode=flush_mode)
    if flush_mode == FLUSH_FSYNC and partition.flush_mode != FLUSH_FSYNC:
        changed = replace(changed, fsync_after_node_epoch=node_epoch)
    if len(partition.isr) >= min_isr:
        changed = replace(changed, elr=())
    return _stepped(partition, changed)


def _keeps_its_place(
    partition: PartitionState, before: NodeState, after: NodeState, previous_epoch: int
) -> bool:
    # What the disk remembers must be no older than what was last served under; epochs that were
    # handed out, but under which the node was never unfenced, changed nothing on the disk.
    if not before.served_epoch <= previous_epoch <= before.epoch:
        return False
    if after.clean_shutdown:
        return True
    return (
        partition.flush_mode == FLUSH_FSYNC
        and before.served_epoch > partition.fsync_after_node_epoch
    )


def _elected(partition: PartitionState, nodes: Nodes) -> PartitionState:
    leader = nodes.get(partition.leader_id) if partition.leader_id is not None else None
    if leader is not None and leader.may_lead and leader.node_id in partition.isr:
        return partition
    for candidates, clean in _candidates(partition):
        for node_id in candidates:
            node = nodes.get(node_id)
            if node is None or not node.may_lead:
                continue
            # From outside of the ISR the leader starts alone in it; the other eligible ones stay
            # eligible until the ISR reaches its minimum.
            isr = partition.isr if partition.isr else (node_id,)
            elr = _without(partition.elr, node_id)
            elected = _copy(partition, node_id, isr, () if len(isr) >= partition.min_isr else elr)
            if clean and not partition.last_known_elr and not partition.recovering:
                return elected
            return replace(elected, last_known_elr=(), recovering=not clean)
    if partition.leader_id is None:
        return partition
    return _copy(partition, None, partition.isr, partition.elr)


def _candidates(partition: PartitionState) -> list[tuple[tuple[int, ...], bool]]:
    in_order = partition.replicas
    if partition.isr:
        return [(tuple([one for one in in_order if one in partition.isr]), True)]
    if partition.elr:
        return [(tuple([one for one in in_order if one in partition.elr]), True)]
    # Several would have to report their logs first; one alone has nothing to be compared with.
    if len(partition.last_known_elr) == 1:
        return [(partition.last_known_elr, False)]
    return []


def _with_sets(
    partition: PartitionState, isr: tuple[int, ...], elr: tuple[int, ...]
) -> PartitionState:
    if len(isr) >= partition.min_isr:
        elr = ()
    if isr == partition.isr and elr == partition.elr:
        return partition
    return _copy(partition, partition.leader_id, isr, elr)


def _copy(
    partition: PartitionState,
    leader_id: int | None,
    isr: tuple[int, ...],
    elr: tuple[int, ...],
) -> PartitionState:
    # ``replace`` takes three times as long, and the end of a session changes thousands.
    return PartitionState(
        partition.number,
        leader_id,
        partition.leader_epoch,
        partition.partition_epoch,
        partition.replicas,
        isr,
        elr,
        partition.last_known_elr,
        partition.min_isr,
        partition.flush_mode,
        partition.fsync_after_node_epoch,
        partition.recovering,
    )


def _stepped(before: PartitionState, after: PartitionState) -> PartitionState:
    if before == after:
        return before
    leader_changed = before.leader_id != after.leader_id
    return PartitionState(
        after.number,
        after.leader_id,
        before.leader_epoch + (1 if leader_changed else 0),
        before.partition_epoch + 1,
        after.replicas,
        after.isr,
        after.elr,
        after.last_known_elr,
        after.min_isr,
        after.flush_mode,
        after.fsync_after_node_epoch,
        after.recovering,
    )


def _without(ids: tuple[int, ...], node_id: int) -> tuple[int, ...]:
    return tuple(one for one in ids if one != node_id) if node_id in ids else ids
