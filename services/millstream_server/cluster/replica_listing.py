"""What brokers hold and which partitions move, counted from the image. Pure."""

from collections import Counter
from itertools import islice

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.image import Image, PartitionState, TopicState

_PAGE_SIZE_DEFAULT = 1_000
_PAGE_SIZE_MAX = 10_000


def broker_loads(image: Image) -> list[public.BrokerLoad]:
    """What each broker holds, by node id; brokers without a registration too. Walks the image."""
    leaders: Counter[int] = Counter()
    replicas: Counter[int] = Counter()
    out_of_sync: Counter[int] = Counter()
    for topic in image.topics.values():
        for partition in topic.partitions:
            if partition.leader_id is not None:
                leaders[partition.leader_id] += 1
            for node_id in partition.replicas:
                replicas[node_id] += 1
                out_of_sync[node_id] += node_id not in partition.isr
    brokers = {node_id for node_id, node in image.nodes.items() if "broker" in node.roles}
    return [
        public.BrokerLoad(
            node_id=node_id,
            leader_count=leaders[node_id],
            replica_count=replicas[node_id],
            out_of_sync_count=out_of_sync[node_id],
        )
        for node_id in sorted(brokers | replicas.keys())
    ]


def reassignments(
    image: Image, request: public.ListPartitionReassignmentsRequest
) -> public.ListPartitionReassignmentsResponse:
    """A page of the partitions that are being moved, by topic name and number. The token of a page
    names the last partition of the one before, as number and topic."""
    wanted = set(request.topic_ids)
    moving = [
        (topic.name, partition.number, topic, partition)
        for topic in image.topics.values()
        if not wanted or topic.topic_id in wanted
        for partition in topic.partitions
        if partition.reassignment is not None
    ]
    moving.sort(key=lambda one: one[:2])
    number, _, name = request.page_token.partition(":")
    after = (name, int(number)) if number.isdecimal() else ("", -1)
    rest = [one for one in moving if one[:2] > after]
    size = min(request.page_size or _PAGE_SIZE_DEFAULT, _PAGE_SIZE_MAX)
    page = [_ongoing(topic, partition) for _, _, topic, partition in islice(rest, size)]
    last = page[-1] if len(rest) > size else None
    return public.ListPartitionReassignmentsResponse(
        reassignments=page,
        next_page_token=f"{last.partition}:{last.topic}" if last is not None else "",
        version=image.version,
        throttle_bytes_per_s=image.reassignment_bytes_per_s,
        total_count=len(moving),
    )


def _ongoing(topic: TopicState, partition: PartitionState) -> public.OngoingReassignment:
    return public.OngoingReassignment(
        topic=topic.name,
        topic_id=topic.topic_id,
        partition=partition.number,
        target_replica_ids=partition.target,
        adding_replica_ids=partition.adding,
        removing_replica_ids=partition.removing,
        in_sync_replica_ids=partition.isr,
    )
