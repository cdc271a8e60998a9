"""Rebalances: when a new target assignment is due, how it is made, how members get there.

A change steps the group epoch at once and starts a short timer; changes until it fires share the
epoch (invariant 40). Then the target is made, and each member that can be reached is moved one
step; every later report and every partition let go moves members further (``reconciliation``).
"""

from dataclasses import dataclass, replace
from typing import Protocol

from millstream_server.coordinator.assignors import (
    ASSIGNORS,
    Subscriber,
    preferred_assignor,
)
from millstream_server.coordinator.changes import AssignmentPush, Changes, Moment, Reason
from millstream_server.coordinator.group import TRANSITIONS, Group, GroupState
from millstream_server.coordinator.reconciliation import next_assignment
from millstream_server.coordinator.records import (
    CurrentAssignment,
    CurrentAssignmentRecord,
    GroupMetadata,
    GroupMetadataRecord,
    TargetAssignmentRecord,
)
from millstream_server.coordinator.refusal import IllegalState
from millstream_server.coordinator.sessions import REBALANCE, MemberSession, Sessions
from millstream_server.coordinator.topics import TopicIndex


class RebalanceObserver(Protocol):
    """Hears of rebalances, for metrics."""

    def rebalance_started(self, group_id: str) -> None:
        """A new target is due."""

    def rebalance_finished(self, group_id: str, duration_ms: int) -> None:
        """The group is stable, or empty."""


@dataclass(slots=True)
class _Cause:
    """Why a group is not stable, and since when."""

    reason: Reason
    since_ms: int


class Rebalancer:
    """Moves groups to new targets."""

    def __init__(
        self, sessions: Sessions, observer: RebalanceObserver, rebalance_delay_ms: int
    ) -> None:
        self.topics = TopicIndex()
        self._sessions = sessions
        self._observer = observer
        self._delay_ms = rebalance_delay_ms
        self._causes: dict[str, _Cause] = {}

    def request(self, group: Group, reason: Reason, changes: Changes, now: Moment) -> None:
        """A new target is due because members, subscriptions or topics changed."""
        before = group.state
        metadata = group.metadata or GroupMetadata()
        epoch = metadata.group_epoch + 1
        if not group.members:
            changes.emit(
                GroupMetadataRecord(
                    group.group_id,
                    replace(
                        metadata,
                        group_epoch=epoch,
                        target_epoch=epoch,
                        empty_since_ms=now.wall_ms,
                    ),
                )
            )
            self._sessions.timers.cancel((REBALANCE, group.group_id, ""))
        else:
            if metadata.group_epoch == metadata.target_epoch:
                changes.emit(
                    GroupMetadataRecord(
                        group.group_id, replace(metadata, group_epoch=epoch, empty_since_ms=0)
                    )
                )
            self.expect_target(group, reason, now)
        self.settle(group, before, now)

    def expect_target(self, group: Group, reason: Reason, now: Moment) -> None:
        """Start the timer after which the target is made, unless it runs."""
        cause = self._causes.get(group.group_id)
        if cause is None:
            self._causes[group.group_id] = _Cause(reason, now.monotonic_ms)
            self._observer.rebalance_started(group.group_id)
        else:
            cause.reason = reason
        key = (REBALANCE, group.group_id, "")
        if self._sessions.timers.due_ms(key) is None:
            self._sessions.timers.set(key, now.monotonic_ms + self._delay_ms)

    def make_target(self, group: Group, changes: Changes, now: Moment) -> None:
        """Make the target assignment for the group epoch, and begin to move members to it."""
        metadata = group.metadata
        if metadata is None or not group.members or group.group_epoch == group.target_epoch:
            return
        before = group.state
        name = preferred_assignor(member.assignor for member in group.members.values())
        subscribers = [
            Subscriber(
                member_id,
                self.topics.subscribed(member),
                member.rack,
                group.target(member_id),
                member.instance_id,
            )
            for member_id, member in group.members.items()
        ]
        targets = ASSIGNORS[name](subscribers, self.topics.by_id)
        for member_id, target in targets.items():
            if member_id not in group.targets or group.targets[member_id] != target:
                changes.emit(TargetAssignmentRecord(group.group_id, member_id, target))
        changes.emit(
            GroupMetadataRecord(
                group.group_id,
                replace(
                    metadata,
                    target_epoch=metadata.group_epoch,
                    assignor=name,
                    topics_fingerprint=self.topics.fingerprint(group.members.values()),
                ),
            )
        )
        self.advance(group, changes, now)
        self.settle(group, before, now)

    def advance(self, group: Group, changes: Changes, now: Moment) -> None:
        """Move every member as far as it can go; what one lets go another may take at once."""
        before = group.state
        released = True
        while released:
            released = False
            for member_id in sorted(group.unsettled):
                released |= self._advance_member(group, member_id, changes, now)
        self.settle(group, before, now)

    def tell(
        self, group: Group, member_id: str, reason: Reason, changes: Changes, now: Moment
    ) -> None:
        """Push a member's assignment as it stands."""
        session = self._sessions.get(group.group_id, member_id)
        if session is None or session.stream is None:
            return
        current = group.current(member_id)
        session.told(current)
        changes.push(
            session.stream,
            AssignmentPush(
                current.member_epoch,
                current.assigned,
                group.target(member_id) - current.held,
                reason,
                group.group_epoch,
            ),
        )
        self.watch_release(group, member_id, now)

    def watch_release(self, group: Group, member_id: str, now: Moment) -> None:
        """Start or stop the timer of what a member owes."""
        self._sessions.watch_release(
            group.group_id,
            member_id,
            group.members[member_id],
            group.current(member_id),
            now.monotonic_ms,
        )

    def settle(self, group: Group, before: GroupState, now: Moment) -> None:
        """Check that a group moved as ``TRANSITIONS`` allows, and close a finished rebalance."""
        after = group.state
        if after is not before and after not in _REACHABLE[before]:
            raise IllegalState(f"group {group.group_id} moved from {before} to {after}")
        if after in (GroupState.STABLE, GroupState.EMPTY):
            cause = self._causes.pop(group.group_id, None)
            if cause is not None:
                duration_ms = now.monotonic_ms - cause.since_ms
                self._observer.rebalance_finished(group.group_id, duration_ms)

    def _advance_member(self, group: Group, member_id: str, changes: Changes, now: Moment) -> bool:
        session = self._sessions.get(group.group_id, member_id)
        if session is None or not session.may_advance or member_id not in group.targets:
            return False
        current = group.current(member_id)
        following = next_assignment(
            current,
            target=group.target(member_id),
            target_epoch=group.target_epoch,
            owned=session.owned,
            heard_epoch=session.heard_epoch,
            is_free=lambda partition: group.is_free_for(partition, member_id),
        )
        if following is current:
            self.watch_release(group, member_id, now)
            return False
        self._store(group, member_id, following, changes)
        self._tell_if_news(group, member_id, current, session, changes, now)
        return bool(current.held - following.held)

    def _tell_if_news(
        self,
        group: Group,
        member_id: str,
        before: CurrentAssignment,
        session: MemberSession,
        changes: Changes,
        now: Moment,
    ) -> None:
        current = group.current(member_id)
        if (current.member_epoch, current.assigned) == (before.member_epoch, before.assigned):
            self.watch_release(group, member_id, now)
            return
        cause = self._causes.get(group.group_id)
        reason = cause.reason if cause is not None else Reason.RECONNECTED
        if current.member_epoch == before.member_epoch and not current.revoking:
            reason = Reason.PARTITION_RELEASED
        self.tell(group, member_id, reason, changes, now)

    def _store(
        self, group: Group, member_id: str, current: CurrentAssignment, changes: Changes
    ) -> None:
        taken = [
            partition
            for partition in current.held - group.current(member_id).held
            if not group.is_free_for(partition, member_id)
        ]
        if taken:
            raise IllegalState(f"group {group.group_id}: {taken[:3]} are held by others")
        changes.emit(CurrentAssignmentRecord(group.group_id, member_id, current))


def _reachable(before: GroupState) -> frozenset[GroupState]:
    """States that one or several moves in a row lead to."""
    reached = {before}
    while not (following := {a for (b, _), a in TRANSITIONS.items() if b in reached}) <= reached:
        reached |= following
    return frozenset(reached)


_REACHABLE = {state: _reachable(state) for state in GroupState}
