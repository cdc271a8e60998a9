"""`DescribeLogDirs`: the log directory of this very broker."""

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.jobs import run_job


async def describe_log_dirs(
    hosted: HostedPartitions, path: str, request: pb.DescribeLogDirsRequest
) -> pb.DescribeLogDirsResponse:
    """The directory with its logs; logs that the metadata does not know are listed as offline."""
    wanted = set(request.topics)
    image = hosted.cluster.image
    partitions = []
    for (topic_id, number), log in sorted(hosted.directory.logs.items()):
        topic = image.topics.get(topic_id)
        name = topic.name if topic is not None else ""
        if wanted and name not in wanted:
            continue
        reason = str(log.failure) if log.failure is not None else ""
        if (topic_id, number) not in hosted.replicas and not reason:
            reason = "not in the metadata of this cluster, or not on this broker: kept, not served"
        partitions.append(
            pb.LogDirPartition(
                topic=name,
                topic_id=topic_id,
                partition=number,
                size_bytes=log.size_bytes,
                segment_count=log.segment_count,
                log_start_offset=log.start_offset,
                log_end_offset=log.written_end_offset,
                synced_end_offset=log.synced_end_offset,
                offline_reason=reason,
            )
        )
    try:
        total, free = await run_job(hosted.reads, hosted.directory.disk_usage)
    except OSError:  # the offline reason says more
        total = free = 0
    offline = hosted.directory.offline_reason
    return pb.DescribeLogDirsResponse(
        node_id=hosted.node_id,
        log_dirs=[
            pb.LogDir(
                path=path,
                total_bytes=total,
                free_bytes=free,
                offline_reason=str(offline) if offline is not None else "",
                partitions=partitions,
            )
        ],
    )
