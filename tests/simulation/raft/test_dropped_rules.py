"""Each rule of the layer is needed: a random schedule breaks something without it, and nothing with
it. The seeds are ones that ``make raft-fuzz DROP=all SEEDS=2500`` found; whoever changes what
happens in a schedule, or how often, takes new ones from there."""

import pytest

from millstream_raft.rules import ALL_RULES, Rule
from tests.fakes.raft_layer import layer_schedule
from tests.fakes.raft_schedule import play_out
from tests.fakes.raft_witness import Violation

SEEDS = {
    Rule.ACK_OF_THIS_TERM: 343,
    Rule.LEARN_NEWER_TERM: 9,
    Rule.STALE_TERM_NOTICE: 9,
    Rule.COMMIT_ONLY_VERIFIED: 94,
    Rule.BACK_OFF_ONLY_DOWN: 7,
    Rule.IGNORE_OLD_SNAPSHOT: 403,
    Rule.STAY_WITH_LEADER: 9,
    Rule.TRUNCATE_ONLY_ON_CONFLICT: 46,
    Rule.KEEP_TAIL_BEHIND_SNAPSHOT: 64,
}


def test_every_rule_has_a_seed():
    assert SEEDS.keys() == ALL_RULES


@pytest.mark.parametrize("rule", SEEDS, ids=lambda rule: rule.name)
def test_schedule_shows_that_a_rule_is_needed(rule):
    with pytest.raises(Violation):
        play_out(layer_schedule(SEEDS[rule], dropped={rule}))


@pytest.mark.parametrize("seed", sorted(set(SEEDS.values())))
def test_layer_survives_the_same_schedule(seed):
    assert play_out(layer_schedule(seed)).leaders
