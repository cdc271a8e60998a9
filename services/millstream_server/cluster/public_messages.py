"""From the image to the messages of ``millstream.v1.MetadataService``."""

from collections.abc import Iterable, Mapping

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.image import Image, NodeState, PartitionState, TopicState
from millstream_server.v1 import controller_service_pb2 as pb

_ROLES: Mapping[str, public.NodeRole.ValueType] = {
    "broker": public.NODE_ROLE_BROKER,
    "metadata": public.NODE_ROLE_METADATA,
    "coordinator": public.NODE_ROLE_COORDINATOR,
}


def role_numbers(roles: Iterable[str]) -> list[public.NodeRole.ValueType]:
    """The wire's numbers of role names, sorted."""
    return sorted(_ROLES[role] for role in roles)


def node_message(node: NodeState) -> public.Node:
    """A registration."""
    return public.Node(
        node_id=node.node_id,
        roles=role_numbers(node.roles),
        host=node.host,
        port=node.port,
        rack=node.rack,
        epoch=node.epoch,
        fenced=node.fenced,
        version=node.version,
        shutting_down=node.shutting_down,
        decommissioning=node.decommissioning,
    )


def metadata_node_message(node_id: int, address: str) -> public.Node:
    """A metadata node that is nothing else: it does not register."""
    host, _, port = address.rpartition(":")
    return public.Node(
        node_id=node_id,
        roles=[public.NODE_ROLE_METADATA],
        host=host.removeprefix("[").removesuffix("]"),
        port=int(port),
    )


def node_messages(image: Image, voters: Iterable[tuple[int, str]]) -> list[public.Node]:
    """All nodes, by id."""
    nodes = {node_id: node_message(node) for node_id, node in image.nodes.items()}
    for node_id, address in voters:
        if node_id not in nodes:
            nodes[node_id] = metadata_node_message(node_id, address)
    return [nodes[node_id] for node_id in sorted(nodes)]


def partition_message(partition: PartitionState, *, with_isr: bool) -> public.Partition:
    """A partition; watches leave the ISR out, so that its changes need not be sent."""
    message = public.Partition(
        partition=partition.number,
        leader_id=partition.leader_id,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        replica_ids=partition.replicas,
    )
    if with_isr:
        message.in_sync_replica_ids.extend(partition.isr)
        message.eligible_leader_replica_ids.extend(partition.elr)
        message.min_in_sync_replicas = partition.min_isr
        message.under_replicated = partition.under_replicated
        message.under_min_in_sync_replicas = len(partition.isr) < partition.min_isr
        message.last_known_eligible_leader_ids.extend(partition.last_known_elr)
        message.recovering = partition.recovering
        message.damaged_replica_ids.extend(partition.damaged)
        message.adding_replica_ids.extend(partition.adding)
        message.removing_replica_ids.extend(partition.removing)
    return message


def topic_message(topic: TopicState, *, with_isr: bool = True) -> public.Topic:
    """A topic, whole."""
    return public.Topic(
        name=topic.name,
        topic_id=topic.topic_id,
        partitions=[partition_message(one, with_isr=with_isr) for one in topic.partitions],
        internal=topic.internal,
        configs=topic.configs,
    )


def hydrate_reply(response: pb.ExecuteResponse, image: Image) -> None:
    """Complete the topic of an answer, which the quorum keeps by id only. A topic that is gone
    again keeps its id and name."""
    kind = response.WhichOneof("kind")
    if kind not in ("create_topic", "create_partitions"):
        return
    topic = getattr(response, kind).topic
    known = image.topics.get(topic.topic_id)
    if known is not None:
        topic.CopyFrom(topic_message(known))
