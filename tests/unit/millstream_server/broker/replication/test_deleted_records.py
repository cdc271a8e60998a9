"""Copying a log whose first records were deleted: its start may lie in the middle of a batch."""

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.record import iterate_frames, parse_header
from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.refusal import Refusal
from millstream_server.storage.errors import DiskFullError, OffsetOutOfRangeError
from millstream_server.storage.log import Log
from millstream_server.storage.points import LogPoints
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


async def produce(
    node: BrokerNode, *values: bytes, acks: pb.Acks.ValueType = pb.ACKS_ALL, **fields: int
) -> int:
    """One batch; its base offset."""
    call = node.stub.Produce()
    topic_id = node.metadata.image.topic_ids["logs"]
    await call.write(produce_request(topic_id, batch_of(*values, **fields), acks=acks))
    async with asyncio.timeout(10):
        result = (await call.read()).results[0]
    assert not result.error
    call.cancel()
    return result.base_offset


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


async def led_by_the_other(
    nodes: list[BrokerNode], metadata: FakeMetadata, path: Path, *uncommitted: bytes
) -> BrokerNode:
    """Node 1 goes with records, one batch each, that nobody else has; node 2 leads epoch 2."""
    await produce(nodes[0], b"first")
    await nodes[1].stop()
    for value in uncommitted:
        await produce(nodes[0], value, acks=pb.ACKS_LEADER)
    await nodes[0].stop()
    metadata.change_partition("logs", 0, leader_id=2, leader_epoch=2, isr=(2,))
    leader = await start(nodes, metadata, path, 2, epoch=21)
    await leader.until_leading("logs")
    return leader


@pytest.mark.parametrize("before", [2, 3, 5])
async def test_rule_14_records_of_an_old_leader_that_end_where_others_were_deleted_go(
    nodes: list[BrokerNode], metadata: FakeMetadata, tmp_path: Path, before: int
) -> None:
    """The new log begins within a batch, or behind it; the old one has no boundary there."""
    leader = await led_by_the_other(nodes, metadata, tmp_path, b"x", b"y")
    await produce(leader, b"b", b"c", b"d", b"e")
    await delete_before(leader, before)
    again = await start(nodes, metadata, tmp_path, 1, epoch=11)
    await until(lambda: 1 in metadata.image.topic("logs").partitions[0].isr)
    await until(lambda: ends(again) == (before, 5))
    assert batches(again, before) == batches(leader, before)


async def test_rule_16_nobody_joins_with_what_an_old_leader_wrote_below_the_start(
    nodes: list[BrokerNode],
    metadata: FakeMetadata,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leader = await led_by_the_other(nodes, metadata, tmp_path, b"phantom")
    await produce(leader, b"b")
    await produce(leader, b"c")
    await delete_before(leader, 2)

    def refuse(log: Log, offset: int) -> int:
        raise DiskFullError("injected")

    monkeypatch.setattr(Log, "delete_before", refuse)
    again = await start(nodes, metadata, tmp_path, 1, epoch=11)
    await until(lambda: 1 in metadata.image.topic("logs").partitions[0].isr)
    assert ends(again) == (2, 3)


@pytest.mark.parametrize("deleted", [0, 2])
async def test_an_empty_log_follows_the_next_leader(
    nodes: list[BrokerNode], metadata: FakeMetadata, deleted: int
) -> None:
    if deleted:
        await produce(nodes[0], b"a", b"b")
        await delete_before(nodes[0], deleted)
    await until(lambda: [ends(node) for node in nodes] == [(deleted, deleted)] * 2)
    metadata.change_partition("logs", 0, leader_id=2, leader_epoch=2, isr=(2,))
    await until(lambda: 1 in metadata.image.topic("logs").partitions[0].isr)
    await produce(nodes[1], b"c")
    await until(lambda: ends(nodes[0]) == (deleted, deleted + 1))


@pytest.mark.parametrize("in_sync", [(1, 2), (2,)])
async def test_rule_21_who_holds_all_that_was_committed_knows_its_producers_once_all_is_deleted(
    nodes: list[BrokerNode], metadata: FakeMetadata, in_sync: tuple[int, ...]
) -> None:
    """The next leader knows no epoch of the deleted records; the other is eligible at least."""
    first = {"producer_id": 7, "base_sequence": 0}
    assert await produce(nodes[0], b"a", b"b", **first) == 0
    await delete_before(nodes[0], 2)
    await until(lambda: [ends(node) for node in nodes] == [(2, 2)] * 2)
    elr = tuple({1, 2}.difference(in_sync))
    metadata.change_partition("logs", 0, leader_id=2, leader_epoch=2, isr=in_sync, elr=elr)
    await until(lambda: set(metadata.image.topic("logs").partitions[0].isr) == {1, 2})
    await until(lambda: nodes[1].replica("logs").state.followers.node_epoch(1) > 0)
    metadata.change_partition("logs", 0, leader_id=1, leader_epoch=3)
    await nodes[0].until_leading("logs")
    assert await produce(nodes[0], b"a", b"b", **first) == 0
    assert ends(nodes[0]) == (2, 2)


async def test_a_start_that_the_disk_refuses_is_told_to_nobody(
    nodes: list[BrokerNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (b"a", b"b", b"c", b"d"):
        await produce(nodes[0], value)
    await until(lambda: nodes[1].replica("logs").state.high_watermark == 4)
    save, saving = LogPoints.save, threading.Event()

    def refuse(points: LogPoints) -> None:
        if threading.current_thread() is not threading.main_thread() and not saving.is_set():
            saving.set()
            time.sleep(0.2)  # the partition looks at its followers meanwhile
            raise OSError(errno.ENOSPC, "injected")
        save(points)

    monkeypatch.setattr(LogPoints, "save", refuse)
    deletion = pb.RecordDeletion(topic="logs", partition=0, before_offset=3)
    response = await nodes[0].stub.DeleteRecords(pb.DeleteRecordsRequest(deletions=[deletion]))
    assert response.results[0].error
    await asyncio.sleep(0.1)
    assert [ends(node) for node in nodes] == [(0, 4), (0, 4)]


async def test_where_a_follower_deleted_more_than_its_leader_it_sends_readers_there(
    nodes: list[BrokerNode],
) -> None:
    for value in (b"a", b"b", b"c", b"d"):
        await produce(nodes[0], value)
    follower = nodes[1].replica("logs")
    await until(lambda: follower.state.high_watermark == 4)
    await asyncio.to_thread(follower.log.delete_before, 3)  # by its own clock, say
    nodes[0].replica("logs").check_offset(1)
    with pytest.raises(Refusal) as caught:
        follower.check_offset(1)
    assert caught.value.reason == "OFFSET_NOT_AVAILABLE"
    with pytest.raises(OffsetOutOfRangeError) as missed:
        follower.log.read(1, 100, 4)
    assert follower.read_refusal(missed.value).reason == "OFFSET_NOT_AVAILABLE"


async def test_rule_19_a_reader_of_records_that_the_log_has_lost_is_told_where_they_part(
    nodes: list[BrokerNode], metadata: FakeMetadata, tmp_path: Path
) -> None:
    leader = await led_by_the_other(nodes, metadata, tmp_path, b"x", b"y")
    await produce(leader, b"b")
    await delete_before(leader, 2)
    await produce(leader, b"c")
    replica = leader.replica("logs")
    # It has read "x" and "y" of epoch 1, and goes on behind them; or it knows the first only.
    assert [replica.truncated_offset(1, offset) for offset in (3, 2, 1)] == [2, None, None]
