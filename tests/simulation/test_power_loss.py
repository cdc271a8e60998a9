"""Power is cut under load: nothing is lost against a promise, and a lie about it is found."""

import pytest

from millstream_server.broker import partition
from millstream_server.storage.log import Log
from tests.simulation.world.plan import Plan
from tests.simulation.world.power_plan import CUTS, draw_power_plan
from tests.simulation.world.schedule import play
from tests.simulation.world.shrink import tell


def plans(kind: str, times: int) -> list[Plan]:
    """The first plans with cuts of all nodes (``power_all``) or of one at a time (``power``)."""
    drawn = (draw_power_plan(seed) for seed in range(1, 100))
    found = [plan for plan in drawn if kind in [fault.kind for fault in plan.faults]]
    return found[:times]


def test_nothing_is_lost_when_all_nodes_lose_power() -> None:
    cuts = 0
    for plan in plans("power_all", 3):
        report = play(plan)
        assert report.violations == [], tell(plan, report)
        assert report.kept["REPLICATED_DISK"].acknowledged > CUTS
        cuts += report.counts["cuts_of_all_nodes"]
    assert cuts >= 8


def test_what_is_in_the_memory_of_a_quorum_survives_one_node() -> None:
    (plan,) = plans("power", 1)
    report = play(plan)
    assert report.violations == [], tell(plan, report)
    assert report.counts["cuts_of_one_broker"] >= 3
    assert report.kept["REPLICATED_MEMORY"].acknowledged > CUTS


def test_a_sync_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(log: Log) -> None:
        log.synced_end_offset = log.written_end_offset

    monkeypatch.setattr(Log, "sync", lie)
    assert found_by("power_all")


def test_an_acknowledgement_of_what_only_the_leader_has_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        partition, "high_watermark", lambda mark, ends, _: max(mark, *ends.values())
    )
    assert found_by("power")


def found_by(kind: str) -> set[str]:
    """What some schedules find."""
    found: set[str] = set()
    for plan in plans(kind, 8):
        found |= play(plan).names
        if found:
            break
    return found
