"""What a session pushes: which partition next, how much of it, read from where.

At most one message per lane is made at a time, so a slow follower costs one message, its copies and
two cold reads per lane, whatever it asked for. Everything runs on the event loop.
"""

import asyncio
from typing import Protocol

from millstream.record import iterate_frames
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica
from millstream_server.broker.replication.lanes import LaneQueue
from millstream_server.broker.replication.leader_wire import (
    ENTRY_BYTES,
    progress_entry,
    push_entry,
)
from millstream_server.broker.replication.transfers import (
    BeginElsewhere,
    Lane,
    LaneBounds,
    Transfer,
)
from millstream_server.broker.runs import VERIFIED_BYTES, Run, measure
from millstream_server.broker.unheard_progress import UnheardProgress
from millstream_server.storage.errors import StorageError
from millstream_server.storage.log import Log
from millstream_server.v1 import replication_service_pb2 as pb

# Cold reads of one lane at a time: bounds what is read ahead of a slow follower.
_COLD_READS_MAX = 2
# Longest wait of a copy that is held back: the limit may be raised meanwhile.
_HELD_MS_MAX = 500
Entries = list[tuple[bytes, ...]]


class CopySession(Protocol):
    """The session, as one of its copies sees it."""

    follower_id: int

    def moved(self, copy: "FollowerCopy") -> None:
        """Written end, high watermark, log start or leadership changed."""

    def fail(self, copy: "FollowerCopy", refusal: Refusal) -> None:
        """The partition cannot be pushed from here any more."""


class FollowerCopy(Transfer):
    """The transfer of one partition in one session, bound to both."""

    __slots__ = (
        "begun_at",
        "closed",
        "key",
        "loaded",
        "loading",
        "needed_bytes",
        "replica",
        "session",
        "trusted",
    )

    def __init__(
        self, session: "CopySession", replica: Replica, position: pb.FollowerPosition
    ) -> None:
        super().__init__(
            position.begin.round,
            position.leader_epoch,
            position.end_offset,
            position.synced_end_offset,
        )
        self.begun_at = position.begin.partition_epoch
        self.key = (position.topic_id, position.partition)
        self.session = session
        self.replica = replica
        # Being read by a thread; read but not pushed yet; over.
        self.loading = False
        self.loaded: Run | None = None
        self.closed = False
        # Credit that the next batch takes, if that is known because it was not there.
        self.needed_bytes = 0
        # False until the first push of the round: that is verified, whatever was synced. A
        # follower that refuses damaged bytes begins a round where they begin, and here they are
        # noticed as well.
        self.trusted = False

    @property
    def has_more(self) -> bool:
        """True if there is something to push."""
        return self.next_offset < self.replica.state.written_end_offset

    @property
    def read_offset(self) -> int:
        """Where to read what is to be pushed: not below the start of the log, which may lie within
        the batch that the follower needs."""
        return max(self.next_offset, self.replica.start_offset)

    def moved(self) -> None:
        """See ``Copy``."""
        self.session.moved(self)

    def lost(self, refusal: Refusal) -> None:
        """See ``Copy``."""
        self.session.fail(self, refusal)


class Pushes:
    """The pushing of one session."""

    def __init__(self, hosted: HostedPartitions) -> None:
        # Set when ``add_entries`` may have something for the lane.
        self.wake = {lane: asyncio.Event() for lane in Lane}
        self.queues: dict[Lane, LaneQueue[FollowerCopy]] = {lane: LaneQueue() for lane in Lane}
        self._hosted = hosted
        config = hosted.config
        self._message_bytes = config.replication_message_bytes
        self._bounds = LaneBounds(config.catch_up_from_bytes, config.catch_up_from_bytes // 4)
        # Copies whose follower does not know the high watermark or the log start.
        self._progress: UnheardProgress[FollowerCopy] = UnheardProgress(
            hosted.call_later, self.wake[Lane.TAIL].set
        )
        # Runs while copies wait that are held back; see ``AddedCopies``.
        self._held_timer: asyncio.TimerHandle | None = None

    def grant(self, lane: Lane, size: int) -> None:
        """The follower takes so many bytes more."""
        if self.queues[lane].grant(size):
            self.wake[lane].set()

    def moved(self, copy: FollowerCopy) -> None:
        """There may be something to push of a copy."""
        if copy.has_more:
            self.queue(copy)
        self._note_progress(copy)

    def queue(self, copy: FollowerCopy) -> None:
        """A copy has records to push."""
        queue = self.queues[copy.lane]
        if not copy.loading and copy not in queue:
            queue.put(copy)
            self.wake[copy.lane].set()

    def remove(self, copy: FollowerCopy) -> None:
        """Push no more of a copy."""
        copy.closed = True
        copy.loaded = None
        self._progress.heard(copy)
        for queue in self.queues.values():
            queue.remove(copy)

    def close(self) -> None:
        """Stop the timer, let the streams look up."""
        self._progress.close()
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
        for event in self.wake.values():
            event.set()

    def _note_progress(self, copy: FollowerCopy) -> None:
        replica = copy.replica
        if (
            copy.told_watermark != replica.state.high_watermark
            or copy.told_start != replica.start_offset
        ):
            self._progress.note(copy, self._hosted.config.watermark_push_ms / 1000)

    # Records

    def add_entries(self, lane: Lane, entries: Entries) -> None:
        """Add to a message of a lane what is to be pushed now."""
        self._add_records(lane, entries)
        if lane is Lane.TAIL and self._progress.due:
            self._add_progress(entries)

    def _add_progress(self, entries: Entries) -> None:
        for copy in self._progress.take():
            watermark, start = self._tell(copy)
            entries.append(progress_entry(copy.key, copy, watermark, start))

    def _tell(self, copy: FollowerCopy) -> tuple[int, int]:
        copy.told_watermark = copy.replica.state.high_watermark
        copy.told_start = copy.replica.start_offset
        return copy.told_watermark, copy.told_start

    def _add_records(self, lane: Lane, entries: Entries) -> None:
        queue = self.queues[lane]
        room = self._message_bytes
        while room > self._message_bytes // 8 and (copy := queue.take()) is not None:
            run = self._take_run(copy, lane, room)
            if run is None:
                continue
            if run.first_offset != copy.next_offset:
                copy.session.fail(copy, BeginElsewhere(copy.next_offset, run.first_offset))
                continue
            if not run.data:
                continue
            size = len(run.data)
            if entries and size > room:
                copy.loaded = run
                queue.put(copy, first=True)
                return
            if not queue.credit.allows(size):
                # Not kept: a little credit for many partitions would hold very much memory.
                copy.needed_bytes = next(iterate_frames(run.data)).end
                queue.put(copy)
                continue
            queue.credit.spend(size)
            room -= size + ENTRY_BYTES
            if self._limit(copy, lane):
                self._hosted.added_copies.pushed(size)
            self._push(copy, run, entries)
            if copy.has_more:
                queue.put(copy)

    def _push(self, copy: FollowerCopy, run: Run, entries: Entries) -> None:
        before = copy.next_offset - 1
        epochs = copy.replica.log.epochs
        previous_epoch = epochs.epoch_of(before) if before >= copy.replica.start_offset else None
        entries.append(push_entry(copy.key, copy, previous_epoch, run.data, *self._tell(copy)))
        copy.pushed(run.next_offset)
        copy.trusted = True
        self._progress.heard(copy)
        self._hosted.counters.replication_bytes_out += len(run.data)

    def _take_run(self, copy: FollowerCopy, lane: Lane, room: int) -> Run | None:
        """Records at the copy's position; None if they are being loaded, if another lane takes
        them, or if there are none."""
        if copy.loaded is not None:
            run, copy.loaded = copy.loaded, None
            return run
        if not copy.has_more:
            return None
        log, offset = copy.replica.log, copy.read_offset
        chosen = copy.choose_lane(bytes_behind(log, offset), self._bounds)
        if chosen is not lane:
            if chosen is not None:
                self.queue(copy)
            return None
        queue = self.queues[lane]
        if not queue.credit.allows(max(1, copy.needed_bytes)):
            queue.starve(copy)
            return None
        copy.needed_bytes = 0
        size = max(1, min(room, queue.credit.bytes_left))
        limit = self._limit(copy, lane)
        if limit:
            if self._hold_back(copy, lane, limit):
                return None
            size = min(size, max(1, limit // 4))
        if not copy.trusted:
            size = min(size, VERIFIED_BYTES)
        end_offset = copy.replica.state.written_end_offset
        if not log.reads_from_memory(offset):
            self._load(copy, lane, size, end_offset)
            return None
        try:
            data = log.read(offset, size, end_offset, verified=not copy.trusted)
            return measure(data, offset)
        except StorageError as error:
            copy.session.fail(copy, copy.replica.read_refusal(error))
            return None

    def _limit(self, copy: FollowerCopy, lane: Lane) -> int:
        hosted = self._hosted
        follower_id = copy.session.follower_id
        return hosted.added_copies.limit(hosted.cluster.image, copy.key, follower_id, lane)

    def _hold_back(self, copy: FollowerCopy, lane: Lane, limit: int) -> bool:
        """True if an added replica has to wait; it is asked for again then."""
        hosted = self._hosted
        wait_ms = hosted.added_copies.wait_ms(limit, hosted.clock.monotonic_ms())
        if not wait_ms:
            return False
        queue = self.queues[lane]
        queue.starve(copy)

        def go_on() -> None:
            self._held_timer = None
            queue.feed()
            self.wake[lane].set()

        if self._held_timer is None:
            wait_ms = min(wait_ms, _HELD_MS_MAX)
            self._held_timer = hosted.call_later(wait_ms / 1000, go_on)
        return True

    def _load(self, copy: FollowerCopy, lane: Lane, size: int, end_offset: int) -> None:
        """Read older records on a thread, a few at a time."""
        queue = self.queues[lane]
        if queue.cold_reads >= _COLD_READS_MAX:
            queue.starve(copy)
            return
        queue.cold_reads += 1
        copy.loading = True
        log, offset, verified = copy.replica.log, copy.read_offset, not copy.trusted

        def loaded(run: Run | None, error: BaseException | None) -> None:
            queue.cold_reads -= 1
            copy.loading = False
            queue.feed()
            self.wake[lane].set()
            if copy.closed:
                return
            if error is not None:
                copy.session.fail(copy, copy.replica.read_refusal(error))
            elif run is not None:
                copy.loaded = run
                queue.put(copy, first=True)

        self._hosted.reads.submit(
            lambda: measure(log.read(offset, size, end_offset, verified=verified), offset), loaded
        )


def bytes_behind(log: Log, offset: int) -> int:
    """About how many bytes of a log come after an offset; exact where they were written lately."""
    active = log.segments.active
    if active.knows_position(offset):
        return active.size - active.position_of(offset)
    records = max(1, log.written_end_offset - log.start_offset)
    return (log.written_end_offset - offset) * log.size_bytes // records
