"""``make raft-crash``: power loss at every operation that voters make on their folders.

A round plays one script (formatting, elections, appends, conflicting entries, snapshots, their
transfer, restarts) without a crash, which gives the list of operations of each voter; then once for
each of them, with a crash in it. ROUNDS scripts differ by their seed, from SEED on, and in turn by
what the crash does to what was not synced.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from millstream_raft.directory_errors import RaftDirectoryError
from tests.campaigns.figures import integer, print_result, progress
from tests.fakes.raft_cluster import NodeStopped
from tests.fakes.raft_crash_world import VOTERS, CrashWorld
from tests.fakes.traced_files import Loss, Operation

#: Most dangerous first, so that a single round exercises it.
LOSSES = (Loss.TORN, Loss.ALL, Loss.PART, Loss.NOTHING)
Skipped = frozenset[tuple[str, str]]


@dataclass
class Tally:
    """What a campaign did and found."""

    known: Counter[Operation] = field(default_factory=Counter)
    hit: Counter[Operation] = field(default_factory=Counter)
    acknowledged: int = 0
    lost: int = 0
    recovery_crashes: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    #: The first point of each violation: seed, loss, voter, operation.
    examples: dict[str, str] = field(default_factory=dict)


def script(world: CrashWorld) -> Iterator[None]:
    """The life of a cluster, in steps between which a crashed voter may come back."""
    chance = world.chance
    one, two, three = chance.sample(VOTERS, 3)
    held = world.cluster.network.held
    held.add((one, three))  # so that it lags, and does not know the term
    yield world.campaign(one)
    yield world.put(chance.randint(2, 5)), world.step()
    yield world.heal(), world.step()
    yield from conflict(world, one, two)
    for node in chance.sample(VOTERS, 2):
        yield world.compact(node), world.put(), world.step()
    yield world.isolate(three), world.put(chance.randint(8, 12)), world.step(8)
    yield world.compact(one), world.compact(two), world.step(3)
    yield world.put(), world.step(2), world.heal(), world.step(14)  # three gets the snapshot
    yield world.kill_in_next_write(two), world.put(2), world.step()
    yield world.campaign(one), world.put(), world.step()
    yield world.start(two), world.step()
    yield from contest(world, one, two, three)
    for node in VOTERS:
        yield world.put(), world.step(3), world.compact(node), world.step(2)
    for node in (two, three, one):
        yield world.kill(node, Loss.ALL), world.step(2), world.start(node), world.step(3)
        yield world.campaign(two), world.put(), world.step()


def conflict(world: CrashWorld, one: int, two: int) -> Iterator[None]:
    """The leader writes entries that nobody gets, and another one is elected."""
    links = {(one, other) for other in VOTERS if other != one}
    world.cluster.network.held.update(links)
    yield world.put(world.chance.randint(2, 5), one), world.tick(one), world.tick(one)
    world.isolate(one)
    yield world.campaign(two), world.put(world.chance.randint(2, 5), two), world.step()
    yield world.heal(), world.step(10)


def contest(world: CrashWorld, one: int, two: int, three: int) -> Iterator[None]:
    """Two candidates in one term."""
    for node in (one, three):
        if node not in world.down:
            world.cluster[node].core.campaign()
    world.cluster.clock.advance(200)
    yield world.tick(one), world.tick(three)
    yield world.deliver(one, two), world.deliver(three, two), world.step()
    yield world.campaign(three), world.put(2), world.step()


def come_back(world: CrashWorld) -> None:
    """Start the voter that crashed, and ask of it what it must not give if it forgot something."""
    node = world.crashed
    world.start(node)
    others = [other for other in VOTERS if other != node and other not in world.down]
    for rival in others:  # in the term of a vote that it may have given
        if world.cluster[rival].term < world.cluster[node].term and node not in world.down:
            world.cluster[rival].core.campaign()
            world.tick(rival)
            world.deliver(rival, node)
            world.deliver(node, rival)
    world.step(3)
    leaders = [other for other in others if other not in world.down and world.cluster[other].leads]
    if leaders and world.fate.random() < 0.5:  # without whom the other two have to do
        world.isolate(leaders[0])
        for other in VOTERS:
            if other != leaders[0]:
                world.campaign(other)
        world.put()
        world.step()
        world.heal()


def play(world: CrashWorld) -> CrashWorld:
    """The whole script, then peace."""
    wait, back = world.fate.randrange(3), False
    try:
        for _ in script(world):
            if world.crashed is not None and not back:
                if wait == 0:
                    come_back(world)
                    back = True
                wait -= 1
        world.step(2)
        for node in VOTERS:
            world.start(node)
        world.heal()
        for attempt in range(30):
            if world.settled():
                break
            world.campaign(VOTERS[attempt % len(VOTERS)], 20)
            for node in VOTERS:
                world.start(node)
    except (RaftDirectoryError, NodeStopped):
        pass  # is on the list of violations
    return world


def points(seed: int) -> dict[tuple[int, int], Operation]:
    """Every operation of a script without a crash, by voter and position."""
    world = play(CrashWorld(seed))
    if world.broken() or world.lost():
        raise RuntimeError(f"the script of seed {seed} fails by itself: {world.broken()}")
    return {
        (node, position): operation
        for node, trace in world.traces.items()
        for position, operation in enumerate(trace.operations)
    }


def crash_at(
    tally: Tally,
    seed: int,
    point: tuple[int, int],
    operation: Operation,
    loss: Loss,
    skipped: Skipped = frozenset(),
) -> None:
    """Play a script with a crash in one operation."""
    world = play(CrashWorld(seed, point, loss, skipped))
    crashes = world.traces[point[0]].crashes
    if crashes and world.traces[point[0]].operations[crashes[0]] == operation:
        tally.hit[operation] += 1
    tally.recovery_crashes += len(crashes) > 1
    broken = world.broken()
    if "never settled" not in broken:
        lost = world.lost()
        tally.acknowledged += len(world.cluster.acknowledged())
        tally.lost += len(lost)
        broken += ["lost"] if lost else []
    for violation in broken:
        tally.violations[violation] += 1
        tally.examples.setdefault(
            violation, f"seed {seed}, {loss.value} lost, voter {point[0]}, {operation}"
        )


def play_round(
    tally: Tally, seed: int, loss: Loss, say: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Crash at every operation of one script."""
    known = points(seed)
    tally.known.update(known.values())
    for number, (point, operation) in enumerate(known.items()):
        crash_at(tally, seed, point, operation, loss)
        say(number + 1, len(known))


def main() -> int:
    rounds, seed = integer("ROUNDS", 1), integer("SEED", 1)
    logging.disable(logging.ERROR)  # the library prints the crashes that pass through it
    begin, tally = time.monotonic(), Tally()
    for number in range(rounds):
        loss = LOSSES[number % len(LOSSES)]

        def say(done: int, known: int, loss: Loss = loss, number: int = number) -> None:
            if done % 100 == 0 or done == known:
                progress(
                    f"round {number + 1}/{rounds}, {loss.value} lost: {done}/{known} points, "
                    f"{tally.acknowledged} acknowledged, lost {tally.lost}"
                )

        play_round(tally, seed + number, loss, say)
    missed = [str(operation) for operation in tally.known - tally.hit]
    print_result(
        {
            "seed": seed,
            "rounds": rounds,
            "points_known": tally.known.total(),
            "points_hit": tally.hit.total(),
            "recovery_crashes": tally.recovery_crashes,
            "kinds": {str(kind): tally.hit[kind] for kind in sorted(tally.known)},
            "kinds_missed": missed,
            "acknowledged": tally.acknowledged,
            "lost": tally.lost,
            "violations": dict(tally.violations),
            "examples": tally.examples,
            "seconds": round(time.monotonic() - begin, 1),
        }
    )
    exercised = tally.acknowledged > 0 and not missed
    return 0 if exercised and not tally.lost and not tally.violations else 1


if __name__ == "__main__":
    sys.exit(main())
