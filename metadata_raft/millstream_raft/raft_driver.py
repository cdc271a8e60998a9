"""Drives one core: takes what arrived, lets the core do what is due, and says what came of it.

Knows neither threads nor the event loop, so that tests and the simulator step it by hand. What came
of a step is a list of ``Outcome`` values in the order in which the world must see them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from millstream_raft.consensus import (
    ConsensusError,
    ConsensusStatus,
    NotProposed,
    OutcomeUnknown,
    StateMachine,
    VoterStatus,
)
from millstream_raft.group_commit import Proposal, ProposalQueue, decode_batch, encode_batch
from millstream_raft.journal import Journal
from millstream_raft.pysyncobj_core import RaftCore
from millstream_raft.raft_messages import Envelope
from millstream_raft.snapshot_file import SnapshotFile

#: Even with nothing due, look around this often: bounds what a missed wake could cost.
_WAIT_MS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A voter's message."""

    sender: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """Messages can be handed to a voter."""

    peer: int


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """Messages can no longer be handed to a voter."""

    peer: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """This node stops: another voter should lead."""


Event = MessageArrived | PeerConnected | PeerDisconnected | Leaving


@dataclass(frozen=True, slots=True)
class Sent:
    """A message to a voter; what it promises is on the disk."""

    peer: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Committed:
    """An entry was applied."""

    index: int
    entry: bytes
    result: bytes


@dataclass(frozen=True, slots=True)
class Restored:
    """The state was replaced."""

    index: int
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """A proposal's fate: its result, or why there is none."""

    proposal: Proposal
    index: int
    result: bytes
    error: ConsensusError | None


@dataclass(frozen=True, slots=True)
class LeadershipSeen:
    """Who leads, and whether this node does and is up to date."""

    is_leader: bool
    leader_id: int | None
    term: int


Outcome = Sent | Committed | Restored | Answered | LeadershipSeen


class Replica:
    """The state machine in the core's words; notes what it went through."""

    def __init__(self, state_machine: StateMachine) -> None:
        self._state_machine = state_machine
        self.outcomes: list[Outcome] = []

    def apply(self, index: int, content: bytes) -> list[bytes]:
        """Apply the entries of one log entry."""
        results: list[bytes] = []
        for entry in decode_batch(content):
            result = self._state_machine.apply(index, entry)
            results.append(result)
            self.outcomes.append(Committed(index, entry, result))
        return results

    def dump(self) -> bytes:
        """The state."""
        return self._state_machine.dump()

    def restore(self, index: int, state: bytes) -> None:
        """Replace the state."""
        self._state_machine.restore(state)
        self.outcomes.append(Restored(index, state))

    def send(self, peer: int, envelope: Envelope) -> bool:
        """Note a message."""
        self.outcomes.append(Sent(peer, envelope))
        return True

    def take_outcomes(self) -> list[Outcome]:
        """What came of everything since the last call."""
        taken, self.outcomes = self.outcomes, []
        return taken


class RaftDriver:
    """One voter with its proposals."""

    def __init__(
        self,
        core: RaftCore,
        replica: Replica,
        queue: ProposalQueue,
        journal: Journal,
        snapshots: SnapshotFile,
        peer_ids: Sequence[int],
    ) -> None:
        self._core = core
        self._replica = replica
        self._queue = queue
        self._journal = journal
        self._snapshots = snapshots
        self._peer_ids = tuple(peer_ids)
        self._under_way: list[Proposal] | None = None
        self._seen = LeadershipSeen(False, None, 0)
        if not self._peer_ids:
            core.campaign()  # nobody to wait for

    def step(self, events: Sequence[Event]) -> list[Outcome]:
        """Take the events and do what is due."""
        for event in events:
            match event:
                case MessageArrived(sender, envelope):
                    self._core.receive(sender, envelope)
                case PeerConnected(peer):
                    self._core.connected(peer)
                case PeerDisconnected(peer):
                    self._core.disconnected(peer)
                case Leaving():
                    self._core.leave()
        self._core.tick()
        self._observe_leadership()
        if self._may_propose():
            self._propose_waiting()
            self._core.tick()  # writes the entry and sends it
            if not self._peer_ids:
                self._core.tick()  # alone, the entry on this disk is committed
            self._observe_leadership()
        return self._replica.take_outcomes()

    def wait_ms(self) -> int:
        """How long to wait for events before the next step."""
        if self._may_propose():
            return 0
        due_ms = self._core.due_ms()
        return _WAIT_MS_MAX if due_ms is None else min(due_ms, _WAIT_MS_MAX)

    def status(self) -> ConsensusStatus:
        """The quorum as this node sees it."""
        voters = {peer: VoterStatus(peer, *self._core.peer(peer)) for peer in self._peer_ids}
        last = self._snapshots.last
        return ConsensusStatus(
            node_id=self._core.node_id,
            leader_id=self._seen.leader_id,
            is_leader=self._seen.is_leader,
            term=self._core.term,
            commit_index=self._core.commit_index,
            applied_index=self._core.applied_index,
            last_index=self._journal.last_index,
            snapshot_index=0 if last is None else last.index,
            journal_bytes=self._journal.size_bytes,
            proposals_pending=len(self._queue) + len(self._under_way or ()),
            journal_syncs=self._journal.syncs,
            voters=voters,
            silent_until=self._core.silent_until,
        )

    def close(self) -> list[Outcome]:
        """Sync and close; what is under way ends without an answer."""
        self._end_under_way(OutcomeUnknown("the node stops"))
        self._refuse_waiting("the node stops")
        self._core.close()
        return self._replica.take_outcomes()

    def _may_propose(self) -> bool:
        return self._seen.is_leader and self._under_way is None and len(self._queue) > 0

    def _propose_waiting(self) -> None:
        batch = self._queue.take_batch()
        self._under_way = batch

        def done(results: list[bytes] | None) -> None:
            if self._under_way is not batch:
                return  # told as unknown already, when the leadership was lost
            if results is None:
                hint = self._core.leader_id
                self._end_under_way(NotProposed("another leader's entry took the place", hint))
            else:
                self._answer(batch, results)

        self._core.propose(encode_batch(batch), done)

    def _answer(self, batch: list[Proposal], results: list[bytes]) -> None:
        self._under_way = None
        index = self._core.applied_index + 1  # counted up after the callbacks
        left = iter(results)
        for proposal in batch:
            result = b"" if proposal.entry is None else next(left)
            self._replica.outcomes.append(Answered(proposal, index, result, None))

    def _observe_leadership(self) -> None:
        core = self._core
        is_leader = core.leads_and_is_current
        leader_id = core.leader_id
        if leader_id == core.node_id and not is_leader:
            leader_id = None  # elected, but not yet able to serve
        seen = LeadershipSeen(is_leader, leader_id, core.term)
        if seen != self._seen:
            if self._seen.is_leader:
                if is_leader and seen.term != self._seen.term:
                    lost = LeadershipSeen(False, None, seen.term)
                    self._replica.outcomes.append(lost)
                if not is_leader or seen.term != self._seen.term:
                    core.forget_proposals()
                    self._end_under_way(
                        OutcomeUnknown("the leadership was lost meanwhile", leader_id)
                    )
            self._seen = seen
            self._replica.outcomes.append(seen)
        if not is_leader and len(self._queue):
            self._refuse_waiting("this node does not lead")

    def _refuse_waiting(self, why: str) -> None:
        for proposal in self._queue.take_all():
            error = NotProposed(why, self._seen.leader_id)
            self._replica.outcomes.append(Answered(proposal, 0, b"", error))

    def _end_under_way(self, error: ConsensusError) -> None:
        batch, self._under_way = self._under_way, None
        for proposal in batch or ():
            self._replica.outcomes.append(Answered(proposal, 0, b"", error))


OutcomeSink = Callable[[list[Outcome]], None]
