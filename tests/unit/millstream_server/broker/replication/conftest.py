"""A follower (real broker on loopback) and a leader that the test plays."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream_server.broker.config import BrokerConfig
from tests.fakes.broker_node import BrokerNode
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_leader import ScriptedLeader


@pytest.fixture
async def leader(metadata: FakeMetadata) -> AsyncIterator[ScriptedLeader]:
    scripted = ScriptedLeader(node_id=2)
    await scripted.start()
    metadata.register(2, scripted.port, epoch=7)
    yield scripted
    await scripted.stop()


@pytest.fixture
def metadata() -> FakeMetadata:
    return FakeMetadata()


@pytest.fixture
def config() -> BrokerConfig:
    """The follower's settings."""
    return BrokerConfig()


@pytest.fixture
async def follower(
    metadata: FakeMetadata, leader: ScriptedLeader, tmp_path: Path, config: BrokerConfig
) -> AsyncIterator[BrokerNode]:
    """Node 1, which follows node 2 in topic "logs"."""
    node = BrokerNode(metadata, tmp_path / "node-1", node_id=1, config=config)
    await node.start(epoch=5)
    metadata.create_topic("logs", [2], replicas=[(2, 1)])
    yield node
    await node.stop()
