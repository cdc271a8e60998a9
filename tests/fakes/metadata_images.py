"""Images for tests, made the only way there is: by commands."""

from millstream_raft.commands import Applied, apply_entry, encode_entry
from millstream_raft.image import EMPTY_IMAGE, Image
from millstream_server.v1 import metadata_command_pb2 as pb

CLUSTER_ID = "test-cluster"
CONTROLLER = 100


def topic_id(number: int) -> bytes:
    """A topic id."""
    return number.to_bytes(16, "big")


def command(**kind: object) -> pb.MetadataCommand:
    """``command(fence_node=pb.FenceNode(...))``."""
    return pb.MetadataCommand(**kind)  # type: ignore[arg-type]


def apply(image: Image, *commands: pb.MetadataCommand) -> Applied:
    """Apply commands as the active controller would."""
    return apply_entry(image, encode_entry(list(commands), controller_epoch=image.controller_epoch))


def after(image: Image, *commands: pb.MetadataCommand) -> Image:
    """The image after commands that must take effect."""
    applied = apply(image, *commands)
    assert not applied.result.reason, applied.result
    return applied.image


def elected(image: Image = EMPTY_IMAGE, node_id: int = CONTROLLER) -> pb.MetadataCommand:
    """The election of the next controller."""
    return command(
        controller_elected=pb.ControllerElected(
            node_id=node_id, expected_epoch=image.controller_epoch, cluster_id=CLUSTER_ID
        )
    )


def register(
    node_id: int,
    *roles: str,
    incarnation: int = 0,
    directory: int | None = None,
    previous_epoch: int = 0,
    clean: bool = False,
    rack: str = "",
) -> pb.MetadataCommand:
    """A registration, of a broker unless told otherwise."""
    return command(
        register_node=pb.RegisterNode(
            node_id=node_id,
            incarnation_id=incarnation.to_bytes(16, "big"),
            roles=roles or ("broker",),
            host="127.0.0.1",
            port=9000 + node_id,
            rack=rack,
            directory_id=(node_id if directory is None else directory).to_bytes(16, "big"),
            previous_epoch=previous_epoch,
            clean_shutdown=clean,
        )
    )


def unfence(image: Image, node_id: int) -> pb.MetadataCommand:
    """The command that lets a registered node lead."""
    node = image.nodes[node_id]
    return command(
        unfence_node=pb.UnfenceNode(
            node_id=node_id, node_epoch=node.epoch, registered_version=node.registered_version
        )
    )


def fence(image: Image, node_id: int) -> pb.MetadataCommand:
    """The end of a node's session."""
    node = image.nodes[node_id]
    return command(
        fence_node=pb.FenceNode(
            node_id=node_id, node_epoch=node.epoch, registered_version=node.registered_version
        )
    )


def in_sync(image: Image, topic: int, partition: int, *isr: int) -> pb.MetadataCommand:
    """What a leader proposes to change its partition's in-sync set."""
    state = image.topics[topic_id(topic)].partitions[partition]
    return command(
        change_partition=pb.ChangePartition(
            topic_id=topic_id(topic),
            partition=partition,
            expected_partition_epoch=state.partition_epoch,
            in_sync_replica_ids=isr,
            added=[
                pb.ReplicaRegistration(node_id=one, node_epoch=image.nodes[one].epoch)
                for one in isr
            ],
        )
    )


def add_topic(
    number: int,
    *replicas: tuple[int, ...],
    name: str | None = None,
    internal: bool = False,
    min_isr: int = 1,
    flush_mode: str = "fsync",
    configs: dict[str, str] | None = None,
) -> pb.MetadataCommand:
    """A topic with these replicas of its partitions."""
    return command(
        add_topic=pb.AddTopic(
            name=name or f"topic-{number}",
            topic_id=topic_id(number),
            internal=internal,
            configs=configs or {},
            assignments=[pb.ReplicaAssignment(replica_ids=one) for one in replicas],
            min_isr=min_isr,
            flush_mode=flush_mode,
        )
    )


def image_with(*node_ids: int, roles: tuple[str, ...] = ("broker",)) -> Image:
    """An image with a controller and live nodes."""
    image = after(EMPTY_IMAGE, elected())
    return with_nodes(image, *node_ids, roles=roles)


def with_nodes(image: Image, *node_ids: int, roles: tuple[str, ...] = ("broker",)) -> Image:
    """The image with further live nodes."""
    for node_id in node_ids:
        image = after(image, register(node_id, *roles))
        image = after(image, unfence(image, node_id))
    return image
