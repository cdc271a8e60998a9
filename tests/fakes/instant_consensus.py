"""A quorum of one that commits at once, in memory, on the event loop."""

import asyncio

from millstream_raft.consensus import (
    ENTRY_BYTES_MAX,
    CommitListener,
    ConsensusStatus,
    LeadershipCallback,
    NotProposed,
    OutcomeUnknown,
    StateMachine,
)


class InstantConsensus:
    """See ``Consensus``. ``lead`` and ``depose`` change the leadership by hand; the next
    ``outcomes_to_lose`` proposals are applied but end in OutcomeUnknown."""

    def __init__(self, state_machine: StateMachine, *, node_id: int = 1, lead: bool = True) -> None:
        self.state_machine = state_machine
        self.outcomes_to_lose = 0
        self._node_id = node_id
        self._leads_at_start = lead
        self._leader_id: int | None = None
        self._term = 0
        self._index = 1
        self._callbacks: list[LeadershipCallback] = []
        self._listener: CommitListener | None = None

    @property
    def node_id(self) -> int:
        return self._node_id

    @property
    def leader_id(self) -> int | None:
        return self._leader_id

    @property
    def is_leader(self) -> bool:
        return self._leader_id == self._node_id

    @property
    def term(self) -> int:
        return self._term

    def on_leadership(self, callback: LeadershipCallback) -> None:
        self._callbacks.append(callback)

    def on_commit(self, listener: CommitListener) -> None:
        self._listener = listener

    async def start(self) -> None:
        if self._leads_at_start:
            self.lead()

    async def stop(self) -> None:
        self._leader_id = None

    def lead(self) -> None:
        """Become the leader of the next term."""
        self._term += 1
        self._leader_id = self._node_id
        for callback in self._callbacks:
            callback(True, self._term)

    def depose(self, leader_id: int | None = None) -> None:
        """Lose the leadership to another node, or to nobody."""
        was_leader, self._leader_id = self.is_leader, leader_id
        self._term += 1
        if was_leader:
            for callback in self._callbacks:
                callback(False, self._term)

    def commit_from_elsewhere(self, entry: bytes) -> bytes:
        """Apply an entry that another node proposed."""
        self._index += 1
        result = self.state_machine.apply(self._index, entry)
        if self._listener is not None:
            self._listener.committed(self._index, entry, result)
        return result

    def restore(self, snapshot: bytes) -> None:
        """Receive a snapshot, as a node that fell behind does."""
        self._index += 1
        self.state_machine.restore(snapshot)
        if self._listener is not None:
            self._listener.restored(self._index, snapshot)

    async def resign(self) -> bool:
        """There is nobody else."""
        return False

    async def propose(self, entry: bytes, timeout_ms: int) -> bytes:
        await asyncio.sleep(0)
        if not self.is_leader:
            raise NotProposed("not the leader", self._leader_id)
        if len(entry) > ENTRY_BYTES_MAX:
            raise NotProposed("entry too large", self._leader_id)
        result = self.commit_from_elsewhere(entry)
        if self.outcomes_to_lose > 0:
            self.outcomes_to_lose -= 1
            raise OutcomeUnknown("told to lose the outcome", self._leader_id)
        return result

    async def barrier(self, timeout_ms: int) -> int:
        await asyncio.sleep(0)
        if not self.is_leader:
            raise NotProposed("not the leader", self._leader_id)
        return self._index

    def status(self) -> ConsensusStatus:
        return ConsensusStatus(
            node_id=self._node_id,
            leader_id=self._leader_id,
            is_leader=self.is_leader,
            term=self._term,
            commit_index=self._index,
            applied_index=self._index,
            last_index=self._index,
            snapshot_index=0,
            journal_bytes=0,
            proposals_pending=0,
            journal_syncs=0,
            voters={},
            silent_until=0,
        )
