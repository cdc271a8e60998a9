"""The parts of the simulated world, each alone: loop, processes, threads, quorum."""

import asyncio
from random import Random
from typing import Any

import pytest

from millstream_raft.consensus import NotProposed, OutcomeUnknown
from tests.fakes.memory_files import MemoryFiles
from tests.simulation.world.executor import SimExecutor, Speed
from tests.simulation.world.loop import Deadlock, SimLoop
from tests.simulation.world.network import Network
from tests.simulation.world.process import Process
from tests.simulation.world.quorum import Quorum, QuorumFaults
from tests.simulation.world.voter import ModelConsensus


@pytest.fixture
def loop() -> SimLoop:
    return SimLoop()


@pytest.fixture
def network(loop: SimLoop) -> Network:
    network = Network(loop, Random(1))
    network.spike = 0.0
    return network


def process(loop: SimLoop, name: str, **clock: Any) -> Process:
    return Process(loop, name, name, Random(name), **clock)


# The loop


def test_time_passes_only_when_nothing_is_left_to_do(loop: SimLoop) -> None:
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, loop.now))

    async def main() -> None:
        await asyncio.gather(sleeper("long", 3600), sleeper("short", 1), sleeper("none", 0))

    loop.run_until_complete(main())
    assert [name for name, _ in seen] == ["none", "short", "long"]
    assert loop.now == pytest.approx(3600)


def test_a_wait_that_can_never_end_is_a_deadlock(loop: SimLoop) -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        loop.run_until_complete(main())


def test_clocks_of_processes_drift_and_begin_anywhere(loop: SimLoop) -> None:
    fast, slow = process(loop, "fast", rate=1.5), process(loop, "slow", rate=0.5)
    woke: dict[str, float] = {}

    async def sleep(name: str) -> None:
        await asyncio.sleep(3)
        woke[name] = loop.now

    begun = fast.monotonic_ms(), slow.monotonic_ms()
    fast.spawn(sleep("fast"))
    slow.spawn(sleep("slow"))
    loop.run_until(10)
    assert woke == {"fast": pytest.approx(2), "slow": pytest.approx(6)}
    passed = fast.monotonic_ms() - begun[0], slow.monotonic_ms() - begun[1]
    assert passed == (pytest.approx(15_000, abs=1), pytest.approx(5_000, abs=1))


def test_a_killed_process_runs_nothing_more_not_even_what_ends_it(loop: SimLoop) -> None:
    seen = []

    async def work() -> None:
        try:
            await asyncio.sleep(2)
            seen.append("went on")
        finally:
            seen.append("cleaned up")

    victim = process(loop, "victim")
    victim.spawn(work())
    loop.run_until(1)
    victim.kill()
    loop.run_until(5)
    assert seen == []
    victim.bury()


def test_what_follows_the_death_of_a_process_happens_even_if_it_killed_itself(
    loop: SimLoop,
) -> None:
    victim = process(loop, "victim")
    seen = []
    victim.on_death(lambda: loop.call_in(1.0, seen.append, "followed"))
    victim.call_soon(victim.kill)
    loop.run_until(2)
    assert seen == ["followed"]


def test_a_paused_process_does_later_what_was_due(loop: SimLoop) -> None:
    woke = []

    async def work() -> None:
        await asyncio.sleep(2)
        woke.append(loop.now)

    paused = process(loop, "paused")
    paused.spawn(work())
    loop.run_until(1)
    paused.pause()
    loop.run_until(7)
    assert woke == []
    paused.resume()
    loop.run_until(8)
    assert woke == [7]


# Threads


def test_a_crash_falls_between_what_is_told_and_its_sync(loop: SimLoop) -> None:
    owner, files = process(loop, "owner"), MemoryFiles()
    executor = SimExecutor(owner, "log-writer", Speed())
    told: list[str] = []

    def job() -> str:
        file = files.open("/f", create=True)
        file.write(0, [b"x"])
        executor.post(lambda: told.append("written"))
        file.sync()
        return "synced"

    unsynced = 0
    for number in range(20):
        owner.call_soon(executor.submit, job, lambda result, _: told.append(result))
        while len(told) == 2 * number:
            loop.run_until(loop.now + 0.000_01)
        synced = [operation for operation, _ in files.operations].count("sync")
        unsynced += synced == number
        loop.run_until(loop.now + 1)
    assert told == ["written", "synced"] * 20
    assert 0 < unsynced < 20
    executor.close()


def test_a_busy_loop_hears_everything_late_and_in_order(loop: SimLoop) -> None:
    owner, speed = process(loop, "owner"), Speed()
    speed.work_s, speed.busy = (0.000_1, 0.000_1), 1.0
    executor = SimExecutor(owner, "log-writer", speed)
    done_at: list[float] = []
    heard: list[int] = []

    def job() -> float:
        done_at.append(loop.now)
        return loop.now

    for number in range(30):
        owner.call_soon(executor.submit, job, lambda *_, number=number: heard.append(number))
    while not heard:
        loop.run_until(loop.now + 0.000_01)
    # The thread goes on without waiting to be heard.
    before = len(done_at)
    loop.run_until(loop.now + 1)
    assert heard == list(range(30))
    assert before > 1
    executor.close()


# The quorum


class Machine:
    """Remembers what is applied."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def apply(self, index: int, entry: bytes) -> bytes:
        self.entries.append(entry)
        return b"result of " + entry

    def dump(self) -> bytes:
        return b"|".join(self.entries)

    def restore(self, snapshot: bytes) -> None:
        self.entries = snapshot.split(b"|") if snapshot else []


class Voters:
    """Three voters on hosts of their own."""

    def __init__(self, loop: SimLoop, network: Network, **faults: Any) -> None:
        self.loop = loop
        self.quorum = Quorum(loop, network, Random(3), [1, 2, 3], QuorumFaults(**faults))
        self.processes = {number: process(loop, f"m{number}") for number in (1, 2, 3)}
        self.machines = {number: Machine() for number in (1, 2, 3)}
        self.voters = {
            number: ModelConsensus(self.quorum, self.processes[number], number, machine)
            for number, machine in self.machines.items()
        }
        for number, voter in self.voters.items():
            self.processes[number].spawn(voter.start())
        loop.run_until(5)

    @property
    def leader(self) -> int:
        assert self.quorum.leader_id is not None
        return self.quorum.leader_id

    def run(self, number: int, work: Any) -> Any:
        task = self.processes[number].spawn(work)
        self.loop.run_until(self.loop.now + 10)
        return task


def test_what_the_leader_proposes_is_applied_everywhere(loop: SimLoop, network: Network) -> None:
    voters = Voters(loop, network)
    task = voters.run(voters.leader, voters.voters[voters.leader].propose(b"a", 5000))
    assert task.result() == b"result of a"
    assert [machine.entries for machine in voters.machines.values()] == [[b"a"]] * 3


def test_only_a_leader_proposes(loop: SimLoop, network: Network) -> None:
    voters = Voters(loop, network)
    other = next(number for number in voters.voters if number != voters.leader)
    with pytest.raises(NotProposed):
        voters.run(other, voters.voters[other].propose(b"a", 5000)).result()


def test_a_deposed_leader_believes_on_and_what_it_proposes_may_be_committed_late(
    loop: SimLoop, network: Network
) -> None:
    voters = Voters(loop, network, forward_late=1.0, belief_s=1000.0)
    old = voters.leader
    others = [f"m{number}" for number in voters.voters if number != old]
    for other in others:
        network.cut(f"m{old}", other)
    loop.run_until(loop.now + 5)
    assert voters.leader != old
    assert voters.voters[old].is_leader
    barrier = voters.run(old, voters.voters[old].barrier(3000))
    with pytest.raises(OutcomeUnknown):
        barrier.result()
    with pytest.raises(OutcomeUnknown):
        voters.run(old, voters.voters[old].propose(b"late", 3000)).result()
    assert voters.machines[voters.leader].entries == [b"late"]


def test_outcomes_are_lost_of_what_is_committed_and_of_what_is_not(
    loop: SimLoop, network: Network
) -> None:
    voters = Voters(loop, network, lose_outcome=1.0)
    leader = voters.leader
    with pytest.raises(OutcomeUnknown):
        voters.run(leader, voters.voters[leader].propose(b"kept", 5000)).result()
    voters.quorum.faults.lose_entry = 1.0
    with pytest.raises(OutcomeUnknown):
        voters.run(leader, voters.voters[leader].propose(b"gone", 5000)).result()
    assert voters.machines[leader].entries == [b"kept"]


def test_nothing_is_committed_without_a_majority(loop: SimLoop, network: Network) -> None:
    voters = Voters(loop, network, forward_late=0.0)
    leader = voters.leader
    for number in voters.voters:
        if number != leader:
            voters.processes[number].kill()
    with pytest.raises(OutcomeUnknown):
        voters.run(leader, voters.voters[leader].propose(b"a", 3000)).result()
    assert voters.machines[leader].entries == []


def test_a_voter_that_returns_has_everything_again(loop: SimLoop, network: Network) -> None:
    voters = Voters(loop, network, snapshot=0.0)
    leader = voters.leader
    number = next(one for one in voters.voters if one != leader)
    voters.processes[number].kill()
    voters.run(leader, voters.voters[leader].propose(b"a", 5000)).result()
    fresh = Machine()
    again = process(loop, f"m{number}")
    voter = ModelConsensus(voters.quorum, again, number, fresh)
    again.spawn(voter.start())
    loop.run_until(loop.now + 2)
    assert fresh.entries == [b"a"]
