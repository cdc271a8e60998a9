"""One replica of a partition as a state machine: who leads, what is acknowledged, what is readable.

The replica is in one of four roles; all changes of role are the entries of ``TRANSITIONS``::

    IDLE       holds the log and serves nobody: no leader, or another one at replication factor 1
    STARTING   elected; the leader epoch is being written to the disk (invariant 9)
    LEADING    appends, acknowledges, is read from
    FOLLOWING  copies from the leader

Nothing here reads clocks, files or networks: the owner passes in log ends and times, and delivers
the outcomes that the methods return.
"""

import enum
from collections.abc import Iterable, Mapping

from millstream_raft.image import FLUSH_FSYNC, PartitionState
from millstream_server.broker.in_sync import InSyncSet, high_watermark, may_join
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replication.progress import Followers
from millstream_server.broker.waiting_appends import Outcome, Waiter, WaitingAppends


class Role(enum.Enum):
    """See the module's docstring."""

    IDLE = "idle"
    STARTING = "starting"
    LEADING = "leading"
    FOLLOWING = "following"


class Event(enum.Enum):
    """What changes a role."""

    ELECTED = "elected"
    EPOCH_BEGUN = "epoch begun"
    FOLLOW = "follow"
    RESIGN = "resign"


TRANSITIONS: dict[tuple[Role, Event], Role] = {
    **{(role, Event.ELECTED): Role.STARTING for role in Role},
    **{(role, Event.FOLLOW): Role.FOLLOWING for role in Role},
    **{(role, Event.RESIGN): Role.IDLE for role in Role},
    (Role.STARTING, Event.EPOCH_BEGUN): Role.LEADING,
}


class IllegalTransitionError(RuntimeError):
    """An event that the role does not know; nothing was changed."""


class Partition:
    """The state of one replica. Offsets and epochs in the terms of the invariants."""

    def __init__(self, topic_id: bytes, topic: str, number: int, node_id: int) -> None:
        self.topic_id = topic_id
        self.topic = topic
        self.number = number
        self.node_id = node_id
        self.role = Role.IDLE
        self.leader_id: int | None = None
        self.leader_epoch = 0
        self.replicas: tuple[int, ...] = ()
        # Those known to hold everything committed: in sync, or eligible leaders (invariant 6).
        self.complete: frozenset[int] = frozenset()
        # Those replicas that stay; all, unless the partition is reassigned.
        self.target: frozenset[int] = frozenset()
        # How many of those must be in sync before the others leave.
        self.target_in_sync_min = 0
        self.in_sync = InSyncSet()
        # True: every end that counts is a synced one (invariant 10).
        self.fsync = True
        # Elected although records may be missing (invariant 7).
        self.recovering = False
        self.end_offset = 0
        self.written_end_offset = 0
        self.synced_end_offset = 0
        self.high_watermark = 0
        # Log end at the start of this leader epoch (LESO).
        self.epoch_start_offset = 0
        # The other replicas, under this leader epoch.
        self.followers = Followers()
        self._waiting = WaitingAppends()

    def __str__(self) -> str:
        return (
            f"{self.topic}-{self.number} {self.role.value} LE={self.leader_epoch} "
            f"PE={self.in_sync.partition_epoch} LESO={self.epoch_start_offset} "
            f"HW={self.high_watermark} synced={self.synced_end_offset} LEO={self.end_offset} "
            f"waiting={self.waiting}"
        )

    @property
    def leading(self) -> bool:
        """True while this replica may append and answer."""
        return self.role is Role.LEADING

    @property
    def waiting(self) -> int:
        """Appends that wait to be acknowledged."""
        return len(self._waiting)

    @property
    def counting_end_offset(self) -> int:
        """The own end that acknowledgements go by: the synced one in fsync mode,
        else what is in the file."""
        return self.synced_end_offset if self.fsync else self.written_end_offset

    # Leadership

    def _step(self, event: Event) -> None:
        role = TRANSITIONS.get((self.role, event))
        if role is None:
            raise IllegalTransitionError(f"{event.value} while {self.role.value}")
        self.role = role

    def elect(
        self, state: PartitionState, end_offset: int, synced_end_offset: int
    ) -> list[Outcome]:
        """This replica was elected under a newer leader epoch. Serve after ``begin_epoch``."""
        self._step(Event.ELECTED)
        outcomes = self._lose_leadership(state)
        self._take_state(state)
        self._set_ends(end_offset, synced_end_offset)
        return outcomes

    def begin_epoch(
        self, leader_epoch: int, start_offset: int, end_offset: int, synced_end_offset: int
    ) -> list[Outcome]:
        """(leader epoch, its start offset) is durable now: start to lead (invariant 9)."""
        if leader_epoch != self.leader_epoch or self.role is not Role.STARTING:
            return []  # another election overtook this one
        self._step(Event.EPOCH_BEGUN)
        self._set_ends(end_offset, synced_end_offset)
        # Before the end if this very epoch was begun earlier, and then its log opened anew.
        self.epoch_start_offset = start_offset
        return self._advance()

    def _set_ends(self, end_offset: int, synced_end_offset: int) -> None:
        self.end_offset = end_offset
        self.written_end_offset = end_offset
        self.synced_end_offset = synced_end_offset
        self.epoch_start_offset = end_offset

    def follow(self, state: PartitionState) -> list[Outcome]:
        """Another replica leads, and this one copies from it."""
        self._step(Event.FOLLOW)
        outcomes = self._lose_leadership(state)
        self._take_state(state)
        return outcomes

    def resign(self, state: PartitionState | None) -> list[Outcome]:
        """Lead no more, without a leader to follow. None: the partition is gone."""
        self._step(Event.RESIGN)
        outcomes = self._lose_leadership(state)
        if state is not None:
            self._take_state(state)
        return outcomes

    def update(self, state: PartitionState) -> list[Outcome]:
        """Something but the leader epoch changed: in-sync set, minimum, flush mode."""
        self._take_state(state)
        if not self.leading:
            return []
        outcomes = self._advance()
        if not self.in_sync.enough:
            failure = Refusal(
                "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
                f"{len(self.in_sync.committed)} in-sync replicas are left, "
                f"min.insync.replicas is {self.in_sync.min_size}",
                indeterminate=True,
            )
            outcomes += self._waiting.fail(failure, only_for_all=True)
        return outcomes

    def _take_state(self, state: PartitionState) -> None:
        if not self.in_sync.committed_change(state.isr, state.partition_epoch, state.min_isr):
            return
        self.leader_id = state.leader_id
        self.leader_epoch = state.leader_epoch
        self.replicas = state.replicas
        self.complete = frozenset((*state.isr, *state.elr))
        self.target = frozenset(state.target)
        self.target_in_sync_min = state.target_in_sync_min
        self.recovering = state.recovering
        self.fsync = state.flush_mode == FLUSH_FSYNC
        self.followers.count_synced(self.fsync)

    def _lose_leadership(self, state: PartitionState | None) -> list[Outcome]:
        self.followers.clear()
        self.in_sync.set_joiners(frozenset())
        epoch = self.leader_epoch if state is None else state.leader_epoch
        # Never completed by a later high watermark of another epoch (invariant 11).
        failure = Refusal(
            "NOT_LEADER",
            f"leadership was lost while the append waited; the leader epoch is {epoch} now",
            indeterminate=True,
        )
        return self.fail_waiting(failure)

    def fail_waiting(self, failure: Refusal) -> list[Outcome]:
        """Fail everything that waits."""
        return self._waiting.fail(failure)

    # Producing

    def check_epoch(self, leader_epoch: int | None) -> None:
        """Refuse unless this replica leads under the epoch that the caller believes in (13)."""
        if leader_epoch is not None and leader_epoch != self.leader_epoch:
            if leader_epoch < self.leader_epoch:
                raise Refusal(
                    "FENCED_LEADER_EPOCH",
                    f"leader epoch {leader_epoch} is over, it is {self.leader_epoch} now",
                )
            raise Refusal(
                "UNKNOWN_LEADER_EPOCH",
                f"leader epoch {leader_epoch} is not known here yet, only {self.leader_epoch}",
            )
        if self.role is Role.LEADING:
            return
        if self.role is Role.STARTING:
            raise Refusal("LEADER_NOT_AVAILABLE", "the elected leader is not ready yet")
        if self.leader_id is None:
            raise Refusal("LEADER_NOT_AVAILABLE", "the partition has no leader at present")
        raise Refusal("NOT_LEADER", f"node {self.leader_id} leads the partition")

    def check_produce(self, leader_epoch: int | None, acks_all: bool) -> None:
        """Refuse a produce before anything is appended (invariants 11, 13)."""
        self.check_epoch(leader_epoch)
        if acks_all and not self.in_sync.enough:
            raise Refusal(
                "NOT_ENOUGH_REPLICAS",
                f"{len(self.in_sync.committed)} replicas are in sync, "
                f"min.insync.replicas is {self.in_sync.min_size}",
            )

    def appended(self, end_offset: int) -> None:
        """Offsets up to here are assigned; nothing counts before it is written."""
        if end_offset < self.end_offset:
            raise ValueError(f"log end went back from {self.end_offset} to {end_offset}")
        self.end_offset = end_offset

    def written(self, written_end_offset: int, synced_end_offset: int) -> list[Outcome]:
        """The log is in the file, and on the disk, up to these offsets; may acknowledge."""
        self.written_end_offset = written_end_offset
        self.synced_end_offset = max(self.synced_end_offset, synced_end_offset)
        # What another role writes counts only after its own election.
        return self._advance() if self.leading else []

    def cut(self, end_offset: int, failure: Refusal) -> list[Outcome]:
        """A failed append was taken back: nothing beyond ``end_offset`` was ever counted.

        Whoever waits for an offset there fails, repeats of the append too: the next append gets
        the same offsets, and would answer them (invariant 21).
        """
        if end_offset < self.high_watermark:
            raise ValueError(f"log cut to {end_offset}, below the mark {self.high_watermark}")
        self.end_offset = end_offset
        self.written_end_offset = min(self.written_end_offset, end_offset)
        return self._waiting.cut(end_offset, failure)

    def forget(self, waiter: Waiter) -> bool:
        """Wait no more for one append; False if it was decided already."""
        return self._waiting.forget(waiter)

    def await_ack(self, waiter: Waiter) -> bool:
        """True if the append is acknowledged already; else it waits for an outcome."""
        if waiter.acks_all:
            if waiter.last_offset < self.high_watermark and self.in_sync.enough:
                return True
        elif waiter.last_offset < self.counting_end_offset:
            return True
        self._waiting.add(waiter)
        return False

    def expire(self, now_ms: int) -> list[Outcome]:
        """Fail what waited beyond its deadline."""
        return self._waiting.expire(now_ms)

    # Following

    def copied(
        self, end_offset: int, written_end_offset: int, synced_end_offset: int, mark: int
    ) -> None:
        """The log of this follower grew, or its leader's high watermark did. What is committed
        here is what the leader says, as far as this log has it."""
        self.end_offset = end_offset
        self.written_end_offset = written_end_offset
        self.synced_end_offset = synced_end_offset
        self.high_watermark = max(self.high_watermark, min(mark, written_end_offset))

    def cut_copy(self, start_offset: int, end_offset: int) -> None:
        """The log of this follower was truncated to agree with its leader's; a log that began anew
        begins with everything before it committed (KAFKA-9491)."""
        self.end_offset = self.written_end_offset = end_offset
        self.synced_end_offset = min(self.synced_end_offset, end_offset)
        self.high_watermark = min(max(self.high_watermark, start_offset), end_offset)

    # Replication

    def follower_reported(
        self,
        node_id: int,
        leader_epoch: int,
        end_offset: int,
        synced_end_offset: int,
        *,
        node_epoch: int,
        begun_at: int,
        now_ms: int,
    ) -> list[Outcome]:
        """A follower of this epoch reported its log end; older reports count for nothing (12).
        ``node_epoch`` is its registration, ``begun_at`` the partition epoch that it knew when it
        began this round of its copy, ``now_ms`` monotonic."""
        if not self.leading or leader_epoch != self.leader_epoch or node_id not in self.replicas:
            return []
        epochs, ends = (node_epoch, begun_at), (end_offset, synced_end_offset)
        self.followers.report(node_id, epochs, ends, self.counting_end_offset, now_ms)
        return self._advance()

    def look_at_followers(
        self, eligible: Mapping[int, int], now_ms: int, lag_ms_max: int
    ) -> list[Outcome]:
        """To be called now and then while leading, and when a follower reports that begins or
        is no member: time passes for followers too that say nothing; and the high watermark waits
        for those that are about to join (10). ``eligible``: see ``in_sync_changes``."""
        leader_end = self.counting_end_offset
        others = [node_id for node_id in self.replicas if node_id != self.node_id]
        self.followers.look(others, leader_end, now_ms)
        outsiders = [node_id for node_id in others if node_id not in self.in_sync.committed]
        self.in_sync.set_joiners(
            self.followers.about_to_join(outsiders, eligible, leader_end, now_ms, lag_ms_max)
        )
        return self._advance()

    def may_join(self, node_id: int) -> bool:
        """True if a follower is caught up enough to be proposed for the in-sync set (12).

        What it told in a round begun at an older partition epoch proves nothing: it may have lost
        its log since, to rot, or by losing its place and getting it back.
        """
        end = self.followers.ends.get(node_id)
        if end is None or self.followers.begun_at(node_id) != self.in_sync.partition_epoch:
            return False
        return may_join(end, self.high_watermark, self.epoch_start_offset)

    def propose_in_sync(self, members: Iterable[int]) -> int:
        """Ask for another in-sync set; returns the partition epoch to send along (4)."""
        return self.in_sync.propose(members)

    def lag_records(self, node_id: int) -> int:
        """How far a replica is behind the log end, by what it reported."""
        if node_id == self.node_id:
            return 0
        return max(0, self.end_offset - max(0, self.followers.ends.get(node_id, 0)))

    def lag_ms(self, node_id: int, now_ms: int) -> int:
        """For how long a replica has been behind the end of what counts here; 0 for one that is
        not looked at yet."""
        return self.followers.lag_ms(node_id, self.counting_end_offset, now_ms)

    # Reading

    def readable_end(self) -> int:
        """The end offset as clients may hear it (invariant 18). Refuses after an election until
        the high watermark has reached the start of the epoch."""
        if self.high_watermark < self.epoch_start_offset:
            raise Refusal(
                "OFFSET_NOT_AVAILABLE", "a new leader does not know yet how far records are safe"
            )
        return self.high_watermark

    def _advance(self) -> list[Outcome]:
        own = self.counting_end_offset
        self.followers.ends[self.node_id] = own
        mark = high_watermark(self.high_watermark, self.followers.ends, self.in_sync)
        if mark > self.end_offset:
            raise ValueError(f"high watermark {mark} passes the log end {self.end_offset}")
        self.high_watermark = mark
        # Below the minimum the mark may stand beyond what waits: it is not acknowledged (11).
        return self._waiting.acknowledge(mark if self.in_sync.enough else 0, own)
