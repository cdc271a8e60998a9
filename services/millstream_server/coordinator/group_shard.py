"""One shard without its log: state, sessions, timers and all handlers, wired together.

Pure: a shell feeds it requests, time and topics, stores the records of its results, and only then
lets replies and pushes out. The same ``state.apply`` serves live traffic and replay.
"""

from collections.abc import Callable, Iterator

from millstream_server.coordinator.changes import Changes, Moment, Reason, Result
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.group_requests import GroupRequests
from millstream_server.coordinator.membership import Membership
from millstream_server.coordinator.position_requests import PositionRequests
from millstream_server.coordinator.rebalancing import RebalanceObserver, Rebalancer
from millstream_server.coordinator.records import (
    CurrentAssignmentRecord,
    Record,
    TargetAssignmentRecord,
)
from millstream_server.coordinator.sessions import (
    EXPIRY,
    REBALANCE,
    RELEASE,
    SESSION,
    MemberSession,
    Sessions,
)
from millstream_server.coordinator.shard_state import ShardState
from millstream_server.coordinator.topics import TopicIndex

_EXPIRY_KEY = (EXPIRY, "", "")


class GroupShard:
    """See the module."""

    def __init__(
        self,
        config: CoordinatorConfig,
        observer: RebalanceObserver,
        new_member_id: Callable[[], str],
    ) -> None:
        self._config = config
        self.state = ShardState()
        self.sessions = Sessions()
        self._rebalancer = Rebalancer(self.sessions, observer, config.rebalance_delay_ms)
        self.membership = Membership(
            self.state, self.sessions, self._rebalancer, config, new_member_id
        )
        self.positions = PositionRequests(self.state, self.membership, self._rebalancer, config)
        self.groups = GroupRequests(self.state)

    @property
    def topics(self) -> TopicIndex:
        """The topics as they were last told."""
        return self._rebalancer.topics

    def apply(self, record: Record) -> None:
        """Replay a record."""
        self.state.apply(record)

    def loaded(self, topics: TopicIndex, now: Moment) -> Result[None]:
        """The replay is complete: give every member a whole session, and catch up on what nobody
        looked after (invariant 25)."""
        self._rebalancer.topics = topics
        changes = Changes(self.state)
        for group in list(self.state.groups.values()):
            for member_id in (group.currents.keys() | group.targets.keys()) - group.members.keys():
                # Only a log cut short in the middle of a cause leaves such remains.
                changes.emit(CurrentAssignmentRecord(group.group_id, member_id, None))
                changes.emit(TargetAssignmentRecord(group.group_id, member_id, None))
            for member_id, member in group.members.items():
                current = group.current(member_id)
                session = MemberSession(
                    None,
                    current.held,
                    current.previous_epoch,
                    current.member_epoch,
                    now.monotonic_ms + member.session_timeout_ms,
                )
                self.sessions.open(group.group_id, member_id, session)
                self._rebalancer.watch_release(group, member_id, now)
            if group.members and group.group_epoch > group.target_epoch:
                self._rebalancer.expect_target(group, Reason.RECONNECTED, now)
        self._expect_expiry(now)
        self._rebalance_where_topics_changed(changes, now)
        return changes.result(None)

    def topics_changed(self, topics: TopicIndex, now: Moment) -> Result[None]:
        """Topics were created, deleted or grown."""
        self._rebalancer.topics = topics
        changes = Changes(self.state)
        self._rebalance_where_topics_changed(changes, now)
        return changes.result(None)

    def fire(self, now: Moment) -> Iterator[Result[None]]:
        """Do what is due by now; one result per timer."""
        for (kind, group_id, member_id), due_ms in self.sessions.timers.take_due(now.monotonic_ms):
            if kind == SESSION:
                yield self.membership.session_over(group_id, member_id, due_ms, now)
            elif kind == RELEASE:
                yield self.membership.release_over(group_id, member_id)
            elif kind == REBALANCE:
                changes = Changes(self.state)
                group = self.state.group(group_id)
                if group is not None:
                    self._rebalancer.make_target(group, changes, now)
                yield changes.result(None)
            else:
                self._expect_expiry(now)
                yield self.positions.expire(now)

    def next_timer_ms(self) -> int | None:
        """When ``fire`` has something to do, monotonic milliseconds; None: never."""
        return self.sessions.timers.next_due_ms()

    def _expect_expiry(self, now: Moment) -> None:
        self.sessions.timers.set(_EXPIRY_KEY, now.monotonic_ms + self._config.expiry_interval_ms)

    def _rebalance_where_topics_changed(self, changes: Changes, now: Moment) -> None:
        for group in self.state.groups.values():
            if not group.members or group.metadata is None:
                continue
            if group.group_epoch > group.target_epoch:
                continue
            fingerprint = self.topics.fingerprint(group.members.values())
            if fingerprint != group.metadata.topics_fingerprint:
                self._rebalancer.request(group, Reason.TOPICS_CHANGED, changes, now)
