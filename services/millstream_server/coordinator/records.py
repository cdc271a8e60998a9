"""The records of a shard as values: what ``ShardState.apply`` takes in, live and on replay.

One kind of record for each thing that changes on its own. ``None`` as the value of a record
removes what it is about; it becomes a tombstone in the log.
"""

from dataclasses import dataclass

# (topic id, number).
Partition = tuple[bytes, int]
Partitions = frozenset[Partition]
NO_PARTITIONS: Partitions = frozenset()


@dataclass(frozen=True, slots=True)
class GroupMetadata:
    """A group without its members."""

    group_epoch: int = 0
    # Group epoch for which the target assignment was made.
    target_epoch: int = 0
    # Name of the assignor that made it; empty before the first one.
    assignor: str = ""
    # Of the subscribed topics for which it was made.
    topics_fingerprint: int = 0
    # Wall-clock milliseconds since which there are no members; 0 while there are some.
    empty_since_ms: int = 0


@dataclass(frozen=True, slots=True)
class MemberMetadata:
    """What a member said about itself."""

    instance_id: str = ""
    client_id: str = ""
    client_host: str = ""
    rack: str = ""
    # Sorted, without repetition.
    topics: tuple[str, ...] = ()
    topic_pattern: str = ""
    assignor: str = ""
    session_timeout_ms: int = 0
    rebalance_timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class CurrentAssignment:
    """What a member owns and how far it came."""

    member_epoch: int = 0
    # Newest epoch before it that the member is known to have heard of.
    previous_epoch: int = 0
    # May be used by the member.
    assigned: Partitions = NO_PARTITIONS
    # The member was told to give them up and may still use them.
    revoking: Partitions = NO_PARTITIONS
    # A static member that left for a while.
    away: bool = False

    @property
    def held(self) -> Partitions:
        """Everything that nobody else may use."""
        return self.assigned | self.revoking if self.revoking else self.assigned


@dataclass(frozen=True, slots=True)
class CommittedPosition:
    """A committed position: [0, offset) and ``ranges`` are done."""

    offset: int
    leader_epoch: int | None = None
    metadata: str = ""
    commit_timestamp_ms: int = 0
    # Counts the explicit resets.
    generation: int = 0
    # (begin, end) beyond ``offset``: disjoint, not adjacent, ascending.
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class GroupMetadataRecord:
    """A group changed or is gone."""

    group_id: str
    value: GroupMetadata | None


@dataclass(frozen=True, slots=True)
class MemberMetadataRecord:
    """A member joined, changed or left."""

    group_id: str
    member_id: str
    value: MemberMetadata | None


@dataclass(frozen=True, slots=True)
class TargetAssignmentRecord:
    """What a member should own."""

    group_id: str
    member_id: str
    value: Partitions | None


@dataclass(frozen=True, slots=True)
class CurrentAssignmentRecord:
    """What a member owns."""

    group_id: str
    member_id: str
    value: CurrentAssignment | None


@dataclass(frozen=True, slots=True)
class PositionRecord:
    """A committed position."""

    group_id: str
    topic_id: bytes
    partition: int
    value: CommittedPosition | None


Record = (
    GroupMetadataRecord
    | MemberMetadataRecord
    | TargetAssignmentRecord
    | CurrentAssignmentRecord
    | PositionRecord
)
