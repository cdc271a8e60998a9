"""One seed behind the layer: which kind of schedule it plays, on how many voters."""

from collections.abc import Collection
from functools import partial

from millstream_raft.rules import ALL_RULES, Rule
from tests.fakes.raft_cluster import SCENARIO_RULES, LayeredNode
from tests.fakes.raft_layer_schedule import LayerSchedule
from tests.fakes.raft_schedule import Schedule
from tests.fakes.raft_timed_schedule import TIMES, TimedSchedule


def voters_of(seed: int) -> int:
    """On how many voters a seed plays, if nobody says otherwise."""
    return 5 if seed % 2 else 3


def layer_schedule(seed: int, count: int = 0, dropped: Collection[Rule] = ()) -> Schedule:
    """A schedule on 3 or 5 voters (0: as the seed has it), without some rules. Of three seeds one
    is timed."""
    count = count or voters_of(seed)
    if seed % 3 == 0:
        rules = ALL_RULES.difference(dropped)
        return TimedSchedule(seed, count, partial(LayeredNode, rules=rules, **TIMES))
    return LayerSchedule(
        seed, count, partial(LayeredNode, rules=SCENARIO_RULES.difference(dropped))
    )
