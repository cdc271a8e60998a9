"""One partition on this broker: its state machine, its log, and who listens.

Binds the pure ``Partition`` to the storage: appends go in here, outcomes and readers' wake-ups
come out. Everything runs on the event loop unless it says otherwise.
"""

from functools import partial
from typing import TYPE_CHECKING, Protocol

from millstream.v1 import broker_service_pb2 as pb
from millstream_raft.topic_config import TopicSettings
from millstream_server.broker.append_request import AppendRequest
from millstream_server.broker.counters import TopicCounters
from millstream_server.broker.partition import Partition, Role
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.runs import Run, measure
from millstream_server.broker.waiting_appends import Outcome, Waiter
from millstream_server.storage.errors import (
    DiskFullError,
    LogDamagedError,
    OffsetOutOfRangeError,
    StorageError,
)
from millstream_server.storage.log import Log
from millstream_server.storage.producers import Decision, Verdict

if TYPE_CHECKING:
    from millstream_server.broker.hosted import HostedPartitions

_REASON_BY_DECISION = {
    Decision.UNKNOWN_PRODUCER: (
        "UNKNOWN_PRODUCER",
        "the producer id is not known here and the sequence is not zero",
    ),
    Decision.OUT_OF_ORDER: (
        "OUT_OF_ORDER_SEQUENCE",
        "the sequence is neither a repeat nor the next one",
    ),
    Decision.INVALID_EPOCH: (
        "INVALID_PRODUCER_EPOCH",
        "a newer epoch of the producer id exists",
    ),
}


class Reader(Protocol):
    """Somebody who reads the partition and wants to hear of news."""

    def moved(self) -> None:
        """The high watermark or the log start moved."""

    def lost(self, refusal: Refusal) -> None:
        """The partition cannot be read here any more."""


class Copy(Protocol):
    """The pushing of the partition to one follower."""

    def moved(self) -> None:
        """The written end, the high watermark, the log start or the leadership changed."""

    def lost(self, refusal: Refusal) -> None:
        """The partition cannot be read here any more."""


def refusal_of(error: BaseException) -> Refusal:
    """The refusal behind an error of the storage; anything else is a bug here."""
    if isinstance(error, StorageError):
        return Refusal(error.reason, str(error), indeterminate=error.indeterminate)
    return Refusal("INTERNAL", f"{type(error).__name__}: {error}", indeterminate=True)


class Replica:
    """A partition hosted here."""

    def __init__(
        self,
        state: Partition,
        log: Log,
        settings: TopicSettings,
        counters: TopicCounters,
        hosted: "HostedPartitions",
    ) -> None:
        self.state = state
        self.log = log
        self.settings = settings
        self.counters = counters
        # True for topics of the system.
        self.internal = False
        self._hosted = hosted
        # Ordered: readers are told in the order in which they came.
        self.readers: dict[Reader, None] = {}
        self._copies: dict[Copy, None] = {}
        # Appends whose payloads are being checked on a thread; later ones queue behind.
        self.checking = 0
        self._published = (-1, -1)
        self._pushed = (-1, -1, -1, -1)

    @property
    def start_offset(self) -> int:
        """First offset that may be read."""
        return self.log.start_offset

    # Appending

    def append(self, request: AppendRequest) -> None:
        """Append checked batches; ``request.done`` is called when it is acknowledged.

        Raises Refusal if nothing was appended.
        """
        state = self.state
        acks_all = request.acks_all
        state.check_produce(request.leader_epoch, acks_all)
        if acks_all:
            self._hosted.expiry.check(self)
        else:
            self._hosted.check_session()
        if state.waiting >= self._hosted.config.waiters_max:
            raise Refusal(
                "THROTTLED",
                f"{state.waiting} appends of the partition wait already",
                retry_after_ms=self._hosted.config.throttle_retry_ms,
            )
        request.acknowledged_epoch = state.leader_epoch
        request.log_start_offset = self.log.start_offset
        request.log_append_time = self.settings.log_append_time
        new = self._sort_out_repeats(request)
        now_ms = self._hosted.clock.monotonic_ms()
        timeout_ms = request.timeout_ms or self._hosted.config.produce_timeout_ms
        waiter = Waiter(
            self._last_repeated_offset(request),
            state.leader_epoch,
            acks_all,
            now_ms + min(timeout_ms, self._hosted.config.produce_timeout_ms_max),
            partial(self._answer, request),
        )
        if new:
            self._write(request, waiter, new)
        elif state.await_ack(waiter):
            self._answer(request, waiter, None)
        else:
            self._hosted.expiry.expect(self)

    def _sort_out_repeats(self, request: AppendRequest) -> int:
        """How many of the last batches are new; notes where repeated ones stand (21)."""
        batches = request.batches
        if not any(batch.header.producer_id for batch in batches):
            return len(batches)
        verdicts = self.log.check_producers(
            [batch.header for batch in batches], self._hosted.clock.monotonic_ms()
        )
        new = 0
        for verdict in verdicts:
            if verdict.decision is Decision.APPEND:
                new += 1
            elif new or verdict.decision in _REASON_BY_DECISION:
                raise self._sequence_refusal(verdict, batches[0].header.producer_id)
        first = verdicts[0]
        if first.decision is Decision.DUPLICATE_HIT:
            request.base_offset = first.base_offset
            request.append_timestamp_ms = first.append_timestamp_ms or 0
        request.repeats = [verdict for verdict in verdicts if verdict.last_offset is not None]
        request.forgotten = first.decision is Decision.DUPLICATE
        return new

    def _sequence_refusal(self, verdict: Verdict, producer_id: int) -> Refusal:
        reason, message = _REASON_BY_DECISION.get(
            verdict.decision, _REASON_BY_DECISION[Decision.OUT_OF_ORDER]
        )
        return Refusal(reason, f"producer {producer_id}: {message}")

    def _last_repeated_offset(self, request: AppendRequest) -> int:
        if request.forgotten:  # somewhere below the end
            return self.state.end_offset - 1
        return max((verdict.last_offset or 0 for verdict in request.repeats), default=0)

    def _write(self, request: AppendRequest, waiter: Waiter, new: int) -> None:
        hosted = self._hosted
        state = self.state
        batches = request.batches[-new:]
        size = sum(len(batch.data) for batch in batches)
        hosted.take_room(size, essential=self.internal)
        try:
            hosted.writer.admit(size)
            staged = self.log.stage(batches, state.leader_epoch, hosted.clock.wall_ms())
        except StorageError as error:
            raise hosted.note_failure(self, error) from None
        if request.base_offset is None and not request.forgotten:
            request.base_offset = staged.base_offset
            request.append_timestamp_ms = staged.append_timestamp_ms
        request.appended_at_s = hosted.loop_time()
        waiter.last_offset = staged.end_offset - 1
        self.counters.bytes_in += size
        self.counters.records_in += staged.end_offset - staged.base_offset
        if self.log.can_write_now:
            try:
                hosted.writer.write_now(self.log, staged)
            except StorageError as error:
                raise hosted.note_failure(self, error) from None
            state.appended(staged.end_offset)
            synced_end = self.log.synced_end_offset
            self.deliver(state.written(staged.end_offset, synced_end))
        else:
            state.appended(staged.end_offset)
            hosted.writer.submit(self.log, staged, partial(self._written, waiter))
        if state.await_ack(waiter):
            self._answer(request, waiter, None)
        else:
            hosted.expiry.expect(self)

    def _written(self, waiter: Waiter, synced_end: int, error: StorageError | None) -> None:
        if error is not None:
            refusal = self._hosted.note_failure(self, error)
            self.deliver(self.state.cut(self.log.end_offset, refusal))
            if self.state.forget(waiter):
                waiter.reply(waiter, refusal)
            return
        self.deliver(self.state.written(self.log.written_end_offset, synced_end))

    def _answer(self, request: AppendRequest, waiter: Waiter, failure: Refusal | None) -> None:
        hosted = self._hosted
        if failure is not None and request.forgotten:  # what was repeated may well be stored
            failure = Refusal(
                failure.reason,
                failure.message,
                indeterminate=True,
                retry_after_ms=failure.retry_after_ms,
            )
        if failure is None and not waiter.acks_all:
            try:
                hosted.check_session()
            except Refusal as refusal:
                failure = Refusal(refusal.reason, refusal.message, indeterminate=True)
        if failure is None:
            request.durability = self._durability(waiter.acks_all)
            if request.appended_at_s:
                waited_s = hosted.loop_time() - request.appended_at_s
                hosted.counters.stages["replicate"].observe(waited_s)
        request.done(request, failure)

    def _durability(self, acks_all: bool) -> pb.Durability.ValueType:
        if self.state.fsync:
            return pb.DURABILITY_REPLICATED_DISK if acks_all else pb.DURABILITY_LEADER_DISK
        return pb.DURABILITY_REPLICATED_MEMORY if acks_all else pb.DURABILITY_LEADER_MEMORY

    def copied(
        self, end_offset: int, written_end_offset: int, synced_end_offset: int, mark: int
    ) -> None:
        """See ``Partition``; readers hear of what became readable."""
        self.state.copied(end_offset, written_end_offset, synced_end_offset, mark)
        self.deliver([])

    def deliver(self, outcomes: list[Outcome]) -> None:
        """Answer what is decided, then tell the readers what moved."""
        for waiter, failure in outcomes:
            waiter.reply(waiter, failure)
        moved = (self.state.high_watermark, self.log.start_offset)
        if moved != self._published:
            self._published = moved
            for reader in tuple(self.readers):
                reader.moved()
        if self._copies:
            self._tell_copies()

    def lose_readers(self, refusal: Refusal) -> None:
        """Nothing can be read here any more, by followers either."""
        readers, self.readers = tuple(self.readers), {}
        for reader in readers:
            reader.lost(refusal)
        for copy in tuple(self._copies):
            copy.lost(refusal)

    # Followers

    def add_copy(self, copy: Copy) -> None:
        """Tell a follower's session of everything that it must push."""
        if not self._copies:  # it is pushed before the own sync (invariant 13)
            self._hosted.writer.listen(self.log, self._written_unsynced)
        self._copies[copy] = None

    def remove_copy(self, copy: Copy) -> None:
        """Tell it no more."""
        self._copies.pop(copy, None)
        if not self._copies:
            self._hosted.writer.listen(self.log, None)

    def _written_unsynced(self, written_end: int) -> None:
        state = self.state
        if state.leading and written_end > state.written_end_offset:
            self.deliver(state.written(written_end, state.synced_end_offset))

    def _tell_copies(self) -> None:
        state = self.state
        epoch = state.leader_epoch if state.leading else -1
        pushed = (state.written_end_offset, state.high_watermark, self.log.start_offset, epoch)
        if pushed != self._pushed:
            self._pushed = pushed
            for copy in tuple(self._copies):
                copy.moved()

    def refusal_of(self, error: BaseException) -> Refusal:
        """What to tell clients of an error. Where other replicas exist, damage here means that one
        of them takes over: only a sole copy is lost to the client."""
        if isinstance(error, LogDamagedError) and len(self.state.replicas) > 1:
            return Refusal("NOT_LEADER", f"another replica is to lead: {error}")
        return refusal_of(error)

    # Reading

    def check_readable(self) -> None:
        """Refuse unless this replica leads and its log is sound."""
        if self.log.failure is not None:
            raise self.refusal_of(self.log.failure)
        self.state.check_epoch(None)

    def check_fetchable(self, leader_epoch: int | None) -> None:
        """Refuse to be read from unless this replica leads, or copies and is in sync: then it
        serves what it knows to be committed (KIP-392)."""
        if self.log.failure is not None:
            raise self.refusal_of(self.log.failure)
        state = self.state
        in_sync = state.role is Role.FOLLOWING and state.node_id in state.in_sync.committed
        if not in_sync or leader_epoch not in (None, state.leader_epoch):
            state.check_epoch(leader_epoch)

    def check_offset(self, offset: int) -> None:
        """Refuse an offset that can never be read here (invariant 18). What a follower does not
        have, its leader may have (KIP-392)."""
        if offset < self.log.start_offset:
            if self.state.role is Role.FOLLOWING:
                raise Refusal("OFFSET_NOT_AVAILABLE", f"offset {offset} was deleted here")
            raise Refusal(
                "OFFSET_OUT_OF_RANGE",
                f"offset {offset} is below the log start {self.log.start_offset}",
            )
        if offset > self.state.end_offset:
            if self.state.role is Role.FOLLOWING:
                raise Refusal("OFFSET_NOT_AVAILABLE", f"offset {offset} is not copied yet")
            if self.state.high_watermark < self.state.epoch_start_offset:
                raise Refusal(
                    "OFFSET_NOT_AVAILABLE",
                    f"offset {offset} is ahead of what may be read so soon after an election",
                )
            raise Refusal(
                "OFFSET_OUT_OF_RANGE",
                f"offset {offset} is beyond the log end {self.state.end_offset}",
            )

    def truncated_offset(self, last_epoch: int, offset: int) -> int | None:
        """Where a reader's last epoch ends in this log, if its position lies beyond (KIP-320).
        Refuses where only the leader can tell."""
        latest = self.log.epochs.latest
        behind = last_epoch > (latest or 0) or offset > self.state.high_watermark
        if self.state.role is Role.FOLLOWING and behind:
            raise Refusal("OFFSET_NOT_AVAILABLE", f"epoch {last_epoch} is not copied yet")
        end = self.log.epochs.end_of(last_epoch, self.log.end_offset)
        if end is None:  # older than all epochs that are known still: nothing here is of it
            return self.log.start_offset if offset > self.log.start_offset else None
        if end.epoch < last_epoch or end.end_offset < offset:
            return end.end_offset
        return None

    def is_warm(self, offset: int) -> bool:
        """True if reading there is fit for the event loop."""
        return self.log.reads_from_memory(offset)

    def read(self, offset: int, bytes_max: int, stop_offset: int, *, verified: bool = False) -> Run:
        """Batches from the one that holds ``offset``, below the high watermark. A batch that
        reaches beyond ``stop_offset`` is given alone. ``verified``: see ``Log.read``. Any thread.
        Raises StorageError."""
        mark = self.state.high_watermark
        data = self.log.read(offset, bytes_max, min(mark, stop_offset), verified=verified)
        if not data and stop_offset < mark:
            data = self.log.read(offset, 1, mark, verified=verified)
        return measure(data, offset)

    def read_refusal(self, error: BaseException) -> Refusal:
        """What to tell a reader whose read failed."""
        if isinstance(error, OffsetOutOfRangeError):
            following = self.state.role is Role.FOLLOWING  # its leader may have it
            return Refusal("OFFSET_NOT_AVAILABLE" if following else error.reason, str(error))
        if isinstance(error, StorageError):
            return self._hosted.note_failure(self, error)
        return refusal_of(error)

    def end_offset_for_clients(self) -> int:
        """The end offset, only within the session (invariants 3, 18). Raises Refusal."""
        self.check_readable()
        self._hosted.check_session()
        return self.state.readable_end()

    @property
    def online(self) -> bool:
        """True if this replica serves as it should."""
        return self.state.role in (Role.LEADING, Role.FOLLOWING) and self.log.failure is None


def is_disk_full(error: StorageError) -> bool:
    """True if the append may succeed once there is room."""
    return isinstance(error, DiskFullError)
