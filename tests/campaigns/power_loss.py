"""``make power-loss``: power is cut under producing clients; what was acknowledged is still there.

Plays seeded schedules with several cuts each, of all nodes or of one broker after the other, mixed
with kills just before, on topics with one and three replicas in both modes. Acknowledged on disks
survives everything; acknowledged in the memory of a quorum survives the loss of fewer brokers than
must be in sync, and is judged record by record.

Variables: CUTS (go on until the power was cut from all nodes so often, each time after something
was acknowledged since the last), and those of ``simulated.py``.
"""

import sys
from dataclasses import asdict, dataclass, field

from tests.campaigns import simulated
from tests.campaigns.figures import integer, print_result
from tests.campaigns.simulated import play_on
from tests.simulation.world.power_plan import draw_power_plan
from tests.simulation.world.schedule import Kept, Report

_DISK, _MEMORY = "REPLICATED_DISK", "REPLICATED_MEMORY"
# Fewer records before each cut than this, on average, and a run is void.
_ACKNOWLEDGED_PER_CUT = 10


@dataclass
class Totals(simulated.Totals):
    """With what became of the records."""

    #: By durability, what ``Kept`` tells.
    kept: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        """Take in a schedule."""
        super().add(report)
        for durability, kept in report.kept.items():
            before = self.kept.get(durability, asdict(Kept()))
            self.kept[durability] = {
                name: before[name] + number for name, number in asdict(kept).items()
            }

    def of(self, durability: str) -> Kept:
        """What became of the records of a durability."""
        return Kept(**self.kept.get(durability, {}))

    @property
    def cuts(self) -> int:
        """Of all nodes, after something was acknowledged since the last one."""
        return self.counts.get("cuts_of_all_nodes", 0)

    @property
    def cuts_of_one(self) -> int:
        """Of one broker, after something was acknowledged since the last one."""
        return self.counts.get("cuts_of_one_broker", 0)

    @property
    def void(self) -> bool:
        """True if too little happened to mean anything."""
        cuts = self.cuts + self.cuts_of_one
        wanted = max(1, cuts * _ACKNOWLEDGED_PER_CUT)
        return (
            not self.cuts
            or min(self.of(_DISK).acknowledged, self.of(_MEMORY).acknowledged * 3) < wanted
        )


def main() -> int:
    """Exit code 0 if nothing was lost against a promise, and enough was at stake."""
    cuts = integer("CUTS", 100)
    totals = Totals.resumed()
    play_on(
        totals,
        draw_power_plan,
        lambda: totals.cuts >= cuts,
        lambda: f"{totals.cuts} cuts of all nodes",
    )
    return _result(totals)


def _result(totals: Totals) -> int:
    disk, memory = totals.of(_DISK), totals.of(_MEMORY)
    cuts = totals.cuts + totals.cuts_of_one
    print_result(
        {
            "first_seed": totals.first_seed,
            "schedules": totals.schedules,
            "cuts": totals.cuts,
            "cuts_after_nothing_new": totals.counts.get("idle_cuts_of_all_nodes", 0),
            "acknowledged": disk.acknowledged,
            "lost": disk.lost + disk.lost_beyond_promise,
            "page_cache": {
                "cuts_of_one_broker": totals.cuts_of_one,
                "cuts_of_all_nodes": totals.cuts,
                "acknowledged": memory.acknowledged,
                "lost_against_promise": memory.lost,
                "lost_beyond_promise": memory.lost_beyond_promise,
            },
            "events": totals.events,
            "violations": totals.violations,
            "failing_seeds": totals.failing_seeds,
            "void": totals.void,
            "cuts_per_second": round(cuts / max(totals.seconds, 0.001), 2),
            "seconds": round(totals.seconds, 1),
        }
    )
    lost = disk.lost + disk.lost_beyond_promise + memory.lost
    return 1 if lost or totals.violations or totals.void else 0


if __name__ == "__main__":
    sys.exit(main())
