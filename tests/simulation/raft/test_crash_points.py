"""Crashes at the operations that voters make on their folders: the short form of the campaign
(``make raft-crash``), and proof that it would find a missing sync."""

from itertools import islice

import pytest

from tests.campaigns.raft_crash import LOSSES, Tally, crash_at, play, points
from tests.fakes.raft_crash_world import VOTERS, CrashWorld
from tests.fakes.traced_files import Loss

_POINTS_PER_KIND = 2


@pytest.fixture(scope="module")
def known():
    return points(seed=1)


def test_every_file_is_written_synced_renamed_and_its_directory_synced(known):
    kinds = {(operation.what, operation.file) for operation in known.values()}
    for name in ("identity", "journal", "vote", "snapshot"):
        assert {("write", f"{name}.tmp"), ("sync", f"{name}.tmp"), ("rename", name)} <= kinds
    assert {("write", "journal"), ("sync", "journal"), ("truncate", "journal")} <= kinds
    assert ("sync_directory", "/raft/") in kinds


def test_script_is_the_same_every_time(known):
    assert points(seed=1) == known


def test_a_crash_at_any_kind_of_operation_breaks_no_promise(known):
    tally = Tally()
    tally.known.update(known.values())
    for kind in sorted(tally.known):
        places = [point for point, operation in known.items() if operation == kind]
        step = max(1, len(places) // _POINTS_PER_KIND)
        for number, point in enumerate(islice(places, 0, None, step)):
            crash_at(tally, 1, point, kind, LOSSES[number % len(LOSSES)])
    assert tally.examples == {}
    assert tally.lost == 0
    assert tally.acknowledged > 0
    assert tally.hit.keys() == tally.known.keys()


@pytest.mark.parametrize(
    "skipped",
    [
        ("sync", "journal"),
        ("sync", "journal.tmp"),
        ("sync", "vote.tmp"),
        ("sync", "snapshot.tmp"),
        ("sync_directory", "/raft/"),
    ],
    ids=" ".join,
)
def test_a_missing_sync_is_found(skipped):
    for position in range(150, 20, -4):
        for node in VOTERS:
            world = play(CrashWorld(1, (node, position), Loss.TORN, frozenset([skipped])))
            if world.broken() or world.lost():
                return
    pytest.fail("nobody noticed")
