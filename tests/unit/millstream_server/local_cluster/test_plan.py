"""The layout of a local cluster."""

import tomllib
from pathlib import Path

import pytest

from millstream_server.local_cluster.plan import ClusterPlan, plan_cluster, port_count

PORTS = list(range(40_000, 40_000 + port_count(3, 3, 2)))


def plan(**counts: int) -> ClusterPlan:
    return plan_cluster(Path("/cluster"), PORTS, cluster_id="c", **counts)


def test_nodes_have_distinct_ids_and_names_and_ports():
    nodes = plan().nodes
    assert [node.node_id for node in nodes] == list(range(1, 9))
    assert [node.name for node in nodes][:4] == [
        "metadata-1",
        "metadata-2",
        "metadata-3",
        "broker-1",
    ]
    assert sorted([port for node in nodes for port in (node.port, node.admin_port)]) == PORTS


def test_clients_get_the_addresses_of_the_brokers_only():
    assert plan().bootstrap_servers == "127.0.0.1:40006,127.0.0.1:40008,127.0.0.1:40010"


def test_every_node_is_told_the_same_voters():
    voters = {tuple(node.config["controller.quorum.voters"]) for node in plan().nodes}
    assert voters == {("1@127.0.0.1:40000", "2@127.0.0.1:40002", "3@127.0.0.1:40004")}


def test_the_configuration_is_toml_that_a_node_reads_back():
    node = plan().with_role("broker")[0]
    read = tomllib.loads(node.toml())
    assert read == dict(node.config)
    assert read["process.roles"] == ["broker"]


def test_strings_with_quotes_survive_the_file():
    made = plan_cluster(
        Path('/odd "folder"\\'), PORTS, cluster_id="c", config={"flag": True, "number": 7}
    )
    read = tomllib.loads(made.nodes[0].toml())
    assert read["data.dir"].startswith('/odd "folder"\\')
    assert (read["flag"], read["number"]) == (True, 7)


def test_a_node_has_its_own_keys_beside_the_shared_ones_but_stays_who_it_is():
    own = {2: {"tls.key.file": "/two.key", "node.id": 9}}
    made = plan_cluster(
        Path("/c"), PORTS, cluster_id="c", config={"tls.ca.file": "/ca"}, node_configs=own
    )
    first, second = (node.config for node in made.nodes[:2])
    assert second["tls.key.file"] == "/two.key"
    assert (second["tls.ca.file"], second["node.id"]) == ("/ca", 2)
    assert "tls.key.file" not in first


def test_a_cluster_without_a_coordinator_is_refused():
    with pytest.raises(ValueError, match="at least one coordinator"):
        plan(coordinators=0)


def test_a_wrong_number_of_ports_is_refused():
    with pytest.raises(ValueError, match="ports"):
        plan(brokers=2)


@pytest.mark.parametrize(("brokers", "factor"), [(1, 1), (2, 2), (5, 3)])
def test_the_replication_factor_is_named_and_can_be_another(brokers: int, factor: int):
    ports = tuple(range(2 * (1 + brokers + 1)))

    def planned(**config: int):
        named = {key.replace("_", "."): value for key, value in config.items()}
        made = plan_cluster(
            Path("/c"), ports, cluster_id="c", metadata=1, brokers=brokers, coordinators=1,
            config=named,
        )  # fmt: skip
        return [
            made.nodes[0].config[f"{topic}.replication.factor"]
            for topic in ("default", "offsets.topic")
        ]

    assert planned() == [factor, factor]
    assert planned(default_replication_factor=1) == [1, factor]
