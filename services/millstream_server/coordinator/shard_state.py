"""All groups of one shard: the replay of its partition. ``apply`` is the only mutator."""

from millstream_server.coordinator.group import Group
from millstream_server.coordinator.records import (
    CurrentAssignmentRecord,
    GroupMetadataRecord,
    MemberMetadataRecord,
    PositionRecord,
    Record,
    TargetAssignmentRecord,
)


class ShardState:
    """See the module."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}

    def group(self, group_id: str) -> Group | None:
        """The group of an id, None if there is none."""
        return self.groups.get(group_id)

    def apply(self, record: Record) -> None:
        """Take in a record, live or on replay."""
        group = self.groups.get(record.group_id)
        if group is None:
            if record.value is None:
                return
            group = self.groups[record.group_id] = Group(record.group_id)
        if isinstance(record, PositionRecord):
            group.apply_position((record.topic_id, record.partition), record.value)
        elif isinstance(record, CurrentAssignmentRecord):
            group.apply_current(record.member_id, record.value)
        elif isinstance(record, TargetAssignmentRecord):
            group.apply_target(record.member_id, record.value)
        elif isinstance(record, MemberMetadataRecord):
            group.apply_member(record.member_id, record.value)
        elif isinstance(record, GroupMetadataRecord):
            group.apply_group(record.value)
        if record.value is None and group.is_gone:
            del self.groups[record.group_id]
