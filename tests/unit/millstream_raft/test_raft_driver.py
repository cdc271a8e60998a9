"""Voters stepped by hand on a fake clock: elections, proposals, restarts."""

import asyncio
from random import Random

from millstream_raft.consensus import NotProposed, OutcomeUnknown
from millstream_raft.directory import format_node
from millstream_raft.group_commit import Proposal, ProposalQueue
from millstream_raft.journal import Journal
from millstream_raft.pysyncobj_core import RaftCore
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_driver import (
    Answered,
    Committed,
    LeadershipSeen,
    Leaving,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    RaftDriver,
    Replica,
    Restored,
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


async def test_single_voter_leads_at_once_and_commits_in_one_step():
    voters = Voters(1)
    voters.clock.advance(1)
    voters.step(1)
    voters.step(1)
    assert voters.drivers[1].status().is_leader
    proposal = voters.propose(1, b"entry")
    assert voters.drivers[1].wait_ms() == 0
    committed, answered = voters.step(1)
    assert committed == Committed(committed.index, b"entry", b"1")
    assert answered == Answered(proposal, committed.index, b"1", None)


async def test_waiting_proposals_share_one_entry_and_keep_their_order():
    voters = Voters(1)
    voters.run(100)
    proposals = [voters.propose(1, b"%d" % number) for number in range(25)]
    syncs = voters.drivers[1].status().journal_syncs
    voters.step(1)
    assert voters.drivers[1].status().journal_syncs - syncs == 1
    voters.step(1)
    voters.step(1)
    assert voters.machines[1].entries == [b"%d" % number for number in range(25)]
    answers = voters.answers(1)
    assert [answers[each].result for each in proposals] == [b"%d" % n for n in range(1, 26)]
    assert len({answers[each].index for each in proposals}) == 3, "batches of ten"


async def test_listener_hears_of_an_entry_before_its_proposer():
    voters = Voters(1)
    voters.run(100)
    voters.propose(1, b"one")
    voters.propose(1, None)
    voters.propose(1, b"two")
    kinds = [type(outcome) for outcome in voters.step(1)]
    assert kinds == [Committed, Committed, Answered, Answered, Answered]


async def test_three_voters_elect_and_apply_the_same():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    proposals = [voters.propose(leader, b"%d" % number) for number in range(30)]
    voters.run(1_000)
    assert all(voters.answers(leader)[each].error is None for each in proposals)
    assert all(len(voters.machines[node].entries) == 30 for node in voters.ids)
    status = voters.drivers[leader].status()
    assert all(voter.connected for voter in status.voters.values())
    assert {voter.match_index for voter in status.voters.values()} == {status.last_index}


async def test_barrier_needs_a_majority():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    barrier = voters.propose(leader, None)
    voters.run(200)
    assert voters.answers(leader)[barrier].error is None
    voters.cut_off = {leader}
    barrier = voters.propose(leader, None)
    voters.run(400)
    assert barrier not in voters.answers(leader)
    voters.run(2_000)
    assert isinstance(voters.answers(leader)[barrier].error, OutcomeUnknown)


async def test_follower_refuses_and_names_the_leader():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    follower = next(node for node in voters.ids if node != leader)
    proposal = voters.propose(follower, b"entry")
    voters.step(follower)
    error = voters.answers(follower)[proposal].error
    assert isinstance(error, NotProposed)
    assert error.leader_id == leader


async def test_lost_leadership_ends_every_proposal():
    """S9: the library would never answer those of a leader that rejoins by snapshot."""
    voters = Voters(3)
    voters.run(2_000)
    old = voters.leader()
    voters.cut_off = {old}
    under_way = [voters.propose(old, b"lost%d" % number) for number in range(10)]
    voters.run(200)
    waiting = voters.propose(old, b"waiting")
    voters.run(3_000)
    answers = voters.answers(old)
    assert all(isinstance(answers[each].error, OutcomeUnknown) for each in under_way)
    assert isinstance(answers[waiting].error, NotProposed)
    seen = [each for each in voters.outcomes[old] if isinstance(each, LeadershipSeen)]
    assert not seen[-1].is_leader
    voters.cut_off = set()
    voters.run(3_000)
    new = voters.leader()
    voters.propose(new, b"kept")
    voters.run(500)
    assert all(voters.machines[node].entries == [b"kept"] for node in voters.ids)


async def test_leadership_is_told_only_when_earlier_terms_are_applied():
    voters = Voters(1)
    voters.run(100)
    for number in range(20):
        voters.propose(1, b"%d" % number)
    voters.run(100)
    voters.files[1] = voters.files[1].after_kill()
    voters.outcomes[1] = []
    voters.open(1)
    voters.run(100)
    kinds = [type(outcome) for outcome in voters.outcomes[1]]
    first_leading = next(
        at
        for at, outcome in enumerate(voters.outcomes[1])
        if isinstance(outcome, LeadershipSeen) and outcome.is_leader
    )
    assert kinds[:first_leading].count(Committed) == 20


async def test_restart_tells_the_snapshot_and_then_the_entries_behind_it():
    voters = Voters(1)
    voters.run(100)
    voters.propose(1, b"one")
    voters.run(100)
    voters.cores[1].compact()
    voters.run(100)
    voters.propose(1, b"two")
    voters.run(100)
    voters.files[1] = voters.files[1].after_power_loss()
    voters.outcomes[1] = []
    voters.open(1)
    assert voters.cores[1].commit_index == voters.drivers[1].status().snapshot_index
    voters.run(100)
    told = [each for each in voters.outcomes[1] if isinstance(each, Committed | Restored)]
    assert isinstance(told[0], Restored)
    assert told[0].snapshot == b"one"
    assert [each.entry for each in told[1:]] == [b"two"]
    assert voters.machines[1].entries == [b"one", b"two"]
    assert voters.drivers[1].status().snapshot_index == told[0].index


async def test_journal_is_trimmed_by_entries_and_by_bytes():
    for limits in ({"snapshot_entries": 20}, {"snapshot_journal_bytes": 3_000}):
        voters = Voters(1, **limits)
        voters.run(100)
        for number in range(100):
            voters.propose(1, b"%03d" % number * 20)
            voters.run(40)
        status = voters.drivers[1].status()
        assert status.snapshot_index > 50
        assert status.journal_bytes < 4_000


async def test_idle_voter_waits_long_and_a_leader_until_its_heartbeat():
    alone = Voters(1)
    alone.run(100)
    assert alone.drivers[1].wait_ms() == 1_000
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    for node in voters.ids:
        voters.step(node)
        limit = voters.config.heartbeat_interval_ms if node == leader else 601
        assert 0 < voters.drivers[node].wait_ms() <= limit


async def test_voter_without_connections_does_not_spin():
    voters = Voters(3)
    voters.inboxes[1] = []
    for _ in range(5):
        voters.clock.advance(1_000)
        voters.step(1)
        assert voters.drivers[1].wait_ms() == 1_000


async def test_connections_are_seen_in_the_status():
    voters = Voters(3)
    voters.run(1_000)
    voters.inboxes[1].append(PeerDisconnected(2))
    voters.step(1)
    connected = {peer: each.connected for peer, each in voters.drivers[1].status().voters.items()}
    assert connected == {2: False, 3: True}


async def test_closing_ends_what_waits_and_syncs_the_journal():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    under_way = voters.propose(leader, b"entry")
    voters.step(leader)
    waiting = voters.propose(leader, b"entry")
    outcomes = {each.proposal: each.error for each in voters.drivers[leader].close()}
    assert isinstance(outcomes[under_way], OutcomeUnknown)
    assert isinstance(outcomes[waiting], NotProposed)


# --- a leader that stops -------------------------------------------------------------------------

#: Far below the shortest election time-out.
HAND_OVER_MS = 100


def leave(voters: Voters, node: int) -> None:
    voters.inboxes[node].append(Leaving())


async def test_a_leader_that_leaves_is_replaced_at_once_by_the_voter_that_holds_most():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    behind, ahead = [node for node in voters.ids if node != leader]
    voters.cut_off = {behind}
    voters.propose(leader, b"entry")
    voters.run(60)
    voters.cut_off = set()
    leave(voters, leader)
    voters.run(HAND_OVER_MS)
    assert voters.leader() == ahead
    voters.propose(ahead, b"after")
    voters.run(HAND_OVER_MS)
    assert voters.machines[leader].entries[-1] == b"after"


async def test_a_leader_that_leaves_does_not_come_back():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    leave(voters, leader)
    voters.run(HAND_OVER_MS)
    second = voters.leader()
    voters.cut_off = {second}
    voters.run(5_000)
    (third,) = {*voters.ids} - {leader, second}
    assert voters.drivers[third].status().is_leader
    assert not voters.drivers[leader].status().is_leader


async def test_a_leader_that_leaves_votes_when_its_vote_is_needed():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    heir, gone = [node for node in voters.ids if node != leader]
    voters.cut_off = {gone}
    voters.inboxes[leader].append(PeerDisconnected(gone))
    leave(voters, leader)
    voters.run(HAND_OVER_MS)
    assert voters.drivers[heir].status().is_leader


async def test_a_farewell_that_was_lost_costs_one_election_time_out():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    leave(voters, leader)
    voters.step(leader)
    for node in voters.ids:
        voters.inboxes[node] = []
    voters.run(3_000)
    assert voters.leader() != leader


async def test_a_farewell_of_a_former_leader_disturbs_nobody():
    voters = Voters(3)
    voters.run(2_000)
    former = voters.leader()
    voters.cut_off = {former}
    leave(voters, former)
    farewells = [outcome for outcome in voters.step(former) if isinstance(outcome, Sent)]
    assert farewells
    voters.run(3_000)
    second = next(
        node for node in voters.ids if node != former and voters.drivers[node].status().is_leader
    )
    term = voters.drivers[second].status().term
    for farewell in farewells:
        voters.inboxes[farewell.peer].append(MessageArrived(former, farewell.envelope))
    voters.run(HAND_OVER_MS)
    assert voters.drivers[second].status().is_leader
    assert voters.drivers[second].status().term == term


async def test_a_follower_or_a_lone_leader_that_leaves_changes_nothing():
    voters = Voters(3)
    voters.run(2_000)
    leader = voters.leader()
    term = voters.drivers[leader].status().term
    leave(voters, next(node for node in voters.ids if node != leader))
    voters.run(1_000)
    assert voters.leader() == leader
    assert voters.drivers[leader].status().term == term
    alone = Voters(1)
    alone.run(100)
    leave(alone, 1)
    alone.run(100)
    assert alone.leader() == 1
