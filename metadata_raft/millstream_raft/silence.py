"""A voter that lost what it had acknowledged: how its leader notices, and what it does then.

It neither votes nor stands for election until it holds everything again, for it could elect a
leader that lacks committed entries; ``disk_recovery`` has the argument. What it stores meanwhile it
may acknowledge, since that is true.
"""

from millstream_raft.directory_errors import REPLACE_DISK
from millstream_raft.ports import FailStop
from millstream_raft.raft_messages import AppendReply, Envelope
from millstream_raft.vote import VoteFile


def shows_loss(envelope: Envelope, term: int, match_index: int) -> bool:
    """True if a voter that acknowledged ``match_index`` to this leader refuses entries as if its
    log ended below. Replies come in the order in which they were sent, and within a term a log is
    never cut below what it has in common with the leader's: so its disk lost what was synced."""
    reply = envelope.message
    return (
        isinstance(reply, AppendReply)
        and reply.reset
        and envelope.sender_term == term
        and reply.next_index <= match_index
    )


class Silence:
    """The silence of one voter; it survives a restart."""

    def __init__(self, node_id: int, votes: VoteFile, fail_stop: FailStop) -> None:
        self._node_id = node_id
        self._votes = votes
        self._fail_stop = fail_stop

    @property
    def until(self) -> int:
        """The log must be committed up to this index before the node votes; 0: it votes."""
        return self._votes.silent_until

    def lasts(self, commit_index: int) -> bool:
        """True while the node must be silent; ends the silence when it need not be any more."""
        if self.until and commit_index >= self.until:
            self._votes.be_silent_until(0)
        return self.until > 0

    def begin(self, leader_id: int, leader_last_index: int, last_index: int) -> None:
        """A leader found out that this node lost entries. Stops the process, unless that is known
        already: whoever looks after the node must learn what its disk did."""
        was_silent = self.until > 0
        self._votes.be_silent_until(max(self.until, leader_last_index))
        if not was_silent:
            self._fail_stop(
                f"voter {self._node_id} lost entries that it had acknowledged to leader "
                f"{leader_id}: its log was synced further than {last_index}, where it ends now. "
                f"Started again it does not vote until it holds all up to {leader_last_index}. "
                f"A disk that loses data should be replaced: {REPLACE_DISK}"
            )
