"""Schedules that cut the power, again and again and soon after one another, while clients write.

In most of them all nodes lose it at once; in the others one node after the other does, which
records in the memory of a quorum must survive.
"""

from random import Random

from tests.simulation.world.plan import Fault, Plan, TopicPlan, WriterPlan, draw_sync_s

#: Cuts of a schedule.
CUTS = 8
_FIRST_S = 2.2
# Who is killed before a cut stays down until after it.
_KILLED_S = 0.8
# So shortly before a cut a disk is replaced that its broker is not missed yet.
_WIPED_S = 0.15
# A broker loses power so long before a cut or after it, and for so long, and stops again.
_AGAIN_S = 0.4
# A sync fails so long before a cut at most: what it was to write is on no disk.
_SYNC_FAILS_S = 0.6


def draw_power_plan(seed: int) -> Plan:
    """The schedule of a seed."""
    random = Random(f"{seed}/power")
    faults = _faults(random, "power_all" if random.random() < 0.75 else "power")
    alone = random.random() < 0.5
    if not alone:  # else a disk that is replaced takes what nobody else has
        before_s = random.uniform(0.0, _WIPED_S)
        cut = random.choice(faults)
        wipe = _fault(random, cut.at - before_s, "wipe", _KILLED_S)
        faults = tuple(sorted((*faults, wipe), key=lambda fault: fault.at))
    topics = (
        _topic(random, 0, 3, "fsync"),
        _topic(random, 1, 1 if alone else 3, "fsync"),
        _topic(random, 2, random.choice((1, 3, 3, 3)) if alone else 3, "page_cache"),
    )
    writers = tuple(
        WriterPlan(
            topic=number,
            acks="all",
            idempotent=random.random() < 0.7,
            pause_s=random.choice((0.05, 0.1, 0.2)),
            bytes_max=random.choice((40, 40, 3_000)),
        )
        for number in range(len(topics))
    )
    return Plan(
        seed=seed,
        brokers=3,
        voters=random.choice((1, 3)),
        lasts_s=max(fault.at for fault in faults) + random.uniform(0.1, 1.5),
        topics=topics,
        writers=writers,
        faults=faults,
        delay_s=random.choice(((0.0001, 0.0005), (0.0005, 0.003))),
        sync_s=draw_sync_s(random, 3),
        drift_ppm=(0, 0, 0),
        lose_outcome=0.0,
        lose_entry=0.0,
        lag_ms=random.choice((10_000, 500)),
        voter_lag_s=random.choice((0.02, 0.5)),
    )


def _topic(random: Random, number: int, replication_factor: int, flush_mode: str) -> TopicPlan:
    configs = {
        "segment.bytes": random.choice(("65536", "65536", "268435456")),
        "flush.mode": flush_mode,
    }
    if replication_factor >= 3:
        configs["min.insync.replicas"] = "2"
    return TopicPlan(f"topic{number}", 1, replication_factor, tuple(configs.items()))


def _faults(random: Random, kind: str) -> tuple[Fault, ...]:
    found = []
    at = _FIRST_S
    for _ in range(CUTS):
        # Mostly once clients are served again, sometimes in the midst of recovery.
        at += random.uniform(0.05, 0.8) if random.random() < 0.2 else random.uniform(1.2, 2.5)
        if random.random() < 0.3:
            before_s = random.uniform(0.0, 0.3)
            found.append(_fault(random, at - before_s, "kill", _KILLED_S))
        if random.random() < 0.2:
            before_s = random.uniform(0.0, _SYNC_FAILS_S)
            found.append(_fault(random, at - before_s, "sync_error", _SYNC_FAILS_S))
        if random.random() < 0.2:
            before_s = random.uniform(0.0, _SYNC_FAILS_S)
            found.append(_fault(random, at - before_s, "delete_records", 0.0))
        if random.random() < 0.3:
            beside_s = random.uniform(-_AGAIN_S, _AGAIN_S)
            found.append(_fault(random, at + beside_s, "restart_twice", _AGAIN_S))
        if random.random() < 0.8:
            found.append(_fault(random, at, kind, random.uniform(0.02, 0.4)))
            continue
        # So long that whoever is gone is taken for dead.
        found.append(_fault(random, at, kind, random.uniform(3.0, 5.0)))
        at += random.uniform(5.0, 9.0)
    return tuple(found)


def _fault(random: Random, at: float, kind: str, lasts_s: float) -> Fault:
    numbers = random.randrange(60), random.randrange(60)
    return Fault(at, kind, *numbers, random.random(), lasts_s)
