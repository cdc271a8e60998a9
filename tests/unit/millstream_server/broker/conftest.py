"""Brokers on loopback for the tests of streams and calls."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.fakes.broker_node import BrokerNode
from tests.fakes.cluster import FakeMetadata


@pytest.fixture
def metadata() -> FakeMetadata:
    return FakeMetadata()


@pytest.fixture
async def start_broker(
    metadata: FakeMetadata, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[BrokerNode]]]:
    """Starts brokers; they are stopped at the end."""
    nodes: list[BrokerNode] = []

    async def start(node_id: int = 1, **options: object) -> BrokerNode:
        path = tmp_path / f"node-{node_id}"
        node = BrokerNode(metadata, path, node_id=node_id, **options)  # type: ignore[arg-type]
        nodes.append(node)
        await node.start()
        return node

    yield start
    for node in nodes:
        await node.stop()


@pytest.fixture
async def broker(start_broker: Callable[..., Awaitable[BrokerNode]]) -> BrokerNode:
    return await start_broker()
