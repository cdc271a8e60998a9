"""Elections behind the layer: a node that is deaf, one that was cut off, one that fell behind."""

import pytest

from millstream_raft.rules import ALL_RULES, Rule
from tests.fakes.raft_cluster import SCENARIO_RULES, Cluster, LayeredNode

A, B, C = 1, 2, 3


def timed_cluster(rules: frozenset[Rule] = ALL_RULES) -> Cluster:
    """Nodes that stand for election by themselves, with the production times."""

    def make(cluster, node_id):
        return LayeredNode(
            cluster,
            node_id,
            rules=rules,
            heartbeat_interval_ms=50,
            election_timeout_min_ms=300,
            election_timeout_max_ms=600,
            leader_fallback_ms=1_000,
        )

    return Cluster(make)


def leaders(cluster: Cluster) -> list[int]:
    return [node for node in cluster.ids if cluster[node].leads]


def run(cluster: Cluster, milliseconds: int) -> None:
    cluster.step(rounds=milliseconds // 20, wait_ms=20)


def test_one_leader_is_elected_and_stays():
    cluster = timed_cluster()
    run(cluster, 2_000)
    (leader,) = leaders(cluster)
    term = cluster[leader].term
    run(cluster, 5_000)
    assert leaders(cluster) == [leader]
    assert cluster[leader].term == term


@pytest.mark.parametrize(
    ("rules", "disturbs"),
    [
        pytest.param(ALL_RULES, False, id="all rules"),
        pytest.param(ALL_RULES - {Rule.STAY_WITH_LEADER}, True, id="without the rule"),
    ],
)
def test_deaf_node_does_not_depose_the_leader(rules, disturbs):
    cluster = timed_cluster(rules)
    run(cluster, 2_000)
    (leader,) = leaders(cluster)
    term = cluster[leader].term
    deaf = next(node for node in cluster.ids if node != leader)
    cluster.network.cut |= {(other, deaf) for other in cluster.ids}
    run(cluster, 5_000)
    terms = {cluster[node].term for node in cluster.ids if node != deaf}
    assert (terms != {term}) is disturbs
    if not disturbs:
        assert leaders(cluster) == [leader]


def test_node_that_was_deaf_joins_again():
    """Its high term reaches the leader by a notice; one election follows, then peace."""
    cluster = timed_cluster()
    run(cluster, 2_000)
    (leader,) = leaders(cluster)
    deaf = next(node for node in cluster.ids if node != leader)
    cluster.network.cut |= {(other, deaf) for other in cluster.ids}
    run(cluster, 3_000)
    cluster.network.heal()
    run(cluster, 3_000)
    (leader,) = leaders(cluster)
    assert len({cluster[node].term for node in cluster.ids}) == 1
    cluster[leader].put("after")
    run(cluster, 500)
    assert all(cluster[node].log == ["after"] for node in cluster.ids)


@pytest.mark.parametrize(
    ("rules", "learns"),
    [
        pytest.param(SCENARIO_RULES, True, id="all rules"),
        pytest.param(SCENARIO_RULES - {Rule.STALE_TERM_NOTICE}, False, id="without the notice"),
        pytest.param(
            SCENARIO_RULES - {Rule.LEARN_NEWER_TERM}, False, id="without learning from it"
        ),
    ],
)
def test_deposed_leader_learns_of_the_new_term_by_a_notice(rules, learns):
    cluster = Cluster(lambda cluster, node: LayeredNode(cluster, node, rules=rules))
    network = cluster.network
    cluster[A].campaign()
    cluster.step()
    network.isolate(A, cluster.ids)
    cluster[B].campaign()
    cluster.step([C], 2)
    assert cluster[B].leads
    network.heal()
    network.cut |= {(B, A)}  # the new leader cannot reach the old one
    cluster.tick_later(A)
    network.deliver(A, C)
    network.deliver(C, A)
    assert cluster[A].leads is not learns


def test_cut_off_leader_steps_down():
    cluster = timed_cluster()
    run(cluster, 2_000)
    (old,) = leaders(cluster)
    cluster.network.isolate(old, cluster.ids)
    cluster[old].put("never")
    run(cluster, 3_000)
    (new,) = leaders(cluster)
    assert new != old
    cluster[new].put("kept")
    cluster.network.heal()
    run(cluster, 3_000)
    assert all(cluster[node].log == ["kept"] for node in cluster.ids)
    assert "never" not in cluster.acknowledged()


def test_node_far_behind_catches_up_by_snapshot_while_writes_go_on():
    cluster = timed_cluster()
    run(cluster, 2_000)
    (leader,) = leaders(cluster)
    behind = next(node for node in cluster.ids if node != leader)
    cluster.network.isolate(behind, cluster.ids)
    for number in range(30):
        cluster[leader].put(f"v{number}")
    run(cluster, 500)
    cluster[leader].compact()
    run(cluster, 100)
    cluster.network.heal()
    for number in range(30, 60):
        (leader,) = leaders(cluster) or [leader]
        cluster[leader].put(f"v{number}")
        run(cluster, 100)
    run(cluster, 3_000)
    (leader,) = leaders(cluster)
    assert all(cluster[node].log == cluster[leader].log for node in cluster.ids)
    assert not cluster.lost_on(leader)
    assert len(cluster.acknowledged()) > 30


def test_state_survives_the_restart_of_every_node_at_once():
    cluster = timed_cluster()
    run(cluster, 2_000)
    (leader,) = leaders(cluster)
    for number in range(20):
        cluster[leader].put(f"v{number}")
        run(cluster, 40)
    run(cluster, 200)
    assert len(cluster.acknowledged()) == 20
    disks = {node: cluster[node].files.after_power_loss() for node in cluster.ids}
    for node in cluster.ids:
        cluster.network.remove(node)
    for node, files in disks.items():
        cluster.nodes[node] = LayeredNode(
            cluster,
            node,
            files,
            ALL_RULES,
            election_timeout_min_ms=300,
            election_timeout_max_ms=600,
            leader_fallback_ms=1_000,
        )
    run(cluster, 3_000)
    (leader,) = leaders(cluster)
    assert not cluster.lost_on(leader)
