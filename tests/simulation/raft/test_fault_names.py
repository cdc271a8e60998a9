"""The witness of random schedules names a fault by what it saw happen: here it watches the
schedules that are known to break the stock library, each for its own reason."""

import pytest

from tests.fakes.raft_cluster import Cluster, LayeredNode, NodeFactory
from tests.fakes.raft_stock import StockFileNode, StockNode
from tests.fakes.raft_witness import QuorumWitness, Violation
from tests.simulation.raft.test_crash_scenarios import play_crash_after_snapshot
from tests.simulation.raft.test_loss_scenarios import (
    resend_truncates_acknowledged,
    snapshot_commits_unverified,
    stale_acknowledgement_counts,
)

SCENARIOS = [
    pytest.param(resend_truncates_acknowledged, "S1", id="S1"),
    pytest.param(snapshot_commits_unverified, "S2", id="S2"),
    pytest.param(stale_acknowledgement_counts, "S3", id="S3"),
]


def witnessed(make: NodeFactory) -> NodeFactory:
    """Makes nodes of which the last one brings a witness."""

    def make_node(cluster, node_id):
        node = make(cluster, node_id)
        if node_id == cluster.ids[-1]:
            nodes = {**cluster.nodes, node_id: node}
            cluster.witness = QuorumWitness({each: nodes[each].view() for each in cluster.ids})
        return node

    return make_node


@pytest.mark.parametrize(("scenario", "name"), SCENARIOS)
def test_fault_of_the_stock_library_gets_its_name(scenario, name):
    with pytest.raises(Violation) as violation:
        scenario(witnessed(StockNode))
    assert violation.value.name == name


@pytest.mark.parametrize(("scenario", "name"), SCENARIOS)
def test_nothing_is_named_behind_the_layer(scenario, name):
    assert not scenario(witnessed(LayeredNode))


def restart(cluster: Cluster, node: int) -> None:
    files, entries = cluster[node].crash(None)
    cluster.witness.crashed(node, entries)
    cluster.nodes[node] = type(cluster[node])(cluster, node, files)
    cluster.witness.restarted(node, cluster[node].view())


def test_tail_wiped_at_a_restart_gets_its_name():
    cluster = Cluster(witnessed(StockFileNode))
    with cluster.closing, pytest.raises(Violation) as violation:
        play_crash_after_snapshot(cluster, lambda cluster: restart(cluster, 2))
    assert violation.value.name == "S6"


def test_restart_is_not_blamed_behind_the_layer():
    cluster = Cluster(witnessed(LayeredNode))
    assert not play_crash_after_snapshot(cluster, lambda cluster: restart(cluster, 2))
