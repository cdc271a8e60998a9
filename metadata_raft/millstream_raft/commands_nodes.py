"""Commands about controllers, brokers and coordinators. See ``commands.py``."""

from dataclasses import replace

from millstream_raft import elections
from millstream_raft.image import NodeState
from millstream_raft.image_builder import ImageBuilder
from millstream_raft.refusal import Refused
from millstream_server.v1 import metadata_command_pb2 as pb

NODES_MAX = 1000
_ROLES = frozenset({"broker", "metadata", "coordinator"})
_ID_BYTES = 16


def apply_controller_elected(builder: ImageBuilder, command: pb.ControllerElected) -> None:
    """Start the next controller epoch (invariant 1a)."""
    if not command.node_id or not command.cluster_id:
        raise Refused("INVALID_REQUEST", "a controller has a node id and a cluster id")
    if command.expected_epoch != builder.controller_epoch:
        raise Refused(
            "VERSION_CONFLICT",
            f"controller epoch is {builder.controller_epoch}, not {command.expected_epoch}",
        )
    if builder.cluster_id and builder.cluster_id != command.cluster_id:
        raise Refused("CLUSTER_MISMATCH", f"this is the metadata of cluster {builder.cluster_id}")
    builder.cluster_id = command.cluster_id
    builder.controller_id = command.node_id
    builder.controller_epoch += 1
    builder.number = builder.controller_epoch


def apply_register_node(builder: ImageBuilder, command: pb.RegisterNode) -> None:
    """Add a registration or replace a fenced one; partitions follow by invariant 7."""
    _check_registration(command)
    before = builder.nodes.get(command.node_id)
    if before is not None and before.incarnation_id == command.incarnation_id:
        builder.number = before.epoch
        return
    if before is not None and not before.fenced:
        raise Refused(
            "NODE_ID_IN_USE",
            f"node {command.node_id} at {before.host}:{before.port} is live",
        )
    if before is None and len(builder.nodes) >= NODES_MAX:
        raise Refused("THROTTLED", f"there are {NODES_MAX} nodes already")
    same_directory = before is not None and before.directory_id == command.directory_id
    after = NodeState(
        node_id=command.node_id,
        epoch=builder.next_node_epoch,
        incarnation_id=command.incarnation_id,
        roles=frozenset(command.roles),
        host=command.host,
        port=command.port,
        rack=command.rack,
        version=command.version,
        directory_id=command.directory_id,
        fenced=True,
        clean_shutdown=command.clean_shutdown,
        served_epoch=before.served_epoch if before is not None and same_directory else 0,
        registered_version=builder.version,
        session_timeout_ms=command.session_timeout_ms,
        decommissioning=before is not None and before.decommissioning,
    )
    builder.next_node_epoch += 1
    builder.number = after.epoch
    builder.put_node(after)
    if before is not None:
        replaced = before
        if same_directory:
            _give_up_cut_logs(builder, command)
        builder.change_partitions_of(
            after.node_id,
            lambda partition: elections.after_registration(
                partition, replaced, after, command.previous_epoch, builder.nodes
            ),
        )
    builder.lease_shards()


def _give_up_cut_logs(builder: ImageBuilder, command: pb.RegisterNode) -> None:
    # What recovery cut may have been acknowledged: no other proof keeps the place (invariant 7).
    for log in command.cut_logs:
        partitions = builder.partitions(log.topic_id)
        if log.partition < len(partitions):
            partition = partitions[log.partition]
            changed = elections.after_lost_place(partition, command.node_id, builder.nodes)
            if changed is not partition:
                builder.put_partition(log.topic_id, changed)


def apply_fence_node(builder: ImageBuilder, command: pb.FenceNode) -> None:
    """End a session; elections and leases follow in the same command (invariant 3)."""
    node = _in_session(builder, command)
    builder.put_node(replace(node, fenced=True, registered_version=builder.version))
    builder.change_partitions_of(
        node.node_id,
        lambda partition: elections.without_replica(partition, node.node_id, builder.nodes),
    )
    builder.lease_shards()


def apply_unfence_node(builder: ImageBuilder, command: pb.UnfenceNode) -> None:
    """Let a registered node lead and coordinate."""
    node = _in_session(builder, command)
    live = replace(node, fenced=False, served_epoch=node.epoch)
    builder.put_node(live)
    if live.may_lead:
        builder.change_partitions_of(
            node.node_id,
            lambda partition: elections.with_live_replica(partition, builder.nodes),
        )
    builder.lease_shards()


def apply_drain_node(builder: ImageBuilder, command: pb.DrainNode) -> None:
    """Move everything away from a node that wants to stop."""
    node = _registered(builder, command.node_id, command.node_epoch)
    builder.put_node(replace(node, shutting_down=True))
    builder.change_partitions_of(
        node.node_id,
        lambda partition: elections.without_draining_leader(partition, node.node_id, builder.nodes),
    )
    builder.lease_shards()


def apply_unregister_node(builder: ImageBuilder, command: pb.UnregisterNode) -> None:
    """Forget a registration that nothing depends on. Epochs are counters of the whole cluster, so
    a node that registers again under this id gets a higher one all the same (invariant 3)."""
    node = builder.nodes.get(command.node_id)
    if node is None or node.epoch != command.node_epoch:
        raise Refused("VERSION_CONFLICT", f"node {command.node_id} has registered anew or is gone")
    if not node.fenced or builder.has_replicas(node.node_id) or builder.owns_shards(node.node_id):
        raise Refused("VERSION_CONFLICT", f"node {command.node_id} came into use")
    builder.remove_node(node)


def apply_change_decommissioning(builder: ImageBuilder, command: pb.ChangeDecommissioning) -> None:
    """Mark a broker that is to lose its replicas, or take the mark away."""
    node = builder.nodes.get(command.node_id)
    if node is None or "broker" not in node.roles:
        raise Refused("UNKNOWN_NODE", f"there is no broker {command.node_id}")
    builder.put_node(replace(node, decommissioning=command.decommissioning))


def apply_take_log_directory_offline(
    builder: ImageBuilder, command: pb.TakeLogDirectoryOffline
) -> None:
    """Move everything away from a node whose disk failed (invariant 6)."""
    node = _registered(builder, command.node_id, command.node_epoch)
    builder.put_node(replace(node, log_dir_offline=True))
    builder.change_partitions_of(
        node.node_id,
        lambda partition: elections.without_damaged_replica(
            partition, node.node_id, builder.nodes, directory_kept=True
        ),
    )


def _registered(builder: ImageBuilder, node_id: int, node_epoch: int) -> NodeState:
    node = builder.nodes.get(node_id)
    if node is None or node.epoch != node_epoch:
        known = "not registered" if node is None else f"registered with epoch {node.epoch}"
        raise Refused("STALE_NODE_EPOCH", f"node {node_id} is {known}, not {node_epoch}")
    return node


def _in_session(builder: ImageBuilder, command: pb.FenceNode | pb.UnfenceNode) -> NodeState:
    """The node, unless the session that the command is of has ended: it may be in another one by
    now, for which it was granted time, or be gone."""
    node = _registered(builder, command.node_id, command.node_epoch)
    if command.registered_version != node.registered_version:
        raise Refused("VERSION_CONFLICT", f"that session of node {node.node_id} has ended before")
    return node


def _check_registration(command: pb.RegisterNode) -> None:
    if not command.node_id:
        raise Refused("INVALID_REQUEST", "node_id is zero")
    if len(command.incarnation_id) != _ID_BYTES:
        raise Refused("INVALID_REQUEST", "incarnation_id is not 16 bytes long")
    if len(command.directory_id) not in (0, _ID_BYTES):
        raise Refused("INVALID_REQUEST", "directory_id is neither empty nor 16 bytes long")
    roles = set(command.roles)
    if not roles or not roles <= _ROLES:
        raise Refused("INVALID_REQUEST", f"roles {sorted(roles)} are not of {sorted(_ROLES)}")
    if "broker" in roles and not command.directory_id:
        raise Refused("INVALID_REQUEST", "a broker has a directory_id")
