"""Random schedules on the real core; see ``tests/fakes/raft_schedule.py``. Every schedule ends
healed; then all voters must be equal and hold each acknowledged write exactly once. A seed
reproduces its schedule.

``RAFT_SCHEDULES`` sets how many seeds are played (the default is quick), ``RAFT_FIRST_SEED`` where
they begin.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from millstream_raft.rules import Rule
from tests.fakes.raft_cluster import SCENARIO_RULES, LayeredNode
from tests.fakes.raft_schedule import play
from tests.fakes.raft_witness import Violation

SCHEDULES = int(os.environ.get("RAFT_SCHEDULES", "12"))
FIRST_SEED = int(os.environ.get("RAFT_FIRST_SEED", "1"))


@pytest.mark.parametrize("count", [3, 5])
def test_random_schedules_lose_nothing(count):
    acknowledged = 0
    for seed in range(FIRST_SEED, FIRST_SEED + SCHEDULES):
        schedule = play(seed, count, partial(LayeredNode, rules=SCENARIO_RULES))
        acknowledged += len(schedule.cluster.acknowledged())
    assert acknowledged > 10 * SCHEDULES


def test_same_seed_plays_the_same_schedule_twice():
    def outcome() -> tuple[object, ...]:
        cluster = play(7, 3, LayeredNode).cluster
        return (
            [cluster[node].log for node in cluster.ids],
            [cluster[node].entries() for node in cluster.ids],
            cluster.acks,
        )

    assert outcome() == outcome()


def test_schedules_find_a_rule_that_is_missing():
    """Without a script; the fault is named by what was seen to happen."""
    make = partial(LayeredNode, rules=SCENARIO_RULES - {Rule.TRUNCATE_ONLY_ON_CONFLICT})
    assert any(found(seed, 3, make) == "S1" for seed in range(1, 60))


def found(seed: int, count: int, make: Callable[..., Any]) -> str | None:
    """The name of what a seed breaks, if it does."""
    try:
        play(seed, count, make)
    except Violation as violation:
        return violation.name
    return None
