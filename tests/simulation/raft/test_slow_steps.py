"""Work that keeps a voter busy for longer than an election time-out is not its leader's silence."""

import pytest

from tests.fakes.raft_cluster import NEVER_MS, Cluster, LayeredNode

A, B, C = 1, 2, 3


@pytest.fixture
def cluster():
    """C is so far behind that A sends it a snapshot."""
    cluster = Cluster(LayeredNode)
    cluster[A].campaign()
    cluster.step()
    cluster.network.isolate(C, cluster.ids)
    for number in range(10):
        cluster[A].put(f"v{number}")
    cluster.step()
    cluster[A].compact()
    cluster.step([A, B])
    cluster.network.heal()
    return cluster


def test_a_voter_that_loads_a_snapshot_slowly_stays_with_its_leader(cluster):
    term, restored = cluster[C].term, []

    def restore_slowly(index, state):
        cluster[C].restore(index, state)
        cluster.clock.advance(3 * NEVER_MS)
        restored.append(index)

    cluster[C].core._restore = restore_slowly
    for _ in range(20):
        cluster.clock.advance(200)
        cluster[A].tick()
        cluster.network.deliver(A, C)
        cluster[C].tick()  # in the same step as the load, before it looks for messages again
        if restored:
            break
        cluster.network.deliver(C, A)
    assert restored
    assert cluster[C].term == term
    assert not cluster[C].leads
    assert cluster[C].core.leader_id == A


class SlowToRestore(LayeredNode):
    """Takes longer to load its snapshot than to miss a leader."""

    def restore(self, index, state):
        super().restore(index, state)
        self.cluster.clock.advance(3 * NEVER_MS)


def test_a_voter_that_starts_from_a_large_snapshot_listens_first(cluster):
    cluster.step(rounds=20)
    term = cluster[A].term
    cluster[B].compact()
    cluster.step(rounds=2)
    cluster.network.remove(B)
    cluster.nodes[B] = SlowToRestore(cluster, B, cluster[B].files.after_kill())
    cluster[B].tick()
    assert cluster[B].term == term
    assert not cluster[B].leads
