"""Decisions about registrations and sessions. Pure, like ``decide.py``."""

from collections.abc import Sequence

from millstream_raft.image import Image, NodeState
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb

Commands = tuple[command_pb.MetadataCommand, ...]

# Partitions that one registration names: far below what an entry may have.
CUT_LOGS_MAX = 10_000
# The wire's numbers of ``millstream.v1.NodeRole``.
ROLE_NAMES = {1: "broker", 2: "metadata", 3: "coordinator"}


def decide_registration(
    image: Image,
    registration: pb.Registration,
    *,
    predecessor_is_dead: bool,
    session_timeout_ms: int,
) -> Commands:
    """Register a node; nothing to commit when this incarnation is registered already.

    A live registration of another incarnation is fenced first when it is known to be dead, and
    refused with NODE_ID_IN_USE otherwise (invariant 3). Raises Refused.
    """
    if registration.cluster_id != image.cluster_id:
        raise Refused(
            "CLUSTER_MISMATCH",
            f"the node belongs to cluster {registration.cluster_id!r}, this is "
            f"{image.cluster_id!r}: it has a data folder or a metadata address of another cluster",
        )
    known = image.nodes.get(registration.node_id)
    if known is not None and known.incarnation_id == registration.incarnation_id:
        return ()
    commands = []
    if known is not None and not known.fenced:
        if not predecessor_is_dead:
            raise Refused(
                "NODE_ID_IN_USE",
                f"node id {registration.node_id} is in use by the node at "
                f"{known.host}:{known.port}, until its session ends",
            )
        commands.append(fence(known))
    # A command has to fit into an entry: of too many cut logs none is named, and every log loses
    # its place.
    tells_all = len(registration.cut_logs) <= CUT_LOGS_MAX
    commands.append(
        command_pb.MetadataCommand(
            register_node=command_pb.RegisterNode(
                node_id=registration.node_id,
                incarnation_id=registration.incarnation_id,
                roles=sorted(
                    ROLE_NAMES.get(role, f"role {role}") for role in set(registration.roles)
                ),
                host=registration.host,
                port=registration.port,
                rack=registration.rack,
                version=registration.version,
                directory_id=registration.directory_id,
                previous_epoch=registration.previous_epoch if tells_all else 0,
                clean_shutdown=registration.clean_shutdown and tells_all,
                session_timeout_ms=session_timeout_ms,
                cut_logs=[
                    command_pb.PartitionId(topic_id=one.topic_id, partition=one.partition)
                    for one in (registration.cut_logs if tells_all else ())
                ],
            )
        )
    )
    return tuple(commands)


def decide_heartbeat(node: NodeState, heartbeat: pb.NodeHeartbeat) -> Commands:
    """What a heartbeat of a registered node asks to be committed; usually nothing.

    A node is unfenced once it says that its image holds its registration (invariant 3).
    """
    commands = []
    if heartbeat.log_dir_offline and not node.log_dir_offline:
        commands.append(
            command_pb.MetadataCommand(
                take_log_directory_offline=command_pb.TakeLogDirectoryOffline(
                    node_id=node.node_id, node_epoch=node.epoch
                )
            )
        )
    if heartbeat.shutting_down and not node.shutting_down:
        commands.append(
            command_pb.MetadataCommand(
                drain_node=command_pb.DrainNode(node_id=node.node_id, node_epoch=node.epoch)
            )
        )
    stays = not heartbeat.shutting_down and not node.shutting_down
    if node.fenced and stays and heartbeat.version >= node.registered_version:
        commands.append(
            command_pb.MetadataCommand(
                unfence_node=command_pb.UnfenceNode(
                    node_id=node.node_id,
                    node_epoch=node.epoch,
                    registered_version=node.registered_version,
                )
            )
        )
    return tuple(commands)


def decide_unregistration(image: Image, node_id: int) -> Commands:
    """Forget the registration of a node that will not come back. Raises Refused while anything
    depends on it: its partitions are moved away first, for nothing is deleted by this."""
    node = image.nodes.get(node_id)
    if node is None:
        raise Refused("UNKNOWN_NODE", f"no node is registered under the id {node_id}")
    if not node.fenced:
        raise Refused("NODE_IN_USE", f"node {node_id} is in its session: stop it first")
    count = sum(1 for _ in image.partitions_of_node(node_id))
    if count:
        raise Refused("NODE_IN_USE", f"node {node_id} holds replicas of {count} partitions")
    shards = image.shards_owned_by(node_id)
    if shards:
        raise Refused("NODE_IN_USE", f"node {node_id} owns {len(shards)} shards")
    return (
        command_pb.MetadataCommand(
            unregister_node=command_pb.UnregisterNode(node_id=node_id, node_epoch=node.epoch)
        ),
    )


def may_stop(image: Image, node: NodeState) -> bool:
    """True if a node that wants to stop leads nothing and owns no shard."""
    return (
        node.shutting_down
        and next(image.partitions_led_by(node.node_id), None) is None
        and not image.shards_owned_by(node.node_id)
    )


def fence(node: NodeState) -> command_pb.MetadataCommand:
    """The command that ends a node's session."""
    return command_pb.MetadataCommand(
        fence_node=command_pb.FenceNode(
            node_id=node.node_id,
            node_epoch=node.epoch,
            registered_version=node.registered_version,
        )
    )


def expire_sessions(image: Image, idle: Sequence[int]) -> Commands:
    """The command that ends request sessions that were not used; none if all are gone."""
    sessions = [
        command_pb.IdleSession(session_id=key, used_version=image.sessions[key].used_version)
        for key in idle
        if key in image.sessions
    ]
    if not sessions:
        return ()
    return (
        command_pb.MetadataCommand(expire_sessions=command_pb.ExpireSessions(sessions=sessions)),
    )
