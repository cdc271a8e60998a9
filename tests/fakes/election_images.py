"""Images of one partition whose brokers end, return and tell of their logs."""

from millstream_raft.image import Image, PartitionState
from millstream_server.v1 import metadata_command_pb2 as pb
from tests.fakes import metadata_images as images


def partition(image: Image, number: int = 0) -> PartitionState:
    """A partition of the one topic."""
    return image.topics[images.topic_id(1)].partitions[number]


def cluster(*replicas: int, min_isr: int = 1, flush_mode: str = "fsync") -> Image:
    """Three live brokers and a topic with one partition."""
    image = images.image_with(1, 2, 3)
    return images.after(
        image, images.add_topic(1, replicas, min_isr=min_isr, flush_mode=flush_mode)
    )


def fenced(image: Image, *node_ids: int) -> Image:
    """The sessions of these brokers ended, one after another."""
    for node_id in node_ids:
        image = images.after(image, images.fence(image, node_id))
    return image


def restarted(
    image: Image,
    node_id: int,
    *,
    previous_epoch: int | None = None,
    clean: bool = False,
    directory: int | None = None,
) -> Image:
    """A fenced broker registered again, and is in its session."""
    known = image.nodes[node_id].epoch
    command = images.register(
        node_id,
        incarnation=image.version + 1,
        previous_epoch=known if previous_epoch is None else previous_epoch,
        clean=clean,
        directory=directory,
    )
    image = images.after(image, command)
    return images.after(image, images.unfence(image, node_id))


def power_cut(*replicas: int, min_isr: int = 2, flush_mode: str = "page_cache") -> Image:
    """All nodes end at once, and come back without their place."""
    image = fenced(cluster(*replicas, min_isr=min_isr, flush_mode=flush_mode), *replicas)
    for node_id in sorted(replicas, reverse=True):
        image = restarted(image, node_id, previous_epoch=0)
    return image


def told(image: Image, node_id: int, last_epoch: int, end: int) -> Image:
    """A broker told how far its log reaches."""
    state = partition(image)
    return images.after(
        image,
        images.command(
            note_recovered_log=pb.NoteRecoveredLog(
                topic_id=images.topic_id(1),
                expected_partition_epoch=state.partition_epoch,
                replica=pb.ReplicaRegistration(
                    node_id=node_id, node_epoch=image.nodes[node_id].epoch
                ),
                last_epoch=last_epoch,
                synced_end_offset=end,
            )
        ),
    )


def damaged(image: Image, node_id: int) -> Image:
    """A broker found rot in its log."""
    replica = pb.ReplicaRegistration(node_id=node_id, node_epoch=image.nodes[node_id].epoch)
    command = pb.RemoveDamagedReplica(
        topic_id=images.topic_id(1),
        expected_partition_epoch=partition(image).partition_epoch,
        replica=replica,
    )
    return images.after(image, images.command(remove_damaged_replica=command))
