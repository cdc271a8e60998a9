"""Voters stepped by hand on a fake clock: elections, proposals, restarts."""

from millstream_raft.consensus import NotProposed, OutcomeUnknown
from millstream_raft.raft_driver import (
    Answered,
    Committed,
    LeadershipSeen,
    PeerDisconnected,
    Restored,
)
from tests.fakes.raft_voters import Voters


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
