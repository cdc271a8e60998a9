"""The rules that the layer adds to the library, each by name, so that a fuzzer can drop one and
show that it is needed (``make raft-fuzz DROP=all``).

Three things look as if they needed a rule and do not, given those that are there:

* *A vote counted twice.* The library counts messages, not voters. But a candidate asks a voter once
  in a term (each candidacy begins a new term, stored before it asks), a voter answers a request at
  most once, and the transport delivers at most once.
* *A tail kept behind an installed snapshot, which the library claims with it.* Say a leader sends a
  follower a snapshot up to s, and the follower, in the leader's term, holds s in its log and more
  behind. Either s is of that very term; then only this leader can have sent it, and what is behind
  it (terms never fall along a log). Or the leader's position had fallen below s. It only falls to
  where the follower, in this term, ended or had another entry than the leader; so s came from this
  leader since, and with it everything behind. The tail is the leader's own either way.
* *Entries that the receiver's snapshot covers already*, which it refuses as if they left a gap.
  The refusal names the end of its log, not an entry below. If the leader's log is longer, it goes
  on from there, above the snapshot. If not, its next message begins at its own end, which is not
  below the snapshot either: what that holds is committed, so the leader has it.
"""

from enum import Enum, auto


class Rule(Enum):
    """What stock PySyncObj 0.3.17 lacks. S1 to S11 are the schedules that break it without."""

    #: An ack counts only in the term it was given in (S3: an old ack made a minority a quorum).
    ACK_OF_THIS_TERM = auto()
    #: A reply from a newer term deposes the receiver (replies carry no term in the library).
    LEARN_NEWER_TERM = auto()
    #: A message of an older term is answered with a notice, or its sender would never learn.
    STALE_TERM_NOTICE = auto()
    #: Commit reaches only as far as this message has verified the log (S2).
    COMMIT_ONLY_VERIFIED = auto()
    #: A refusal moves the leader's position back, never forward (S11: two refusals in flight
    #: alternate for ever).
    BACK_OFF_ONLY_DOWN = auto()
    #: A snapshot not newer than the state would push the node back in time.
    IGNORE_OLD_SNAPSHOT = auto()
    #: No vote while a leader is heard: a node that is deaf, not dead, must not depose it for ever
    #: (Raft thesis §4.2.3).
    STAY_WITH_LEADER = auto()
    #: Only a real conflict truncates the log (S1: a resent batch cut off committed entries).
    TRUNCATE_ONLY_ON_CONFLICT = auto()
    #: Entries behind a snapshot that match it stay (S6: a crash between snapshot and trimming
    #: wiped acknowledged entries).
    KEEP_TAIL_BEHIND_SNAPSHOT = auto()


ALL_RULES = frozenset(Rule)
