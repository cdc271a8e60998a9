"""A leader that stops is replaced without an election time-out."""

from millstream_raft.raft_driver import Leaving, MessageArrived, PeerDisconnected, Sent
from tests.fakes.raft_voters import Voters

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
