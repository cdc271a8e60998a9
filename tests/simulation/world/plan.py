"""What happens in a schedule: drawn from its seed before it begins, so that it can be shrunk.

Swarm testing: each seed draws its own subset of the fault classes and its own weights, since
faults of all kinds at once hide one another.
"""

from dataclasses import dataclass, replace
from random import Random

# Fault classes, by name: how often a seed has it, and the longest time that one lasts, seconds.
CLASSES: dict[str, tuple[float, float]] = {
    "kill": (0.6, 4.0),
    "power": (0.5, 6.0),
    "power_all": (0.25, 6.0),
    "kill_all": (0.2, 6.0),
    "crash_point": (0.5, 3.0),
    "restart_twice": (0.3, 3.0),
    "terminate": (0.3, 4.0),
    "drain": (0.3, 3.0),
    "kill_metadata": (0.4, 4.0),
    "pause": (0.4, 6.0),
    "pause_metadata": (0.2, 6.0),
    "cut": (0.4, 6.0),
    "cut_one_way": (0.3, 6.0),
    "isolate": (0.4, 6.0),
    "reset": (0.4, 0.0),
    "delay": (0.3, 5.0),
    "slow_disk": (0.3, 3.0),
    "sync_error": (0.25, 3.0),
    "write_error": (0.2, 1.0),
    "disk_full": (0.2, 3.0),
    "rename_error": (0.25, 3.0),
    "wall_jump": (0.4, 0.0),
    "step_down": (0.4, 0.0),
    "topic_churn": (0.3, 1.0),
    "elect_preferred": (0.3, 0.0),
    "move_leader": (0.3, 0.0),
    "reassign": (0.4, 3.0),
    "delete_records": (0.4, 0.0),
    "wipe": (0.3, 2.0),
    "rot": (0.4, 1.0),
}
# How often a schedule has a slow disk, and how long its syncs take.
_SLOW_BROKER = 0.3
SLOW_SYNC_S = (0.05, 0.3)


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault. What it strikes is found by number among what there is then."""

    at: float
    kind: str
    # Numbers of what it strikes, modulo how many there are.
    first: int
    second: int
    # 0 to 1: how hard.
    amount: float
    lasts_s: float

    def __str__(self) -> str:
        return (
            f"{self.at:7.3f} s  {self.kind} ({self.first}, {self.second}, {self.amount:.2f}) "
            f"for {self.lasts_s:.2f} s"
        )


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic of the schedule."""

    name: str
    partitions: int
    replication_factor: int
    configs: tuple[tuple[str, str], ...]

    @property
    def min_in_sync(self) -> int:
        """min.insync.replicas."""
        return 2 if self.replication_factor >= 3 else 1

    @property
    def fsync(self) -> bool:
        """True if acknowledged means on the disk."""
        return dict(self.configs).get("flush.mode", "fsync") == "fsync"


@dataclass(frozen=True, slots=True)
class WriterPlan:
    """A writer of the schedule."""

    topic: int
    acks: str
    idempotent: bool
    pause_s: float
    # Largest value, bytes: with large ones the logs roll.
    bytes_max: int
    # With 0 as many batches are under way as may be.
    linger_in_flight_ms: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule."""

    seed: int
    brokers: int
    voters: int
    lasts_s: float
    topics: tuple[TopicPlan, ...]
    writers: tuple[WriterPlan, ...]
    faults: tuple[Fault, ...]
    # Of the network: usual delay, seconds.
    delay_s: tuple[float, float]
    # Of a sync, by broker.
    sync_s: tuple[tuple[float, float], ...]
    drift_ppm: tuple[int, ...]
    lose_outcome: float
    lose_entry: float
    # After so long a follower that is behind leaves the in-sync set.
    lag_ms: int
    # Longest time that a voter of the quorum lags behind, seconds.
    voter_lag_s: float

    def with_faults(self, faults: tuple[Fault, ...]) -> "Plan":
        """The same with other faults."""
        return replace(self, faults=faults)


def draw_plan(seed: int, *, faults: bool = True, replication_factor: int = 0) -> Plan:
    """The schedule of a seed. Without a replication factor the seed draws one, mostly three."""
    random = Random(f"{seed}/plan")
    drawn = random.choice((1, 3, 3, 3))
    replication_factor = replication_factor or drawn
    brokers = random.choice((3, 3, 4))
    lasts_s = random.uniform(6, 16)
    topics = tuple(_topic(random, number, replication_factor) for number in range(2))
    writers = tuple(_writer(random, number % len(topics)) for number in range(3))
    disturbed = faults and random.random() < 0.6
    plan = Plan(
        seed=seed,
        brokers=brokers,
        voters=random.choice((1, 3, 3)),
        lasts_s=lasts_s,
        topics=topics,
        writers=writers,
        faults=_faults(random, lasts_s) if faults else (),
        delay_s=random.choice(((0.0001, 0.0005), (0.0005, 0.003), (0.001, 0.02))),
        sync_s=draw_sync_s(random, brokers),
        drift_ppm=tuple(random.randint(-200, 200) if faults else 0 for _ in range(brokers)),
        lose_outcome=random.choice((0.0, 0.02, 0.1)) if disturbed else 0.0,
        lose_entry=random.choice((0.0, 0.02, 0.1)) if disturbed else 0.0,
        lag_ms=random.choice((10_000, 2_000, 500)) if faults else 10_000,
        voter_lag_s=random.choice((0.02, 0.02, 0.5)) if faults else 0.02,
    )
    lingers_ms = random.choices((0, 0, 10), k=len(writers))
    pairs = zip(writers, lingers_ms, strict=True)
    return replace(plan, writers=tuple(replace(one, linger_in_flight_ms=ms) for one, ms in pairs))


def draw_sync_s(random: Random, brokers: int) -> tuple[tuple[float, float], ...]:
    """How long syncs take, by broker. At times one has a disk that is far slower than the others':
    what it was told to sync and has not is what it loses."""
    usual = random.choice(((0.0001, 0.002), (0.001, 0.01), (0.005, 0.05)))
    slow = random.randrange(brokers) if random.random() < _SLOW_BROKER else None
    return tuple(SLOW_SYNC_S if number == slow else usual for number in range(brokers))


def _topic(random: Random, number: int, replication_factor: int) -> TopicPlan:
    configs = {"segment.bytes": str(random.choice((65_536, 65_536, 1 << 28)))}
    if random.random() < 0.3:
        configs["flush.mode"] = "page_cache"
    if replication_factor >= 3:
        # Said, not left to the default: a partition that is reassigned to two keeps the promise.
        configs["min.insync.replicas"] = "2"
    return TopicPlan(
        f"topic{number}", random.choice((1, 2, 3)), replication_factor, tuple(configs.items())
    )


def _writer(random: Random, topic: int) -> WriterPlan:
    idempotent = random.random() < 0.7
    acks = "all" if idempotent or random.random() < 0.5 else "1"
    bytes_max = random.choice((40, 40, 3_000))
    return WriterPlan(topic, acks, idempotent, random.choice((0.05, 0.15, 0.5)), bytes_max)


def _faults(random: Random, lasts_s: float) -> tuple[Fault, ...]:
    weights = {
        kind: random.random() for kind, (chance, _) in CLASSES.items() if random.random() < chance
    }
    if not weights:
        return ()
    pause_s = random.choice((0.3, 1.0, 2.5))
    found = []
    at = random.uniform(2.0, 3.0)
    while at < lasts_s:
        kind = random.choices(list(weights), list(weights.values()))[0]
        found.append(
            Fault(
                at,
                kind,
                random.randrange(60),
                random.randrange(60),
                random.random(),
                random.uniform(0.05, max(0.06, CLASSES[kind][1])),
            )
        )
        at += random.expovariate(1 / pause_s)
    return tuple(found)
