"""Leader and followers, all of them real brokers on loopback; the controller is the test's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.v1 import broker_service_pb2 as pb
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.waiting import until

CONFIG = with_config(in_sync_check_ms=20, in_sync_retry_ms=20, replica_lag_time_ms_max=300)


@pytest.fixture
async def nodes(metadata: FakeMetadata, tmp_path: Path) -> AsyncIterator[list[BrokerNode]]:
    """Nodes 1, 2 and 3; a topic "logs" that node 1 leads."""
    started = []
    for node_id in (1, 2, 3):
        node = BrokerNode(metadata, tmp_path / f"node-{node_id}", node_id=node_id, config=CONFIG)
        started.append(node)
        await node.start(epoch=node_id * 10)
    metadata.create_topic("logs", [1], replicas=[(1, 2, 3)])
    metadata.change_partition("logs", 0, min_isr=2)
    await started[0].until_leading("logs")
    yield started
    for node in started:
        await node.stop()


async def produce(node: BrokerNode, *values: bytes) -> int:
    """Produce with acks=all; returns the offset."""
    call = node.stub.Produce()
    topic_id = node.metadata.image.topic_ids["logs"]
    await call.write(produce_request(topic_id, batch_of(*values)))
    async with asyncio.timeout(10):
        result = (await call.read()).results[0]
    call.cancel()
    assert not result.error, result
    assert result.durability == pb.DURABILITY_REPLICATED_DISK
    return int(result.base_offset)


def file_of(node: BrokerNode) -> bytes:
    """The records of a replica, without what each replica sets itself."""
    log = node.replica("logs").log
    return log.read(0, 1 << 20, log.written_end_offset)


async def test_what_is_acknowledged_is_on_every_replica(nodes: list[BrokerNode]) -> None:
    for number in range(10):
        assert await produce(nodes[0], b"value", b"other") == number * 2
    for node in nodes:
        log = node.replica("logs").log
        # Two of three are enough for the acknowledgement.
        await until(lambda log=log: (log.end_offset, log.synced_end_offset) == (20, 20))
        assert node.scrape("millstream_partition_in_sync_replicas", topic="logs", partition="0")
        await until(lambda node=node: node.replica("logs").state.high_watermark == 20)
    assert len({len(file_of(node)) for node in nodes}) == 1


async def test_a_follower_that_is_gone_leaves_the_set_and_comes_back_into_it(
    nodes: list[BrokerNode], metadata: FakeMetadata
) -> None:
    await produce(nodes[0], b"first")
    await nodes[2].stop()
    topic_id = metadata.image.topic_ids["logs"]
    producing = asyncio.create_task(produce(nodes[0], b"second"))

    def members() -> set[int]:
        state = metadata.image.partition(topic_id, 0)
        return set(state.isr) if state is not None else set()

    await until(lambda: members() == {1, 2})
    assert await producing == 1
    lag = {"topic": "logs", "partition": "0", "replica": "3"}
    assert nodes[0].scrape("millstream_replica_lag_records", **lag) == 1
    assert (nodes[0].scrape("millstream_replica_lag_seconds", **lag) or 0) >= 0.3
    partition = {"topic": "logs", "partition": "0"}
    for name, at_leader in (("under_replicated", 1), ("at_min_isr", 1), ("under_min_isr", 0)):
        metric = f"millstream_partition_{name}"
        assert nodes[0].scrape(metric, **partition) == at_leader
        assert nodes[1].scrape(metric, **partition) == 0
    assert nodes[0].scrape("millstream_isr_shrinks_total") == 1

    path = Path(nodes[2].app.directory.path)
    again = BrokerNode(metadata, path, node_id=3, config=CONFIG)
    nodes.append(again)
    await again.start(epoch=31)
    await until(lambda: members() == {1, 2, 3})
    assert again.replica("logs").log.synced_end_offset == 2
    assert nodes[0].scrape("millstream_replica_lag_records", **lag) == 0
    assert nodes[0].scrape("millstream_replica_lag_seconds", **lag) == 0
    out = nodes[0].scrape("millstream_replication_bytes_out_total") or 0
    assert out >= 2 * len(file_of(nodes[1]))
    assert again.scrape("millstream_replication_bytes_in_total")
    assert nodes[0].scrape("millstream_isr_expands_total") == 1


async def test_records_of_an_old_leader_that_nobody_else_has_are_cut(
    nodes: list[BrokerNode], metadata: FakeMetadata
) -> None:
    await produce(nodes[0], b"first")
    topic_id = metadata.image.topic_ids["logs"]
    await nodes[1].stop()
    await nodes[2].stop()
    call = nodes[0].stub.Produce()
    for value in (b"lost", b"too"):
        await call.write(produce_request(topic_id, batch_of(value), acks=pb.ACKS_LEADER))
        async with asyncio.timeout(10):
            assert not (await call.read()).results[0].error
    call.cancel()
    await nodes[0].stop()

    async def again(node: BrokerNode) -> BrokerNode:
        new = BrokerNode(
            metadata, Path(node.app.directory.path), node_id=node.node_id, config=CONFIG
        )
        nodes.append(new)
        await new.start(epoch=node.node_id * 10 + 1)
        return new

    metadata.change_partition("logs", 0, leader_id=2, leader_epoch=2, isr=(2, 3))
    leader = await again(nodes[1])
    await again(nodes[2])
    await leader.until_leading("logs")
    assert await produce(leader, b"second") == 1
    late = await again(nodes[0])

    def members() -> set[int]:
        state = metadata.image.partition(topic_id, 0)
        return set(state.isr) if state is not None else set()

    await until(lambda: members() == {1, 2, 3})
    assert late.replica("logs").log.end_offset == 2
    ours = leader.replica("logs").log.epochs.entries
    assert late.replica("logs").log.epochs.entries == ours
