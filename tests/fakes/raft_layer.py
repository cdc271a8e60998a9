"""One seed behind the layer: which kind of schedule it plays, on how many voters."""

from collections.abc import Collection
from functools import partial

from millstream_raft.rules import ALL_RULES, Rule
from tests.fakes.raft_cluster import SCENARIO_RULES, LayeredNode
from tests.fakes.raft_layer_schedule import LayerSchedule
from tests.fakes.raft_schedule import Schedule, play_out
from tests.fakes.raft_timed_schedule import TIMED_EVENTS, TIMES, TimedSchedule


def play_layer(seed: int, count: int = 0, dropped: Collection[Rule] = ()) -> Schedule:
    """A whole schedule on 3 or 5 voters (0: as the seed has it), without some rules. Of three seeds
    one is timed. Raises Violation."""
    count = count or (5 if seed % 2 else 3)
    if seed % 3 == 0:
        rules = ALL_RULES.difference(dropped)
        timed = TimedSchedule(seed, count, partial(LayeredNode, rules=rules, **TIMES))
        return play_out(timed, TIMED_EVENTS)
    make = partial(LayeredNode, rules=SCENARIO_RULES.difference(dropped))
    return play_out(LayerSchedule(seed, count, make))
