"""Decisions on where replicas go after their topic was made. Pure, like ``decide.py``."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from millstream_raft import reassignments, topic_config
from millstream_raft.decide_elections import set_error
from millstream_raft.decision import ClusterDefaults, Decision
from millstream_raft.image import Image, NodeState, PartitionState, TopicState
from millstream_raft.placement import add_replicas, broker_loads
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb

# Partitions of one request: its commands stay far below what an entry may have.
REASSIGNMENTS_MAX = 1_000

Commands = tuple[command_pb.MetadataCommand, ...]


class _Room:
    """The brokers that may take replicas, filled as decisions are made."""

    def __init__(self, image: Image) -> None:
        self.loads = broker_loads(image)
        self._racks = {node_id: node.rack for node_id, node in image.nodes.items()}

    def take(self, kept: Sequence[int], count: int) -> list[int]:
        """``count`` further brokers for a partition, or as many as there are."""
        taken = add_replicas(self.loads, kept, count, self._racks)
        self.loads = [
            replace(load, replicas=load.replicas + 1) if load.node_id in taken else load
            for load in self.loads
        ]
        return taken


def alter_partition_reassignments(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    """Move partitions, or stop to."""
    if len(body.partitions) > REASSIGNMENTS_MAX:
        raise Refused(
            "INVALID_REQUEST",
            f"{len(body.partitions)} partitions; a request names at most {REASSIGNMENTS_MAX}",
        )
    reply = pb.ExecuteResponse()
    reply.alter_partition_reassignments.SetInParent()
    commands: list[command_pb.MetadataCommand] = []
    room = _Room(image)
    seen: set[tuple[bytes, int]] = set()
    for wanted in body.partitions:
        result = reply.alter_partition_reassignments.results.add(
            topic_id=wanted.topic_id, partition=wanted.partition
        )
        try:
            topic, partition = _partition(image, wanted)
            if (wanted.topic_id, wanted.partition) in seen:
                raise Refused("INVALID_REQUEST", "the partition is named twice")
            seen.add((wanted.topic_id, wanted.partition))
            target, found = _alteration(image, topic, partition, wanted, room, defaults)
        except Refused as refused:
            set_error(result, refused)
            continue
        result.replica_ids.extend(target)
        commands += found
    rate = body.throttle_bytes_per_s
    if body.HasField("throttle_bytes_per_s") and rate != image.reassignment_bytes_per_s:
        throttle = command_pb.ChangeReassignmentThrottle(bytes_per_s=rate)
        commands.append(command_pb.MetadataCommand(change_reassignment_throttle=throttle))
    return Decision(reply, () if body.validate_only else tuple(commands))


def decommission_broker(
    image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults
) -> Decision:
    """Mark a broker that is to lose its replicas; the controller moves them in batches."""
    node = image.nodes.get(body.node_id)
    if node is None or "broker" not in node.roles:
        raise Refused("UNKNOWN_NODE", f"there is no broker {body.node_id}")
    held = [partition for _, partition in image.partitions_of_node(body.node_id)]
    reply = pb.ExecuteResponse()
    reply.decommission_broker.replica_count = len(held)
    if node.decommissioning != body.cancel:  # as it is wanted
        return Decision(reply)
    if not body.cancel:
        left = sum(_stays(one) for one in image.nodes.values()) - 1
        factor = max((len(partition.target) for partition in held), default=0)
        if factor > left:
            raise Refused(
                "INVALID_REPLICATION_FACTOR",
                f"broker {body.node_id} holds partitions with {factor} replicas, and {left} other "
                "brokers are left",
            )
    command = command_pb.ChangeDecommissioning(
        node_id=body.node_id, decommissioning=not body.cancel
    )
    return Decision(reply, (command_pb.MetadataCommand(change_decommissioning=command),))


def drain_broker(image: Image, body: Any, topic_id: bytes, defaults: ClusterDefaults) -> Decision:
    """Move leaders and shards away from a node until it registers again."""
    node = image.nodes.get(body.node_id)
    if node is None:
        raise Refused("UNKNOWN_NODE", f"no node is registered under the id {body.node_id}")
    reply = pb.ExecuteResponse()
    reply.drain_broker.SetInParent()
    if node.shutting_down:
        return Decision(reply)
    command = command_pb.DrainNode(node_id=node.node_id, node_epoch=node.epoch)
    return Decision(reply, (command_pb.MetadataCommand(drain_node=command),))


def decommissioning(image: Image, defaults: ClusterDefaults, ongoing_max: int) -> Commands:
    """The next reassignments away from brokers that are decommissioned, so many that no more than
    ``ongoing_max`` partitions of the cluster move at a time."""
    leaving = {node.node_id for node in image.nodes.values() if node.decommissioning}
    if not leaving:
        return ()
    moving, waiting = 0, []
    for name in sorted(image.topic_ids):
        topic = image.topics[image.topic_ids[name]]
        for partition in topic.partitions:
            if not leaving.isdisjoint(partition.target):
                waiting.append((topic, partition))
            elif partition.adding:
                moving += 1
    room = _Room(image)
    commands: list[command_pb.MetadataCommand] = []
    for topic, partition in waiting:
        if moving + len(commands) >= ongoing_max:
            break
        target = _without(partition, leaving, room)
        if target is None:
            continue
        # A partition that cannot move now must not keep the others.
        with suppress(Refused):
            commands += _begun(image, topic, partition, target, defaults)
    return tuple(commands)


def _without(partition: PartitionState, leaving: set[int], room: _Room) -> tuple[int, ...] | None:
    """The target with the leaving brokers replaced, each in its place; None if none is there."""
    kept = [one for one in partition.target if one not in leaving]
    count = len(partition.target) - len(kept)
    if len(room.loads) < count:
        return None
    taken = room.take(kept, count)
    if len(taken) < count:
        return None
    fresh = iter(taken)
    return tuple(next(fresh) if one in leaving else one for one in partition.target)


def _alteration(
    image: Image,
    topic: TopicState,
    partition: PartitionState,
    wanted: Any,
    room: _Room,
    defaults: ClusterDefaults,
) -> tuple[tuple[int, ...], Commands]:
    """The replicas in the end, and the command that leads there. Raises Refused."""
    if not wanted.replica_ids and not wanted.replication_factor:
        after = reassignments.cancelled(partition, image.nodes)
        if after is partition:
            return after.target, ()
        command = command_pb.CancelReassignment(
            topic_id=topic.topic_id,
            partition=partition.number,
            expected_partition_epoch=partition.partition_epoch,
        )
        return after.target, (command_pb.MetadataCommand(cancel_reassignment=command),)
    target = tuple(wanted.replica_ids)
    if not target:
        target = _with_factor(image, partition, wanted.replication_factor, room)
    for node_id in target:
        _check_replica(image, partition, node_id)
    return target, _begun(image, topic, partition, target, defaults)


def _with_factor(
    image: Image, partition: PartitionState, factor: int, room: _Room
) -> tuple[int, ...]:
    # Of those that are there, the ones in sync stay first.
    ranked = sorted(partition.target, key=lambda one: one not in partition.isr)
    kept = sorted(ranked[:factor], key=partition.target.index)
    target = (*kept, *room.take(kept, factor - len(kept)))
    if len(target) < factor:
        raise Refused(
            "INVALID_REPLICATION_FACTOR",
            f"replication factor {factor} exceeds the {len(target)} brokers that may be used",
        )
    return target


def _check_replica(image: Image, partition: PartitionState, node_id: int) -> None:
    node = image.nodes.get(node_id)
    if node is None or "broker" not in node.roles:
        raise Refused("INVALID_REPLICA_ASSIGNMENT", f"there is no broker {node_id}")
    if node_id in partition.replicas:
        return
    if node.decommissioning or not node.may_lead:
        state = "leaving the cluster" if node.decommissioning else "not available"
        raise Refused("INVALID_REPLICA_ASSIGNMENT", f"broker {node_id} is {state}")


def _begun(
    image: Image,
    topic: TopicState,
    partition: PartitionState,
    target: tuple[int, ...],
    defaults: ClusterDefaults,
) -> Commands:
    """The command that begins a reassignment; none if the partition is on its way already."""
    if partition.reassignment is not None and target == partition.target:
        return ()
    min_isr = topic_config.min_insync_replicas(topic.configs, defaults.topic_configs, len(target))
    after = reassignments.begun(partition, target, min_isr, image.nodes)
    if after is partition:
        return ()
    command = command_pb.ReassignPartition(
        topic_id=topic.topic_id,
        partition=partition.number,
        expected_partition_epoch=partition.partition_epoch,
        target_replica_ids=target,
        min_isr=min_isr,
    )
    return (command_pb.MetadataCommand(reassign_partition=command),)


def _partition(image: Image, wanted: Any) -> tuple[TopicState, PartitionState]:
    topic = image.topics.get(wanted.topic_id)
    if topic is None:
        raise Refused("UNKNOWN_TOPIC", "no topic has this id")
    partition = image.partition(wanted.topic_id, wanted.partition)
    if partition is None:
        raise Refused("UNKNOWN_PARTITION", f"{topic.name} has no partition {wanted.partition}")
    return topic, partition


def _stays(node: NodeState) -> bool:
    return "broker" in node.roles and not node.decommissioning
