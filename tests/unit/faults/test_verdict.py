"""The figures of a campaign, and whether it counts."""

from tests.checker.lag import Lag
from tests.cluster.faults.verdict import gaps, summarize_lags, summary, void_reasons
from tests.cluster.faults.world import FSYNC, LEADER_ONLY, LeaderLoss

K, L = (FSYNC, 0), (FSYNC, 1)


def loss(at_s: float, *keys: tuple[str, int], alone: bool = True) -> LeaderLoss:
    return LeaderLoss("killed", round(at_s * 1e9), keys, alone)


def test_a_gap_lasts_to_the_first_answer_to_a_send_that_began_after_the_loss() -> None:
    # What began before may have been written before.
    sends = {K: [(9.9, 10.1), (10.5, 12.0), (10.6, 11.5), (20.0, 20.1)]}
    found = gaps([loss(10.0, K)], sends)["killed"]
    assert found.figures() == {
        "kills": 1, "never": 0, "count": 1, "p50": 1500, "p99": 1500, "max": 1500
    }  # fmt: skip


def test_kills_are_counted_once_and_gaps_per_partition() -> None:
    sends = {K: [(10.5, 11.0)], L: [(10.5, 13.0)]}
    found = gaps([loss(10.0, K, L), loss(10.2, (LEADER_ONLY, 0))], sends)["killed"]
    assert (found.losses, found.milliseconds) == (1, [1000.0, 3000.0])


def test_a_partition_that_nobody_could_write_to_any_more_is_told() -> None:
    found = gaps([loss(10.0, K, L)], {K: [(9.0, 9.1)]})["killed"]
    assert (found.milliseconds, found.never) == ([], 2)


def test_losses_among_others_are_kept_apart() -> None:
    found = gaps([loss(10.0, K, alone=False)], {K: [(10.5, 11.0)]})
    assert list(found) == ["killed among others"]


def test_where_nobody_can_take_over_the_gap_counts_from_the_restart_too() -> None:
    everything = LeaderLoss("all killed", 10_000_000_000, (K,), True, 12_000_000_000)
    found = gaps([everything], {K: [(10.5, 13.0)]})["all killed"]
    assert (found.milliseconds, found.since_restart) == ([3000.0], [1000.0])


def test_of_many_gaps_the_middle_the_last_percent_and_the_longest_are_told() -> None:
    figures = summary([float(number) for number in range(1, 201)])
    assert figures == {"count": 200, "p50": 101, "p99": 199, "max": 200}
    assert summary([]) == {"count": 0}


def test_lags_are_told_of_the_run_of_what_came_after_healing_and_of_the_end() -> None:
    lags = [
        Lag("r", K, 10.0, 4.0, 0, 1, False),
        Lag("r", K, 50.0, 0.5, 0, 1, False),
        Lag("r", K, 60.0, 0.25, 0, 1, True),
    ]
    assert summarize_lags(lags, 50.0) == {"max": 4000, "after_heal_max": 500, "at_end": 250}
    assert summarize_lags([], 50.0) == {"max": 0, "after_heal_max": 0, "at_end": 0}


def test_a_run_that_held_its_throughput_under_faults_counts() -> None:
    assert void_reasons(6_400, 100.0, 640.0, 3) == []


def test_a_run_below_a_tenth_of_what_was_offered_is_void() -> None:
    (reason,) = void_reasons(6_300, 100.0, 640.0, 3)
    assert reason == "only 63 of 640 records a second were acknowledged"


def test_a_run_without_faults_is_void() -> None:
    assert void_reasons(64_000, 100.0, 640.0, 0) == ["no fault was injected"]
