"""Real processes on loopback, shared by the tests of this folder where they do not kill them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns.embedded import EmbeddedNode


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNode]:
    """An embedded node that nobody kills."""
    node = EmbeddedNode(tmp_path_factory.mktemp("shared-node"), num_partitions=3)
    node.start()
    yield node
    node.stop()


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[EmbeddedNode]:
    """An embedded node of the test's own, running."""
    node = EmbeddedNode(tmp_path / "node", num_partitions=3)
    node.start()
    yield node
    node.stop()
