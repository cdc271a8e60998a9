"""A cluster's folder tells its layout."""

from pathlib import Path

import pytest

from millstream_server.local_cluster.connection import CONNECTION_FILE, write_connection
from millstream_server.local_cluster.plan import plan_cluster
from millstream_server.local_cluster.reopening import ClusterShapeError, stored_layout

COUNTS = {"metadata": 1, "broker": 2, "coordinator": 1}
PORTS = tuple(range(41_000, 41_008))


def store(folder: Path) -> None:
    plan = plan_cluster(folder, PORTS, cluster_id="c1", metadata=1, brokers=2, coordinators=1)
    write_connection(plan, {})


def test_a_new_folder_has_no_layout(tmp_path: Path):
    assert stored_layout(tmp_path, COUNTS) is None


def test_ids_and_ports_come_back(tmp_path: Path):
    store(tmp_path)
    found = stored_layout(tmp_path, COUNTS)
    assert found is not None
    assert (found.cluster_id, found.ports) == ("c1", PORTS)


def test_another_shape_is_refused_with_the_stored_one(tmp_path: Path):
    store(tmp_path)
    with pytest.raises(ClusterShapeError, match="1 metadata, 2 broker, 1 coordinator"):
        stored_layout(tmp_path, {**COUNTS, "broker": 3})


@pytest.mark.parametrize("content", ["", "{}", '{"nodes": [{}]}', "[1]"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str):
    (tmp_path / CONNECTION_FILE).write_text(content)
    with pytest.raises(ClusterShapeError, match="damaged"):
        stored_layout(tmp_path, COUNTS)
