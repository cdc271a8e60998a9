"""A metadata quorum as its users see it, with everything that a quorum may do to them.

One committed log, which no fault touches; voters that apply it with a lag; one leader at a time by
right, and others that still believe. Faults, drawn from the seed: two that believe to lead, entries
of a deposed leader that are committed late, outcomes that are lost although the entry is committed
or is not, voters that lag, elections, loss of the majority.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from tests.simulation.world.loop import SimLoop
from tests.simulation.world.network import Network

TICK_S = 0.05


@dataclass(slots=True)
class QuorumFaults:
    """Probabilities, each drawn once per seed."""

    # A proposal is committed, and its proposer never hears of it.
    lose_outcome: float = 0.0
    # A proposal is dropped, and its proposer never hears of it.
    lose_entry: float = 0.0
    # What a deposed leader proposes is committed all the same, later.
    forward_late: float = 0.5
    # Longest time that a voter lags behind, seconds.
    lag_s: float = 0.02
    # Longest time that a deposed leader believes to lead on, seconds.
    belief_s: float = 2.0
    # Time without a leader before the next is elected, seconds.
    election_s: tuple[float, float] = (0.15, 1.0)
    # Probability that a voter that starts is given a snapshot.
    snapshot: float = 0.3


class Voter(Protocol):
    """What the model asks of a voter of a process that runs."""

    node_id: int
    applied: int

    @property
    def host(self) -> str:
        """Where it runs."""

    def elected(self, term: int, reach: int) -> None:
        """It leads from now on, once it has applied the first ``reach`` entries."""

    def follows(self, leader_id: int | None, term: int) -> None:
        """Another one leads, or nobody."""

    def log_grew(self) -> None:
        """There are more entries than it has applied."""


class Quorum:
    """The log and the truth about who leads."""

    def __init__(
        self,
        loop: SimLoop,
        network: Network,
        random: Random,
        voter_ids: list[int],
        faults: QuorumFaults,
    ) -> None:
        self.loop = loop
        self.network = network
        self.random = random
        self.voter_ids = voter_ids
        self.faults = faults
        # Committed entries: (index, entry). Those committed together share an index.
        self.log: list[tuple[int, bytes]] = []
        self.term = 0
        self.leader_id: int | None = None
        self.running: dict[int, Voter] = {}
        # Times that a leader was elected while another one believed to lead.
        self.leaders_at_once = 0
        self.counts: dict[str, int] = {}
        # Newest state as a snapshot, kept by whoever applied that much: (entries, bytes).
        self.snapshot: tuple[int, bytes] | None = None
        self._index = 1
        self._lost_majority_at: float | None = None
        self._election_at: float | None = None
        loop.call_in(0.0, self._tick)

    # Voters come and go

    def join(self, voter: Voter) -> None:
        """A voter starts."""
        self.running[voter.node_id] = voter

    def leave(self, voter: Voter) -> None:
        """A voter stopped or died."""
        if self.running.get(voter.node_id) is voter:
            del self.running[voter.node_id]
            if self.leader_id == voter.node_id:
                self._depose()

    def has_majority(self, voter: Voter) -> bool:
        """True if the voter and those it reaches are a majority."""
        reached = sum(
            other is voter or self.network.reaches(voter.host, other.host)
            for other in self.running.values()
        )
        return reached * 2 > len(self.voter_ids)

    # Elections

    def step_down(self) -> None:
        """A fault: the leader loses its place although all is well."""
        if self.leader_id is not None:
            self._depose()

    def _depose(self) -> None:
        self.leader_id = None
        self._election_at = self.loop.now + self.random.uniform(*self.faults.election_s)

    def _tick(self) -> None:
        self.loop.call_in(TICK_S, self._tick)
        leader = self.running.get(self.leader_id) if self.leader_id is not None else None
        if leader is not None:
            if self.has_majority(leader):
                self._lost_majority_at = None
            elif self._lost_majority_at is None:
                self._lost_majority_at = self.loop.now
            elif self.loop.now - self._lost_majority_at > 0.5:
                self._lost_majority_at = None
                self._depose()
            return
        if self._election_at is None:
            self._election_at = self.loop.now + self.random.uniform(*self.faults.election_s)
        if self.loop.now >= self._election_at:
            self._elect()

    def _elect(self) -> None:
        able = [voter for _, voter in sorted(self.running.items()) if self.has_majority(voter)]
        if not able:
            return
        leader = self.random.choice(able)
        self._election_at = None
        self.term += 1
        self.leader_id = leader.node_id
        self._count("elections")
        leader.elected(self.term, len(self.log))
        for voter in self.running.values():
            if voter is not leader:
                delay = self.random.uniform(0.01, 0.1)
                self.loop.call_in(delay, self._tell, voter, leader, self.term)

    def _tell(self, voter: Voter, leader: Voter, term: int) -> None:
        if term != self.term or self.running.get(voter.node_id) is not voter:
            return
        if not self.network.reaches(leader.host, voter.host):
            self.loop.call_in(TICK_S, self._tell, voter, leader, term)
            return
        voter.follows(leader.node_id, term)

    # The log

    def is_leader(self, voter: Voter) -> bool:
        """True if the voter leads by right and can commit."""
        return self.leader_id == voter.node_id and self.has_majority(voter)

    def commit(self, entries: list[bytes]) -> int:
        """Append entries that share an index; returns it."""
        self._index += 1
        for entry in entries:
            self.log.append((self._index, entry))
        for voter in self.running.values():
            voter.log_grew()
        return self._index

    def commit_late(self, entry: bytes) -> None:
        """What a deposed leader forwarded arrives at the leader at some time."""
        delay = self.random.uniform(0.05, 5.0)
        self.loop.call_in(delay, self._committed_late, entry)

    def _committed_late(self, entry: bytes) -> None:
        if self.leader_id is not None:
            self._count("late_forwards")
            self.commit([entry])

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def count(self, what: str) -> None:
        """Note that a fault of the model struck."""
        self._count(what)


QuorumFactory = Callable[[], Quorum]
