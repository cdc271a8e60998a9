"""A consumer group: members, epochs, target and current assignment, committed positions.

The group's state follows from its data; these are the moves, and there are no others::

    EMPTY        no members; there may be positions
    ASSIGNING    members, subscriptions or topics changed: the group epoch was stepped and a target
                 assignment for it is due
    RECONCILING  the target is made; members give up and take over partitions
    STABLE       every member is at the group epoch and owns its target

``apply_…`` are the only mutators, used live and on replay. They take in whatever the log holds;
what may be written is decided before (``membership``, ``rebalancing``, ``position_requests``).
"""

from enum import Enum

from millstream_server.coordinator.records import (
    NO_PARTITIONS,
    CommittedPosition,
    CurrentAssignment,
    GroupMetadata,
    MemberMetadata,
    Partition,
    Partitions,
)

_NOT_A_MEMBER = CurrentAssignment()
NOT_OWNED_EPOCH = -1


class GroupState(Enum):
    """See the module."""

    EMPTY = "empty"
    ASSIGNING = "assigning"
    RECONCILING = "reconciling"
    STABLE = "stable"


class GroupEvent(Enum):
    """What moves a group between states."""

    EPOCH_STEPPED = "epoch stepped"
    TARGET_MADE = "target made"
    CONVERGED = "converged"
    EMPTIED = "emptied"


_S, _E = GroupState, GroupEvent
TRANSITIONS: dict[tuple[GroupState, GroupEvent], GroupState] = {
    (_S.EMPTY, _E.EPOCH_STEPPED): _S.ASSIGNING,
    (_S.ASSIGNING, _E.TARGET_MADE): _S.RECONCILING,
    (_S.RECONCILING, _E.CONVERGED): _S.STABLE,
    (_S.RECONCILING, _E.EPOCH_STEPPED): _S.ASSIGNING,
    (_S.STABLE, _E.EPOCH_STEPPED): _S.ASSIGNING,
    (_S.ASSIGNING, _E.EMPTIED): _S.EMPTY,
    (_S.RECONCILING, _E.EMPTIED): _S.EMPTY,
    (_S.STABLE, _E.EMPTIED): _S.EMPTY,
}


class Group:
    """One group; see the module."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        # None: never had members; it only has positions.
        self.metadata: GroupMetadata | None = None
        # By member id.
        self.members: dict[str, MemberMetadata] = {}
        self.targets: dict[str, Partitions] = {}
        self.currents: dict[str, CurrentAssignment] = {}
        self.positions: dict[Partition, CommittedPosition] = {}
        # Member id by instance id.
        self.instances: dict[str, str] = {}
        # Who holds a partition; the partition's epoch is that of its holder.
        self.owners: dict[Partition, str] = {}
        # Members that are not where they should be.
        self.unsettled: set[str] = set()

    # What it is

    @property
    def group_epoch(self) -> int:
        """Counts the changes that ask for another target."""
        return self.metadata.group_epoch if self.metadata is not None else 0

    @property
    def target_epoch(self) -> int:
        """Group epoch for which the target was made."""
        return self.metadata.target_epoch if self.metadata is not None else 0

    @property
    def state(self) -> GroupState:
        """See the module."""
        if not self.members:
            return GroupState.EMPTY
        if self.group_epoch > self.target_epoch:
            return GroupState.ASSIGNING
        return GroupState.RECONCILING if self.unsettled else GroupState.STABLE

    @property
    def is_gone(self) -> bool:
        """True if nothing is left of it."""
        return self.metadata is None and not (
            self.members or self.targets or self.currents or self.positions
        )

    def target(self, member_id: str) -> Partitions:
        """What a member should own."""
        return self.targets.get(member_id, NO_PARTITIONS)

    def current(self, member_id: str) -> CurrentAssignment:
        """What a member owns."""
        return self.currents.get(member_id, _NOT_A_MEMBER)

    def partition_epoch(self, partition: Partition) -> int:
        """Epoch of the member that holds a partition, -1 if it is free (invariant 25)."""
        owner = self.owners.get(partition)
        return NOT_OWNED_EPOCH if owner is None else self.current(owner).member_epoch

    def is_free_for(self, partition: Partition, member_id: str) -> bool:
        """True if nobody else holds a partition."""
        return self.owners.get(partition) in (None, member_id)

    def subscribes(self, topic_names: frozenset[str]) -> bool:
        """True if a member names one of the topics. Patterns are the caller's business."""
        return any(not topic_names.isdisjoint(member.topics) for member in self.members.values())

    # The only mutators

    def apply_group(self, value: GroupMetadata | None) -> None:
        """Take in the group's own record."""
        stale = self.target_epoch != (value.target_epoch if value is not None else 0)
        self.metadata = value
        if stale:
            for member_id in self.members:
                self._settle(member_id)

    def apply_member(self, member_id: str, value: MemberMetadata | None) -> None:
        """Take in what a member said about itself."""
        old = self.members.pop(member_id, None)
        if old is not None and self.instances.get(old.instance_id) == member_id:
            del self.instances[old.instance_id]
        if value is not None:
            self.members[member_id] = value
            if value.instance_id:
                self.instances[value.instance_id] = member_id
        self._settle(member_id)

    def apply_target(self, member_id: str, value: Partitions | None) -> None:
        """Take in what a member should own."""
        if value is None:
            self.targets.pop(member_id, None)
        else:
            self.targets[member_id] = value
        self._settle(member_id)

    def apply_current(self, member_id: str, value: CurrentAssignment | None) -> None:
        """Take in what a member owns."""
        old = self.current(member_id).held
        held = value.held if value is not None else NO_PARTITIONS
        for partition in old - held:
            if self.owners.get(partition) == member_id:
                del self.owners[partition]
        for partition in held - old:
            self.owners[partition] = member_id
        if value is None:
            self.currents.pop(member_id, None)
        else:
            self.currents[member_id] = value
        self._settle(member_id)

    def apply_position(self, partition: Partition, value: CommittedPosition | None) -> None:
        """Take in a committed position."""
        if value is None:
            self.positions.pop(partition, None)
        else:
            self.positions[partition] = value

    def _settle(self, member_id: str) -> None:
        if member_id not in self.members:
            self.unsettled.discard(member_id)
            return
        current = self.current(member_id)
        settled = (
            current.member_epoch == self.target_epoch
            and not current.revoking
            and current.assigned == self.target(member_id)
        )
        if settled:
            self.unsettled.discard(member_id)
        else:
            self.unsettled.add(member_id)
