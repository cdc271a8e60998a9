"""One voter of the simulated quorum: ``millstream_raft.consensus.Consensus`` on ``Quorum``."""

import asyncio
from functools import partial
from typing import Any

from millstream_raft.consensus import (
    ENTRY_BYTES_MAX,
    CommitListener,
    ConsensusStatus,
    LeadershipCallback,
    NotProposed,
    OutcomeUnknown,
    StateMachine,
    VoterStatus,
)
from tests.simulation.world.process import Process
from tests.simulation.world.quorum import Quorum

_ROUND_S = (0.001, 0.01)
_SNAPSHOT_EVERY = 40


class ModelConsensus:
    """See ``Consensus``."""

    def __init__(
        self, quorum: Quorum, process: Process, node_id: int, machine: StateMachine
    ) -> None:
        self._quorum = quorum
        self._process = process
        self.node_id = node_id
        self._machine = machine
        self._listener: CommitListener | None = None
        self._callbacks: list[LeadershipCallback] = []
        self.applied = 0
        self._applied_index = 0
        self._believes = False
        self._leader_id: int | None = None
        self._term = 0
        # It leads once it has applied so many entries.
        self._reach: int | None = None
        self._applying = False
        # Proposals (or None for barriers) that wait for the next round.
        self._waiting: list[tuple[bytes | None, asyncio.Future[tuple[bytes, int]]]] = []
        self._round_runs = False
        self._results: dict[int, asyncio.Future[tuple[bytes, int]]] = {}
        process.on_death(lambda: quorum.leave(self))

    @property
    def host(self) -> str:
        """See ``Voter``."""
        return self._process.host

    @property
    def leader_id(self) -> int | None:
        """See ``Consensus``."""
        return self._leader_id

    @property
    def is_leader(self) -> bool:
        """See ``Consensus``."""
        return self._believes

    @property
    def term(self) -> int:
        """See ``Consensus``."""
        return self._term

    def on_leadership(self, callback: LeadershipCallback) -> None:
        """See ``Consensus``."""
        self._callbacks.append(callback)

    def on_commit(self, listener: CommitListener) -> None:
        """See ``Consensus``."""
        self._listener = listener

    async def start(self) -> None:
        """See ``Consensus``."""
        quorum = self._quorum
        await asyncio.sleep(self._process.random.uniform(0.001, 0.05))
        snapshot = quorum.snapshot
        if snapshot is not None and self._process.random.random() < quorum.faults.snapshot:
            self.applied = snapshot[0]
            self._applied_index = quorum.log[snapshot[0] - 1][0]
            self._machine.restore(snapshot[1])
            if self._listener is not None:
                self._listener.restored(self._applied_index, snapshot[1])
        quorum.join(self)
        self.log_grew()

    async def stop(self) -> None:
        """See ``Consensus``."""
        self._quorum.leave(self)
        self._fail_all("the node stopped")
        self._believe(False, None, self._term)

    # From the model

    def elected(self, term: int, reach: int) -> None:
        """See ``Voter``."""
        self._term, self._reach = term, reach
        self._leader_id = None
        self.log_grew()
        self._process.call_soon(self._lead_when_ready)

    def _lead_when_ready(self) -> None:
        if self._reach is not None and self.applied >= self._reach:
            self._reach = None
            if self._quorum.leader_id == self.node_id:
                self._believe(True, self.node_id, self._term)

    def follows(self, leader_id: int | None, term: int) -> None:
        """See ``Voter``. A leader of before learns of it late."""
        delay = 0.0
        if self._believes:
            self._quorum.leaders_at_once += 1
            self._quorum.count("two_leaders")
            delay = self._quorum.random.uniform(0, self._quorum.faults.belief_s)
        self._process.call_in(delay, self._follow, leader_id, term)

    def _follow(self, leader_id: int | None, term: int) -> None:
        if term < self._term or self._quorum.leader_id == self.node_id:
            return
        self._reach = None
        self._believe(False, leader_id, term)

    def _believe(self, leads: bool, leader_id: int | None, term: int) -> None:
        before, self._believes = self._believes, leads
        self._leader_id, self._term = leader_id, max(term, self._term)
        if before != leads:
            if not leads:
                self._fail_all("leadership lost")
            for callback in self._callbacks:
                callback(leads, self._term)

    def log_grew(self) -> None:
        """See ``Voter``."""
        if not self._applying and self._process.alive:
            self._applying = True
            leads = self._quorum.leader_id == self.node_id
            lag = 0.000_2 if leads else self._quorum.random.uniform(0, self._quorum.faults.lag_s)
            self._process.call_in(lag, self._apply)

    def _apply(self) -> None:
        self._applying = False
        log = self._quorum.log
        while self.applied < len(log):
            index, entry = log[self.applied]
            result = self._machine.apply(index, entry)
            self.applied += 1
            self._applied_index = index
            if self._listener is not None:
                self._listener.committed(index, entry, result)
            waiter = self._results.pop(self.applied, None)
            if waiter is not None and not waiter.done():
                waiter.set_result((result, index))
        if self.applied // _SNAPSHOT_EVERY > (self._quorum.snapshot or (0,))[0] // _SNAPSHOT_EVERY:
            self._quorum.snapshot = (self.applied, self._machine.dump())
        self._lead_when_ready()

    # Proposals

    async def propose(self, entry: bytes, timeout_ms: int) -> bytes:
        """See ``Consensus``."""
        if len(entry) > ENTRY_BYTES_MAX:
            raise NotProposed("entry too large", self._leader_id)
        result, _ = await self._make(entry, timeout_ms)
        return result

    async def resign(self) -> bool:
        """See ``Consensus``: what a lost message would come to."""
        return False

    async def barrier(self, timeout_ms: int) -> int:
        """See ``Consensus``."""
        _, index = await self._make(None, timeout_ms)
        return index

    async def _make(self, entry: bytes | None, timeout_ms: int) -> tuple[bytes, int]:
        if not self._believes:
            raise NotProposed("this node does not lead", self._leader_id)
        waiter: asyncio.Future[tuple[bytes, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, waiter))
        self._start_round()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await waiter
        except TimeoutError:
            raise OutcomeUnknown(f"no answer within {timeout_ms} ms", self._leader_id) from None

    def _start_round(self) -> None:
        if not self._round_runs and self._waiting:
            self._round_runs = True
            batch, self._waiting = self._waiting, []
            delay = self._quorum.random.uniform(*_ROUND_S)
            self._process.call_in(delay, self._end_round, batch)

    def _end_round(self, batch: list[tuple[bytes | None, Any]]) -> None:
        self._round_runs = False
        quorum, faults = self._quorum, self._quorum.faults
        if not quorum.is_leader(self):
            for entry, _ in batch:
                if entry is not None and quorum.random.random() < faults.forward_late:
                    quorum.commit_late(entry)
            # Those who proposed learn nothing until their time is up or the belief ends.
            self._orphans(batch)
            return
        kept: list[tuple[bytes, Any]] = []
        for entry, waiter in batch:
            if entry is None:
                continue
            if quorum.random.random() < faults.lose_entry:
                quorum.count("entries_lost")
                self._orphans([(entry, waiter)])
                continue
            if quorum.random.random() < faults.lose_outcome:
                quorum.count("outcomes_lost")
                self._orphans([(entry, waiter)])
                waiter = None
            kept.append((entry, waiter))
        begin = len(quorum.log)
        if kept:
            quorum.commit([entry for entry, _ in kept])
        for number, (_, waiter) in enumerate(kept, begin + 1):
            if waiter is not None:
                self._results[number] = waiter
        # A barrier: everything committed before is applied here then.
        self._apply()
        for entry, waiter in batch:
            if entry is None and not waiter.done():
                waiter.set_result((b"", self._applied_index))
        self._start_round()

    def _orphans(self, batch: list[tuple[bytes | None, Any]]) -> None:
        for _, waiter in batch:
            delay = self._quorum.random.uniform(0.01, 3.0)
            self._process.call_in(delay, partial(_fail, waiter, "the outcome was lost"))
        self._start_round()

    def _fail_all(self, why: str) -> None:
        waiting, self._waiting = self._waiting, []
        for _, waiter in waiting:
            if not waiter.done():
                waiter.set_exception(NotProposed(why, self._leader_id))
        results, self._results = self._results, {}
        for waiter in results.values():
            _fail(waiter, why)

    def status(self) -> ConsensusStatus:
        """See ``Consensus``."""
        return ConsensusStatus(
            node_id=self.node_id,
            leader_id=self._leader_id,
            is_leader=self._believes,
            term=self._term,
            commit_index=self._applied_index,
            applied_index=self._applied_index,
            last_index=self._applied_index,
            snapshot_index=0,
            journal_bytes=0,
            proposals_pending=len(self._waiting),
            journal_syncs=0,
            voters={
                voter_id: VoterStatus(voter_id, voter_id in self._quorum.running, 0)
                for voter_id in self._quorum.voter_ids
                if voter_id != self.node_id
            },
        )


def _fail(waiter: Any, why: str) -> None:
    if not waiter.done():
        waiter.set_exception(OutcomeUnknown(why))
