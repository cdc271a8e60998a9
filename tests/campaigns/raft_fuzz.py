"""``make raft-fuzz``: random schedules on the real Raft core; nothing acknowledged may be lost.

Variables: SEEDS, FIRST_SEED, NODES (3 or 5; unset, a seed of the layer decides), DROP (a rule to
switch off, by its name in ``millstream_raft/rules.py``), STOCK=1 (the library without the layer;
power loss is left out there, since it syncs nothing). With DROP or STOCK a violation is what is
looked for, and the exit code tells whether one was found.
"""

import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable

from millstream_raft.rules import Rule
from tests.campaigns.figures import integer, print_result, progress
from tests.fakes.raft_layer import play_layer
from tests.fakes.raft_schedule import Schedule, play
from tests.fakes.raft_stock import StockFileNode
from tests.fakes.raft_witness import Violation

_PROGRESS_EVERY = 25


def player(stock: bool, nodes: int, drop: str) -> Callable[[int], Schedule]:
    """What plays a seed. Raises SystemExit for an unknown rule."""
    if stock:
        return lambda seed: play(seed, nodes or 3, StockFileNode, power_loss=False, overflow=False)
    if drop and drop not in Rule.__members__:
        raise SystemExit(f"DROP={drop}: no such rule; there are {', '.join(Rule.__members__)}")
    return lambda seed: play_layer(seed, nodes, {Rule[drop]} if drop else set())


def main() -> int:
    seeds, first = integer("SEEDS", 300), integer("FIRST_SEED", 1)
    nodes, stock = integer("NODES", 0), bool(integer("STOCK", 0))
    drop = os.environ.get("DROP", "")
    play_seed = player(stock, nodes, drop)
    begin = time.monotonic()
    violations: Counter[str] = Counter()
    found_at: list[int] = []
    acknowledged = 0
    for seed in range(first, first + seeds):
        try:
            schedule = play_seed(seed)
            acknowledged += len(schedule.cluster.acknowledged())
        except Violation as violation:
            violations[violation.name] += 1
            found_at.append(seed - first + 1)
            progress(f"seed {seed}: {violation}")
        if (seed - first + 1) % _PROGRESS_EVERY == 0:
            progress(f"{seed - first + 1} of {seeds} schedules")
    gaps = [one - before for before, one in zip([0, *found_at], found_at, strict=False)]
    print_result(
        {
            "schedules": seeds,
            "first_seed": first,
            "nodes": nodes,
            "stock": stock,
            "drop": drop,
            "acknowledged": acknowledged,
            "violations": dict(violations),
            "median_seeds_to": statistics.median(gaps) if gaps else None,
            "seconds": round(time.monotonic() - begin, 1),
        }
    )
    looked_for = stock or bool(drop)
    return 0 if acknowledged and bool(found_at) == looked_for else 1


if __name__ == "__main__":
    sys.exit(main())
