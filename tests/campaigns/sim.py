"""``make sim``: seeded schedules of faults on a whole simulated cluster; no rule may break.

Variables: SEEDS, FIRST_SEED, MINUTES (go on until so many are over, whatever SEEDS), REPLICAS (of
the topics; unset: each seed draws 1 or 3), RESUME (a file that keeps the totals, so that a campaign
can be interrupted and goes on with the next seed), CHECK_EVERY (events between two looks at all
nodes), SHRINK=0 (print failing schedules as they are), FAULTS=0 (quiet schedules), STOP=1 (end with
the first failing one). Each failing seed is shrunk and told as a story on stderr;
FIRST_SEED=<it> SEEDS=1 plays it again.
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
from tests.simulation.world.branches import WANTED
from tests.simulation.world.plan import CLASSES, draw_plan
from tests.simulation.world.schedule import Report, play
from tests.simulation.world.shrink import shrink, tell

_PROGRESS_EVERY = 25
# Fewer schedules than this need not have seen every branch and every fault.
_SEEDS_FOR_ALL = 200


@dataclass
class Totals:
    """What a campaign found so far."""

    first_seed: int
    schedules: int = 0
    events: int = 0
    acknowledged: int = 0
    read: int = 0
    simulated_s: float = 0.0
    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    branches: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    failing_seeds: list[int] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Take in a schedule."""
        self.schedules += 1
        self.events += report.events
        self.acknowledged += report.acknowledged
        self.read += report.read
        self.simulated_s += report.simulated_s
        self.faults = dict(Counter(self.faults) + Counter(report.faults))
        self.counts = dict(Counter(self.counts) + Counter(report.counts))
        self.branches = dict(Counter(self.branches) + Counter(report.branches))
        self.violations = dict(Counter(self.violations) + Counter(sorted(report.names)))
        if report.violations:
            self.failing_seeds.append(report.seed)

    def missing(self) -> list[str]:
        """Branches and faults that no schedule had."""
        return [name for name in WANTED if not self.branches.get(name)] + [
            kind for kind in CLASSES if not self.faults.get(kind)
        ]


def _load(path: Path | None, first_seed: int) -> Totals:
    if path is not None and path.exists():
        return Totals(**json.loads(path.read_text()))
    return Totals(first_seed)


def main() -> int:
    """Exit code 0 if nothing broke and everything was exercised."""
    seeds, first_seed = integer("SEEDS", 100), integer("FIRST_SEED", 1)
    minutes, replicas = integer("MINUTES", 0), integer("REPLICAS", 0)
    shrinks, stops = bool(integer("SHRINK", 1)), bool(integer("STOP", 0))
    faults = bool(integer("FAULTS", 1))
    resume = Path(os.environ["RESUME"]) if os.environ.get("RESUME") else None
    totals = _load(resume, first_seed)
    run = partial(play, check_every=integer("CHECK_EVERY", 10))
    begin, before_s = time.monotonic(), totals.seconds
    try:
        while minutes or totals.schedules < seeds:
            totals.seconds = before_s + time.monotonic() - begin
            if minutes and totals.seconds >= minutes * 60:
                break
            seed = totals.first_seed + totals.schedules
            plan = draw_plan(seed, faults=faults, replication_factor=replicas)
            report = run(plan)
            totals.add(report)
            if report.violations:
                if shrinks:
                    plan, report = shrink(plan, report, run)
                progress(tell(plan, report))
                if stops:
                    break
            if totals.schedules % _PROGRESS_EVERY == 0:
                progress(f"{totals.schedules} schedules, {sum(totals.violations.values())} broken")
            if resume is not None:
                resume.write_text(json.dumps(asdict(totals)))
    except KeyboardInterrupt:
        progress("interrupted")
    totals.seconds = before_s + time.monotonic() - begin
    return _result(totals, faults)


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
