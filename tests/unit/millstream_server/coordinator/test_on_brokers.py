"""The coordinator on a real broker's log: fences, commits, ends of logs, a broker that restarts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from millstream.v1 import errors_pb2
from millstream.v1 import group_coordinator_service_pb2 as pb
from millstream_raft.image import OFFSETS_TOPIC
from millstream_server.runtime.errors import error_of
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request
from tests.fakes.cluster import FakeMetadata
from tests.fakes.coordinator_node import QUICK, CoordinatorCluster, CoordinatorNode, Member

TOPIC = "logs"


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[BrokerNode]:
    node = BrokerNode(FakeMetadata(), tmp_path, node_id=7)
    await node.start()
    await node.lead(OFFSETS_TOPIC, 2)
    await node.lead(TOPIC, 2)
    yield node
    await node.stop()


@pytest.fixture
async def cluster(broker: BrokerNode) -> CoordinatorCluster:
    return CoordinatorCluster(metadata=broker.metadata)


async def produce(broker: BrokerNode, count: int) -> None:
    call = broker.stub.Produce()
    topic_id = broker.metadata.image.topic_ids[TOPIC]
    await call.write(produce_request(topic_id, batch_of(*[b"x"] * count)))
    response = await call.read()
    assert not response.results[0].error
    call.cancel()


def commit(offset: int) -> pb.CommitOffsetsRequest:
    return pb.CommitOffsetsRequest(
        group_id="g", offsets=[pb.OffsetCommit(topic=TOPIC, partition=0, offset=offset)]
    )


async def committed(node: CoordinatorNode) -> list[int]:
    response = await node.ask("FetchOffsets", pb.FetchOffsetsRequest(group_id="g"))
    return [entry.offset for entry in response.offsets]


async def test_commits_are_checked_against_the_end_and_survive(
    broker: BrokerNode, cluster: CoordinatorCluster
) -> None:
    await produce(broker, 5)
    async with CoordinatorNode(cluster) as first:
        response = await first.ask("CommitOffsets", commit(5))
        assert not response.results[0].error
        response = await first.ask("CommitOffsets", commit(6))
        assert response.results[0].error == errors_pb2.ERROR_REASON_INVALID_COMMIT_OFFSET
        await produce(broker, 1)
        response = await first.ask("CommitOffsets", commit(6))
        assert not response.results[0].error
    async with CoordinatorNode(cluster, 2) as second:
        assert await committed(second) == [6]


async def test_a_former_owner_is_refused_by_the_log_itself(
    broker: BrokerNode, cluster: CoordinatorCluster
) -> None:
    async with CoordinatorNode(cluster) as former:
        await former.ask("CommitOffsets", commit(0))
        # It does not hear of the change of owner.
        cluster.metadata.views.remove(former.view)
        async with CoordinatorNode(cluster, 2) as owner:
            assert await committed(owner) == [0]
            with pytest.raises(grpc.RpcError) as refused:
                await former.stub.CommitOffsets(commit(0), timeout=10)
            assert error_of(refused.value).reason == "UNAVAILABLE"
            assert not (await owner.ask("CommitOffsets", commit(0))).results[0].error


async def test_members_wait_for_a_broker_that_restarts(
    broker: BrokerNode, cluster: CoordinatorCluster, tmp_path: Path
) -> None:
    config = replace(QUICK, write_timeout_ms=2_000)
    async with CoordinatorNode(cluster, config=config) as node:
        member = Member(node, "g", [TOPIC])
        await member.join()
        await member.wait_for(lambda one: len(one.owned) == 2)
        await broker.stop()
        waiting = asyncio.ensure_future(member.commit({(TOPIC, 0): 0}))
        again = BrokerNode(broker.metadata, tmp_path, node_id=7)
        await again.start(epoch=2)
        for topic in (OFFSETS_TOPIC, TOPIC):
            for number in range(2):
                cluster.metadata.change_partition(topic, number, leader_epoch=2)
            await again.until_leading(topic, 2)
        try:
            assert not (await waiting)[0].error
            assert await committed(node) == [0]
            assert not member.error
        finally:
            await member.close()
            await again.stop()


async def test_lag_is_reported_for_what_groups_have_committed(
    broker: BrokerNode, cluster: CoordinatorCluster
) -> None:
    await produce(broker, 5)
    async with CoordinatorNode(cluster, config=replace(QUICK, lag_interval_ms=5)) as node:
        await node.ask("CommitOffsets", commit(2))
        labels = {"group": "g", "topic": TOPIC, "partition": "0"}

        def value(name: str) -> float | None:
            return node.metrics.get_sample_value(f"millstream_consumer_group_{name}", labels)

        async with asyncio.timeout(10):
            while value("lag_records") != 3:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert value("committed_offset") == 2
        assert (value("lag_seconds") or 0) >= 0
