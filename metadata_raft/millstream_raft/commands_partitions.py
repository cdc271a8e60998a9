"""Commands about one partition each, by compare-and-set on its epoch (invariant 1)."""

from typing import Any

from millstream_raft import elections, reassignments
from millstream_raft.delta import PREFERRED, UNCLEAN
from millstream_raft.image import PartitionState, RecoveredLog
from millstream_raft.image_builder import ImageBuilder
from millstream_raft.refusal import Refused
from millstream_server.v1 import metadata_command_pb2 as pb


def apply_change_partition(builder: ImageBuilder, command: pb.ChangePartition) -> None:
    """Change the in-sync replicas as the leader proposed (invariants 1 and 4)."""
    partition = _expected(builder, command)
    isr = tuple(command.in_sync_replica_ids)
    if len(set(isr)) != len(isr) or not set(isr) <= set(partition.replicas):
        raise Refused("INVALID_REQUEST", f"ISR {list(isr)} is not of {list(partition.replicas)}")
    if partition.leader_id not in isr:
        raise Refused("INVALID_REQUEST", f"leader {partition.leader_id} is not in {list(isr)}")
    if partition.recovering and len(isr) != 1:
        raise Refused("INVALID_REQUEST", "a recovering partition has one in-sync replica")
    epochs = {one.node_id: one.node_epoch for one in command.added}
    for node_id in isr:
        if node_id not in partition.isr:
            _check_registration(builder, node_id, epochs.get(node_id, 0))
            if not builder.nodes[node_id].may_lead:
                raise Refused("VERSION_CONFLICT", f"replica {node_id} cannot be in sync now")
    changed = elections.with_in_sync_replicas(partition, isr, builder.nodes)
    builder.put_partition(command.topic_id, changed)


def apply_remove_damaged_replica(builder: ImageBuilder, command: pb.RemoveDamagedReplica) -> None:
    """Take a replica whose log is damaged out of every set (invariants 6 and 34)."""
    partition = _expected(builder, command)
    node_id = _own_replica(builder, partition, command.replica)
    builder.put_partition(
        command.topic_id, elections.with_damaged_log(partition, node_id, builder.nodes)
    )


def apply_note_recovered_log(builder: ImageBuilder, command: pb.NoteRecoveredLog) -> None:
    """Note how far a log reaches, and elect once all are known (invariant 7)."""
    partition = _expected(builder, command)
    node_id = _own_replica(builder, partition, command.replica)
    log = RecoveredLog(command.last_epoch, command.synced_end_offset, node_id)
    builder.put_partition(
        command.topic_id, elections.with_recovered_log(partition, log, builder.nodes)
    )


def apply_elect_leader(builder: ImageBuilder, command: pb.ElectLeader) -> None:
    """Elect the leader that was chosen (invariant 5)."""
    partition = _expected(builder, command)
    node = builder.nodes.get(command.leader_id)
    if node is None or not node.may_lead or command.leader_id not in partition.replicas:
        raise Refused("VERSION_CONFLICT", f"replica {command.leader_id} cannot lead now")
    if partition.leader_id is not None if command.unclean else node.node_id not in partition.isr:
        raise Refused("INVALID_REQUEST", f"replica {command.leader_id} may not be elected")
    changed = elections.with_leader(partition, command.leader_id, unclean=command.unclean)
    kind = UNCLEAN if command.unclean else PREFERRED
    builder.put_partition(command.topic_id, changed, election=kind)


def apply_reassign_partition(builder: ImageBuilder, command: pb.ReassignPartition) -> None:
    """Begin to move a partition; it ends with the leader's change of the in-sync replicas."""
    partition = _expected(builder, command)
    target = tuple(command.target_replica_ids)
    for node_id in target:
        node = builder.nodes.get(node_id)
        if node is None or "broker" not in node.roles:
            raise Refused("VERSION_CONFLICT", f"there is no broker {node_id}")
    if not 1 <= command.min_isr <= max(1, len(target)):
        raise Refused("INVALID_REQUEST", f"min_isr {command.min_isr} of {len(target)} replicas")
    changed = reassignments.begun(partition, target, command.min_isr, builder.nodes)
    builder.put_partition(command.topic_id, changed)


def apply_cancel_reassignment(builder: ImageBuilder, command: pb.CancelReassignment) -> None:
    """Stop to move a partition."""
    partition = _expected(builder, command)
    builder.put_partition(command.topic_id, reassignments.cancelled(partition, builder.nodes))


def _expected(builder: ImageBuilder, command: Any) -> PartitionState:
    """The partition of a command, at the partition epoch that it expects. Raises Refused."""
    # A topic that is gone is a conflict too: the other partitions of the request are decided anew.
    topic = builder.topic(command.topic_id)
    partitions = builder.partitions(command.topic_id)
    if topic is None or command.partition >= len(partitions):
        raise Refused("VERSION_CONFLICT", "the partition is gone")
    partition: PartitionState = partitions[command.partition]
    if partition.partition_epoch != command.expected_partition_epoch:
        raise Refused(
            "VERSION_CONFLICT",
            f"partition epoch is {partition.partition_epoch}, "
            f"not {command.expected_partition_epoch}",
        )
    return partition


def _own_replica(
    builder: ImageBuilder, partition: PartitionState, replica: pb.ReplicaRegistration
) -> int:
    if replica.node_id not in partition.replicas:
        raise Refused("INVALID_REQUEST", f"node {replica.node_id} holds no replica")
    _check_registration(builder, replica.node_id, replica.node_epoch)
    return replica.node_id


def _check_registration(builder: ImageBuilder, node_id: int, node_epoch: int) -> None:
    # The partition epoch does not tell: a replica outside of the sets registers without a change.
    node = builder.nodes.get(node_id)
    if node is None or node.epoch != node_epoch:
        raise Refused("VERSION_CONFLICT", f"node {node_id} is not registered as {node_epoch}")
