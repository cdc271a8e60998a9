"""Each rule by itself: what it does to a message, and that without it the message passes."""

from dataclasses import replace

import pytest

from millstream_raft.message_filter import Arrival, MessageFilter, NodeView
from millstream_raft.raft_messages import (
    AppendEntries,
    AppendReply,
    Envelope,
    InstallSnapshot,
    LogEntry,
    Position,
    RequestVote,
    SnapshotPart,
    TermNotice,
    VoteGranted,
)
from millstream_raft.rules import ALL_RULES, Rule

VIEW = NodeView(
    term=5,
    is_leader=False,
    leader_heard=False,
    last_applied=20,
    next_index=30,
)
LEADER = replace(VIEW, is_leader=True)
SENDER = 2


def arrive(message, sender_term=5, view=VIEW, without: Rule | None = None) -> Arrival:
    rules = ALL_RULES - {without} if without else ALL_RULES
    return MessageFilter(rules).arrive(SENDER, Envelope(sender_term, message), view)


def entries(first: int, last: int) -> tuple[LogEntry, ...]:
    return tuple(LogEntry(b"\1", index, 5) for index in range(first, last + 1))


def part(last_index: int) -> SnapshotPart:
    return SnapshotPart(Position(last_index, 4), 0, b"data", False)


ACK = AppendReply(25, success=True, reset=False)
REFUSAL_AHEAD = AppendReply(31, success=False, reset=True)
OLD_SNAPSHOT = InstallSnapshot(5, 40, part(20))

# (rule, message, sender's term, view, what the core gets, replies)
CASES = [
    pytest.param(
        Rule.ACK_OF_THIS_TERM, ACK, 4, LEADER, None, (), id="ack of an old term is dropped"
    ),
    pytest.param(
        Rule.LEARN_NEWER_TERM,
        ACK,
        6,
        LEADER,
        RequestVote(6, 0, -1),
        (),
        id="reply of a newer term deposes",
    ),
    pytest.param(
        Rule.LEARN_NEWER_TERM,
        TermNotice(),
        6,
        LEADER,
        RequestVote(6, 0, -1),
        (),
        id="notice of a newer term deposes",
    ),
    pytest.param(
        Rule.STALE_TERM_NOTICE,
        AppendEntries(4, 0, Position(10, 3), ()),
        4,
        VIEW,
        None,
        (TermNotice(),),
        id="old leader is told",
    ),
    pytest.param(
        Rule.STALE_TERM_NOTICE,
        RequestVote(4, 99, 4),
        4,
        VIEW,
        None,
        (TermNotice(),),
        id="old candidate is told",
    ),
    pytest.param(
        Rule.STAY_WITH_LEADER,
        RequestVote(9, 99, 5),
        9,
        replace(VIEW, leader_heard=True),
        None,
        (),
        id="candidate is ignored while a leader is heard",
    ),
    pytest.param(
        Rule.STAY_WITH_LEADER,
        RequestVote(9, 99, 5),
        9,
        LEADER,
        None,
        (),
        id="candidate is ignored by the leader",
    ),
    pytest.param(
        Rule.BACK_OFF_ONLY_DOWN,
        REFUSAL_AHEAD,
        5,
        LEADER,
        AppendReply(31, success=False, reset=False),
        (),
        id="refusal does not move the leader forward",
    ),
    pytest.param(
        Rule.COMMIT_ONLY_VERIFIED,
        AppendEntries(5, 40, Position(20, 5), entries(21, 22)),
        5,
        VIEW,
        AppendEntries(5, 22, Position(20, 5), entries(21, 22)),
        (),
        id="commit index ends with the verified entries",
    ),
    pytest.param(
        Rule.COMMIT_ONLY_VERIFIED,
        InstallSnapshot(5, 40, part(30)),
        5,
        VIEW,
        InstallSnapshot(5, 0, part(30)),
        (),
        id="snapshot part verifies nothing",
    ),
    pytest.param(
        Rule.IGNORE_OLD_SNAPSHOT,
        OLD_SNAPSHOT,
        5,
        VIEW,
        InstallSnapshot(5, 0, None),
        (AppendReply(21, success=True, reset=False),),
        id="old snapshot is ignored and the state claimed",
    ),
]


@pytest.mark.parametrize(("rule", "message", "sender_term", "view", "delivered", "replies"), CASES)
def test_rule(rule, message, sender_term, view, delivered, replies):
    arrival = arrive(message, sender_term, view)
    assert arrival.message == delivered
    assert arrival.replies == replies


@pytest.mark.parametrize(("rule", "message", "sender_term", "view", "delivered", "replies"), CASES)
def test_without_the_rule_it_is_otherwise(rule, message, sender_term, view, delivered, replies):
    arrival = arrive(message, sender_term, view, without=rule)
    assert (arrival.message, arrival.replies) != (delivered, replies)


def test_every_rule_of_the_filter_has_a_case():
    covered = {case.values[0] for case in CASES}
    elsewhere = {
        Rule.TRUNCATE_ONLY_ON_CONFLICT,  # of the journal
        Rule.KEEP_TAIL_BEHIND_SNAPSHOT,  # of the journal
    }
    assert covered | elsewhere == ALL_RULES


@pytest.mark.parametrize(
    ("message", "view"),
    [
        (ACK, LEADER),
        (AppendReply(29, success=False, reset=True), LEADER),
        (RequestVote(6, 30, 5), VIEW),
        (VoteGranted(5), VIEW),
        (AppendEntries(5, 22, Position(20, 5), entries(21, 25)), VIEW),
        (AppendEntries(6, 0, None, ()), VIEW),
        (InstallSnapshot(5, 0, part(21)), VIEW),
        (InstallSnapshot(5, 0, None), VIEW),
    ],
)
def test_message_in_order_passes_unchanged(message, view):
    arrival = arrive(message, getattr(message, "term", 5), view)
    assert arrival.message == message
    assert arrival.replies == ()


def test_notice_of_this_term_says_nothing():
    assert arrive(TermNotice(), 5, LEADER).message is None
