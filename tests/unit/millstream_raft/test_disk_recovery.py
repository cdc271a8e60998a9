"""When a lost disk may be replaced."""

from dataclasses import replace

import pytest

from millstream_raft.disk_recovery import LostDisk, NotRecoverable, RecoveryPoint, VoterReport

GOOD = VoterReport("c", leader_id=1, term=5, commit_index=20, last_index=20, connected=frozenset())
REPORTS = {1: replace(GOOD, connected=frozenset((1, 2))), 2: replace(GOOD, commit_index=19)}


def lost() -> LostDisk:
    """The disk of 3, after the first of its two rounds."""
    disk = LostDisk("c", 3, frozenset((1, 2)))
    with pytest.raises(NotRecoverable, match="asked only once"):
        disk.take(REPORTS)
    return disk


def test_recovers_once_everybody_committed_what_the_leader_had_when_all_were_found_well():
    disk = lost()
    with pytest.raises(NotRecoverable, match="node 2 has committed up to 19 only"):
        disk.take(REPORTS)
    grown = {1: replace(REPORTS[1], last_index=30, commit_index=25), 2: GOOD}
    assert disk.take(grown) == RecoveryPoint(leader_id=1, term=5, index=20)


def test_log_that_goes_on_growing_is_not_chased():
    disk = lost()
    for index in range(20, 30):
        leader = replace(REPORTS[1], last_index=index + 1, commit_index=index)
        try:
            point = disk.take({1: leader, 2: replace(GOOD, commit_index=index - 1)})
        except NotRecoverable:
            continue
        assert point.index == 21
        return
    pytest.fail("never")


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        ({1: GOOD}, "node 2 does not answer"),
        ({}, "node 1, 2 does not answer"),
        ({1: GOOD, 2: replace(GOOD, cluster_id="d")}, "node 2 belongs to cluster d, not to c"),
        ({1: GOOD, 2: replace(GOOD, connected=frozenset((1, 3)))}, "node 2 is connected to node 3"),
        ({1: GOOD, 2: replace(GOOD, term=6)}, "do not follow one leader"),
        ({1: GOOD, 2: replace(GOOD, leader_id=2)}, "do not follow one leader"),
        ({1: GOOD, 2: replace(GOOD, leader_id=None)}, "do not follow one leader"),
        (dict.fromkeys((1, 2), replace(GOOD, leader_id=None)), "do not follow one leader"),
        (dict.fromkeys((1, 2), replace(GOOD, leader_id=3)), "do not follow one leader"),
    ],
)
def test_refuses_and_begins_anew(reports, reason):
    disk = lost()
    with pytest.raises(NotRecoverable, match=reason):
        disk.take(reports)
    with pytest.raises(NotRecoverable, match="asked only once"):
        disk.take({1: GOOD, 2: GOOD})
    assert disk.take({1: GOOD, 2: GOOD}).index == 20


def test_new_leader_begins_anew():
    disk = lost()
    later = dict.fromkeys((1, 2), replace(GOOD, leader_id=2, term=6))
    with pytest.raises(NotRecoverable, match="asked only once"):
        disk.take(later)
    assert disk.take(later) == RecoveryPoint(leader_id=2, term=6, index=20)
