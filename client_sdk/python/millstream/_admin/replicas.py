"""Admin flows about replicas: elections, reassignments, brokers that are emptied."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from millstream._admin.flow import Ask, Flow, RequestSession, raise_failures
from millstream._admin.topics import LINEARIZABLE, list_topics, resolve
from millstream._admin.types import BrokerInfo, PartitionReassignments, ReassignmentInfo
from millstream._client import methods
from millstream._client.cluster import node_from_proto
from millstream._consumer.record import TopicPartition
from millstream._errors import InvalidRequestError, MillstreamError
from millstream._errors.status import from_reason
from millstream.v1 import errors_pb2
from millstream.v1 import metadata_service_pb2 as pb

_KINDS = {"preferred": pb.ELECTION_KIND_PREFERRED, "unclean": pb.ELECTION_KIND_UNCLEAN}
# What one call takes.
_PARTITIONS_PER_CALL = 1_000
_PAGE_SIZE = 1_000

Targets = Mapping[TopicPartition, "Sequence[int] | int | None"]


def elect_leaders(
    session: RequestSession,
    kind: str,
    partitions: Mapping[TopicPartition, int | None] | Iterable[TopicPartition] | None,
) -> Flow[dict[TopicPartition, int]]:
    """Elect leaders of the partitions (None: of all that need it); returns them."""
    if kind not in _KINDS:
        raise InvalidRequestError(f"kind {kind!r} is neither preferred nor unclean")
    if partitions is None:
        return (yield from _elect_all(session, kind))
    chosen = partitions if isinstance(partitions, Mapping) else dict.fromkeys(partitions)
    ids = yield from _topic_ids(chosen)
    elected: dict[TopicPartition, int] = {}
    failures: dict[TopicPartition, MillstreamError] = {}
    for batch in _batches(list(chosen.items())):
        targets = [
            pb.ElectionTarget(topic_id=ids[place.topic], partition=place.partition, replica_id=one)
            for place, one in batch
        ]
        answer = yield from _elect(session, kind, targets)
        for (place, _), result in zip(batch, answer.results, strict=True):
            # A preferred leader that leads already is what was wanted.
            done = (
                kind == "preferred" and result.error == errors_pb2.ERROR_REASON_ELECTION_NOT_NEEDED
            )
            if result.error and not done:
                failures[place] = from_reason(result.error, result.message)
            else:
                elected[place] = result.leader_id
    raise_failures(failures)
    return elected


def _elect_all(session: RequestSession, kind: str) -> Flow[dict[TopicPartition, int]]:
    elected: dict[TopicPartition, int] = {}
    names: dict[bytes, str] = {}
    while True:
        answer = yield from _elect(session, kind, [])
        if not {result.topic_id for result in answer.results} <= names.keys():
            topics = yield from list_topics(include_internal=True)
            names = {topic.topic_id: topic.name for topic in topics}
        for result in answer.results:
            if result.topic_id in names:  # else it was deleted since
                place = TopicPartition(names[result.topic_id], result.partition)
                elected[place] = result.leader_id
        # Without a change there is none to come either.
        if not answer.remaining or not answer.results:
            return elected


def _elect(session: RequestSession, kind: str, targets: list[pb.ElectionTarget]) -> Flow[Any]:
    return (
        yield from session.write(
            methods.ELECT_LEADERS,
            lambda request_id: pb.ElectLeadersRequest(
                request_id=request_id, kind=_KINDS[kind], partitions=targets
            ),
        )
    )


def alter_partition_reassignments(
    session: RequestSession,
    targets: Targets,
    throttle_bytes_per_s: int | None,
    validate_only: bool,
) -> Flow[dict[TopicPartition, tuple[int, ...]]]:
    """Move partitions, or stop to; returns the replicas in the end."""
    ids = yield from _topic_ids(targets)
    replicas: dict[TopicPartition, tuple[int, ...]] = {}
    failures: dict[TopicPartition, MillstreamError] = {}
    # The throttle alone is a request too.
    for batch in _batches(list(targets.items())) or [[]]:
        request = pb.AlterPartitionReassignmentsRequest(
            partitions=[_reassignment(ids[place.topic], place, target) for place, target in batch],
            throttle_bytes_per_s=throttle_bytes_per_s,
            validate_only=validate_only,
        )
        answer = yield from _reassign(session, request)
        for (place, _), result in zip(batch, answer.results, strict=True):
            if result.error:
                failures[place] = from_reason(result.error, result.message)
            else:
                replicas[place] = tuple(result.replica_ids)
    raise_failures(failures)
    return replicas


def _reassign(session: RequestSession, request: pb.AlterPartitionReassignmentsRequest) -> Flow[Any]:
    def numbered(request_id: pb.RequestId) -> pb.AlterPartitionReassignmentsRequest:
        request.request_id.CopyFrom(request_id)
        return request

    return (yield from session.write(methods.ALTER_PARTITION_REASSIGNMENTS, numbered))


def _reassignment(
    topic_id: bytes, place: TopicPartition, target: Sequence[int] | int | None
) -> pb.PartitionReassignment:
    message = pb.PartitionReassignment(topic_id=topic_id, partition=place.partition)
    if isinstance(target, int):
        message.replication_factor = target
    elif target is not None:
        message.replica_ids.extend(target)
    if target is not None and not message.replication_factor and not message.replica_ids:
        raise InvalidRequestError(f"{place.topic}-{place.partition} cannot have no replicas")
    return message


def list_partition_reassignments(topics: Iterable[str]) -> Flow[PartitionReassignments]:
    """The partitions that are being moved, of the topics (none: all)."""
    wanted = list(topics)
    ids = yield from _topic_ids([TopicPartition(name, 0) for name in wanted])
    found: list[ReassignmentInfo] = []
    token = ""
    while True:
        answer = yield Ask(
            methods.LIST_PARTITION_REASSIGNMENTS,
            pb.ListPartitionReassignmentsRequest(
                topic_ids=[ids[name] for name in wanted],
                consistency=LINEARIZABLE,
                page_size=_PAGE_SIZE,
                page_token=token,
            ),
        )
        found += [
            ReassignmentInfo(
                one.topic,
                one.partition,
                tuple(one.target_replica_ids),
                tuple(one.adding_replica_ids),
                tuple(one.removing_replica_ids),
                tuple(one.in_sync_replica_ids),
            )
            for one in answer.reassignments
        ]
        token = answer.next_page_token
        if not token:
            return PartitionReassignments(tuple(found), answer.throttle_bytes_per_s)


def describe_brokers() -> Flow[list[BrokerInfo]]:
    """The brokers with what they hold, by id."""
    answer = yield Ask(
        methods.DESCRIBE_CLUSTER,
        pb.DescribeClusterRequest(consistency=LINEARIZABLE, include_loads=True),
    )
    loads = {load.node_id: load for load in answer.loads}
    return [
        BrokerInfo(
            node,
            loads[node.node_id].leader_count,
            loads[node.node_id].replica_count,
            loads[node.node_id].out_of_sync_count,
        )
        for node in map(node_from_proto, answer.nodes)
        if node.is_broker and node.node_id in loads
    ]


def decommission_broker(session: RequestSession, node_id: int, cancel: bool) -> Flow[int]:
    """Begin to take a broker out of the cluster, or stop; the replicas that it has."""
    answer = yield from session.write(
        methods.DECOMMISSION_BROKER,
        lambda request_id: pb.DecommissionBrokerRequest(
            request_id=request_id, node_id=node_id, cancel=cancel
        ),
    )
    return int(answer.replica_count)


def drain_broker(session: RequestSession, node_id: int) -> Flow[None]:
    """Move leaders and shards away from a node."""
    yield from session.write(
        methods.DRAIN_BROKER,
        lambda request_id: pb.DrainBrokerRequest(request_id=request_id, node_id=node_id),
    )


def _topic_ids(places: Iterable[TopicPartition]) -> Flow[dict[str, bytes]]:
    """Ids of the topics; names are resolved once, before any write."""
    ids: dict[str, bytes] = {}
    for name in sorted({place.topic for place in places}):
        ids[name] = (yield from resolve(name)).topic_id
    return ids


def _batches(items: list[Any]) -> list[list[Any]]:
    return [
        items[start : start + _PARTITIONS_PER_CALL]
        for start in range(0, len(items), _PARTITIONS_PER_CALL)
    ]
