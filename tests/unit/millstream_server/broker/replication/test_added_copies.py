"""Replicas that a reassignment adds are copied no faster than the operator allows."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from millstream_raft.image import Reassignment
from millstream_server.broker.config import BrokerConfig
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata

VALUE = bytes(100_000)
RECORDS = 10
RATE = 2_000_000


@pytest.fixture
def config() -> BrokerConfig:
    """Everything but the last records is for the lane for catching up."""
    return with_config(catch_up_from_bytes=4)


@pytest.fixture
async def nodes(
    metadata: FakeMetadata, tmp_path: Path, config: BrokerConfig
) -> AsyncIterator[list[BrokerNode]]:
    """Node 1 leads "logs" alone and has records of 1 MB; node 2 is empty."""
    metadata.change(replace(metadata.image, reassignment_bytes_per_s=RATE))
    nodes = [
        BrokerNode(metadata, tmp_path / f"node-{number}", node_id=number, config=config)
        for number in (1, 2)
    ]
    for node in nodes:
        await node.start(epoch=node.node_id)
    topic_id = await nodes[0].lead("logs")
    call = nodes[0].stub.Produce()
    for _ in range(RECORDS):
        await call.write(produce_request(topic_id, batch_of(VALUE)))
        assert not (await call.read()).results[0].error
    call.cancel()
    yield nodes
    for node in nodes:
        await node.stop()


async def copy_all(nodes: list[BrokerNode], *, adding: tuple[int, ...]) -> float:
    """Give node 2 a replica; the seconds until it has everything."""
    metadata = nodes[0].metadata
    began_s = asyncio.get_running_loop().time()
    moved = Reassignment(target=(1, 2), added=adding, min_isr=1) if adding else None
    metadata.change_partition("logs", 0, replicas=(1, 2), reassignment=moved)
    topic_id = metadata.image.topic_ids["logs"]

    def copied() -> bool:
        replica = nodes[1].app.hosted.replicas.get((topic_id, 0))
        return replica is not None and replica.log.synced_end_offset == RECORDS

    async with asyncio.timeout(30):
        while not copied():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return asyncio.get_running_loop().time() - began_s


async def test_an_added_replica_is_held_back(nodes: list[BrokerNode]) -> None:
    # The burst and the last push are not waited for.
    least_s = (RECORDS * len(VALUE) - RATE / 4 - 2 * len(VALUE)) / RATE
    assert await copy_all(nodes, adding=(2,)) > least_s * 0.9


async def test_another_replica_is_not(nodes: list[BrokerNode]) -> None:
    metadata = nodes[0].metadata
    metadata.change(replace(metadata.image, reassignment_bytes_per_s=1))  # would take for ever
    await copy_all(nodes, adding=())


async def test_a_raised_limit_counts_at_once(nodes: list[BrokerNode]) -> None:
    metadata = nodes[0].metadata
    metadata.change(replace(metadata.image, reassignment_bytes_per_s=100_000))
    copying = asyncio.create_task(copy_all(nodes, adding=(2,)))
    await asyncio.sleep(0.05)
    metadata.change(replace(metadata.image, reassignment_bytes_per_s=0))
    assert await copying < 8
