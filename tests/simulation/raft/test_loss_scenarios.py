"""The schedules that make stock PySyncObj 0.3.17 lose, invent or forget writes.

Each is played three times: on the stock library it must go wrong (or it proves nothing), behind the
layer it must go right, and behind the layer without the one rule that closes it, wrong again.
"""

from functools import partial

import pytest

from millstream_raft.rules import Rule
from tests.fakes.raft_cluster import (
    SCENARIO_RULES,
    Cluster,
    LayeredNode,
    Network,
    NodeFactory,
)
from tests.fakes.raft_stock import StockNode

A, B, C, D, F = 1, 2, 3, 4, 5


def resend_truncates_acknowledged(make: NodeFactory) -> bool:
    """S1: a resent batch cuts off entries that the follower had acknowledged; the leader dies."""
    cluster = Cluster(make, append_bytes_max=60)
    network = cluster.network
    cluster[A].campaign()
    cluster.step()
    network.isolate(C, cluster.ids)
    network.cut.add((A, B))  # the connection breaks with entries on it, twice
    for number in range(10):
        cluster[A].put(f"v{number}")
    cluster.tick_later(A)
    cluster.tick_later(A)
    network.cut.discard((A, B))
    cluster.tick_later(A)  # heartbeats beyond the follower's log
    cluster.tick_later(A)
    network.deliver(A, B)  # refused twice
    network.deliver(B, A, 1)
    cluster.tick_later(A)  # everything again, in several batches
    network.deliver(A, B)  # stored and acknowledged
    network.deliver(B, A, 1)  # the second refusal moves the leader back once more
    cluster.tick_later(A)
    network.deliver(B, A)
    cluster.tick_later(A)  # committed, proposers told
    assert cluster.acknowledged()
    network.deliver(A, B, 1)  # the first batch of the resend
    network.remove(A)
    network.heal()
    cluster[B].campaign()
    cluster.step([B, C])
    assert cluster[B].leads
    return bool(cluster.lost_on(B))


def snapshot_commits_unverified(make: NodeFactory) -> bool:
    """S2: while a snapshot arrives, the receiver commits a tail that nobody else has."""
    cluster = Cluster(make, snapshot_part_bytes=64)
    network = cluster.network
    cluster[A].campaign()
    cluster.step()
    network.isolate(A, cluster.ids)
    for number in range(3):
        cluster[A].put(f"ghost{number}")
    cluster[A].tick()
    cluster.tick_later(A)
    cluster[B].campaign()
    cluster.step([B, C])
    for number in range(20):
        cluster[B].put(f"real{number}")
    cluster.step([B, C], 8)
    cluster[B].compact()
    cluster.step([B, C], 3)
    network.heal()
    for _ in range(20):
        cluster.tick_later(B)
        while network.links.get((B, A)) and not cluster[A].log:
            network.deliver(B, A, 1)
            cluster[A].tick()
        network.deliver(A, B)
        if cluster[A].log:
            break
    cluster.step(rounds=20)
    assert len(cluster[B].log) == 20
    assert not any("ghost" in value for value in cluster[B].log)
    told = [value for value in cluster.acknowledged() if "ghost" in value]
    return bool(told) or cluster[A].log != cluster[B].log


def stale_acknowledgement_counts(make: NodeFactory) -> bool:
    """S3: an ack of an old term, delayed, makes a minority look like a majority of five."""
    cluster = Cluster(make, 5)
    network = cluster.network
    cluster[A].campaign()
    cluster.step()
    for other in (B, C, D):
        network.cut |= {(A, other), (other, A), (F, other), (other, F)}
    network.held.add((F, A))
    for number in range(8):
        cluster[A].put(f"old{number}")
    cluster.step([A, F], 3)  # F stores and acknowledges; the acks are stuck
    network.cut.clear()
    cluster[B].campaign()
    cluster.step([B, C, D, F], 2)
    cluster.step(rounds=16)  # B leads; everybody's tail is replaced
    cluster[A].campaign()
    network.deliver_all()
    cluster.step([A], 1)
    assert cluster[A].leads
    network.links = {link: queue for link, queue in network.links.items() if link == (F, A)}
    network.cut |= {(A, C), (A, D), (A, F)}
    cluster[A].put("new")
    network.deliver(F, A)  # the old acks
    for _ in range(4):
        cluster.tick_later(A)
        network.deliver(A, B)
        network.deliver(B, A)
    cluster[A].tick()
    last = cluster[A].entries()[-1]
    stored = [node for node in cluster.ids if last in cluster[node].entries()]
    return bool(cluster.acks.get("new")) and len(stored) < 3


def back_off_never_ends(make: NodeFactory) -> bool:
    """S11: a conflicting tail and two batches under way; refusals alternate for ever."""
    cluster = Cluster(make, append_bytes_max=200)
    cluster[A].campaign()
    cluster.step()
    cluster.network.isolate(A, cluster.ids)
    for number in range(3):
        cluster[A].put(f"ghost{number}")
    cluster[A].tick()
    cluster[B].campaign()
    cluster.step([B, C])
    for number in range(60):
        cluster[B].put(f"real{number}")
    cluster.step([B, C], 8)
    cluster.network.heal()
    cluster.step(rounds=200)
    return bool(cluster[A].entries()[-1] != cluster[B].entries()[-1])


SCENARIOS = [
    pytest.param(
        resend_truncates_acknowledged, Rule.TRUNCATE_ONLY_ON_CONFLICT, id="S1 resend truncates"
    ),
    pytest.param(snapshot_commits_unverified, Rule.COMMIT_ONLY_VERIFIED, id="S2 snapshot commits"),
    pytest.param(stale_acknowledgement_counts, Rule.ACK_OF_THIS_TERM, id="S3 stale ack counts"),
    pytest.param(back_off_never_ends, Rule.BACK_OFF_ONLY_DOWN, id="S11 back-off livelock"),
]


@pytest.mark.parametrize(("goes_wrong", "rule"), SCENARIOS)
def test_schedule_breaks_the_stock_library(goes_wrong, rule):
    assert goes_wrong(StockNode)


@pytest.mark.parametrize(("goes_wrong", "rule"), SCENARIOS)
def test_layer_survives_the_schedule(goes_wrong, rule):
    assert not goes_wrong(LayeredNode)


@pytest.mark.parametrize(("goes_wrong", "rule"), SCENARIOS)
def test_layer_without_the_rule_breaks(goes_wrong, rule):
    assert goes_wrong(partial(LayeredNode, rules=SCENARIO_RULES - {rule}))


def test_same_schedule_twice_gives_the_same_messages():
    def trace() -> list[object]:
        seen: list[object] = []
        send = Network.send

        class Recorded(LayeredNode):
            def send(self, peer, envelope):
                seen.append((self.node_id, peer, envelope))
                return super().send(peer, envelope)

        snapshot_commits_unverified(Recorded)
        assert Network.send is send
        return seen

    assert trace() == trace()
