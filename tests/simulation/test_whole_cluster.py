"""The simulated cluster as a whole: it serves, survives, repeats itself, and finds what breaks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from millstream_server.storage.log import Log
from tests.simulation.world.checks import Violation
from tests.simulation.world.leader_plan import draw_leader_plan
from tests.simulation.world.plan import Fault, TopicPlan, WriterPlan, draw_plan
from tests.simulation.world.schedule import Report, play
from tests.simulation.world.shrink import shrink, tell

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_quiet_cluster_serves_without_a_violation(replicas: int) -> None:
    report = play(draw_plan(1, faults=False, replication_factor=replicas))
    assert report.violations == []
    assert report.acknowledged > 50
    # Those who read all along, and those who began at the end.
    assert report.read == 2 * report.acknowledged


@pytest.mark.parametrize("seed", [11, 13])
@pytest.mark.parametrize("replicas", [1, 3])
def test_nothing_breaks_under_faults(seed: int, replicas: int) -> None:
    plan = draw_plan(seed, replication_factor=replicas)
    report = play(plan)
    assert report.violations == [], tell(plan, report)
    assert report.acknowledged
    assert sum(report.faults.values())


def test_a_steady_load_over_long_links_keeps_every_follower_in_sync() -> None:
    """Each is a round trip behind, whatever it reports, and never has all that there is."""
    quiet = draw_plan(1, faults=False, replication_factor=3)
    topic = TopicPlan("logs", 1, 3, (("min.insync.replicas", "2"),))
    plan = replace(
        quiet,
        brokers=3,
        topics=(topic,),
        writers=(WriterPlan(0, "all", True, 0.02, 40),) * 12,
        lasts_s=3.0,
        delay_s=(0.05, 0.055),
        sync_s=((0.0005, 0.001),) * 3,
        drift_ppm=(0, 0, 0),
        lag_ms=500,
    )
    report = play(plan)
    assert report.violations == []
    assert report.acknowledged > 1_000
    assert "4: in-sync set shrank" not in report.branches


def test_records_that_were_deleted_are_all_that_is_missing() -> None:
    plan = draw_plan(1, faults=False, replication_factor=3)
    deletions = [
        Fault(2.0 + number / 4, "delete_records", number, 0, 0.2 * number, 0.0)
        for number in range(6)
    ]
    report = play(plan.with_faults(tuple(deletions)))
    assert report.violations == []
    assert report.counts["deletions"] > 2
    # Those who began at the end found less than those who had read all along.
    assert report.acknowledged < report.read < 2 * report.acknowledged


def test_leaders_that_move_under_load_make_the_others_cut_their_logs() -> None:
    cut = 0
    for seed in range(1, 4):
        plan = draw_leader_plan(seed)
        report = play(plan)
        assert report.violations == [], tell(plan, report)
        assert report.branches["2: leader changed"] > 5
        cut += report.branches.get("14: log cut to agree with its leader", 0)
    assert cut


def test_the_same_seed_twice_is_the_same_run() -> None:
    plan = draw_plan(3, replication_factor=3)
    first, second = play(plan), play(plan)
    assert (first.trace, first.events, first.acknowledged) == (
        second.trace,
        second.events,
        second.acknowledged,
    )
    assert first.trace != play(draw_plan(4, replication_factor=3)).trace


def test_a_run_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from tests.simulation.world.plan import draw_plan;"
        "from tests.simulation.world.schedule import play;"
        "print(play(draw_plan(10, replication_factor=3)).trace)"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1


def test_a_failing_schedule_is_shrunk_to_the_faults_that_matter() -> None:
    plan = replace(
        draw_plan(2, faults=False),
        faults=tuple(
            Fault(1.0 + number / 10, kind, number, number, 0.5, 0.5)
            for number, kind in enumerate(["reset", "kill", "reset", "step_down", "reset"])
        ),
    )

    def fails_when_killed(attempt: object) -> Report:
        kinds = [fault.kind for fault in attempt.faults]  # type: ignore[attr-defined]
        broken = [("lost-write", "made up")] if "kill" in kinds else []
        return Report(plan.seed, violations=broken, story=kinds)

    smaller, report = shrink(plan, fails_when_killed(plan), fails_when_killed)
    assert [fault.kind for fault in smaller.faults] == ["kill"]
    assert "made up" in tell(smaller, report)


def test_a_sync_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug, so that the checks are seen to bite."""

    def lie(log: Log) -> None:
        log.synced_end_offset = log.written_end_offset

    monkeypatch.setattr(Log, "sync", lie)
    found: set[str] = set()
    for seed in range(1, 10):
        cuts = tuple(Fault(3.0 + 1.5 * number, "power_all", 0, 0, 0.0, 0.2) for number in range(2))
        found |= play(draw_plan(seed, replication_factor=1).with_faults(cuts)).names
        if found:
            break
    assert found


def test_violations_have_a_name() -> None:
    assert Violation("hw-back", "why").name == "hw-back"
