"""Members: join, heartbeat, leave, and the ends of their sessions (invariants 25 to 27).

Handlers check everything, then emit; a Refusal changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from millstream_server.coordinator.changes import Changes, Moment, Reason, Result
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.group import Group
from millstream_server.coordinator.rebalancing import Rebalancer
from millstream_server.coordinator.reconciliation import check_member_epoch
from millstream_server.coordinator.records import (
    NO_PARTITIONS,
    CurrentAssignment,
    CurrentAssignmentRecord,
    MemberMetadata,
    MemberMetadataRecord,
    Partitions,
    Record,
    TargetAssignmentRecord,
)
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.sessions import MemberSession, Sessions
from millstream_server.coordinator.shard_state import ShardState


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A member that joins or comes back. ``admission.check_join`` made it."""

    group_id: str
    # Empty: a new member.
    member_id: str
    member_epoch: int
    metadata: MemberMetadata
    owned: Partitions = NO_PARTITIONS


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    """What a member reports."""

    group_id: str
    member_id: str
    member_epoch: int
    owned: Partitions
    # None: unchanged.
    topics: tuple[str, ...] | None = None
    topic_pattern: str | None = None
    # Of the stream's join; tells a replaced static member from an unknown one.
    instance_id: str = ""


@dataclass(frozen=True, slots=True)
class JoinReply:
    """Who the member is from now on."""

    member_id: str
    member_epoch: int
    heartbeat_interval_ms: int
    session_timeout_ms: int


class Membership:
    """The handlers of one shard."""

    def __init__(
        self,
        state: ShardState,
        sessions: Sessions,
        rebalancer: Rebalancer,
        config: CoordinatorConfig,
        new_member_id: Callable[[], str],
    ) -> None:
        self._state = state
        self._sessions = sessions
        self._rebalancer = rebalancer
        self._config = config
        self._new_member_id = new_member_id

    # What members say

    def join(self, request: JoinRequest, stream: int, now: Moment) -> Result[JoinReply]:
        """Take a member in, or back.

        Raises Refusal UNKNOWN_MEMBER, FENCED_MEMBER_EPOCH, FENCED_INSTANCE, UNRELEASED_INSTANCE,
        GROUP_FULL or THROTTLED.
        """
        group = self._state.group(request.group_id)
        held_by = self._holder_of_instance(group, request)
        changes = Changes(self._state)
        if group is not None and request.member_id in group.members:
            return self._come_back(group, request, stream, changes, now)
        if request.member_epoch > 0:
            raise Refusal("UNKNOWN_MEMBER", f"member {request.member_id} is not in the group")
        if request.owned:
            raise Refusal("UNKNOWN_MEMBER", "a new member cannot own partitions yet")
        member_id = request.member_id or self._new_member_id()
        if held_by and group is not None:
            return self._take_over(group, held_by, member_id, request, stream, changes, now)
        self._check_room(group)
        changes.emit(MemberMetadataRecord(request.group_id, member_id, request.metadata))
        changes.emit(CurrentAssignmentRecord(request.group_id, member_id, CurrentAssignment()))
        group = self._state.groups[request.group_id]
        self._open_session(group, member_id, stream, NO_PARTITIONS, 0, now)
        self._rebalancer.request(group, Reason.MEMBER_JOINED, changes, now)
        return changes.result(self._joined(group, member_id))

    def heartbeat(self, request: HeartbeatRequest, stream: int, now: Moment) -> Result[int]:
        """Renew a session and take in what the member owns; the reply is the member's epoch.

        Raises Refusal UNKNOWN_MEMBER, FENCED_MEMBER_EPOCH or FENCED_INSTANCE.
        """
        member_id = request.member_id
        group, session = self.member_on(request.group_id, member_id, request.instance_id, stream)
        check_member_epoch(
            group.current(member_id), request.member_epoch, request.owned, session.heard_epoch
        )
        member = group.members[member_id]
        self._sessions.renew(
            group.group_id, member_id, now.monotonic_ms + member.session_timeout_ms
        )
        session.report(request.member_epoch, request.owned)
        changes = Changes(self._state)
        changed = replace(
            member,
            topics=member.topics if request.topics is None else request.topics,
            topic_pattern=(
                member.topic_pattern if request.topic_pattern is None else request.topic_pattern
            ),
        )
        if changed != member:
            changes.emit(MemberMetadataRecord(group.group_id, member_id, changed))
            self._rebalancer.request(group, Reason.SUBSCRIPTION_CHANGED, changes, now)
        self._rebalancer.watch_release(group, member_id, now)
        if session.may_advance and not group.current(member_id).assigned <= request.owned:
            # It heard of them and does not use them: remind it.
            self._rebalancer.tell(group, member_id, Reason.RECONNECTED, changes, now)
        if group.unsettled:
            self._rebalancer.advance(group, changes, now)
        return changes.result(group.current(member_id).member_epoch)

    def leave(
        self,
        group_id: str,
        member_id: str,
        *,
        temporary: bool,
        instance_id: str,
        stream: int,
        now: Moment,
    ) -> Result[None]:
        """Let a member go; a static one that will be back keeps its partitions reserved.

        Raises Refusal UNKNOWN_MEMBER or FENCED_INSTANCE.
        """
        group, session = self.member_on(group_id, member_id, instance_id, stream)
        changes = Changes(self._state)
        member = group.members[member_id]
        if temporary and member.instance_id:
            away = replace(group.current(member_id), revoking=NO_PARTITIONS, away=True)
            changes.emit(CurrentAssignmentRecord(group_id, member_id, away))
            session.stream = None
            session.owned = session.unconfirmed = NO_PARTITIONS
            self._sessions.renew(group_id, member_id, now.monotonic_ms + member.session_timeout_ms)
            self._rebalancer.watch_release(group, member_id, now)
            self._rebalancer.advance(group, changes, now)
        else:
            self._remove(group, member_id, Reason.MEMBER_LEFT, changes, now)
        return changes.result(None)

    def stream_broken(self, group_id: str, member_id: str, stream: int) -> None:
        """A stream ended. The member stays until its session is over (invariant 26)."""
        session = self._sessions.get(group_id, member_id)
        if session is not None and session.stream == stream:
            session.stream = None

    def member_on(
        self, group_id: str, member_id: str, instance_id: str, stream: int
    ) -> tuple[Group, MemberSession]:
        """The group and session of a member that speaks on a stream.

        Raises Refusal UNKNOWN_MEMBER, FENCED_INSTANCE or FENCED_MEMBER_EPOCH.
        """
        group = self._state.group(group_id)
        session = self._sessions.get(group_id, member_id)
        if group is None or member_id not in group.members or session is None:
            if group is not None and instance_id in group.instances:
                raise Refusal("FENCED_INSTANCE", f"instance {instance_id} is another member by now")
            raise Refusal("UNKNOWN_MEMBER", f"member {member_id} is not in the group")
        _check_not_condemned(session, member_id)
        if session.stream != stream:
            raise Refusal("FENCED_MEMBER_EPOCH", "another stream of this member took over")
        return group, session

    # What time does

    def session_over(self, group_id: str, member_id: str, due_ms: int, now: Moment) -> Result[None]:
        """The timer of a session came up: fence the member, unless it was heard meanwhile."""
        changes = Changes(self._state)
        group = self._state.group(group_id)
        session = self._sessions.get(group_id, member_id)
        if group is None or session is None:
            return changes.result(None)
        if now.monotonic_ms - due_ms > self._config.stall_ms:
            # This process stood still, and what the member sent may be waiting to be read.
            grace_ms = min(
                group.members[member_id].session_timeout_ms, 2 * self._config.heartbeat_interval_ms
            )
            session.expires_ms = max(session.expires_ms, now.monotonic_ms + grace_ms)
        if session.expires_ms > now.monotonic_ms:
            self._sessions.rearm(group_id, member_id)
            return changes.result(None)
        self._fence(group, member_id, "the session timed out", changes, now)
        return changes.result(None)

    def release_over(self, group_id: str, member_id: str) -> Result[None]:
        """A member took too long to give up a partition or to confirm what it was given.

        It is heard no more, but what it holds is free only when its session is over: until then
        it may work on, by its own clock, without having heard (invariant 25).
        """
        changes = Changes(self._state)
        session = self._sessions.get(group_id, member_id)
        if session is not None:
            session.condemned = True
            if session.stream is not None:
                why = f"member {member_id}: partitions were not given up in time"
                changes.push(session.stream, Refusal("UNKNOWN_MEMBER", why))
                session.stream = None
        return changes.result(None)

    # Inside

    def _holder_of_instance(self, group: Group | None, request: JoinRequest) -> str:
        """Id of another member that left for a while and may be replaced; empty: there is none
        (invariant 27)."""
        instance_id = request.metadata.instance_id
        if group is None:
            return ""
        known = group.members.get(request.member_id)
        if known is not None and known.instance_id != instance_id:
            raise Refusal("INVALID_REQUEST", "instance_id: a member cannot change it")
        holder = group.instances.get(instance_id) if instance_id else None
        if holder is None or holder == request.member_id:
            return ""
        if request.member_epoch > 0:
            raise Refusal("FENCED_INSTANCE", f"instance {instance_id} is another member by now")
        if not group.current(holder).away:
            raise Refusal(
                "UNRELEASED_INSTANCE", f"instance {instance_id} is in use by member {holder}"
            )
        return holder

    def _check_room(self, group: Group | None) -> None:
        if group is None:
            if len(self._state.groups) >= self._config.groups_per_shard_max:
                raise Refusal(
                    "THROTTLED", f"the shard has {len(self._state.groups)} groups already"
                )
        elif len(group.members) >= self._config.members_per_group_max:
            raise Refusal("GROUP_FULL", f"the group has {len(group.members)} members already")

    def _come_back(
        self,
        group: Group,
        request: JoinRequest,
        stream: int,
        changes: Changes,
        now: Moment,
    ) -> Result[JoinReply]:
        member_id = request.member_id
        current = group.current(member_id)
        _check_not_condemned(self._sessions.get(group.group_id, member_id), member_id)
        # A member that begins again at zero may have missed every answer.
        heard_epoch = 0 if request.member_epoch == 0 else None
        check_member_epoch(current, request.member_epoch, request.owned, heard_epoch)
        self._end_other_stream(group, member_id, stream, changes)
        before = group.members[member_id]
        if request.metadata != before:
            changes.emit(MemberMetadataRecord(group.group_id, member_id, request.metadata))
        if current.away:
            changes.emit(
                CurrentAssignmentRecord(group.group_id, member_id, replace(current, away=False))
            )
        self._open_session(group, member_id, stream, request.owned, request.member_epoch, now)
        self._rebalancer.tell(group, member_id, Reason.RECONNECTED, changes, now)
        if _subscription(before) != _subscription(request.metadata):
            self._rebalancer.request(group, Reason.SUBSCRIPTION_CHANGED, changes, now)
        self._rebalancer.advance(group, changes, now)
        return changes.result(self._joined(group, member_id))

    def _take_over(
        self,
        group: Group,
        holder: str,
        member_id: str,
        request: JoinRequest,
        stream: int,
        changes: Changes,
        now: Moment,
    ) -> Result[JoinReply]:
        before = group.members[holder]
        state, target = group.state, group.target(holder)
        current = replace(group.current(holder), away=False)
        self._sessions.close(group.group_id, holder)
        for record in _removal(group.group_id, holder):
            changes.emit(record)
        changes.emit(MemberMetadataRecord(group.group_id, member_id, request.metadata))
        changes.emit(TargetAssignmentRecord(group.group_id, member_id, target))
        changes.emit(CurrentAssignmentRecord(group.group_id, member_id, current))
        self._open_session(group, member_id, stream, NO_PARTITIONS, 0, now)
        self._rebalancer.tell(group, member_id, Reason.RECONNECTED, changes, now)
        if _subscription(before) != _subscription(request.metadata):
            self._rebalancer.request(group, Reason.SUBSCRIPTION_CHANGED, changes, now)
        self._rebalancer.advance(group, changes, now)
        self._rebalancer.settle(group, state, now)
        return changes.result(self._joined(group, member_id))

    def _open_session(
        self,
        group: Group,
        member_id: str,
        stream: int,
        owned: Partitions,
        heard_epoch: int,
        now: Moment,
    ) -> None:
        timeout_ms = group.members[member_id].session_timeout_ms
        self._sessions.open(
            group.group_id,
            member_id,
            MemberSession(
                stream,
                owned,
                heard_epoch,
                group.current(member_id).member_epoch,
                now.monotonic_ms + timeout_ms,
            ),
        )

    def _end_other_stream(
        self, group: Group, member_id: str, stream: int, changes: Changes
    ) -> None:
        session = self._sessions.get(group.group_id, member_id)
        if session is not None and session.stream not in (None, stream):
            assert session.stream is not None
            refusal = Refusal("FENCED_MEMBER_EPOCH", "another stream of this member took over")
            changes.push(session.stream, refusal)

    def _joined(self, group: Group, member_id: str) -> JoinReply:
        timeout_ms = group.members[member_id].session_timeout_ms
        return JoinReply(
            member_id,
            group.current(member_id).member_epoch,
            max(1, min(self._config.heartbeat_interval_ms, timeout_ms // 3)),
            timeout_ms,
        )

    def _fence(self, group: Group, member_id: str, why: str, changes: Changes, now: Moment) -> None:
        session = self._sessions.get(group.group_id, member_id)
        if session is not None and session.stream is not None:
            changes.push(session.stream, Refusal("UNKNOWN_MEMBER", f"member {member_id}: {why}"))
        self._remove(group, member_id, Reason.MEMBER_FENCED, changes, now)

    def _remove(
        self, group: Group, member_id: str, reason: Reason, changes: Changes, now: Moment
    ) -> None:
        self._sessions.close(group.group_id, member_id)
        for record in _removal(group.group_id, member_id):
            changes.emit(record)
        self._rebalancer.request(group, reason, changes, now)
        self._rebalancer.advance(group, changes, now)


def _check_not_condemned(session: MemberSession | None, member_id: str) -> None:
    if session is not None and session.condemned:
        raise Refusal(
            "UNKNOWN_MEMBER", f"member {member_id} did not give up its partitions in time"
        )


def _removal(group_id: str, member_id: str) -> list[Record]:
    return [
        CurrentAssignmentRecord(group_id, member_id, None),
        TargetAssignmentRecord(group_id, member_id, None),
        MemberMetadataRecord(group_id, member_id, None),
    ]


def _subscription(member: MemberMetadata) -> tuple[object, ...]:
    """What the target assignment depends on."""
    return member.topics, member.topic_pattern, member.assignor, member.rack
