"""How a leader sees that a voter lost entries."""

import pytest

from millstream_raft.raft_messages import AppendReply, Envelope, TermNotice
from millstream_raft.silence import shows_loss

TERM, MATCH = 4, 10


@pytest.mark.parametrize(
    ("envelope", "loss"),
    [
        (Envelope(TERM, AppendReply(next_index=10, success=False, reset=True)), True),
        (Envelope(TERM, AppendReply(next_index=2, success=False, reset=True)), True),
        # Its log ends exactly where it said, or goes on.
        (Envelope(TERM, AppendReply(next_index=11, success=False, reset=True)), False),
        # An answer to an older message, or to a snapshot.
        (Envelope(TERM, AppendReply(next_index=5, success=True, reset=False)), False),
        (Envelope(TERM, AppendReply(next_index=5, success=False, reset=False)), False),
        # Given before this leader was elected.
        (Envelope(TERM - 1, AppendReply(next_index=2, success=False, reset=True)), False),
        (Envelope(TERM, TermNotice()), False),
    ],
)
def test_only_a_refusal_below_what_was_acknowledged_in_this_term_shows_a_loss(envelope, loss):
    assert shows_loss(envelope, TERM, MATCH) is loss
