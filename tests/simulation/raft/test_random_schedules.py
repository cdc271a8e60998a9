"""Random schedules on the real core; see ``tests/fakes/raft_schedule.py``. Every schedule ends
healed; then all voters must be equal and hold each acknowledged write exactly once. A seed
reproduces its schedule. ``make raft-fuzz`` is the long form.
"""

import logging

import pytest

from millstream_raft.rules import Rule
from tests.campaigns.raft_fuzz import Campaign
from tests.fakes.raft_layer import layer_schedule
from tests.fakes.raft_schedule import play_out
from tests.fakes.raft_stock import stock_schedule

_PART = 50


@pytest.mark.parametrize("first", range(1, 301, _PART))
def test_random_schedules_break_nothing(first):
    campaign = Campaign(layer_schedule)
    campaign.play(iter(range(first, first + _PART)))
    assert dict(campaign.all.found) == {}
    assert campaign.all.schedules == _PART
    assert set(campaign.by_nodes) == {3, 5}
    assert campaign.acknowledged > 20 * _PART


@pytest.mark.parametrize("make", [layer_schedule, lambda seed: stock_schedule(seed, 3)])
def test_same_seed_plays_the_same_schedule_twice(make):
    def outcome() -> tuple[object, ...]:
        schedule = play_out(make(7))
        nodes = schedule.cluster.nodes.values()
        return (
            [node.log for node in nodes],
            [node.entries() for node in nodes],
            schedule.cluster.acks,
            schedule.happened,
        )

    assert outcome() == outcome()


#: Seeds at which the library without the layer breaks. Other weights need other seeds, which
#: ``make raft-fuzz STOCK=1`` prints.
STOCK_FAULTS = [
    ("S1", 3, 36),
    ("S1", 5, 77),
    ("S2", 3, 1154),
    ("S2", 5, 1287),
    ("S3", 5, 795),
    ("S6", 3, 1072),
    ("S6", 5, 1541),
    ("S11", 5, 880),
]


@pytest.mark.parametrize(("name", "voters", "seed"), STOCK_FAULTS)
def test_random_schedules_find_the_faults_of_the_stock_library(name, voters, seed):
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL)
    campaign = Campaign(lambda seed: stock_schedule(seed, voters))
    campaign.play_seed(seed)
    assert list(campaign.all.found) == [name]


def test_random_schedules_find_a_rule_that_is_missing():
    dropped = {Rule.TRUNCATE_ONLY_ON_CONFLICT}
    campaign = Campaign(lambda seed: layer_schedule(seed, dropped=dropped))
    campaign.play(iter(range(1, 60)))
    assert campaign.all.found
