"""``make power-loss``: power is cut under producing clients; what was acknowledged is still there.

Plays seeded schedules with several cuts each, of all nodes or of one broker after the other, mixed
with kills just before, on topics with one and three replicas in both modes. Acknowledged on disks
survives everything; acknowledged in the memory of a quorum survives the loss of fewer brokers than
must be in sync, and is judged record by record.

Variables: CUTS (go on until the power was cut from all nodes so often, each time after something
was acknowledged since the last), MINUTES (go on until so many are over, whatever CUTS), FIRST_SEED,
RESUME (a file that keeps the totals, so that a campaign can be interrupted), CHECK_EVERY (events
between two looks at all nodes), SHRINK=0 (print failing schedules as they are). Each failing seed
is shrunk and told as a story on stderr.
"""

import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tests.campaigns.figures import integer, print_result, progress
from tests.simulation.world.power_plan import draw_power_plan
from tests.simulation.world.schedule import Kept, Report, play
from tests.simulation.world.shrink import shrink, tell

_PROGRESS_EVERY = 25
_DISK, _MEMORY = "REPLICATED_DISK", "REPLICATED_MEMORY"
# Fewer records before each cut than this, on average, and a run is void.
_ACKNOWLEDGED_PER_CUT = 10


@dataclass
class Totals:
    """What a campaign found so far."""

    first_seed: int
    schedules: int = 0
    seconds: float = 0.0
    events: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    # By durability, what ``Kept`` tells.
    kept: dict[str, dict[str, int]] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    failing_seeds: list[int] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Take in a schedule."""
        self.schedules += 1
        self.events += report.events
        cuts = {name: times for name, times in report.counts.items() if "cuts_of" in name}
        self.counts = dict(Counter(self.counts) + Counter(cuts))
        for durability, kept in report.kept.items():
            before = self.kept.get(durability, asdict(Kept()))
            self.kept[durability] = {
                name: before[name] + number for name, number in asdict(kept).items()
            }
        self.violations = dict(Counter(self.violations) + Counter(sorted(report.names)))
        if report.violations:
            self.failing_seeds.append(report.seed)

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


def _load(path: Path | None, first_seed: int) -> Totals:
    if path is not None and path.exists():
        return Totals(**json.loads(path.read_text()))
    return Totals(first_seed)


def main() -> int:
    """Exit code 0 if nothing was lost against a promise, and enough was at stake."""
    cuts, minutes = integer("CUTS", 100), integer("MINUTES", 0)
    shrinks = bool(integer("SHRINK", 1))
    resume = Path(os.environ["RESUME"]) if os.environ.get("RESUME") else None
    totals = _load(resume, integer("FIRST_SEED", 1))
    run = partial(play, check_every=integer("CHECK_EVERY", 50))
    begin, before_s = time.monotonic(), totals.seconds
    try:
        while minutes or totals.cuts < cuts:
            totals.seconds = before_s + time.monotonic() - begin
            if minutes and totals.seconds >= minutes * 60:
                break
            plan = draw_power_plan(totals.first_seed + totals.schedules)
            report = run(plan)
            totals.add(report)
            if report.violations:
                if shrinks:
                    plan, report = shrink(plan, report, run)
                progress(tell(plan, report))
            if totals.schedules % _PROGRESS_EVERY == 0:
                progress(
                    f"{totals.cuts} cuts of all nodes, {sum(totals.violations.values())} broken"
                )
            if resume is not None:
                resume.write_text(json.dumps(asdict(totals)))
    except KeyboardInterrupt:
        progress("interrupted")
    totals.seconds = before_s + time.monotonic() - begin
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
