"""``make raft-kill``: kill -9, pauses and damaged folders of the metadata quorum, under load.

Clients write and read the public metadata API the whole time. Afterwards every acknowledged write
must be there, the history of every register must be linearizable, and no request may have taken
effect twice. Leaders are killed most, then any voter, then all voters at once; at times the leader
is stopped until another one is elected, or for longer than it may lead without an answer, and asked
for what it cannot know. Then one voter after the other is started with a damaged file: it must
refuse with a clear sentence, stop with one when the leader tells what it lost, or come back with
the right data. In the end two voters are damaged at once.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from millstream_server.local_cluster import NodePlan
from millstream_server.local_cluster.supervisor import serve_command
from tests.campaigns.figures import integer, print_result, progress
from tests.campaigns.metadata_clients import MetadataClient, Record
from tests.campaigns.paused_leader import Known, PausedLeader
from tests.campaigns.quorum_damage import (
    DAMAGES,
    RAFT_DAMAGES,
    Damage,
    Fate,
    Outcome,
    VoterDamage,
)
from tests.campaigns.quorum_faults import Quorum
from tests.linearizability.checker import SearchTooLong, find_violation
from tests.linearizability.history import Operation, Read

LEADER, VOTER, ALL, PAUSE, BRIEF = "leader", "voter", "all", "pause", "brief pause"
_WEIGHTS = {LEADER: 65, VOTER: 10, ALL: 10, PAUSE: 8, BRIEF: 7}
_ROUNDS_PER_GENERATION = 5
_CLIENTS = 6
# Processes of the histories that read everything at the end.
_LAST_READERS = 1000
# The process that asks a paused leader.
_PAUSED_READER = 500
# Enough for what is on its way over loopback.
_SENT_S = 0.03
_RECOVERY_S = 60.0
_BESIDE_SHOWN = 3000


@dataclass
class Tally:
    """What was done to the quorum, and what it cost."""

    rounds: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    # Longest time without an acknowledged write in each round, by what was done.
    gaps_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    # What voters did about damage: by file and kind of it, of one voter or of two at once.
    fates: dict[str, Counter[Fate]] = field(default_factory=lambda: defaultdict(Counter))
    fates_of_two: dict[str, Counter[Fate]] = field(default_factory=lambda: defaultdict(Counter))
    # Barriers and barrier reads that waited at a paused leader and that it answered.
    answered_paused: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    undecided: int = 0

    @property
    def broken(self) -> list[str]:
        """Every promise that was broken."""
        return [*self.lost, *self.violations, *self.wrong]


class Campaign:
    """One run on one cluster, which it starts and ends."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        command: Callable[[NodePlan], list[str]] = serve_command,
    ) -> None:
        """``command`` starts a node."""
        self.quorum = Quorum(folder, command)
        self.record = Record()
        self.tally = Tally()
        self._chance = random.Random(seed)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[MetadataClient] = []

    async def run(
        self,
        rounds: Sequence[str],
        damages: Sequence[Damage],
        damages_of_two: Sequence[Damage] = (),
    ) -> None:
        """Do it all; ``tally`` and ``record`` hold the outcome. Raises what shows that the quorum
        did not come back: TimeoutError, RuntimeError."""
        await asyncio.to_thread(self.quorum.start)
        try:
            await self._begin_load()
            for number, kind in enumerate(rounds, 1):
                if number % _ROUNDS_PER_GENERATION == 0:
                    await self._keeper.open_generation()
                await self._round(kind)
                gap = f"no write for {self.tally.gaps_ms[kind][-1]:.0f} ms"
                progress(f"round {number}/{len(rounds)} {kind}: {gap}; {self._so_far()}")
            await asyncio.to_thread(self.quorum.wait_snapshots)
            for damage in damages:
                await self._damage(damage)
            await self._end_load()
            if damages_of_two:
                await asyncio.to_thread(VoterDamage(self.quorum).wait_noted)
            for damage in damages_of_two:
                await self._damage_two(damage)
            await self._read_at_the_end()
        finally:
            self._stop.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(client.calls.close() for client in self._clients))
            await asyncio.to_thread(self.quorum.stop)
        self._judge()

    async def _begin_load(self) -> None:
        broker, addresses = self.quorum.broker_address, self.quorum.addresses
        self._keeper = self._client(0, [broker])
        await self._keeper.open_generation()
        self._spawn(self._client(1, [broker]).probe(self._stop))
        for number in range(_CLIENTS):
            turn = number % len(addresses)
            client = self._client(2 + number, addresses[turn:] + addresses[:turn])
            self._spawn(client.run(self._stop))
        await self._until_probed(time.monotonic())

    async def _end_load(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    def _client(self, process: int, addresses: Sequence[str]) -> MetadataClient:
        chance = random.Random(self._chance.random())
        client = MetadataClient(process, addresses, self.record, chance)
        self._clients.append(client)
        return client

    def _spawn(self, work: Any) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def _round(self, kind: str) -> None:
        quorum, chance = self.quorum, self._chance
        leader = await asyncio.to_thread(quorum.leader)
        begin = time.monotonic()
        if kind in (PAUSE, BRIEF):
            await self._pause(leader, self._chance.uniform(1.5, 3.0) if kind == PAUSE else 0.0)
        else:
            names = [node.name for node in quorum.voters]
            victims = {LEADER: [leader], VOTER: [chance.choice(names)], ALL: names}[kind]
            await asyncio.to_thread(quorum.kill, *victims)
            self.tally.kills += len(victims)
            await asyncio.sleep(chance.uniform(0, 1.5))
            await asyncio.to_thread(quorum.restart, *victims)
        self.tally.rounds[kind] += 1
        await asyncio.to_thread(quorum.wait_ready)
        await self._until_probed(time.monotonic())
        await asyncio.sleep(chance.uniform(0.1, 0.8))
        self.tally.gaps_ms[kind].append(self._gap_ms(begin))
        self._fail_early()

    async def _pause(self, leader: str, at_least_s: float) -> None:
        """Stop the leader until the others have elected another one; so long at least. Longer
        than it may lead without an answer, it must find by its own clock that it leads no more.
        Otherwise it believes that it leads, and finds what was asked of it meanwhile beside the
        first words of the new leader."""
        address = self.quorum.cluster.node(leader).address
        paused = PausedLeader(address, self._client(_PAUSED_READER, [address]))
        await paused.connect()
        self.quorum.pause(leader)
        begin = time.monotonic()
        await asyncio.sleep(at_least_s)
        await self._until_probed(begin + _SENT_S)
        # That one may have begun before the pause, and be known to the paused leader; not the next.
        await self._until_probed(time.monotonic())
        known = Known(self.record.probed_value, self.record.probed_version)
        await paused.ask(self.record.probe_name)
        self.quorum.resume(leader)
        answered, stale = await paused.answers(known)
        self.tally.answered_paused += answered
        self.tally.wrong += stale

    async def _damage(self, damage: Damage) -> None:
        quorum = self.quorum
        await asyncio.to_thread(quorum.wait_caught_up)
        victim = self._chance.choice(quorum.voters)
        inflict = VoterDamage(quorum).inflict
        done = await asyncio.to_thread(inflict, {victim.name: damage}, self._chance)
        self._note(damage, done, self.tally.fates)
        reader = self._client(_LAST_READERS - victim.node_id, [victim.address])
        await reader.read_all()
        await self._until_probed(time.monotonic())
        self._fail_early()

    async def _damage_two(self, damage: Damage) -> None:
        """Nobody writes any more, and what was written is old enough for every voter to have noted
        that it is synced: nothing may be lost, though only one voter may still hold it."""
        quorum = self.quorum
        await asyncio.to_thread(quorum.wait_caught_up)
        victims = self._chance.sample(quorum.voters, 2)
        inflict = VoterDamage(quorum).inflict
        both = {victim.name: damage for victim in victims}
        done = await asyncio.to_thread(inflict, both, self._chance)
        self._note(damage, done, self.tally.fates_of_two)

    def _note(
        self, damage: Damage, outcomes: Mapping[str, Outcome], fates: dict[str, Counter[Fate]]
    ) -> None:
        for name, outcome in outcomes.items():
            self.tally.kills += 1
            fates[str(damage)][outcome.fate] += 1
            progress(f"{damage} at {name}: {outcome.fate.value} {outcome.sentence}")

    async def _until_probed(self, moment: float) -> None:
        """Wait for a write that was acknowledged after this moment. Raises TimeoutError."""
        async with asyncio.timeout(_RECOVERY_S):
            while self.record.probed_s <= moment:
                self.record.probed.clear()
                await self.record.probed.wait()

    def _gap_ms(self, begin: float) -> float:
        moments = self.record.probe_s
        return 1000 * max(after - before for before, after in pairwise(moments) if after > begin)

    def _fail_early(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def _read_at_the_end(self) -> None:
        """Every node tells everything; all must tell the same."""
        told: list[dict[str, bytes]] = []
        for number, address in enumerate(self.quorum.addresses):
            reader = self._client(_LAST_READERS + number, [address])
            await reader.read_all()
            told.append(await reader.topics())
        for topics, address in zip(told, self.quorum.addresses, strict=True):
            if topics != told[0]:
                self.tally.wrong.append(f"{address} tells other topics than the others")
            self.tally.lost += [f"topic {name}" for name in self.record.kept - topics.keys()]
            gone = self.record.deleted & topics.keys()
            self.tally.lost += [f"deletion of {name}" for name in gone]

    def _judge(self) -> None:
        self.tally.wrong += self.record.wrong
        for key, operations in self.record.histories.items():
            self.tally.lost += [f"{key}: {one}" for one in lost_writes(operations)]
            try:
                violation = find_violation(operations)
            except SearchTooLong:
                self.tally.undecided += 1
                progress(f"{key}: no verdict on {len(operations)} operations")
                continue
            if violation is not None:
                self.tally.violations.append(f"{key}: {violation}"[:_BESIDE_SHOWN])

    def _so_far(self) -> str:
        return (
            f"{self.record.acknowledged} acknowledged, {self.record.unknown} unknown, "
            f"{self.record.reads} reads"
        )


def lost_writes(operations: Sequence[Operation]) -> set[Operation]:
    """Acknowledged writes that came after the write whose value was read at the very end, without
    any doubt: a check that needs no search."""
    by_value = {one.action.value: one for one in operations if not isinstance(one.action, Read)}
    lost: set[Operation] = set()
    for read in operations:
        if read.process < _LAST_READERS or not isinstance(read.action, Read):
            continue
        source = by_value.get(read.action.value)
        if read.action.value is None or source is None or source.end is None:
            continue
        lost.update(
            one
            for one in operations
            if not isinstance(one.action, Read)
            and getattr(one.action, "succeeded", True)
            and one.end is not None
            and source.end < one.call
            and one.end < read.call
        )
    return lost


def schedule(count: int, chance: random.Random) -> list[str]:
    """Kinds of rounds by chance; the first ones show every kind."""
    kinds = [LEADER, ALL, PAUSE, BRIEF, VOTER][:count]
    return kinds + chance.choices([*_WEIGHTS], [*_WEIGHTS.values()], k=count - len(kinds))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def result_of(campaign: Campaign) -> dict[str, Any]:
    """The figures of a run."""
    tally, record = campaign.tally, campaign.record
    return {
        "rounds": sum(tally.rounds.values()),
        "rounds_by_kind": dict(tally.rounds),
        "kills": tally.kills,
        "acknowledged": record.acknowledged,
        "acknowledged_on_retry": record.retried,
        "repeated": record.repeated,
        "unknown": record.unknown,
        "reads": record.reads,
        "lost": len(tally.lost),
        "violations": len(tally.violations),
        "undecided": tally.undecided,
        "wrong": len(tally.wrong),
        "answered_by_paused_leaders": tally.answered_paused,
        "damage": coverage(tally.fates),
        "damage_of_two_at_once": coverage(tally.fates_of_two),
        # After a kill of the leader alone; the others beside it.
        "gap_ms": spread(tally.gaps_ms[LEADER]),
        "gap_ms_paused_leader": spread(tally.gaps_ms[PAUSE] + tally.gaps_ms[BRIEF]),
        "gap_ms_whole_quorum": spread(tally.gaps_ms[ALL]),
    }


def coverage(fates: Mapping[str, Counter[Fate]]) -> dict[str, dict[str, int]]:
    """How often voters did what, by file and kind of damage."""
    return {
        damage: {fate.value: count for fate, count in counts.items()}
        for damage, counts in fates.items()
    }


def spread(values: Sequence[float]) -> dict[str, int]:
    """How values are spread, rounded."""
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(values, share)) for name, share in shares.items()}


def main() -> int:
    rounds, seed, damages = integer("ROUNDS", 10), integer("SEED", 1), integer("DAMAGES", 10)
    damages_of_two = integer("DAMAGES_OF_TWO", 6)
    chance = random.Random(seed)
    begin = time.monotonic()
    single = [DAMAGES[number % len(DAMAGES)] for number in range(damages)]
    double = [RAFT_DAMAGES[number % len(RAFT_DAMAGES)] for number in range(damages_of_two)]
    with tempfile.TemporaryDirectory(prefix="millstream-raft-kill-") as folder:

        async def run() -> Campaign:
            campaign = Campaign(Path(folder), seed)
            await campaign.run(schedule(rounds, chance), single, double)
            return campaign

        campaign = asyncio.run(run())
    tally = campaign.tally
    for what in tally.broken:
        progress(what)
    print_result(
        {"seed": seed, **result_of(campaign), "seconds": round(time.monotonic() - begin, 1)}
    )
    exercised = tally.kills > 0 and campaign.record.acknowledged > 0
    return 0 if exercised and not tally.broken and not tally.undecided else 1


if __name__ == "__main__":
    sys.exit(main())
