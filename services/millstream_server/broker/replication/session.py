"""One follower's session as its leader keeps it: positions and credit in, messages out per lane.

Everything runs on the event loop, and nothing here touches gRPC. The two streams of the session
call ``handle`` with what they read and ask ``next_message`` for what to write; ``wake`` tells them
when to ask again.
"""

from typing import Protocol

from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica
from millstream_server.broker.replication.leader_wire import (
    divergence_entry,
    error_entry,
    join_entries,
)
from millstream_server.broker.replication.session_pushes import Entries, FollowerCopy, Pushes
from millstream_server.broker.replication.transfers import (
    BeginElsewhere,
    Lane,
    LeaderLog,
    divergence_of,
)
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import replication_service_pb2 as pb

_Key = tuple[bytes, int]


class CandidateWatch(Protocol):
    """Who wants to hear of followers that may join the in-sync set, or leave it for good."""

    def candidate_reported(self, replica: Replica) -> None:
        """A follower told how far it is that is not in sync, or that has just begun to copy."""


class FollowerSession:
    """See the module's docstring."""

    def __init__(
        self,
        hosted: HostedPartitions,
        watch: CandidateWatch,
        *,
        follower_id: int,
        node_epoch: int,
        session_id: int,
    ) -> None:
        self.follower_id = follower_id
        self.node_epoch = node_epoch
        self.session_id = session_id
        # Lanes whose stream is there.
        self.open_lanes: dict[Lane, None] = {}
        # Why the session is over; None while it lasts.
        self.ended: ServiceError | None = None
        self._hosted = hosted
        self._watch = watch
        self._pushes = Pushes(hosted)
        self.wake = self._pushes.wake
        self._copies: dict[_Key, FollowerCopy] = {}
        # Entries that need no credit: errors and divergences.
        self._notices: Entries = []

    @property
    def backlog(self) -> int:
        """Entries that wait for the tail lane whatever the follower's credit."""
        return len(self._notices)

    def end(self, reason: ServiceError) -> None:
        """The session is over; the first reason stays."""
        if self.ended is not None:
            return
        self.ended = reason
        for key in list(self._copies):
            self._drop(key)
        self._notices.clear()
        self._pushes.close()

    # What the follower says

    def handle(self, lane: Lane, request: pb.ReplicateRequest) -> None:
        """Take in a message of one lane. Raises ServiceError INVALID_REQUEST."""
        if self.ended is not None:
            return
        if request.credit_bytes:
            self._pushes.grant(lane, request.credit_bytes)
        if request.positions and lane is not Lane.TAIL:
            raise ServiceError("INVALID_REQUEST", "positions: not on the lane for catching up")
        for position in request.positions:
            if position.leave:
                self._drop((position.topic_id, position.partition))
                continue
            try:
                if position.HasField("begin"):
                    self._begin(position)
                else:
                    self._report(position)
            except Refusal as refusal:
                self._refuse(position, refusal)

    def _begin(self, position: pb.FollowerPosition) -> None:
        """Compare the logs; push from the follower's end if they agree (invariants 13 to 15)."""
        key = (position.topic_id, position.partition)
        self._drop(key)
        if self._hosted.cluster.image.partition(*key) is None:
            # The follower's image is ahead; so soon after a topic was created that is common.
            raise Refusal("UNKNOWN_LEADER_EPOCH", "the partition is not known here yet")
        replica = self._hosted.find(*key)
        state = replica.state
        state.check_epoch(position.leader_epoch)
        if self.follower_id not in state.replicas:
            # One of the two images is behind.
            raise Refusal(
                "LEADER_NOT_AVAILABLE", f"node {self.follower_id} has no replica of the partition"
            )
        outside = self.follower_id not in state.in_sync.committed
        if outside and position.begin.partition_epoch > state.in_sync.partition_epoch:
            # It could join only once this is known here, and would have to be looked at again.
            raise Refusal("UNKNOWN_LEADER_EPOCH", "the partition epoch is not known here yet")
        last_epoch = position.begin.last_epoch if position.begin.HasField("last_epoch") else None
        end, synced_end = position.end_offset, position.synced_end_offset
        if synced_end > end:
            raise Refusal("INVALID_REQUEST", f"synced_end_offset: {synced_end} is beyond {end}")
        log = LeaderLog(replica.log.epochs, replica.start_offset, state.written_end_offset)
        complete = self.follower_id in state.complete
        found = divergence_of(last_epoch, end, log, complete=complete)
        if found is not None:
            # Changes nothing of what is known of the follower (KAFKA-13141).
            self._notices.append(
                divergence_entry(
                    key,
                    position.begin.round,
                    state.leader_epoch,
                    found,
                    state.high_watermark,
                    log.start_offset,
                )
            )
            self.wake[Lane.TAIL].set()
            return
        copy = self._copies[key] = FollowerCopy(self, replica, position)
        replica.add_copy(copy)
        self._take_report(copy, began=True)
        self.moved(copy)

    def _report(self, position: pb.FollowerPosition) -> None:
        copy = self._copies.get((position.topic_id, position.partition))
        if copy is None:
            return  # it is over, and the follower was told
        copy.replica.state.check_epoch(position.leader_epoch)
        copy.reported(position.end_offset, position.synced_end_offset)
        self._take_report(copy)
        if copy.has_more:
            self._pushes.queue(copy)  # it may have waited to change its lane

    def _take_report(self, copy: FollowerCopy, *, began: bool = False) -> None:
        replica = copy.replica
        state = replica.state
        outcomes = state.follower_reported(
            self.follower_id,
            copy.leader_epoch,
            copy.reported_end,
            copy.reported_synced_end,
            node_epoch=self.node_epoch,
            begun_at=copy.begun_at,
            now_ms=self._hosted.clock.monotonic_ms(),
        )
        replica.deliver(outcomes)
        if began or self.follower_id not in state.in_sync.committed:
            self._watch.candidate_reported(replica)

    def _refuse(self, position: pb.FollowerPosition, refusal: Refusal) -> None:
        key = (position.topic_id, position.partition)
        copy = self._copies.get(key)
        round_number = position.begin.round
        if copy is not None:
            round_number = round_number or copy.round
            self._drop(key)
        self._note_error(key, round_number, refusal)

    def _note_error(self, key: _Key, round_number: int, refusal: Refusal) -> None:
        self._hosted.counters.errors["replicate", refusal.reason] += 1
        replica = self._hosted.replicas.get(key)
        start_offset = replica.start_offset if replica is not None else 0
        if isinstance(refusal, BeginElsewhere):
            start_offset = refusal.offset
        epoch = self._hosted.newest_epoch(*key)
        self._notices.append(error_entry(key, round_number, epoch, refusal, start_offset))
        self.wake[Lane.TAIL].set()

    def _drop(self, key: _Key) -> None:
        copy = self._copies.pop(key, None)
        if copy is None:
            return
        self._pushes.remove(copy)
        copy.replica.remove_copy(copy)
        if copy.replica.state.leader_epoch == copy.leader_epoch:
            copy.replica.state.followers.left(self.follower_id)

    # What the partition says

    def moved(self, copy: FollowerCopy) -> None:
        """Written end, high watermark, log start or leadership changed."""
        if copy.closed:
            return
        state = copy.replica.state
        if not state.leading or state.leader_epoch != copy.leader_epoch:
            try:
                state.check_epoch(copy.leader_epoch)
            except Refusal as refusal:
                self.fail(copy, refusal)
                return
        self._pushes.moved(copy)

    def fail(self, copy: FollowerCopy, refusal: Refusal) -> None:
        """The partition cannot be pushed from here any more."""
        if not copy.closed:
            self._drop(copy.key)
            self._note_error(copy.key, copy.round, refusal)

    # Messages

    def next_message(self, lane: Lane) -> bytes | None:
        """The next message of a lane; None if there is none now."""
        entries: Entries = []
        if lane is Lane.TAIL and self._notices:
            entries, self._notices = self._notices, []
        self._pushes.add_entries(lane, entries)
        return join_entries(entries) if entries else None
