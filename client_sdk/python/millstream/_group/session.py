"""A member of a consumer group as a state machine: joins, heartbeats, ownership, commits.

In words: a member with a subscription is SEEKING its coordinator; once found it opens a stream,
sends a join and is JOINING; the answer makes it JOINED. A broken stream leads back to SEEKING and
takes nothing away: the assignment is kept until the session is over by the member's own clock,
counted from the *send* of the last answered heartbeat (invariant 25). When it is over, when the
coordinator fences the member, or when the application does not poll for too long, everything
owned is lost at once. A member that left because of that is AWAY until the next poll.

Partitions are given up in three steps: the assignment names them no more (``Revoking``), the
owner of this machine lets the application finish and commits, then calls ``released``, and only
the next heartbeat, sent at once, leaves them out.

Pure: time comes in as ``now_ms`` (monotonic milliseconds); ``take`` hands out what is to be done.
"""

from collections.abc import Iterable

from millstream._client.retry import pause_ms
from millstream._consumer.record import TopicPartition
from millstream._errors import MillstreamError, UnknownMemberError
from millstream._group.commits import (
    CommitQueue,
    CommitTicket,
    MakeError,
    OffsetsToCommit,
    offset_messages,
)
from millstream._group.lease import Lease
from millstream._group.outbox import Outbox
from millstream._group.ownership import Ownership, by_topic, from_topics, join_message
from millstream._group.types import (
    FATAL_CODES,
    REJOIN_CODES,
    TRANSITIONS,
    Assigned,
    Failed,
    FindCoordinator,
    GroupConfig,
    GroupEvent,
    GroupState,
    Lost,
    Output,
    Owned,
    Revoking,
)
from millstream.v1 import group_coordinator_service_pb2 as pb

_ACTIVE = (GroupState.SEEKING, GroupState.JOINING, GroupState.JOINED)


class GroupSession:
    """One member; see the module."""

    def __init__(self, config: GroupConfig, make_error: MakeError) -> None:
        self.config = config
        self.state = GroupState.IDLE
        self.member_id = ""
        self.member_epoch = 0
        self.commits = CommitQueue(config.backoff_ms, make_error)
        self._ownership = Ownership()
        self._lease = Lease(config.session_timeout_ms, config.heartbeat_interval_ms)
        self._topics: frozenset[str] = frozenset()
        self._pattern = ""
        self._outbox = Outbox()
        self._join_correlation_id = 0
        self._retry_at_ms: int | None = None
        self._attempts = 0
        self._polled_at_ms = 0
        # True: a static member leaves for a while.
        self._will_be_back = False
        # True while the application waits in a poll.
        self.polling = False
        self._topics_sent: frozenset[str] = frozenset()

    @property
    def owned(self) -> Owned:
        """Everything that may be in use."""
        return self._ownership.owned

    # --- what the owner says ----------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str], pattern: str, now_ms: int) -> None:
        """Be a member that reads these topics and those that match the pattern."""
        changed_pattern = pattern != self._pattern
        self._topics, self._pattern = frozenset(topics), pattern
        if self.state is GroupState.LEAVING:
            # It was told; whether it answers does not matter to the member that begins now.
            self._close_stream()
            self._go(GroupEvent.BROKEN)
        if self.state is GroupState.IDLE:
            self._polled_at_ms = now_ms
            self._go(GroupEvent.SUBSCRIBED)
            self._seek(now_ms)
        elif self.state is GroupState.JOINED and not changed_pattern and self._topics:
            self._send_heartbeat(now_ms)
        elif self.state in (GroupState.JOINED, GroupState.JOINING):
            # A join carries the whole subscription; nothing is given up by coming back.
            self._reconnect(now_ms)

    def polled(self, now_ms: int, *, waiting: bool) -> None:
        """The application polls, or went back to work (``waiting`` false)."""
        self._polled_at_ms = now_ms
        self.polling = waiting
        if self.state is GroupState.AWAY:
            self._go(GroupEvent.POLLED)
            self._seek(now_ms)

    def released(self, partitions: Iterable[TopicPartition], now_ms: int) -> None:
        """Revoked partitions were committed and nothing of them is in use any more."""
        self._tell({}, self._ownership.release(partitions))
        self._tell(*self._ownership.reconcile())
        if self.state is GroupState.JOINED:
            self._send_heartbeat(now_ms)

    def commit(self, offsets: OffsetsToCommit, now_ms: int, deadline_ms: int) -> CommitTicket:
        """Commit offsets as a member, after all earlier commits; see ``CommitTicket``."""
        ticket = self.commits.add(offsets, deadline_ms)
        if self.state in (GroupState.IDLE, GroupState.AWAY, GroupState.FAILED):
            self.commits.fail_all(UnknownMemberError("this consumer is not a member of its group"))
        self._send_commit(now_ms)
        return ticket

    def leave(self, now_ms: int, *, for_good: bool) -> None:
        """Leave at once. A static member keeps its partitions reserved unless ``for_good``."""
        if self.state in (GroupState.LEAVING, GroupState.IDLE):
            return
        self._will_be_back = bool(self.config.instance_id) and not for_good
        if self.state is GroupState.JOINED:
            self._send_leave(self.member_id)
        connected = self.state in (GroupState.JOINED, GroupState.JOINING)
        self._retry_at_ms = now_ms + self._lease.session_timeout_ms if connected else None
        self._ownership.drop()
        self.commits.fail_all(UnknownMemberError("this consumer left its group"))
        self._go(GroupEvent.UNSUBSCRIBED)
        self._forget_member()

    # --- what the network says --------------------------------------------------------------------

    def found(self, now_ms: int) -> None:
        """The coordinator is known: open the stream and join."""
        if self.state is not GroupState.SEEKING:
            return
        self._go(GroupEvent.FOUND)
        self._retry_at_ms = None
        self._lease.stream_ended()
        self._outbox.open_stream()
        self._join_correlation_id = self._outbox.send(
            join=join_message(
                self.config,
                self.member_id,
                self.member_epoch,
                self.owned,
                sorted(self._topics),
                self._pattern,
            )
        )
        self._topics_sent = self._topics
        self._lease.sent(self._join_correlation_id, now_ms)

    def not_found(self, error: MillstreamError, now_ms: int) -> None:
        """The coordinator could not be looked up, or could not be reached."""
        if self.state is GroupState.SEEKING:
            self._stumble(error, now_ms)

    def received(self, stream_id: int, response: pb.SessionResponse, now_ms: int) -> None:
        """A message of the coordinator."""
        if stream_id != self._outbox.stream_id:
            return
        kind = response.WhichOneof("kind")
        if kind == "left":
            self._close_stream()
            if self.state is GroupState.LEAVING:
                self._go(GroupEvent.LEFT)
        elif self.state is GroupState.JOINING and kind == "joined":
            self._joined(response, now_ms)
        elif self.state is GroupState.LEAVING and kind == "joined":
            # It left while it joined; unless it says so it would hold partitions for a session.
            self._send_leave(response.joined.member_id)
        elif self.state is GroupState.JOINED:
            if kind == "heartbeat_ack":
                # Its epoch may be that of an assignment still on its way; reporting it now would
                # claim that the assignment was received.
                self._lease.answered(response.correlation_id)
            elif kind == "assignment":
                self._assign(response.assignment, now_ms)
            elif kind == "commit_result":
                results = response.commit_result.results
                owned = self.owned.keys()
                self.commits.answered(
                    response.correlation_id, results, self.member_epoch, owned, now_ms
                )
                self._send_commit(now_ms)

    def broken(self, stream_id: int, error: MillstreamError, now_ms: int) -> None:
        """The stream ended."""
        if stream_id != self._outbox.stream_id or self.state not in (
            GroupState.JOINING,
            GroupState.JOINED,
            GroupState.LEAVING,
        ):
            return
        if self.state is GroupState.LEAVING:
            self._go(GroupEvent.BROKEN)
            return
        self._stumble(error, now_ms)

    # --- time -------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Do what is due."""
        self.check_session(now_ms)
        if self.state is GroupState.LEAVING:
            if self._retry_at_ms is not None and now_ms >= self._retry_at_ms:
                self._close_stream()
                self._go(GroupEvent.BROKEN)
            return
        if self._silent(now_ms):
            self._leave_silently()
        if self.state is GroupState.SEEKING:
            if self._retry_at_ms is not None and now_ms >= self._retry_at_ms:
                self._retry_at_ms = None
                self._outbox.put(FindCoordinator())
        elif self.state in (GroupState.JOINED, GroupState.JOINING):
            if now_ms >= self._lease.answer_due_ms:
                self._reconnect(now_ms)
            elif self.state is GroupState.JOINED:
                if now_ms >= self._lease.heartbeat_at_ms:
                    self._send_heartbeat(now_ms)
                self._send_commit(now_ms)
        if self.commits.expire(now_ms) and self.state is GroupState.JOINED:
            # The answer may still come; on another stream nobody waits for it.
            self._reconnect(now_ms)

    def check_session(self, now_ms: int) -> None:
        """Lose everything if the session is over by this member's own clock (invariant 25)."""
        end_ms = self.session_end_ms
        if end_ms is not None and now_ms >= end_ms:
            self._lose(UnknownMemberError("the group session timed out"))
            self._lease.end()
            if self.state in (GroupState.JOINED, GroupState.JOINING):
                self._reconnect(now_ms)

    @property
    def session_end_ms(self) -> int | None:
        """When the partitions are lost unless a heartbeat is answered; None: there are none."""
        return self._lease.end_ms

    def next_tick_ms(self) -> int | None:
        """When ``tick`` has something to do by itself; None: never."""
        times = [self.session_end_ms, self.commits.next_expiry_ms()]
        if self.state in (GroupState.SEEKING, GroupState.LEAVING):
            times.append(self._retry_at_ms)
        if self.state in (GroupState.JOINED, GroupState.JOINING):
            times.append(self._lease.answer_due_ms)
        if self.state is GroupState.JOINED:
            times += [self._lease.heartbeat_at_ms, self.commits.retry_at_ms]
        if not self.polling and self.state in _ACTIVE:
            times.append(self._polled_at_ms + self.config.poll_interval_ms_max)
        return min((time for time in times if time is not None), default=None)

    def take(self) -> list[Output]:
        """What is to be done since the last call, in order."""
        return self._outbox.take()

    # --- inside -----------------------------------------------------------------------------------

    def _go(self, event: GroupEvent) -> None:
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise AssertionError(f"a member that is {self.state.value} cannot be {event.value}")
        self.state = following

    def _seek(self, now_ms: int) -> None:
        self._retry_at_ms = now_ms
        self.tick(now_ms)

    def _reconnect(self, now_ms: int) -> None:
        """Give the stream up and come back on another one."""
        self._close_stream()
        self._stumble(None, now_ms)

    def _stumble(self, error: MillstreamError | None, now_ms: int) -> None:
        """A step failed: find out whether, when and as whom to try again."""
        self._lease.stream_ended()
        self.commits.stream_ended()
        if error is not None and error.code in FATAL_CODES:
            self._refuse(error)
            return
        if error is not None and error.code in REJOIN_CODES:
            self._lose(error)
            self._forget_member()
        self._go(GroupEvent.BROKEN)
        delay_ms = pause_ms(self.config.backoff_ms, self._attempts)
        if error is None or (error.code in REJOIN_CODES and self._attempts == 0):
            delay_ms = 0
        elif error.retry_after_ms:
            delay_ms = max(delay_ms, error.retry_after_ms)
        self._attempts += 1
        self._retry_at_ms = now_ms + delay_ms

    def _refuse(self, error: MillstreamError) -> None:
        self._lose(error)
        self._forget_member()
        self.commits.fail_all(error)
        self._go(GroupEvent.REFUSED)
        self._outbox.put(Failed(error))

    def _silent(self, now_ms: int) -> bool:
        silent_ms = 0 if self.polling or self.state not in _ACTIVE else now_ms - self._polled_at_ms
        return silent_ms >= self.config.poll_interval_ms_max

    def _leave_silently(self) -> None:
        """The application does not poll: others can use its partitions better."""
        error = UnknownMemberError(
            f"no poll for {self.config.poll_interval_ms_max} ms (max.poll.interval.ms): "
            "the member left its group; poll more often or raise the limit"
        )
        if self.state is GroupState.JOINED and self.member_id:
            self._outbox.send(leave=pb.Leave(member_id=self.member_id, temporary=False))
        self._close_stream()
        self._lose(error)
        self.commits.fail_all(error)
        self._forget_member()
        self._go(GroupEvent.SILENT)

    def _joined(self, response: pb.SessionResponse, now_ms: int) -> None:
        if response.correlation_id != self._join_correlation_id:
            return
        joined = response.joined
        self._go(GroupEvent.ANSWERED)
        self._attempts = 0
        self.member_id = joined.member_id
        self.member_epoch = joined.member_epoch
        self._lease.agree(joined.session_timeout_ms, joined.heartbeat_interval_ms, now_ms)
        self._lease.answered(response.correlation_id)
        if self._topics_sent != self._topics:
            self._send_heartbeat(now_ms)
        self._send_commit(now_ms)

    def _assign(self, assignment: pb.Assignment, now_ms: int) -> None:
        self.member_epoch = assignment.member_epoch
        leaving, added = self._ownership.assign(from_topics(assignment.partitions))
        self._tell(leaving, added)
        if added:
            self._send_heartbeat(now_ms)
        self._send_commit(now_ms)

    def _tell(self, leaving: Owned, added: Owned) -> None:
        if leaving:
            self._outbox.put(Revoking(leaving))
        if added:
            self._outbox.put(Assigned(added))

    def _lose(self, error: MillstreamError) -> None:
        lost = self._ownership.drop()
        if lost:
            self._outbox.put(Lost(lost, error))
        self.commits.fail_all(error)

    def _forget_member(self) -> None:
        self.member_id = ""
        self.member_epoch = 0
        self._lease.end()

    def _send_leave(self, member_id: str) -> None:
        self._outbox.send(leave=pb.Leave(member_id=member_id, temporary=self._will_be_back))

    def _send_heartbeat(self, now_ms: int) -> None:
        changed = self._topics != self._topics_sent
        correlation_id = self._outbox.send(
            heartbeat=pb.Heartbeat(
                member_id=self.member_id,
                member_epoch=self.member_epoch,
                owned=by_topic(self.owned),
                topics=sorted(self._topics) if changed else (),
            )
        )
        self._topics_sent = self._topics
        self._lease.sent(correlation_id, now_ms)

    def _send_commit(self, now_ms: int) -> None:
        if self.state is not GroupState.JOINED:
            return
        ticket = self.commits.next_to_send(now_ms)
        if ticket is None:
            return
        correlation_id = self._outbox.send(
            commit=pb.SessionCommit(
                member_id=self.member_id,
                member_epoch=self.member_epoch,
                offsets=offset_messages(ticket.offsets),
            )
        )
        self.commits.sent(correlation_id, self.member_epoch)

    def _close_stream(self) -> None:
        self._outbox.close_stream()
        self._lease.stream_ended()
