"""Random schedules on the real core: delays, cuts, kills, power losses, snapshots, elections at any
moment. Every schedule ends healed; then all voters must be equal and hold each acknowledged write
exactly once. A seed reproduces its schedule.

``RAFT_SCHEDULES`` sets how many seeds are played (the default is quick), ``RAFT_FIRST_SEED`` where
they begin.
"""

import os
from functools import partial
from random import Random

import pytest

from millstream_raft.rules import Rule
from tests.fakes.crash_files import Crash
from tests.fakes.raft_cluster import SCENARIO_RULES, Cluster, LayeredNode

SCHEDULES = int(os.environ.get("RAFT_SCHEDULES", "12"))
FIRST_SEED = int(os.environ.get("RAFT_FIRST_SEED", "1"))
EVENTS = 400
SETTINGS = {"append_bytes_max": 400, "snapshot_part_bytes": 64}


class Schedule:
    """One random run of a cluster."""

    def __init__(self, seed: int, count: int, rules: frozenset[Rule] = SCENARIO_RULES) -> None:
        self.chance = Random(seed)
        self.rules = rules
        make = partial(LayeredNode, rules=rules)
        self.cluster = Cluster(make, count, seed=seed, **SETTINGS)
        self.disks = {}
        self.values = 0
        for node in self.cluster.ids:
            self.cluster[node].joined = set(self.cluster.ids) - {node}

    @property
    def up(self) -> list[int]:
        return [node for node in self.cluster.ids if node not in self.disks]

    def disconnect(self, one: int, other: int) -> None:
        network = self.cluster.network
        network.cut |= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            network.lose(here, there)
            if here not in self.disks and there in self.cluster[here].joined:
                self.cluster[here].joined.discard(there)
                self.cluster[here].core.disconnected(there)

    def connect(self, one: int, other: int) -> None:
        if one in self.disks or other in self.disks:
            return
        self.cluster.network.cut -= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            self.cluster.network.lose(here, there)
            if there not in self.cluster[here].joined:
                self.cluster[here].joined.add(there)
                self.cluster[here].core.connected(there)

    def crash(self, node: int, power_loss: bool) -> None:
        files = self.cluster[node].files
        self.disks[node] = files.after_power_loss(self.chance) if power_loss else files.after_kill()
        for other in self.cluster.ids:
            if other != node:
                self.disconnect(node, other)
        self.cluster.network.remove(node)

    def start(self, node: int) -> None:
        files = self.disks.pop(node)
        self.cluster.nodes[node] = LayeredNode(self.cluster, node, files, self.rules)
        self.cluster[node].joined = set(self.cluster.ids) - {node}
        for other in self.cluster.ids:
            if other != node:
                self.disconnect(node, other)
                self.connect(node, other)

    def put(self) -> None:
        leaders = [node for node in self.up if self.cluster[node].leads]
        if leaders:
            self.values += 1
            self.cluster[self.chance.choice(leaders)].put(f"v{self.values}")

    def event(self) -> None:
        """Let one thing happen; a node that crashed in it is down afterwards."""
        try:
            self.happen()
        except Crash:
            pass
        self.bury()

    def bury(self) -> None:
        for node in self.up:
            if self.cluster[node].files.crashed:
                self.crash(node, power_loss=self.chance.random() < 0.5)

    def happen(self) -> None:
        chance, cluster = self.chance, self.cluster
        node = chance.choice(cluster.ids)
        other = chance.choice([each for each in cluster.ids if each != node])
        running = node not in self.disks
        draw = chance.random()
        if draw < 0.50:
            busy = [link for link, queue in sorted(cluster.network.links.items()) if queue]
            busy = [link for link in busy if link[1] in cluster.network.receivers]
            if busy:
                cluster.network.deliver(*chance.choice(busy), 1)
        elif draw < 0.75:
            if running:
                cluster.tick_later(node, 30)
        elif draw < 0.88:
            self.put()
        elif draw < 0.91:
            if running:
                cluster[node].campaign()
        elif draw < 0.94:
            self.disconnect(node, other)
        elif draw < 0.96:
            self.connect(node, other)
        elif draw < 0.98:
            if running and len(self.up) > 1:
                if chance.random() < 0.5:  # in the middle of what it writes next
                    files = cluster[node].files
                    files.crash_at = len(files.operations) + chance.randrange(6)
                else:
                    self.crash(node, power_loss=chance.random() < 0.5)
            elif not running:
                self.start(node)
        elif running:
            cluster[node].compact()

    def heal(self) -> None:
        for node in self.up:
            self.cluster[node].files.crash_at = None
        for node in list(self.disks):
            self.start(node)
        for one in self.cluster.ids:
            for other in self.cluster.ids:
                if one < other:
                    self.disconnect(one, other)
                    self.connect(one, other)
        for attempt in range(40):
            if self.settled():
                return
            # Elections are by hand here: each voter's time-out comes in turn.
            self.cluster[self.cluster.ids[attempt % len(self.cluster.ids)]].campaign()
            self.cluster.step(rounds=40)

    def settled(self) -> bool:
        """One leader, and everybody applied all of its log, which ends in its own term."""
        nodes = [self.cluster[node] for node in self.cluster.ids]
        leaders = [node for node in nodes if node.core.leads_and_is_current]
        return (
            len(leaders) == 1
            and {node.core.applied_index for node in nodes} == {leaders[0].journal.last_index}
            and {node.term for node in nodes} == {leaders[0].term}
        )


def play(seed: int, count: int, rules: frozenset[Rule] = SCENARIO_RULES) -> Schedule:
    """A whole schedule, healed."""
    schedule = Schedule(seed, count, rules)
    for _ in range(EVENTS):
        schedule.event()
    schedule.heal()
    return schedule


def violation(schedule: Schedule) -> str | None:
    """What a healed schedule broke; None if nothing."""
    logs = [schedule.cluster[node].log for node in schedule.cluster.ids]
    if not schedule.settled():
        return "never settled"
    if any(log != logs[0] for log in logs):
        return "voters differ"
    if len(set(logs[0])) != len(logs[0]):
        return "applied twice"
    lost = schedule.cluster.lost_on(1)
    return f"lost {lost}" if lost else None


@pytest.mark.parametrize("count", [3, 5])
def test_random_schedules_lose_nothing(count):
    acknowledged = 0
    for seed in range(FIRST_SEED, FIRST_SEED + SCHEDULES):
        schedule = play(seed, count)
        assert violation(schedule) is None, f"seed {seed}"
        acknowledged += len(schedule.cluster.acknowledged())
    assert acknowledged > SCHEDULES


def test_same_seed_plays_the_same_schedule_twice():
    def outcome() -> tuple[object, ...]:
        cluster = play(7, 3).cluster
        return (
            [cluster[node].log for node in cluster.ids],
            [cluster[node].entries() for node in cluster.ids],
            cluster.acks,
        )

    assert outcome() == outcome()
