"""What campaigns of simulated schedules share: their totals, and to play seed after seed.

Variables: MINUTES (go on until so many are over, whatever else), FIRST_SEED, JOBS (processes that
play at a time), RESUME (a file that keeps the totals, so that a campaign can be interrupted and
goes on with the next seed), SHRINK=0 (print failing schedules as they are),
STOP=1 (end with the first failing one). Each failing seed is shrunk and told as a story on stderr.
"""

import json
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import count
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Self

from tests.campaigns.figures import integer, progress
from tests.simulation.world.plan import Plan
from tests.simulation.world.schedule import Report, play
from tests.simulation.world.shrink import shrink, tell

_PROGRESS_EVERY = 25
# Schedules under way for each process: some take ten times as long as others.
_AHEAD = 4


@dataclass
class Totals:
    """What a campaign found so far."""

    first_seed: int
    schedules: int = 0
    events: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    failing_seeds: list[int] = field(default_factory=list)

    @classmethod
    def resumed(cls) -> Self:
        """Those of the file that RESUME names, if it is there; else none."""
        path = _resume()
        if path is not None and path.exists():
            return cls(**json.loads(path.read_text()))
        return cls(integer("FIRST_SEED", 1))

    def add(self, report: Report) -> None:
        """Take in a schedule."""
        self.schedules += 1
        self.events += report.events
        self.counts = added(self.counts, report.counts)
        self.violations = added(self.violations, Counter(sorted(report.names)))
        if report.violations:
            self.failing_seeds.append(report.seed)

    @property
    def broken(self) -> int:
        """Violations in all."""
        return sum(self.violations.values())


def added(ones: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    """Sums by name."""
    return dict(Counter(ones) + Counter(others))


def play_on(
    totals: Totals,
    draw: Callable[[int], Plan],
    enough: Callable[[], bool],
    say: Callable[[], str],
) -> None:
    """Play the schedules that ``draw`` makes of seeds until ``enough``, or until MINUTES are over.
    An interrupt ends it early."""
    minutes, resume = integer("MINUTES", 0), _resume()
    shrinks, stops = bool(integer("SHRINK", 1)), bool(integer("STOP", 0))
    begin, before_s = time.monotonic(), totals.seconds
    plans = (draw(seed) for seed in count(totals.first_seed + totals.schedules))
    try:
        with closing(_played(plans, integer("JOBS", 1))) as played:
            while minutes or not enough():
                totals.seconds = before_s + time.monotonic() - begin
                if minutes and totals.seconds >= minutes * 60:
                    break
                plan, report = next(played)
                totals.add(report)
                if report.violations:
                    if shrinks:
                        plan, report = shrink(plan, report, play)
                    progress(tell(plan, report))
                    if stops:
                        break
                if totals.schedules % _PROGRESS_EVERY == 0:
                    progress(f"{say()}, {totals.broken} broken")
                if resume is not None:
                    resume.write_text(json.dumps(asdict(totals)))
    except KeyboardInterrupt:
        progress("interrupted")
    totals.seconds = before_s + time.monotonic() - begin


def _played(plans: Iterator[Plan], jobs: int) -> Iterator[tuple[Plan, Report]]:
    """Plans and their reports, in order, played by so many processes beside one another."""
    if jobs == 1:
        for plan in plans:
            yield plan, play(plan)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin_player)
    under_way: deque[tuple[Plan, Future[Report]]] = deque()
    try:
        while True:
            while len(under_way) < jobs * _AHEAD:
                plan = next(plans)
                under_way.append((plan, pool.submit(play, plan)))
            plan, report = under_way.popleft()
            yield plan, report.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_player() -> None:
    """An interrupt is for the parent; and whatever ends that one must end this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def outlive() -> None:
        parent.join()
        os._exit(1)

    Thread(target=outlive, daemon=True).start()


def _resume() -> Path | None:
    return Path(os.environ["RESUME"]) if os.environ.get("RESUME") else None
