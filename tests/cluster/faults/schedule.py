"""When which class of faults is injected, drawn from a seed. Pure.

Quiet at first; then periods, each with a random subset of the classes or, for a quarter of them,
with none; within a period a fault about every five seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

QUIET_S = 10.0
PERIOD_S = 30.0
BETWEEN_S = (3.0, 7.0)
_QUIET_PERIODS = 0.25
_CLASSES_AT_ONCE = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault to come."""

    # Seconds after the begin.
    at_s: float
    name: str
    # Of the fault's own choices.
    seed: int


def draw(seed: int, seconds: float, classes: Sequence[str]) -> list[Planned]:
    """The schedule of a campaign. Every class comes again and again: subsets are drawn as from a
    pack of cards that is shuffled anew when it is used up."""
    random = Random(seed)
    planned: list[Planned] = []
    pack: list[str] = []
    begin_s = QUIET_S
    while begin_s < seconds and classes:
        end_s = min(seconds, begin_s + PERIOD_S)
        if random.random() >= _QUIET_PERIODS:
            chosen: list[str] = []
            for _ in range(random.choice(_CLASSES_AT_ONCE)):
                if not pack:
                    pack = random.sample(list(classes), len(classes))
                chosen.append(pack.pop())
            at_s = begin_s + random.uniform(0, BETWEEN_S[0])
            # Each at least once, as far as the period is long enough.
            turns = list(chosen)
            while at_s < end_s:
                name = turns.pop(0) if turns else random.choice(chosen)
                planned.append(Planned(at_s, name, random.getrandbits(32)))
                at_s += random.uniform(*BETWEEN_S)
        begin_s = end_s
    return planned
