"""What the coordinator knows of its members beyond the log: streams, reports, deadlines.

None of it is stored. A new owner of a shard gives every member a whole session time-out
(invariant 25) and hears the rest from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from millstream_server.coordinator.records import (
    NO_PARTITIONS,
    CurrentAssignment,
    MemberMetadata,
    Partitions,
)
from millstream_server.coordinator.timers import Timers

# ("session" | "release" | "rebalance" | "expiry", group id, member id).
TimerKey = tuple[str, str, str]
SESSION, RELEASE, REBALANCE, EXPIRY = "session", "release", "rebalance", "expiry"


@dataclass(slots=True)
class MemberSession:
    """One member's."""

    # Number of the stream on which the member is heard; None: broken.
    stream: int | None
    # What the member reported last.
    owned: Partitions
    # Newest epoch that the member is known to have heard of on this stream.
    heard_epoch: int
    # Newest epoch that it was told on this stream, which it may not have received yet.
    told_epoch: int
    # End of the session unless a heartbeat comes, monotonic milliseconds.
    expires_ms: int
    # Granted by a push that the member may not have received yet. Until it has, a report without
    # them says nothing, so nothing else is taken from or given to the member.
    unconfirmed: Partitions = NO_PARTITIONS
    # A report with this epoch proves that the push was received; None: only a report that names
    # an unconfirmed partition does.
    confirming_epoch: int | None = None
    # True: took too long to give something up. Not heard any more; its session runs out.
    condemned: bool = False

    @property
    def may_advance(self) -> bool:
        """True if the member is heard and knows all that it was told."""
        return self.stream is not None and not self.unconfirmed

    def report(self, epoch: int, owned: Partitions) -> None:
        """Take in what a member says it owns."""
        if self.unconfirmed:
            received = not self.unconfirmed.isdisjoint(owned)
            if received or (self.confirming_epoch is not None and epoch >= self.confirming_epoch):
                self.unconfirmed = NO_PARTITIONS
                self.confirming_epoch = None
        self.owned = owned
        self.heard_epoch = max(self.heard_epoch, epoch)

    def told(self, current: CurrentAssignment) -> None:
        """The member was sent ``current``."""
        self.unconfirmed = current.assigned - self.owned
        newer = current.member_epoch > self.told_epoch
        self.told_epoch = current.member_epoch
        self.confirming_epoch = current.member_epoch if newer and self.unconfirmed else None


class Sessions:
    """The sessions and timers of one shard."""

    def __init__(self) -> None:
        self.timers: Timers[TimerKey] = Timers()
        self._sessions: dict[tuple[str, str], MemberSession] = {}

    def __iter__(self) -> Iterator[MemberSession]:
        return iter(self._sessions.values())

    def get(self, group_id: str, member_id: str) -> MemberSession | None:
        """The session of a member, None if it has none."""
        return self._sessions.get((group_id, member_id))

    def open(self, group_id: str, member_id: str, session: MemberSession) -> None:
        """Begin a session, or replace it by one on another stream."""
        self._sessions[group_id, member_id] = session
        self.timers.set((SESSION, group_id, member_id), session.expires_ms)
        self.timers.cancel((RELEASE, group_id, member_id))

    def renew(self, group_id: str, member_id: str, expires_ms: int) -> None:
        """Move the end of a session. Its timer is moved only when it comes up: heartbeats are
        many, time-outs are few."""
        self._sessions[group_id, member_id].expires_ms = expires_ms

    def rearm(self, group_id: str, member_id: str) -> None:
        """Set the timer of a session that was renewed since its timer was set."""
        expires_ms = self._sessions[group_id, member_id].expires_ms
        self.timers.set((SESSION, group_id, member_id), expires_ms)

    def close(self, group_id: str, member_id: str) -> MemberSession | None:
        """Forget a member; return its session."""
        self.timers.cancel((SESSION, group_id, member_id))
        self.timers.cancel((RELEASE, group_id, member_id))
        return self._sessions.pop((group_id, member_id), None)

    def watch_release(
        self,
        group_id: str,
        member_id: str,
        member: MemberMetadata,
        current: CurrentAssignment,
        now_ms: int,
    ) -> None:
        """Limit the time that a member may take to give up what it must and to confirm what it
        got; the clock runs from the first thing that it owes."""
        key = (RELEASE, group_id, member_id)
        session = self._sessions.get((group_id, member_id))
        owes = bool(current.revoking) or (session is not None and bool(session.unconfirmed))
        if not owes:
            self.timers.cancel(key)
        elif self.timers.due_ms(key) is None:
            self.timers.set(key, now_ms + member.rebalance_timeout_ms)
