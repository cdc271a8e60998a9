"""Voters that lost what they had acknowledged: a whole disk, or the end of a journal."""

import pytest

from millstream_raft.directory import format_node, format_replacement
from millstream_raft.directory_errors import DirectoryDamaged
from millstream_raft.disk_recovery import RecoveryPoint
from tests.fakes.crash_files import CrashFiles
from tests.fakes.raft_cluster import Cluster, LayeredNode, NodeStopped
from tests.fakes.raft_disk_loss import play_with_lost_disks
from tests.fakes.raft_witness import Violation

A, B, C = 1, 2, 3
JOURNAL = "/raft/journal"
SEEDS = range(1, 13)


@pytest.mark.parametrize("count", [3, 5])
def test_replaced_disks_lose_nothing(count):
    acknowledged = replaced = 0
    for seed in SEEDS:
        schedule = play_with_lost_disks(seed, count, LayeredNode)
        acknowledged += len(schedule.cluster.acknowledged())
        replaced += schedule.replaced
    assert acknowledged > 10 * len(SEEDS)
    assert replaced > len(SEEDS)


def test_disks_replaced_without_asking_all_others_lose_something():
    """Without a script."""

    def play_careless() -> None:
        for seed in range(1, 100):
            play_with_lost_disks(seed, 3, LayeredNode, careless=True)

    with pytest.raises(Violation):
        play_careless()


def cluster_that_knows(values: int) -> Cluster:
    """A leads, and everybody holds everything."""
    cluster = Cluster(LayeredNode)
    cluster[A].campaign()
    cluster.step()
    put(cluster, values)
    cluster.step()
    assert len(cluster.acknowledged()) == values
    return cluster


def put(cluster: Cluster, values: int) -> None:
    for _ in range(values):
        cluster[A].put(f"v{len(cluster.acks)}-{cluster[A].last_index}-{_}")
    cluster.tick_later(A)


def restart(cluster: Cluster, node: int, files: CrashFiles) -> None:
    """Other voters saw the connection break and come back."""
    cluster.network.remove(node)
    others = [other for other in cluster.ids if other != node]
    for other in others:
        cluster[other].disconnected(node)
    cluster.nodes[node] = LayeredNode(cluster, node, files)
    for other in others:
        cluster[other].connected(node)


def without_its_end(cluster: Cluster, node: int, entries: int) -> CrashFiles:
    """The files of a voter, with the last entries cut off the journal."""
    files = cluster[node].files.after_kill()
    kept = files.content(JOURNAL)
    for _ in range(entries):
        kept = kept[: kept.rindex(b"\xa7MSR")]
    files.change(JOURNAL, kept)
    return files


def lagging_and_amnesiac(replace) -> Cluster:
    """C holds what A committed, B does not; then C loses its disk and A is gone."""
    cluster = cluster_that_knows(3)
    cluster.network.isolate(B, cluster.ids)
    put(cluster, 3)
    cluster.step([A, C])
    assert len(cluster.acknowledged()) == 6
    restart(cluster, C, replace(cluster))
    cluster.network.remove(A)
    cluster.network.heal()
    cluster.step([B, C], 2)
    cluster[B].campaign()
    cluster.step([B, C])
    return cluster


def test_amnesiac_voter_would_elect_a_leader_that_lacks_entries():
    def as_new(cluster: Cluster) -> CrashFiles:
        files = CrashFiles()
        format_node("/raft", "sim", C, cluster.ids, files)
        return files

    assert lagging_and_amnesiac(as_new).lost_on(B)


def test_silent_voter_elects_nobody_before_it_holds_everything():
    """Even where another voter lost entries behind everybody's back, as B does here."""

    def promising(cluster: Cluster) -> CrashFiles:
        files = CrashFiles()
        point = RecoveryPoint(A, cluster[A].term, cluster[A].last_index)
        format_replacement("/raft", "sim", C, cluster.ids, files, point)
        return files

    cluster = lagging_and_amnesiac(promising)
    assert not cluster[B].leads
    cluster[C].campaign()
    cluster.step([B, C])
    assert not cluster[C].leads
    assert cluster[C].core.silent_until


def test_silence_survives_a_restart_and_ends_when_everything_is_there():
    cluster = cluster_that_knows(5)
    files = CrashFiles()
    point = RecoveryPoint(A, cluster[A].term, cluster[A].last_index)
    format_replacement("/raft", "sim", C, cluster.ids, files, point)
    restart(cluster, C, files)
    restart(cluster, C, cluster[C].files.after_power_loss())
    assert cluster[C].core.silent_until == point.index
    cluster.step()
    assert cluster[C].core.silent_until == 0
    restart(cluster, C, cluster[C].files.after_power_loss())
    assert cluster[C].core.silent_until == 0
    cluster.network.remove(A)
    cluster[B].disconnected(A)
    cluster[C].campaign()
    cluster.step([B, C])
    assert cluster[C].leads
    assert not cluster.lost_on(C)


def test_silence_ends_behind_a_snapshot_too():
    cluster = cluster_that_knows(5)
    cluster[A].compact()
    cluster.step()
    files = CrashFiles()
    point = RecoveryPoint(A, cluster[A].term, cluster[A].last_index)
    format_replacement("/raft", "sim", C, cluster.ids, files, point)
    restart(cluster, C, files)
    cluster.step(rounds=12)
    assert cluster[C].core.silent_until == 0
    assert cluster[C].log == cluster[A].log


def test_journal_cut_below_what_was_noted_is_refused():
    cluster = cluster_that_knows(5)
    for _ in range(12):  # until it is noted again how much is synced
        cluster.step()
    files = without_its_end(cluster, C, 1)
    with pytest.raises(DirectoryDamaged, match="journal is damaged at byte"):
        LayeredNode(cluster, C, files)


def test_leader_tells_a_voter_whose_journal_was_cut_and_that_voter_heals():
    cluster = cluster_that_knows(5)
    files = without_its_end(cluster, C, 2)
    last_index = cluster[A].last_index
    restart(cluster, C, files)
    with pytest.raises(NodeStopped, match=r"voter 3 lost entries .*replace-lost-disk"):
        cluster.step()
    restart(cluster, C, cluster[C].files.after_power_loss())
    assert cluster[C].core.silent_until == last_index
    cluster.step()
    assert cluster[C].core.silent_until == 0
    assert cluster[C].log == cluster[A].log


def test_voter_that_was_only_slow_is_not_told_that_it_lost_entries():
    cluster = cluster_that_knows(3)
    cluster.network.isolate(C, cluster.ids)
    put(cluster, 20)
    cluster.step([A, B])
    cluster.network.heal()
    cluster.step(rounds=12)
    restart(cluster, C, cluster[C].files.after_power_loss())
    cluster.step(rounds=12)
    assert cluster[C].log == cluster[A].log
    assert cluster[C].core.silent_until == 0
