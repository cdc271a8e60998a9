"""Leaders and replica sets of one partition after something happened to a replica.

All functions are pure: partition and nodes in, partition out. A result that differs has its
partition epoch stepped by one, and its leader epoch if the leader changed (invariants 1 and 2).
The terms ISR, ELR and LastKnownELR are those of KIP-966 (invariants 5 to 7).
"""

from collections.abc import Mapping
from dataclasses import replace

from millstream_raft.image import FLUSH_FSYNC, NodeState, PartitionState, RecoveredLog

Nodes = Mapping[int, NodeState]


def without_replica(partition: PartitionState, node_id: int, nodes: Nodes) -> PartitionState:
    """The partition after a replica's session ended: it leaves the ISR, into the ELR where the ISR
    falls below its minimum (invariant 6), and another leader is elected."""
    if node_id not in partition.isr and partition.leader_id != node_id:
        return partition
    isr = _without(partition.isr, node_id)
    left = (node_id,) if node_id in partition.isr else ()
    if not _one_may_lead(isr, nodes):  # see ``elected``
        isr, left = (), (*isr, *left)
    elr = partition.elr
    if len(isr) < partition.min_isr:
        elr = _joined(elr, left)
    return stepped(partition, elected(_with_sets(partition, isr, elr), nodes))


def without_draining_leader(
    partition: PartitionState, node_id: int, nodes: Nodes
) -> PartitionState:
    """The partition when one of its nodes is to be drained: it only loses the lead. It may not have
    heard, and answers on within its session: it leaves the ISR by its leader's proposal, once it
    copies from that one (see ``reassignments.py``)."""
    if partition.leader_id != node_id:
        return partition
    return stepped(partition, elected(partition, nodes))


def without_damaged_replica(
    partition: PartitionState, node_id: int, nodes: Nodes, *, directory_kept: bool
) -> PartitionState:
    """The partition after a replica's disk failed or was changed: it leaves ISR, ELR and
    LastKnownELR at once (invariant 6).

    A sole copy whose directory is still the same stays in LastKnownELR: no other log could be
    better, and a later start has to recover it before it may lead (invariants 7 and 34).
    """
    sole = directory_kept and partition.replicas == (node_id,) and not partition.damaged
    changed = _left_everything(partition, node_id)
    if sole:  # there is no other log that it could have been compared with
        synced = _was_synced(partition, nodes[node_id])
        lost = partition.possible_loss or not synced
        changed = replace(changed, last_known_elr=(node_id,), possible_loss=lost)
    elif not directory_kept and node_id in partition.damaged:
        changed = replace(changed, damaged=_without(partition.damaged, node_id))
    return stepped(partition, elected(changed, nodes))


def with_damaged_log(partition: PartitionState, node_id: int, nodes: Nodes) -> PartitionState:
    """The partition after a replica found rot in its log: it leaves ISR, ELR and LastKnownELR at
    once, a sole copy too, and comes back by copying from a leader (invariants 6 and 34).

    The partition epoch steps even if nothing else changes: a proposal that counts on the log that
    is about to be set aside may be on its way.
    """
    changed = _left_everything(partition, node_id)
    if node_id not in changed.damaged:
        changed = replace(changed, damaged=(*changed.damaged, node_id))
    after = stepped(partition, elected(changed, nodes))
    if after is partition:
        return replace(partition, partition_epoch=partition.partition_epoch + 1)
    return after


def with_recovered_log(
    partition: PartitionState, log: RecoveredLog, nodes: Nodes
) -> PartitionState:
    """The partition after a member of LastKnownELR told how far its log reaches. Once all of them
    have, the one with the longest is elected (invariant 7)."""
    if log.node_id not in partition.last_known_elr:
        return partition
    known = _without_log(partition.recovered_logs, log.node_id)
    return stepped(partition, elected(replace(partition, recovered_logs=(*known, log)), nodes))


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
    if not _keeps_its_place(partition, before, after, previous_epoch):
        return after_lost_place(partition, node_id, nodes)
    if node_id in partition.last_known_elr:
        return stepped(partition, _with_log_forgotten(partition, node_id))
    return without_replica(partition, node_id, nodes)


def after_lost_place(partition: PartitionState, node_id: int, nodes: Nodes) -> PartitionState:
    """The partition after a replica registered whose log may lack what it held (invariant 7).

    It leaves ISR and ELR. While nobody is in sync it enters LastKnownELR, also if an eligible
    replica is left: should that one lose its place as well, both logs have to be compared, for
    after a power cut in page-cache mode either may be the longer one. No election has come
    between, or it would have emptied the set.
    """
    isr, elr = _without(partition.isr, node_id), _without(partition.elr, node_id)
    changed = _with_log_forgotten(_with_sets(partition, isr, elr), node_id)
    held_a_place = node_id in partition.isr or node_id in partition.elr
    if held_a_place and not isr and node_id not in partition.last_known_elr:
        changed = replace(
            changed,
            last_known_elr=(*partition.last_known_elr, node_id),
            possible_loss=partition.possible_loss or not _was_synced(partition, nodes[node_id]),
        )
    return stepped(partition, elected(changed, nodes))


def with_live_replica(partition: PartitionState, nodes: Nodes) -> PartitionState:
    """The partition after a replica became able to lead: a leader is elected if there is none."""
    return stepped(partition, elected(partition, nodes))


def with_in_sync_replicas(
    partition: PartitionState, isr: tuple[int, ...], nodes: Nodes
) -> PartitionState:
    """The partition after its leader changed its ISR. The caller has checked the new one against
    leader, replicas and registrations (invariant 4). Always steps the partition epoch."""
    removed = tuple(one for one in partition.isr if one not in isr)
    elr = tuple(one for one in partition.elr if one not in isr)
    if len(isr) < partition.min_isr:
        elr = (*elr, *(one for one in removed if one not in elr))
    changed = replace(
        elected(_with_sets(partition, isr, elr), nodes),
        recovering=False,
        possible_loss=False,
        damaged=tuple(one for one in partition.damaged if one not in isr),
    )
    return replace(stepped(partition, changed), partition_epoch=partition.partition_epoch + 1)


def with_leader(partition: PartitionState, leader_id: int, *, unclean: bool) -> PartitionState:
    """The partition led by a replica that was chosen (invariant 5). The caller has checked that
    the replica may lead: an in-sync one, or any where the election is an unclean one.

    An unclean start keeps nobody's place: what the others hold may not be the leader's log.
    """
    if not unclean:
        return stepped(partition, replace(partition, leader_id=leader_id))
    led = replace(
        partition,
        leader_id=leader_id,
        isr=(leader_id,),
        elr=(),
        last_known_elr=(),
        recovered_logs=(),
        recovering=True,
        possible_loss=True,
        damaged=_without(partition.damaged, leader_id),
    )
    return stepped(partition, led)


def with_settings(
    partition: PartitionState,
    min_isr: int,
    flush_mode: str,
    node_epoch: int,
    *,
    target_min_isr: int = 0,
) -> PartitionState:
    """The partition after its minimum or its flush mode changed, which are partition state
    (invariant 1). ``node_epoch`` is the highest one handed out: up to it, the partition may have
    been served in the mode before. ``target_min_isr`` is the minimum after a reassignment."""
    changed = replace(partition, min_isr=min_isr, flush_mode=flush_mode)
    if flush_mode == FLUSH_FSYNC and partition.flush_mode != FLUSH_FSYNC:
        changed = replace(changed, fsync_after_node_epoch=node_epoch)
    if len(partition.isr) >= min_isr:
        changed = replace(changed, elr=())
    if partition.reassignment is not None and target_min_isr:
        moved = replace(partition.reassignment, min_isr=target_min_isr)
        changed = replace(changed, reassignment=moved)
    return stepped(partition, changed)


def _keeps_its_place(
    partition: PartitionState, before: NodeState, after: NodeState, previous_epoch: int
) -> bool:
    # What the disk remembers must be no older than what was last served under; epochs that were
    # handed out, but under which the node was never unfenced, changed nothing on the disk.
    if not before.served_epoch <= previous_epoch <= before.epoch:
        return False
    if after.clean_shutdown:
        return True
    return _was_synced(partition, before)


def _was_synced(partition: PartitionState, node: NodeState) -> bool:
    """True if what the replica acknowledged while it served last was on its disk (invariant 32)."""
    return (
        partition.flush_mode == FLUSH_FSYNC and node.served_epoch > partition.fsync_after_node_epoch
    )


def elected(partition: PartitionState, nodes: Nodes) -> PartitionState:
    """The partition with a leader, if one may be elected cleanly; epochs stay (invariant 5)."""
    leader = nodes.get(partition.leader_id) if partition.leader_id is not None else None
    if leader is not None and leader.may_lead and leader.node_id in partition.isr:
        return partition
    if partition.isr and not _one_may_lead(partition.isr, nodes):
        # They are drained, and all hold everything, as the eligible ones do: whoever of all these
        # is there, or is back first, may lead.
        eligible = _joined(partition.elr, partition.isr)
        partition = _copy(partition, partition.leader_id, (), eligible)
    candidates, clean = _candidates(partition)
    for node_id in candidates:
        if not _one_may_lead((node_id,), nodes):
            continue
        # From outside of the ISR the leader starts with the eligible ones that are there: among
        # them may be the former leader, which has not heard (see ``reassignments.py``). The others
        # stay eligible until the ISR reaches its minimum.
        there = (one for one in partition.elr if _is_there(nodes.get(one)))
        alone = not clean or partition.recovering
        others = () if alone else (one for one in there if one != node_id)
        isr = partition.isr or (node_id, *others)
        elr = tuple([one for one in partition.elr if one not in isr])
        led = _copy(partition, node_id, isr, () if len(isr) >= partition.min_isr else elr)
        if clean and not partition.last_known_elr and not partition.possible_loss:
            return led
        # A replica that led and returned before its first change is recovering still.
        recovering = partition.recovering or not clean
        return replace(
            led,
            last_known_elr=(),
            recovered_logs=(),
            recovering=recovering,
            possible_loss=partition.possible_loss and recovering,
        )
    if partition.leader_id is None:
        return partition
    return _copy(partition, None, partition.isr, partition.elr)


def _one_may_lead(node_ids: tuple[int, ...], nodes: Nodes) -> bool:
    return any(node.may_lead for one in node_ids if (node := nodes.get(one)) is not None)


def _is_there(node: NodeState | None) -> bool:
    return node is not None and not node.fenced and not node.log_dir_offline


def _candidates(partition: PartitionState) -> tuple[tuple[int, ...], bool]:
    """Who may be elected, the preferred first, and whether that is clean (invariant 5)."""
    in_order = partition.replicas
    if partition.isr:
        return tuple([one for one in in_order if one in partition.isr]), True
    if partition.elr:
        return tuple([one for one in in_order if one in partition.elr]), True
    return _longest_logs(partition), False


def _longest_logs(partition: PartitionState) -> tuple[int, ...]:
    members = partition.last_known_elr
    if len(members) <= 1:  # one alone has nothing to be compared with
        return members
    if len(partition.recovered_logs) < len(members):
        return ()
    longest = max(log.end for log in partition.recovered_logs)
    equal = [log.node_id for log in partition.recovered_logs if log.end == longest]
    return tuple([one for one in partition.replicas if one in equal])


def _left_everything(partition: PartitionState, node_id: int) -> PartitionState:
    isr, elr = _without(partition.isr, node_id), _without(partition.elr, node_id)
    changed = _with_log_forgotten(_with_sets(partition, isr, elr), node_id)
    if (node_id in partition.isr or node_id in partition.elr) and not (isr or elr):
        # The only log that was known to hold everything: no comparison of the others makes up for
        # it. They lead by an operator's order (invariants 5 and 7).
        return replace(changed, last_known_elr=(), recovered_logs=())
    if node_id not in partition.last_known_elr:
        return changed
    # Its log may have been the longest: those that are left are not compared with it any more.
    left = _without(partition.last_known_elr, node_id)
    return replace(changed, last_known_elr=left, possible_loss=True)


def _with_log_forgotten(partition: PartitionState, node_id: int) -> PartitionState:
    logs = _without_log(partition.recovered_logs, node_id)
    return (
        partition if logs is partition.recovered_logs else replace(partition, recovered_logs=logs)
    )


def _without_log(logs: tuple[RecoveredLog, ...], node_id: int) -> tuple[RecoveredLog, ...]:
    left = tuple([log for log in logs if log.node_id != node_id])
    return left if len(left) < len(logs) else logs


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
        partition.recovered_logs,
        partition.damaged,
        partition.reassignment,
        partition.possible_loss,
    )


def stepped(before: PartitionState, after: PartitionState) -> PartitionState:
    """``after`` with the epochs stepped as its difference from ``before`` demands."""
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
        after.recovered_logs,
        after.damaged,
        after.reassignment,
        after.possible_loss,
    )


def _joined(ids: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    return (*ids, *(one for one in others if one not in ids))


def _without(ids: tuple[int, ...], node_id: int) -> tuple[int, ...]:
    return tuple(one for one in ids if one != node_id) if node_id in ids else ids
