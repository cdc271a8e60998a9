"""The rules that the layer adds to the library, each by name, so that a fuzzer can drop one and
show that it is needed."""

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
    #: After a snapshot only the snapshot is claimed, not a kept tail that nothing verified (S2).
    CLAIM_ONLY_SNAPSHOT = auto()
    #: A refusal moves the leader's position back, never forward (S11: two refusals in flight
    #: alternate for ever).
    BACK_OFF_ONLY_DOWN = auto()
    #: Entries that the receiver's own snapshot covers are equal to it: skip them, else the
    #: receiver refuses and ``BACK_OFF_ONLY_DOWN`` would never let the leader pass.
    SKIP_COVERED_ENTRIES = auto()
    #: A snapshot not newer than the state would push the node back in time.
    IGNORE_OLD_SNAPSHOT = auto()
    #: A voter's vote counts once (the library counts messages, not voters).
    COUNT_VOTE_ONCE = auto()
    #: No vote while a leader is heard: a node that is deaf, not dead, must not depose it for ever
    #: (Raft thesis §4.2.3).
    STAY_WITH_LEADER = auto()
    #: Only a real conflict truncates the log (S1: a resent batch cut off committed entries).
    TRUNCATE_ONLY_ON_CONFLICT = auto()
    #: Entries behind a snapshot that match it stay (S6: a crash between snapshot and trimming
    #: wiped acknowledged entries).
    KEEP_TAIL_BEHIND_SNAPSHOT = auto()


ALL_RULES = frozenset(Rule)
