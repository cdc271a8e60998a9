"""Drivers of voters stepped by hand on a fake clock, joined by perfect links."""

import asyncio
from random import Random

from millstream_raft.directory import format_node
from millstream_raft.group_commit import Proposal, ProposalQueue
from millstream_raft.journal import Journal
from millstream_raft.pysyncobj_core import RaftCore
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_driver import (
    Answered,
    MessageArrived,
    PeerConnected,
    RaftDriver,
    Replica,
    Sent,
)
from millstream_raft.snapshot_file import SnapshotFile
from millstream_raft.vote import VoteFile
from tests.fakes.crash_files import CrashFiles
from tests.fakes.raft_cluster import SteppedClock, stop_node


class Listing:
    """A state machine that keeps its entries."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def apply(self, index: int, entry: bytes) -> bytes:
        self.entries.append(entry)
        return b"%d" % len(self.entries)

    def dump(self) -> bytes:
        return b"\n".join(self.entries)

    def restore(self, snapshot: bytes) -> None:
        self.entries = snapshot.split(b"\n")


class Voters:
    """Drivers joined by perfect links, unless cut."""

    def __init__(self, count: int, **config) -> None:
        self.clock = SteppedClock()
        self.ids = tuple(range(1, count + 1))
        self.config = RaftConfig(**config)
        self.files = {node: CrashFiles() for node in self.ids}
        self.machines: dict[int, Listing] = {}
        self.queues: dict[int, ProposalQueue] = {}
        self.outcomes: dict[int, list] = {node: [] for node in self.ids}
        self.inboxes: dict[int, list] = {node: [] for node in self.ids}
        self.drivers: dict[int, RaftDriver] = {}
        self.cores: dict[int, RaftCore] = {}
        self.cut_off: set[int] = set()
        for node in self.ids:
            format_node("/raft", "test", node, self.ids, self.files[node])
            self.open(node)

    def open(self, node: int) -> None:
        files = self.files[node]
        journal = Journal("/raft", files, stop_node)
        snapshots = SnapshotFile("/raft", files, stop_node)
        self.machines[node] = Listing()
        replica = Replica(self.machines[node])
        self.cores[node] = RaftCore(
            node,
            self.ids,
            journal=journal,
            votes=VoteFile("/raft", files, stop_node),
            snapshots=snapshots,
            apply=replica.apply,
            dump=replica.dump,
            restore=replica.restore,
            send=replica.send,
            config=self.config,
            clock=self.clock,
            random=Random(node),
            fail_stop=stop_node,
        )
        self.queues[node] = ProposalQueue(
            waiting_entries_max=100,
            waiting_bytes_max=1 << 24,
            batch_entries_max=10,
            batch_bytes_max=1 << 20,
        )
        peers = [peer for peer in self.ids if peer != node]
        self.drivers[node] = RaftDriver(
            self.cores[node], replica, self.queues[node], journal, snapshots, peers
        )
        self.inboxes[node] = [PeerConnected(peer) for peer in peers]

    def step(self, node: int) -> list:
        events, self.inboxes[node] = self.inboxes[node], []
        outcomes = self.drivers[node].step(events)
        self.outcomes[node] += outcomes
        for outcome in outcomes:
            if isinstance(outcome, Sent) and not self.cut_off & {node, outcome.peer}:
                self.inboxes[outcome.peer].append(MessageArrived(node, outcome.envelope))
        return outcomes

    def run(self, milliseconds: int) -> None:
        for _ in range(milliseconds // 20):
            self.clock.advance(20)
            for node in self.ids:
                self.step(node)

    def leader(self) -> int:
        (leader,) = [node for node in self.ids if self.drivers[node].status().is_leader]
        return leader

    def propose(self, node: int, entry: bytes | None) -> Proposal:
        proposal = Proposal(entry, asyncio.get_running_loop().create_future())
        self.queues[node].add(proposal)
        return proposal

    def answers(self, node: int) -> dict[Proposal, Answered]:
        return {
            outcome.proposal: outcome
            for outcome in self.outcomes[node]
            if isinstance(outcome, Answered)
        }
