"""What stands between the network and the library's core: it stamps, drops and caps messages so
that the core's known holes stay closed.

Each rule is one small pure function from an arriving message to what becomes of it, named in
``Rule`` with its reason and switchable by itself. The order of ``_INCOMING`` matters: terms first,
since every later rule reasons about a message of the receiver's own term.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from millstream_raft.raft_messages import (
    AppendEntries,
    AppendReply,
    Envelope,
    InstallSnapshot,
    Message,
    RequestVote,
    TermNotice,
)
from millstream_raft.rules import ALL_RULES, Rule


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the rules need to know of the node that a message arrives at."""

    term: int
    is_leader: bool
    #: A leader was heard within the smallest election time-out.
    leader_heard: bool
    last_applied: int
    #: What this node, if it leads, would send next to the sender.
    next_index: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """An arriving message on its way through the rules."""

    sender: int
    sender_term: int
    #: What the core gets; None: nothing.
    message: Message | None
    #: Sent to the sender after the core has seen the message.
    replies: tuple[Message, ...] = ()
    #: True: later rules do not apply.
    settled: bool = False

    def dropped(self, *replies: Message) -> "Arrival":
        """This arrival, not handed to the core."""
        return replace(self, message=None, replies=self.replies + replies, settled=True)


ArrivalRule = Callable[[Arrival, NodeView], Arrival]


def learn_newer_term(arrival: Arrival, view: NodeView) -> Arrival:
    """The core learns terms only from requests. A request for a vote with an impossible log
    teaches it the term and can win nothing."""
    if isinstance(arrival.message, AppendReply | TermNotice) and arrival.sender_term > view.term:
        teach = RequestVote(arrival.sender_term, last_log_index=0, last_log_term=-1)
        return replace(arrival, message=teach, settled=True)
    return arrival


def drop_spent_notice(arrival: Arrival, view: NodeView) -> Arrival:
    """A notice has nothing else to say, and the core does not know it. Not switchable."""
    return arrival.dropped() if isinstance(arrival.message, TermNotice) else arrival


def ack_of_this_term(arrival: Arrival, view: NodeView) -> Arrival:
    """An ack of an older term was given for entries that may since have been replaced (S3)."""
    if isinstance(arrival.message, AppendReply) and arrival.sender_term != view.term:
        return arrival.dropped()
    return arrival


def stale_term_notice(arrival: Arrival, view: NodeView) -> Arrival:
    """The core ignores requests of an older term in silence, so their sender would go on as a
    leader until its followers had been silent for long."""
    message = arrival.message
    if (
        isinstance(message, RequestVote | AppendEntries | InstallSnapshot)
        and message.term < view.term
    ):
        return arrival.dropped(TermNotice())
    return arrival


def stay_with_leader(arrival: Arrival, view: NodeView) -> Arrival:
    """A node that does not hear the leader asks for votes in ever higher terms; those who hear it,
    and the leader itself, do not listen (Raft thesis §4.2.3)."""
    if isinstance(arrival.message, RequestVote) and (view.is_leader or view.leader_heard):
        return arrival.dropped()
    return arrival


def back_off_only_down(arrival: Arrival, view: NodeView) -> Arrival:
    """Of two refusals under way the older one would move the leader forward again (S11). It still
    shows that the follower lives."""
    message = arrival.message
    if isinstance(message, AppendReply) and message.reset and message.next_index > view.next_index:
        return replace(arrival, message=replace(message, reset=False))
    return arrival


def commit_only_verified(arrival: Arrival, view: NodeView) -> Arrival:
    """The core commits up to the end of its own log, of which this message has verified only the
    part up to its last entry, and a snapshot part nothing at all (S2)."""
    message = arrival.message
    if isinstance(message, InstallSnapshot):
        return replace(arrival, message=replace(message, commit_index=0))
    if isinstance(message, AppendEntries):
        verified = 0 if message.previous is None else message.previous.index + len(message.entries)
        if message.commit_index > verified:
            return replace(arrival, message=replace(message, commit_index=verified))
    return arrival


def ignore_old_snapshot(arrival: Arrival, view: NodeView) -> Arrival:
    """A snapshot that this node's state already contains would push it back. What was applied is
    committed, so it may be claimed instead."""
    message = arrival.message
    if (
        isinstance(message, InstallSnapshot)
        and message.part is not None
        and message.part.last.index <= view.last_applied
    ):
        claim = AppendReply(view.last_applied + 1, success=True, reset=False)
        return replace(
            arrival,
            message=replace(message, part=None),
            replies=(*arrival.replies, claim),
        )
    return arrival


_INCOMING: tuple[tuple[Rule | None, ArrivalRule], ...] = (
    (Rule.LEARN_NEWER_TERM, learn_newer_term),
    (None, drop_spent_notice),
    (Rule.ACK_OF_THIS_TERM, ack_of_this_term),
    (Rule.STALE_TERM_NOTICE, stale_term_notice),
    (Rule.STAY_WITH_LEADER, stay_with_leader),
    (Rule.BACK_OFF_ONLY_DOWN, back_off_only_down),
    (Rule.COMMIT_ONLY_VERIFIED, commit_only_verified),
    (Rule.IGNORE_OLD_SNAPSHOT, ignore_old_snapshot),
)


class MessageFilter:
    """The rules in force. Holds no state: what they need is in the view."""

    def __init__(self, rules: frozenset[Rule] = ALL_RULES) -> None:
        self._incoming = tuple(
            function for rule, function in _INCOMING if rule is None or rule in rules
        )

    def arrive(self, sender: int, envelope: Envelope, view: NodeView) -> Arrival:
        """What becomes of an arriving message."""
        arrival = Arrival(sender, envelope.sender_term, envelope.message)
        for rule in self._incoming:
            if arrival.settled:
                break
            arrival = rule(arrival, view)
        return arrival
