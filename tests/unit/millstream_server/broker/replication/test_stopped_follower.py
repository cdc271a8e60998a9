"""A follower that takes nothing, as one that was stopped: what its leader keeps for it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from millstream.v1 import broker_service_pb2 as broker_pb
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_follower import TAIL, ScriptedFollower
from tests.fakes.waiting import until

MIB = 1 << 20
RECORD = bytes(100_000)
RECORDS = 100
# What gRPC lets a peer be sent that takes nothing.
WINDOW_BYTES = 4 * MIB
CONFIG = with_config(
    in_sync_check_ms=20,
    in_sync_retry_ms=20,
    replica_lag_time_ms_max=200,
    catch_up_from_bytes=64 * MIB,  # all on one lane
)


@pytest.fixture
async def node(metadata: FakeMetadata, tmp_path: Path) -> AsyncIterator[BrokerNode]:
    """Leads "logs", which nodes 2 and 3 follow."""
    broker = BrokerNode(metadata, tmp_path / "node-1", config=CONFIG)
    await broker.start()
    metadata.register(2, 1, epoch=20)
    metadata.register(3, 1, epoch=30)
    metadata.create_topic("logs", [1], replicas=[(1, 2, 3)])
    metadata.change_partition("logs", 0, min_isr=2)
    await broker.until_leading("logs")
    yield broker
    await broker.stop()


@pytest.fixture
async def other_connection(node: BrokerNode) -> AsyncIterator[grpc.aio.Channel]:
    """One that shares no flow-control window with the others."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.port}", options=options) as channel:
        yield channel


async def produce(node: BrokerNode, topic_id: bytes, copying: ScriptedFollower) -> None:
    """Produce records that the follower copies, each acknowledged before the next."""
    call = node.stub.Produce()
    end = node.replica("logs").state.end_offset
    for number in range(end + 1, end + RECORDS + 1):
        await call.write(produce_request(topic_id, batch_of(RECORD), acks=broker_pb.ACKS_ALL))
        await copying.records(1)
        await copying.report(topic_id, number)
        await copying.say(TAIL, credit_bytes=len(RECORD) + 1000)
        async with asyncio.timeout(10):
            assert not (await call.read()).results[0].error
    call.cancel()


async def test_it_costs_little_memory_and_keeps_nobody_waiting_and_then_goes_on(
    node: BrokerNode, other_connection: grpc.aio.Channel
) -> None:
    topic_id = node.metadata.image.topic_ids["logs"]
    stopped = ScriptedFollower(other_connection, follower_id=2, epoch=20, credit=64 * MIB)
    async with stopped, ScriptedFollower(node.channel, follower_id=3, epoch=30) as copying:
        for one in (stopped, copying):
            await one.begin(topic_id)
        await produce(node, topic_id, copying)
        assert node.replica("logs").state.in_sync.committed == {1, 3}
        pushed = node.app.counters.replication_bytes_out - RECORDS * len(RECORD)
        assert 0 < pushed < WINDOW_BYTES + 4 * CONFIG.replication_message_bytes
        async with asyncio.timeout(10):
            await stopped.records(RECORDS)


async def test_what_is_kept_for_it_goes_with_its_session(
    node: BrokerNode, other_connection: grpc.aio.Channel
) -> None:
    topic_id = node.metadata.image.topic_ids["logs"]
    stopped = ScriptedFollower(other_connection, follower_id=2, epoch=20, credit=64 * MIB)
    async with stopped, ScriptedFollower(node.channel, follower_id=3, epoch=30) as copying:
        for one in (stopped, copying):
            await one.begin(topic_id)
        await produce(node, topic_id, copying)
        # It was killed and came back, and nobody told the leader that the connection is dead.
        again = ScriptedFollower(node.channel, follower_id=2, epoch=20, session_id=78)
        async with again:
            epoch = node.replica("logs").state.in_sync.partition_epoch
            await again.begin(topic_id, RECORDS, last_epoch=1, partition_epoch=epoch)
            await again.report(topic_id, RECORDS)
            await until(lambda: node.replica("logs").state.in_sync.committed == {1, 2, 3})
            assert len(node.replica("logs")._copies) == 2
        async with asyncio.timeout(10):
            await node.stop()
