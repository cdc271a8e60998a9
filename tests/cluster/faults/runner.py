"""Runs a campaign: starts the cluster, injects and heals by the schedule, ends it, judges."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from millstream import MillstreamError
from tests.cluster.faults.catalogue import CLASSES
from tests.cluster.faults.client_faults import complete_replicas, group_lag
from tests.cluster.faults.fault import Fault, NotPossibleNow
from tests.cluster.faults.schedule import Planned, draw
from tests.cluster.faults.verdict import Verdict, reach_verdict
from tests.cluster.faults.world import World

_TICK_S = 0.05
_ACTIVE_MAX = 3
# Once all is healed, how long a fault may take to be over.
_HEAL_S = 120.0
_FINAL_S = 330.0
_GROUP_S = 60.0
_PROGRESS_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do."""

    seed: int
    seconds: float
    # The schedule is drawn from all that are wanted, so that it is the same on every machine;
    # those that do not work here are left out then.
    classes: tuple[str, ...]
    skipped: frozenset[str]
    rate: int
    disks: bool
    # What is done to the notes before they are judged: a checker that finds nothing must find it.
    tamper: str = ""
    edn: Path | None = None


@dataclass(slots=True)
class _Active:
    name: str
    fault: Fault
    until_s: float
    begun_s: float


@dataclass
class Campaign:
    """One run."""

    folder: Path
    plan: Plan
    say: Callable[[str], None]
    injected: Counter[str] = field(default_factory=Counter)
    impossible: Counter[str] = field(default_factory=Counter)
    # When nothing was wrong any more, monotonic seconds.
    healed_s: float = float("inf")
    _active: list[_Active] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.plan
        self.world = World(self.folder, Random(plan.seed), plan.rate, plan.disks)

    def run(self) -> Verdict:
        """Everything; Ctrl-C ends the faults early, not the judgement."""
        world = self.world
        try:
            world.start()
            begin_s = time.monotonic()
            try:
                self._disturb(draw(self.plan.seed, self.plan.seconds, self.plan.classes))
            except KeyboardInterrupt:
                self.say("interrupted: healing, checking")
            seconds = time.monotonic() - begin_s
            self._heal_all()
            settled_s, problems = self._settle()
            self.healed_s = time.monotonic()
            problems += self._end_clients()
            world.end(world.nodes("broker"))
            verdict = reach_verdict(self, seconds)
            verdict.problems[:0] = problems + world.crashed_clients
            verdict.settled_s = settled_s
            return verdict
        finally:
            world.stop()

    # Faults

    def _disturb(self, planned: list[Planned]) -> None:
        begin_s = told_s = time.monotonic()
        waiting = list(planned)
        while (now_s := time.monotonic()) < begin_s + self.plan.seconds:
            while waiting and waiting[0].at_s <= now_s - begin_s:
                self._begin(waiting.pop(0), now_s - begin_s)
            self._heal_due(now_s)
            self.world.tend()
            if now_s - told_s > _PROGRESS_S:
                told_s = now_s
                self.say(f"{now_s - begin_s:.0f} s, faults so far: {sum(self.injected.values())}")
            time.sleep(_TICK_S)

    def _begin(self, planned: Planned, at_s: float) -> None:
        if planned.name in self.plan.skipped:
            self.impossible[planned.name] += 1
            return
        if len(self._active) >= _ACTIVE_MAX:
            self.impossible["too many at once"] += 1
            return
        random = Random(planned.seed)
        fault = random.choice(CLASSES[planned.name])(self.world, random)
        now_s = time.monotonic()
        try:
            text, lasting_s = fault.begin()
        except NotPossibleNow as error:
            self.impossible[planned.name] += 1
            self.say(f"{at_s:7.1f} {planned.name} not now: {error}")
            return
        self.injected[planned.name] += 1
        self.say(f"{at_s:7.1f} {planned.name} {text} ({lasting_s:.1f} s)")
        self._active.append(_Active(planned.name, fault, now_s + lasting_s, now_s))

    def _heal_due(self, now_s: float) -> None:
        for active in list(self._active):
            if now_s >= active.until_s and active.fault.heal():
                self._active.remove(active)
                self.world.disturbed.append((active.begun_s, time.monotonic()))

    def _heal_all(self) -> None:
        self.world.ending = True
        deadline_s = time.monotonic() + _HEAL_S
        while self._active or not self.world.replaced_page_cache():
            self._heal_due(float("inf"))
            if time.monotonic() > deadline_s:
                names = ", ".join(active.name for active in self._active)
                raise TimeoutError(f"not healed in {_HEAL_S:g} s: {names}")
            self.world.tend()
            time.sleep(_TICK_S)

    # The end

    def _settle(self) -> tuple[float, list[str]]:
        world = self.world
        begin_s = time.monotonic()
        while True:
            try:
                complete_replicas(world)
                break
            except MillstreamError as error:
                self.say(f"replicas are not complete yet: {error.code}")
                if time.monotonic() - begin_s > _HEAL_S:
                    return time.monotonic() - begin_s, [f"replicas could not be completed: {error}"]
        try:
            world.settle(self.say)
        except TimeoutError as error:
            return time.monotonic() - begin_s, [f"not settled: {error}"]
        return time.monotonic() - begin_s, []

    def _end_clients(self) -> list[str]:
        fleet = self.world.fleet
        problems = []
        # A writer waits for all of its answers, as long as it is patient.
        stuck = fleet.end("writer", 150)
        problems += self._wait_for_group()
        stuck += fleet.end("member") + fleet.end("reader")
        problems += [f"{name} did not end by itself" for name in stuck]
        fleet.start("final-1", "final", topics=self.world.topic_list)
        deadline_s = time.monotonic() + _FINAL_S
        while fleet.is_running("final-1") and time.monotonic() < deadline_s:
            time.sleep(0.1)
        if fleet.exit_code("final-1") != 0:
            problems.append(f"the last reader ended with {fleet.exit_code('final-1')}")
        with contextlib.suppress(ProcessLookupError):
            fleet.kill("final-1")
        return problems

    def _wait_for_group(self) -> list[str]:
        """Nobody writes any more: the group must get to the end, or it lags for good."""
        deadline_s = time.monotonic() + _GROUP_S
        while True:
            try:
                behind = group_lag(self.world)
            except MillstreamError as error:
                behind = {error.code: 0}
            if not behind:
                return []
            if time.monotonic() > deadline_s:
                return [f"the group did not get to the end in {_GROUP_S:g} s: {behind}"]
            time.sleep(0.25)
