"""``make raft-fuzz``: random schedules on the real Raft core; nothing acknowledged may be lost.

Variables: SEEDS, or MINUTES (as many seeds as that gives; an interrupt ends it early, with its
result; FIRST_SEED = the result's last seed + 1 goes on), FIRST_SEED, NODES (3 or 5; unset, the seed
decides), DROP (a rule to switch off, by its name in ``millstream_raft/rules.py``; ``all``: one
after the other, each until it was found needed a few times), STOCK=1 (the library without the
layer; no power loss there, since it syncs nothing).

The exit code tells whether what must be found was found: nothing; with DROP anything, with
DROP=all for each rule; with STOCK each of the faults S1, S2, S6, and S3 if five voters played.
"""

import logging
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count as numbers
from typing import Any

from millstream_raft.rules import Rule
from tests.campaigns.figures import integer, print_result, progress
from tests.fakes.raft_layer import layer_schedule, voters_of
from tests.fakes.raft_schedule import Schedule, play_out
from tests.fakes.raft_stock import stock_schedule
from tests.fakes.raft_witness import STALE_ACK, TRUNCATED, UNVERIFIED, WIPED_AT_START, Violation

_PROGRESS_EVERY_S = 30
#: With DROP=all, what is missing without a rule need not be found more often.
_ENOUGH = 5


@dataclass
class Finds:
    """What some schedules found."""

    schedules: int = 0
    #: By name of a violation: which of the schedules found it, counted from 1.
    found: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, names: list[str]) -> None:
        """Count a schedule."""
        self.schedules += 1
        for name in names:
            self.found[name].append(self.schedules)

    def places(self) -> list[int]:
        """Which of the schedules found anything, counted from 1."""
        return sorted({place for places in self.found.values() for place in places})

    def result(self) -> dict[str, Any]:
        """For the result line."""
        return {
            "schedules": self.schedules,
            "violations": {name: len(places) for name, places in sorted(self.found.items())},
            "median_seeds_to": {
                name: median_gap(places) for name, places in sorted(self.found.items())
            },
        }


def median_gap(places: list[int]) -> float:
    """How many schedules it took from one find to the next, and to the first."""
    gaps = [place - before for before, place in zip([0, *places], places, strict=False)]
    return statistics.median(gaps)


class Campaign:
    """Seeds played one after another."""

    def __init__(self, make: Callable[[int], Schedule]) -> None:
        self._make = make
        self.all = Finds()
        self.by_nodes: dict[int, Finds] = defaultdict(Finds)
        self.events: Counter[str] = Counter()
        self.acknowledged = 0
        self.last_seed: int | None = None

    def play(self, seeds: Iterator[int]) -> None:
        """Play these seeds. An interrupt ends it."""
        said = time.monotonic()
        try:
            for seed in seeds:
                self.play_seed(seed)
                if time.monotonic() - said > _PROGRESS_EVERY_S:
                    said = time.monotonic()
                    progress(f"{self.all.schedules} schedules, last seed {seed}")
        except KeyboardInterrupt:
            progress("interrupted")

    def play_seed(self, seed: int) -> None:
        """Play one."""
        schedule = self._make(seed)
        names: list[str] = []
        try:
            play_out(schedule)
        except Violation as violation:
            names = violation.name.split(" + ")
            progress(f"seed {seed}, {len(schedule.cluster.ids)} voters: {violation}")
        self.all.add(names)
        self.by_nodes[len(schedule.cluster.ids)].add(names)
        self.events.update(schedule.happened)
        self.acknowledged += len(schedule.cluster.acknowledged())
        self.last_seed = seed


def maker(stock: bool, nodes: int, drop: str) -> Callable[[int], Schedule]:
    """What makes the schedule of a seed. Raises SystemExit for an unknown rule."""
    if stock:
        return lambda seed: stock_schedule(seed, nodes or voters_of(seed))
    if drop and drop not in Rule.__members__:
        raise SystemExit(f"DROP={drop}: no such rule; there are all, {', '.join(Rule.__members__)}")
    return lambda seed: layer_schedule(seed, nodes, {Rule[drop]} if drop else set())


def seeds_from(first: int, seeds: int, minutes: int) -> Iterator[int]:
    """So many seeds, or as many as minutes give."""
    end = time.monotonic() + minutes * 60
    for played, seed in enumerate(numbers(first)):
        if time.monotonic() > end if minutes else played == seeds:
            return
        yield seed


def looked_for(stock: bool, drop: str, campaign: Campaign) -> bool:
    """True if what must be found was found."""
    if stock:
        names = {TRUNCATED, UNVERIFIED, WIPED_AT_START}
        return names | ({STALE_ACK} if 5 in campaign.by_nodes else set()) <= set(campaign.all.found)
    return bool(campaign.all.found) == bool(drop)


def until_enough(finds: Finds, seeds: Iterator[int]) -> Iterator[int]:
    """These seeds, as long as more finds are wanted."""
    for seed in seeds:
        if len(finds.places()) >= _ENOUGH:
            return
        yield seed


def drop_each(first: int, nodes: int, seeds: int, minutes: int) -> int:
    """A campaign without each of the rules; prints one line for all."""
    rules: dict[str, dict[str, Any]] = {}
    begin = time.monotonic()
    for rule in Rule:
        campaign = Campaign(maker(False, nodes, rule.name))
        unplayed = seeds_from(first, seeds, minutes)
        campaign.play(until_enough(campaign.all, unplayed))
        places = campaign.all.places()
        rules[rule.name] = {
            "found": len(places),
            "schedules": campaign.all.schedules,
            "median_seeds": median_gap(places) if places else None,
            "seeds": [first + place - 1 for place in places],
            "violations": campaign.all.result()["violations"],
        }
        progress(f"{rule.name}: {rules[rule.name]}")
    seconds = round(time.monotonic() - begin, 1)
    print_result({"drop": "all", "first_seed": first, "rules": rules, "seconds": seconds})
    return 0 if all(finds["found"] for finds in rules.values()) else 1


def main() -> int:
    first, nodes = integer("FIRST_SEED", 1), integer("NODES", 0)
    stock, drop = bool(integer("STOCK", 0)), os.environ.get("DROP", "")
    logging.disable(logging.CRITICAL)  # the library has much to say about what is done to it here
    seeds, minutes = integer("SEEDS", 300), integer("MINUTES", 0)
    if drop == "all":
        return drop_each(first, nodes, seeds, minutes)
    campaign = Campaign(maker(stock, nodes, drop))
    begin = time.monotonic()
    campaign.play(seeds_from(first, seeds, minutes))
    seconds = time.monotonic() - begin
    print_result(
        {
            **campaign.all.result(),
            "first_seed": first,
            "last_seed": campaign.last_seed,
            "stock": stock,
            "drop": drop,
            "acknowledged": campaign.acknowledged,
            "by_nodes": {str(size): it.result() for size, it in sorted(campaign.by_nodes.items())},
            "events": sum(campaign.events.values()),
            "events_by_class": dict(sorted(campaign.events.items())),
            "seconds": round(seconds, 1),
            "hours": round(seconds / 3600, 3),
        }
    )
    return 0 if campaign.acknowledged and looked_for(stock, drop, campaign) else 1


if __name__ == "__main__":
    sys.exit(main())
