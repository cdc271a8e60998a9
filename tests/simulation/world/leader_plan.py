"""Schedules in which leaders move again and again between brokers that all run.

Links and disks are uneven, and writers write fast: whoever leads next lacks what others hold, who
have to cut it off, and a broker leads anew that remembers how it led before.
"""

from random import Random

from tests.simulation.world.plan import Fault, Plan, TopicPlan, WriterPlan, draw_sync_s

_MOVES = 20
_FIRST_S = 2.2
# Beside moves: how often, and the longest time that each lasts, seconds.
_BESIDE = {"delay": (6, 2.0), "cut": (1, 0.5), "cut_one_way": (1, 0.5)}
# How often a schedule disturbs metadata and clocks too, and with what.
_DISTURBED = 0.4
_DISTURBANCES = {
    "step_down": (1, 0.0),
    "topic_churn": (1, 0.0),
    "kill_metadata": (1, 0.5),
    "reassign": (2, 5.0),
    "delete_records": (2, 0.0),
    "restart_twice": (1, 1.0),
    "wall_jump": (1, 0.0),
}
# How often a disk rots or is replaced: its broker gives up what it leads, and its places, in the
# midst of it.
_BAD_DISK = 0.5


def draw_leader_plan(seed: int) -> Plan:
    """The schedule of a seed."""
    random = Random(f"{seed}/leaders")
    disturbed = random.random() < _DISTURBED
    faults = _faults(random, _BESIDE | _DISTURBANCES if disturbed else _BESIDE)
    topics = tuple(_topic(random, number) for number in range(2))
    writers = tuple(_writer(random, number % 2) for number in range(3))
    return Plan(
        seed=seed,
        brokers=3,
        voters=3,
        lasts_s=faults[-1].at + random.uniform(0.1, 1.0),
        topics=topics,
        writers=writers,
        faults=faults,
        delay_s=random.choice(((0.0001, 0.0005), (0.0005, 0.003), (0.001, 0.02))),
        sync_s=draw_sync_s(random, 3),
        drift_ppm=(0, 0, 0),
        lose_outcome=0.05 if disturbed else 0.0,
        lose_entry=0.05 if disturbed else 0.0,
        lag_ms=random.choice((10_000, 500)),
        voter_lag_s=random.choice((0.02, 0.5)),
    )


def _topic(random: Random, number: int) -> TopicPlan:
    configs = {
        "segment.bytes": random.choice(("65536", "268435456")),
        "flush.mode": random.choice(("page_cache", "fsync")),
        "min.insync.replicas": "2",
    }
    return TopicPlan(f"topic{number}", random.choice((1, 2)), 3, tuple(configs.items()))


def _writer(random: Random, topic: int) -> WriterPlan:
    acks = random.choice(("all", "all", "1"))
    idempotent = acks == "all" and random.random() < 0.5
    pause_s = random.choice((0.01, 0.03, 0.1))
    return WriterPlan(topic, acks, idempotent, pause_s, random.choice((40, 3_000)))


def _faults(random: Random, beside: dict[str, tuple[int, float]]) -> tuple[Fault, ...]:
    found = []
    at = _FIRST_S
    for _ in range(_MOVES):
        # At times before whoever leads next has begun.
        at += random.choice((0.02, 0.2, 0.2, 0.6)) * random.random()
        found.append(_fault(random, at, "move_leader", 0.0))
        for kind, (often, lasts_s) in beside.items():
            if random.random() < often / 10:
                beside_s = random.uniform(-0.2, 0.2)
                found.append(_fault(random, at + beside_s, kind, random.uniform(0.05, 1) * lasts_s))
    if random.random() < _BAD_DISK:
        kind = random.choice(("rot", "wipe"))
        found.append(_fault(random, random.uniform(_FIRST_S, at), kind, 0.3))
    return tuple(sorted(found, key=lambda fault: fault.at))


def _fault(random: Random, at: float, kind: str, lasts_s: float) -> Fault:
    first = random.randrange(60)
    # Links between brokers: see ``NetworkFaults``.
    first -= first % 3 if kind in _BESIDE else 0
    return Fault(at, kind, first, random.randrange(60), random.random() ** 2, lasts_s)
