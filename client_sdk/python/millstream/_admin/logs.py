"""Admin flows about the logs themselves: offsets, deletion of records, log directories."""

from collections.abc import Iterable, Mapping

from millstream._admin.flow import Ask, Flow, Pause, for_each, raise_failures
from millstream._admin.types import LogDirInfo, LogDirPartitionInfo, OffsetInfo, OffsetSpec
from millstream._client import methods
from millstream._client.cluster import NodeInfo, node_from_proto
from millstream._consumer.record import TopicPartition
from millstream._errors import InvalidRequestError, MillstreamError
from millstream._errors.status import from_reason
from millstream.v1 import broker_service_pb2 as pb
from millstream.v1 import metadata_service_pb2 as metadata

# A partition may be without leader for a moment: tried again so often, so long apart.
_ATTEMPTS = 20
_RETRY_MS = 100


def _position(spec: OffsetSpec) -> pb.Position:
    if spec.kind == "earliest":
        return pb.Position(earliest=True)
    if spec.kind == "latest":
        return pb.Position(latest=True)
    return pb.Position(timestamp_ms=spec.timestamp_ms)


def list_offsets(
    wanted: Mapping[TopicPartition, OffsetSpec],
) -> Flow[dict[TopicPartition, OffsetInfo]]:
    """Look offsets up; partitions that fail for the moment are asked again."""
    found: dict[TopicPartition, OffsetInfo] = {}
    missing = dict(wanted)
    for attempt in range(_ATTEMPTS):
        if not missing:
            break
        if attempt:
            yield Pause(_RETRY_MS)
        answer = yield Ask(
            methods.LIST_OFFSETS,
            pb.ListOffsetsRequest(
                queries=[
                    pb.OffsetQuery(topic=topic, partition=number, position=_position(spec))
                    for (topic, number), spec in missing.items()
                ]
            ),
        )
        failures: dict[TopicPartition, MillstreamError] = {}
        for place, entry in zip(list(missing), answer.answers, strict=True):
            if entry.error:
                failures[place] = from_reason(entry.error, entry.message)
            else:
                del missing[place]
                found[place] = OffsetInfo(
                    entry.offset if entry.HasField("offset") else None,
                    entry.timestamp_ms if entry.HasField("timestamp_ms") else None,
                    entry.leader_epoch,
                )
        if attempt == _ATTEMPTS - 1 or not all(map(_passing, failures.values())):
            raise_failures(failures)
    return {place: found[place] for place in wanted}


def _passing(error: MillstreamError) -> bool:
    """True for failures that may be over in a moment; an unknown topic is not."""
    return error.retriable and not error.code.startswith("UNKNOWN_")


def delete_records(
    before: Mapping[TopicPartition, int | None],
) -> Flow[dict[TopicPartition, int]]:
    """Move the starts of logs forward; returns the starts as they are now."""
    if not before:
        return {}
    answer = yield Ask(
        methods.DELETE_RECORDS,
        pb.DeleteRecordsRequest(
            deletions=[
                pb.RecordDeletion(topic=topic, partition=number, before_offset=offset)
                for (topic, number), offset in before.items()
            ]
        ),
    )
    failures: dict[TopicPartition, MillstreamError] = {}
    starts: dict[TopicPartition, int] = {}
    for place, result in zip(before, answer.results, strict=True):
        if result.error:
            failures[place] = from_reason(result.error, result.message)
        else:
            starts[place] = result.log_start_offset
    raise_failures(failures)
    return starts


def describe_log_dirs(
    node_ids: Iterable[int] | None, topics: Iterable[str]
) -> Flow[list[LogDirInfo]]:
    """The log directories of brokers: of those named, or of all that are in session."""
    cluster = yield Ask(methods.DESCRIBE_CLUSTER, metadata.DescribeClusterRequest())
    nodes = {node.node_id: node for node in map(node_from_proto, cluster.nodes)}
    wanted = list(topics)
    if node_ids is None:
        asked = [node for node in nodes.values() if node.is_broker and not node.fenced]
    else:
        ids = list(node_ids)
        for node_id in ids:
            if node_id not in nodes:
                raise InvalidRequestError(f"no node has the id {node_id}")
        asked = [nodes[node_id] for node_id in ids]

    def ask(node: NodeInfo) -> Flow[list[LogDirInfo]]:
        answer = yield Ask(
            methods.DESCRIBE_LOG_DIRS,
            pb.DescribeLogDirsRequest(topics=wanted),
            address=node.address,
        )
        return [_log_dir(answer.node_id, each) for each in answer.log_dirs]

    found = yield from for_each(asked, ask)
    return [each for of_node in found for each in of_node]


def _log_dir(node_id: int, each: pb.LogDir) -> LogDirInfo:
    partitions = tuple(
        LogDirPartitionInfo(
            p.topic, p.topic_id, p.partition, p.size_bytes, p.segment_count,
            p.log_start_offset, p.log_end_offset, p.synced_end_offset, p.offline_reason,
        )
        for p in each.partitions
    )  # fmt: skip
    return LogDirInfo(
        node_id, each.path, each.total_bytes, each.free_bytes, each.offline_reason, partitions
    )
