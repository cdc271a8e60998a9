"""``make sim``: seeded schedules of faults on a whole simulated cluster; no rule may break.

Variables: SEEDS, REPLICAS (of the topics; unset: each seed draws 1 or 3), FAULTS=0 (quiet
schedules), and those of ``simulated.py``. FIRST_SEED=<a failing one> SEEDS=1 plays it again.
"""

import sys
from dataclasses import asdict, dataclass, field
from functools import partial

from tests.campaigns import simulated
from tests.campaigns.figures import integer, print_result
from tests.campaigns.simulated import added, play_on
from tests.simulation.world.branches import WANTED
from tests.simulation.world.leader_plan import draw_leader_plan
from tests.simulation.world.plan import CLASSES, Plan, draw_plan
from tests.simulation.world.power_plan import draw_power_plan
from tests.simulation.world.schedule import Report

# Fewer schedules than this need not have seen every branch and every fault.
_SEEDS_FOR_ALL = 200


@dataclass
class Totals(simulated.Totals):
    """With what must not be missing."""

    acknowledged: int = 0
    read: int = 0
    simulated_s: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    branches: dict[str, int] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        """Take in a schedule."""
        super().add(report)
        self.acknowledged += report.acknowledged
        self.read += report.read
        self.simulated_s += report.simulated_s
        self.faults = added(self.faults, report.faults)
        self.branches = added(self.branches, report.branches)

    def missing(self) -> list[str]:
        """Branches and faults that no schedule had."""
        return [name for name in WANTED if not self.branches.get(name)] + [
            kind for kind in CLASSES if not self.faults.get(kind)
        ]


def main() -> int:
    """Exit code 0 if nothing broke and everything was exercised."""
    seeds, faults = integer("SEEDS", 100), bool(integer("FAULTS", 1))
    replicas = integer("REPLICAS", 0)
    plain = partial(draw_plan, faults=faults, replication_factor=replicas)
    totals = Totals.resumed()
    play_on(
        totals,
        plain if replicas or not faults else _draw,
        lambda: totals.schedules >= seeds,
        lambda: f"{totals.schedules} schedules",
    )
    return _result(totals, faults)


def _draw(seed: int) -> Plan:
    """Of five schedules two move leaders and one cuts the power, again and again: what logs then
    hold, and which disks, shows in few others."""
    draws = (draw_power_plan, draw_plan, draw_plan, draw_leader_plan, draw_leader_plan)
    return draws[seed % len(draws)](seed)


def _result(totals: Totals, faults: bool) -> int:
    missing = totals.missing() if faults and totals.schedules >= _SEEDS_FOR_ALL else []
    print_result(
        {
            **{key: value for key, value in asdict(totals).items() if key != "simulated_s"},
            "simulated_hours": round(totals.simulated_s / 3600, 3),
            "schedules_per_second": round(totals.schedules / max(totals.seconds, 0.001), 2),
            "seconds": round(totals.seconds, 1),
            "missing": missing,
        }
    )
    return 0 if totals.acknowledged and not totals.violations and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
