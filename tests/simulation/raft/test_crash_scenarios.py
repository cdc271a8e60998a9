"""Crashes, damaged files and misbehaving callers: S4 to S10 of the audit of stock PySyncObj
0.3.17, on the stock library where that can be shown, and behind the layer."""

import os
import shutil
from functools import partial

import pytest

from millstream_raft.directory_errors import DirectoryDamaged
from millstream_raft.rules import Rule
from tests.fakes.raft_cluster import (
    SCENARIO_RULES,
    Cluster,
    LayeredNode,
    NodeStopped,
)
from tests.fakes.raft_stock import StockNode

A, B, C = 1, 2, 3


def play_crash_after_snapshot(cluster: Cluster, restart_b) -> bool:
    """S6: B dies after its snapshot was renamed and before its journal was trimmed; then the
    leader dies. True if an acknowledged write is gone."""
    network = cluster.network
    cluster[A].campaign()
    cluster.step()
    for number in range(5):
        cluster[A].put(f"v{number}")
    cluster.step()
    network.isolate(C, cluster.ids)
    cluster[A].put("precious")
    cluster[A].tick()
    cluster.tick_later(A)
    cluster[B].compact()
    cluster[B].tick()  # the snapshot is written; the journal is trimmed at the next tick
    network.deliver(A, B)
    network.deliver(B, A)
    cluster.tick_later(A)
    assert "precious" in cluster.acknowledged()
    network.remove(B)
    restart_b(cluster)
    cluster[B].tick()
    network.remove(A)
    network.heal()
    cluster[B].campaign()
    cluster.step([B, C])
    assert cluster[B].leads
    return bool(cluster.lost_on(B))


def test_stock_library_loses_the_tail_behind_a_snapshot(tmp_path):
    def make(cluster, node_id, folder="before"):
        if node_id != B:
            return StockNode(cluster, node_id)
        os.makedirs(tmp_path / folder, exist_ok=True)
        path = str(tmp_path / folder)
        return StockNode(cluster, B, journalFile=f"{path}/journal", fullDumpFile=f"{path}/dump")

    def restart_b(cluster):
        shutil.copytree(tmp_path / "before", tmp_path / "after")
        cluster.nodes[B] = make(cluster, B, "after")

    assert play_crash_after_snapshot(Cluster(make), restart_b)


@pytest.mark.parametrize(
    ("rules", "loses"),
    [
        pytest.param(SCENARIO_RULES, False, id="all rules"),
        pytest.param(
            SCENARIO_RULES - {Rule.KEEP_TAIL_BEHIND_SNAPSHOT}, True, id="without the rule"
        ),
    ],
)
def test_layer_keeps_the_tail_behind_a_snapshot(rules, loses):
    def restart_b(cluster):
        files = cluster[B].files.after_power_loss()
        cluster.nodes[B] = LayeredNode(cluster, B, files, rules)

    make = partial(LayeredNode, rules=rules)
    assert play_crash_after_snapshot(Cluster(make), restart_b) is loses


def vote_twice(cluster: Cluster, restart_b) -> list[int]:
    """S8: B votes for A, restarts, and is asked by C in the same term. Who got a vote."""
    for node in (A, C):
        cluster[node].campaign()
    network = cluster.network
    network.deliver(A, B)
    restart_b(cluster)
    network.deliver(C, B)
    return [node for node in (A, C) if network.links.get((B, node))]


def test_stock_library_votes_twice_after_a_restart():
    def restart_b(cluster):
        cluster.nodes[B] = StockNode(cluster, B)

    assert vote_twice(Cluster(StockNode), restart_b) == [A, C]


def test_layer_votes_once_in_a_term():
    def restart_b(cluster):
        cluster.nodes[B] = LayeredNode(cluster, B, cluster[B].files.after_power_loss())

    assert vote_twice(Cluster(LayeredNode), restart_b) == [A]


def test_stock_library_applies_twice_when_a_callback_raises():
    cluster = Cluster(StockNode, 1)
    node = cluster[A]
    node.campaign()
    cluster.step(rounds=2)

    def answered(result, reason):
        raise RuntimeError("the event loop is closed")

    node.core.put("x", callback=answered)
    for _ in range(4):
        cluster.clock.advance(1_000)
        try:
            node.tick()
        except RuntimeError:
            pass
    assert node.log == ["x", "x"]


def test_stock_library_retries_for_ever_when_apply_raises():
    cluster = Cluster(StockNode, 1)
    node = cluster[A]
    node.campaign()
    cluster.step(rounds=2)
    tried = []

    class Refusing(list):
        def append(self, value):
            tried.append(value)
            raise ValueError("cannot apply")

    node.core.values = Refusing()
    node.put("bad")
    node.put("good")
    for _ in range(5):
        with pytest.raises(ValueError, match="cannot apply"):
            cluster.tick_later(A) or node.tick()
    assert set(tried) == {"bad"}


def test_layer_stops_the_node_when_apply_raises():
    cluster = Cluster(LayeredNode, 1)
    node = cluster[A]
    node.campaign()
    cluster.step(rounds=2)

    def refuse(index, content):
        raise ValueError("cannot apply")

    node.core._apply = refuse
    node.put("bad")
    with pytest.raises(NodeStopped, match="cannot apply"):
        cluster.step(rounds=3)


def test_stock_library_forgets_everything_without_a_dump_file(tmp_path):
    """S7: a journal without a dump file is trimmed all the same."""
    make = partial(StockNode, journalFile=str(tmp_path / "journal"))
    cluster = Cluster(make, 1)
    cluster[A].campaign()
    cluster.step(rounds=2)
    for number in range(10):
        cluster[A].put(f"v{number}")
    cluster.step(rounds=3)
    cluster[A].compact()
    cluster.step(rounds=3)
    assert len(cluster[A].log) == 10
    cluster[A].core.destroy()
    cluster.nodes[A] = make(cluster, A)
    cluster[A].campaign()
    cluster.step(rounds=5)
    assert cluster[A].log == []


@pytest.mark.parametrize("power_loss", [False, True])
def test_layer_restores_snapshot_and_journal_after_a_restart(power_loss):
    cluster = Cluster(LayeredNode, 1)
    cluster[A].campaign()
    cluster.step(rounds=2)
    for number in range(10):
        cluster[A].put(f"v{number}")
        cluster.step(rounds=2)
        if number == 5:
            cluster[A].compact()
    before = list(cluster[A].log)
    files = cluster[A].files
    files = files.after_power_loss() if power_loss else files.after_kill()
    cluster.nodes[A] = LayeredNode(cluster, A, files)
    assert cluster[A].log == before[:6] or cluster[A].log == before[:7]
    cluster[A].campaign()
    cluster.step(rounds=3)
    assert cluster[A].log == before


def play_rejoin_by_snapshot(cluster: Cluster) -> None:
    """S9: a leader is cut off with three proposals, and comes back by a snapshot of another's."""
    cluster[A].campaign()
    cluster.step()
    cluster.network.isolate(A, cluster.ids)
    for number in range(3):
        cluster[A].put(f"pending{number}")
    cluster[A].tick()
    cluster[B].campaign()
    cluster.step([B, C])
    for number in range(20):
        cluster[B].put(f"real{number}")
    cluster.step([B, C], 8)
    cluster[B].compact()
    cluster.step([B, C], 3)
    cluster.network.heal()
    cluster.step(rounds=20)
    assert cluster[A].log == cluster[B].log


def test_stock_library_never_answers_proposals_of_a_leader_that_rejoins_by_snapshot():
    cluster = Cluster(StockNode)
    play_rejoin_by_snapshot(cluster)
    assert not any("pending" in value for value in cluster.acks)


def test_layer_acknowledges_no_proposal_of_a_leader_that_rejoins_by_snapshot():
    # That each gets its answer is the driver's work: test_lost_leadership_ends_every_proposal.
    cluster = Cluster(LayeredNode)
    play_rejoin_by_snapshot(cluster)
    assert not any("pending" in value for value in cluster.acknowledged())


def test_stock_library_applies_flipped_bytes(tmp_path):
    """S10: nothing in its journal has a checksum."""
    journal = tmp_path / "journal"
    make = partial(StockNode, journalFile=str(journal), fullDumpFile=str(tmp_path / "dump"))
    cluster = Cluster(make, 1)
    cluster[A].campaign()
    cluster.step(rounds=2)
    cluster[A].put("value05")
    cluster.step(rounds=3)
    assert cluster[A].log == ["value05"]
    cluster[A].core.destroy()
    journal.write_bytes(journal.read_bytes().replace(b"value05", b"VALUE05"))
    cluster.nodes[A] = make(cluster, A)
    cluster[A].campaign()
    cluster.step(rounds=5)
    assert cluster[A].log == ["VALUE05"]


def test_layer_refuses_a_damaged_journal():
    """S10 behind the layer."""
    cluster = Cluster(LayeredNode, 1)
    cluster[A].campaign()
    cluster.step(rounds=2)
    for number in range(20):
        cluster[A].put(f"value{number:02}")
        cluster.step(rounds=1)
    files = cluster[A].files
    content = files.content("/raft/journal")
    files.change("/raft/journal", content.replace(b"value05", b"VALUE05"))
    with pytest.raises(DirectoryDamaged, match="damaged at byte"):
        LayeredNode(cluster, A, files)
