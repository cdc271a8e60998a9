"""Images of partitions on their way to other replicas, and the requests for that."""

from millstream.v1 import errors_pb2
from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import Image, PartitionState
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes import metadata_images as images

TOPIC = images.topic_id(1)
DEFAULTS = ClusterDefaults()


def cluster(*replicas: tuple[int, ...], min_isr: int = 1) -> Image:
    """Five brokers and a topic with these replicas."""
    return images.after(
        images.image_with(1, 2, 3, 4, 5), images.add_topic(1, *replicas, min_isr=min_isr)
    )


def partition(image: Image, number: int = 0) -> PartitionState:
    """A partition of the topic."""
    return image.topics[TOPIC].partitions[number]


def move(*replicas: int, number: int = 0, **fields: object) -> pb.ExecuteRequest:
    """A request to move a partition; without replicas, to stop that."""
    return pb.ExecuteRequest(
        alter_partition_reassignments=public.AlterPartitionReassignmentsRequest(
            partitions=[
                public.PartitionReassignment(
                    topic_id=TOPIC,
                    partition=number,
                    replica_ids=replicas,
                    replication_factor=fields.pop("factor", 0),  # type: ignore[arg-type]
                )
            ],
            **fields,  # type: ignore[arg-type]
        )
    )


def error(reply: pb.ExecuteResponse) -> str:
    """Why one partition was not moved."""
    (result,) = reply.alter_partition_reassignments.results
    return errors_pb2.ErrorReason.Name(result.error).removeprefix("ERROR_REASON_")


def in_sync(image: Image, *isr: int, number: int = 0) -> Image:
    """After the leader changed the in-sync set."""
    return images.after(image, images.in_sync(image, 1, number, *isr))


def request(node_id: int, *, cancel: bool = False) -> pb.ExecuteRequest:
    """A request to empty a broker."""
    return pb.ExecuteRequest(
        decommission_broker=public.DecommissionBrokerRequest(node_id=node_id, cancel=cancel)
    )
