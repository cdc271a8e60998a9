"""Decisions on what leaders and recovered brokers tell of replicas. Pure, like ``decide.py``.

Each request names many partitions and is answered by partition. An entry takes effect whole or not
at all, so that a partition which changes between decision and command costs a further decision,
not the batch.
"""

from collections.abc import Callable, Iterable
from typing import Any

from millstream_raft.decision import ClusterDefaults, Decision
from millstream_raft.image import Image, NodeState, PartitionState
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb

# Partitions of one request: its commands stay far below what an entry may have.
PARTITIONS_PER_REQUEST_MAX = 1_000
# The replica is where the request wants it to be.
UP_TO_DATE = "UP_TO_DATE"
# The sender knows of a later change than the controller that answers.
NOT_CONTROLLER = "NOT_CONTROLLER"

_Decide = Callable[[Any, PartitionState], command_pb.MetadataCommand | str]


def alter_partitions(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    """Leaders' proposals of in-sync replicas (invariant 4)."""
    sender = _sender(image, body)

    def decide(proposal: Any, partition: PartitionState) -> command_pb.MetadataCommand | str:
        reason = _why_not(image, sender, proposal, partition)
        return reason or _change(proposal, partition)

    return _by_partition(image, body.proposals, decide)


def report_recovered_logs(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    """Reports of how far logs reach of which one has to be elected (invariant 7)."""
    sender = _sender(image, body)

    def decide(log: Any, partition: PartitionState) -> command_pb.MetadataCommand | str:
        known = next(
            (one for one in partition.recovered_logs if one.node_id == sender.node_id), None
        )
        if sender.node_id not in partition.last_known_elr or (
            known is not None and known.end == (log.last_epoch, log.synced_end_offset)
        ):
            return UP_TO_DATE
        return command_pb.MetadataCommand(
            note_recovered_log=command_pb.NoteRecoveredLog(
                topic_id=log.topic_id,
                partition=log.partition,
                expected_partition_epoch=partition.partition_epoch,
                replica=_registration(sender),
                last_epoch=log.last_epoch,
                synced_end_offset=log.synced_end_offset,
            )
        )

    return _by_partition(image, body.logs, decide)


def report_damaged_logs(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    """Reports of damaged logs, whose replicas lose every place (invariants 6 and 34)."""
    sender = _sender(image, body)

    def decide(log: Any, partition: PartitionState) -> command_pb.MetadataCommand | str:
        node_id = sender.node_id
        if node_id not in partition.replicas:
            return UP_TO_DATE
        # A report that comes late must not hit a replica that copied its log anew meanwhile.
        if log.partition_epoch != partition.partition_epoch:
            return _other_epoch(log, partition)
        return command_pb.MetadataCommand(
            remove_damaged_replica=command_pb.RemoveDamagedReplica(
                topic_id=log.topic_id,
                partition=log.partition,
                expected_partition_epoch=partition.partition_epoch,
                replica=_registration(sender),
            )
        )

    return _by_partition(image, body.logs, decide)


def _sender(image: Image, body: Any) -> NodeState:
    node = image.nodes.get(body.node_id)
    if node is None or node.epoch != body.node_epoch:
        known = "not registered" if node is None else f"registered with epoch {node.epoch}"
        raise Refused("STALE_NODE_EPOCH", f"node {body.node_id} is {known}, not {body.node_epoch}")
    return node


def _by_partition(image: Image, changes: Any, decide: _Decide) -> Decision:
    if len(changes) > PARTITIONS_PER_REQUEST_MAX:
        raise Refused(
            "INVALID_REQUEST",
            f"{len(changes)} partitions; a request names at most {PARTITIONS_PER_REQUEST_MAX}",
        )
    reply = pb.ExecuteResponse()
    reply.altered_partitions.SetInParent()
    commands: list[command_pb.MetadataCommand] = []
    epochs: dict[tuple[bytes, int], int] = {}
    for change in changes:
        key = change.topic_id, change.partition
        answer = reply.altered_partitions.partitions.add(
            topic_id=change.topic_id, partition=change.partition
        )
        partition = image.partition(*key)
        if partition is None:
            known = change.topic_id in image.topics
            answer.reason = "UNKNOWN_PARTITION" if known else "UNKNOWN_TOPIC"
            continue
        decided = "INVALID_REQUEST" if key in epochs else decide(change, partition)
        epoch = epochs.get(key, partition.partition_epoch)
        if isinstance(decided, str):
            answer.reason = decided
        else:
            epoch += 1
            commands.append(decided)
        answer.partition_epoch = epochs[key] = epoch
    return Decision(reply, tuple(commands))


def _why_not(image: Image, sender: NodeState, proposal: Any, partition: PartitionState) -> str:
    """The reason to refuse a proposal, "" for none (invariant 4)."""
    if proposal.leader_epoch < partition.leader_epoch:
        return "FENCED_LEADER_EPOCH"
    if proposal.leader_epoch > partition.leader_epoch:
        return NOT_CONTROLLER
    if partition.leader_id != sender.node_id:
        return "NOT_LEADER"
    if proposal.partition_epoch != partition.partition_epoch:
        return _other_epoch(proposal, partition)
    members = [one.node_id for one in proposal.members]
    if (
        len(set(members)) != len(members)
        or not set(members) <= set(partition.replicas)
        or sender.node_id not in members
        or (partition.recovering and len(members) != 1)
    ):
        return "INVALID_REQUEST"
    added = _added(proposal, partition)
    return "" if all(_may_join(image, one) for one in added) else "INELIGIBLE_REPLICA"


def _other_epoch(change: Any, partition: PartitionState) -> str:
    # The image with the lower epoch is old: the sender's, or the one here (invariant 1).
    older = change.partition_epoch < partition.partition_epoch
    return "INVALID_UPDATE_VERSION" if older else NOT_CONTROLLER


def _may_join(image: Image, member: Any) -> bool:
    node = image.nodes.get(member.node_id)
    return node is not None and node.may_lead and node.epoch == member.node_epoch


def _added(proposal: Any, partition: PartitionState) -> Iterable[Any]:
    return [one for one in proposal.members if one.node_id not in partition.isr]


def _change(proposal: Any, partition: PartitionState) -> command_pb.MetadataCommand:
    return command_pb.MetadataCommand(
        change_partition=command_pb.ChangePartition(
            topic_id=proposal.topic_id,
            partition=proposal.partition,
            expected_partition_epoch=partition.partition_epoch,
            in_sync_replica_ids=[one.node_id for one in proposal.members],
            added=[
                command_pb.ReplicaRegistration(node_id=one.node_id, node_epoch=one.node_epoch)
                for one in _added(proposal, partition)
            ],
        )
    )


def _registration(node: NodeState) -> command_pb.ReplicaRegistration:
    return command_pb.ReplicaRegistration(node_id=node.node_id, node_epoch=node.epoch)
