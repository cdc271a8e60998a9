"""Copying a log whose first records were deleted: its start may lie in the middle of a batch."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.record import iterate_frames, parse_header
from millstream.v1 import broker_service_pb2 as pb
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.waiting import until

CONFIG = with_config(in_sync_check_ms=20, in_sync_retry_ms=20, replica_lag_time_ms_max=300)


@pytest.fixture
async def nodes(metadata: FakeMetadata, tmp_path: Path) -> AsyncIterator[list[BrokerNode]]:
    """Nodes 1 and 2; a topic "logs" that node 1 leads."""
    started: list[BrokerNode] = []
    for node_id in (1, 2):
        await start(started, metadata, tmp_path, node_id)
    metadata.create_topic("logs", [1], replicas=[(1, 2)])
    await started[0].until_leading("logs")
    yield started
    for node in started:
        await node.stop()


async def start(
    started: list[BrokerNode], metadata: FakeMetadata, path: Path, node_id: int, epoch: int = 0
) -> BrokerNode:
    node = BrokerNode(metadata, path / f"node-{node_id}", node_id=node_id, config=CONFIG)
    started.append(node)
    await node.start(epoch=epoch or node_id * 10)
    return node


async def produce(node: BrokerNode, *values: bytes) -> None:
    call = node.stub.Produce()
    await call.write(produce_request(node.metadata.image.topic_ids["logs"], batch_of(*values)))
    async with asyncio.timeout(10):
        assert not (await call.read()).results[0].error
    call.cancel()


async def delete_before(node: BrokerNode, offset: int) -> None:
    deletion = pb.RecordDeletion(topic="logs", partition=0, before_offset=offset)
    response = await node.stub.DeleteRecords(pb.DeleteRecordsRequest(deletions=[deletion]))
    assert response.results[0].log_start_offset == offset


def ends(node: BrokerNode) -> tuple[int, int]:
    log = node.app.directory.logs.get((node.metadata.image.topic_ids["logs"], 0))
    return (log.start_offset, log.synced_end_offset) if log is not None else (-1, -1)


def batches(node: BrokerNode, offset: int) -> list[tuple[int, int]]:
    """Base offsets and checksums of what may be read from an offset on."""
    log = node.replica("logs").log
    data = log.read(offset, 1 << 20, log.written_end_offset)
    headers = [parse_header(data[one.batch_start : one.end]) for one in iterate_frames(data)]
    return [(header.base_offset, header.crc) for header in headers]


async def test_a_new_replica_takes_the_rest_of_a_batch_that_is_half_deleted(
    nodes: list[BrokerNode], metadata: FakeMetadata, tmp_path: Path
) -> None:
    await produce(nodes[0], b"a", b"b", b"c")
    await produce(nodes[0], b"d")
    await delete_before(nodes[0], 2)
    late = await start(nodes, metadata, tmp_path, 3)
    metadata.change_partition("logs", 0, replicas=(1, 2, 3))
    await until(lambda: 3 in metadata.image.topic("logs").partitions[0].isr)
    await until(lambda: ends(late) == (2, 4))
    assert batches(late, 2) == batches(nodes[0], 2)
    assert [base for base, _ in batches(late, 2)] == [0, 3]


async def test_a_replica_that_was_away_takes_the_rest_of_a_batch_that_is_half_deleted(
    nodes: list[BrokerNode], metadata: FakeMetadata, tmp_path: Path
) -> None:
    await produce(nodes[0], b"a", b"b")
    await nodes[1].stop()
    metadata.change_partition("logs", 0, isr=(1,))
    await produce(nodes[0], b"c", b"d", b"e")
    await delete_before(nodes[0], 4)
    again = await start(nodes, metadata, tmp_path, 2, epoch=21)
    await until(lambda: ends(again) == (4, 5))
