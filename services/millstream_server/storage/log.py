"""The log of one partition replica: what was appended, under which epochs, by which producers."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from millstream.record import BatchHeader
from millstream_server.runtime.checkpoint import write_checkpoint
from millstream_server.storage import log_upkeep
from millstream_server.storage.appends import IncomingBatch, StagedAppend, StagedBatch
from millstream_server.storage.config import FlushMode, LogConfig
from millstream_server.storage.epochs import EpochHistory
from millstream_server.storage.errors import (
    BatchTooLargeError,
    DirectoryOfflineError,
    LogBusyError,
    LogGoneError,
    MalformedAppendError,
    OffsetOutOfRangeError,
    StaleEpochError,
    StorageError,
)
from millstream_server.storage.log_state import EPOCHS_FILE, LogKey, LogState, LogSurroundings
from millstream_server.storage.points import Points
from millstream_server.storage.producer_snapshot import ProducerSnapshots
from millstream_server.storage.producers import ProducerTable, Verdict
from millstream_server.storage.reading import FoundOffset, LogReader
from millstream_server.storage.staging import stage_as_follower, stage_as_leader


class Log:
    """One partition's log. Made by ``LogDirectory.open`` and ``LogDirectory.create_log``.

    Who may call what: "loop" = the event loop only; "directory" = a job on the directory's
    executor, best through ``DirectoryWriter.run``; "any" = any thread.

    Offsets, from the inside out: recovery_point ≤ synced_end ≤ written_end ≤ end.
    """

    def __init__(
        self,
        key: LogKey,
        path: str,
        config: LogConfig,
        state: LogState,
        surroundings: LogSurroundings,
    ) -> None:
        self.key = key
        self.path = path
        self._config = config
        self._around = surroundings
        self.segments = state.segments
        # First offset that may be read.
        self.start_offset = state.start_offset
        # Offset of the next record to be staged (loop: it includes what is not written yet).
        self.end_offset = state.end_offset
        # End of what is in the file, hence readable by replicas.
        self.written_end_offset = state.end_offset
        # End of what is known to be on the disk since this process looked.
        self.synced_end_offset = state.end_offset
        # Synced end that is remembered across a crash; a recovery scans from here.
        self.recovery_point = state.recovery_point
        # Stepped whenever staged or written offsets are taken back.
        self.generation = 0
        # Staged appends that are neither completed nor failed (loop).
        self.in_flight = 0
        # As of end_offset (loop).
        self.producers = state.producers
        # As of written_end_offset; changes under the append lock.
        self._written_producers = state.producers.copy()
        self.epochs = state.epochs
        self.snapshots = ProducerSnapshots(surroundings.files, path)
        self._own_failure: StorageError | None = state.damage
        self._gone = LogGoneError(f"the log of partition {key.partition} is gone")
        self._unflushed_bytes = 0
        self._forgotten_below = 0
        self._used_ms: dict[int, int] = {}
        # Held while the files of the log are written or its segments change: in page-cache mode
        # appends run on the event loop beside the directory's jobs.
        self.append_lock = Lock()
        # True while its folder is being renamed: what fails beside that is no fault of the disk.
        self.is_moving = False
        # True while ``DirectoryWriter.begin_epoch`` is on its way: nothing may be staged.
        self.epoch_pending = False
        self._reader = LogReader(self)

    # -- facts, any ----------------------------------------------------------------------------
    @property
    def config(self) -> LogConfig:
        """The settings in force."""
        return self._config

    def configure(self, config: LogConfig) -> None:
        """Replace the settings (loop). Raises ValueError."""
        config.validate()
        self._config = config

    @property
    def failure(self) -> StorageError | None:
        """Why nothing can be appended or read any more; None while all is well."""
        return self._own_failure or self._around.health.failure

    def check_gone(self) -> None:
        """Raises LogGoneError if the log was retired, or is about to be."""
        if self.is_moving or self._own_failure is self._gone:
            raise self._gone

    def check(self) -> None:
        """Raises the log's failure."""
        if self.failure is not None:
            raise self.failure

    def fail(self, error: StorageError) -> None:
        """Take this log offline; the first reason stays."""
        self._own_failure = self._own_failure or error

    def retire(self) -> None:
        """Close the files; everything fails with LogGoneError from now on (any)."""
        self._own_failure = self._gone
        for segment in self.segments.all:
            segment.store.retire()

    @property
    def size_bytes(self) -> int:
        """Bytes in the segment files, written so far."""
        return self.segments.size_bytes

    @property
    def segment_count(self) -> int:
        """Number of segment files."""
        return len(self.segments.all)

    @property
    def unflushed_bytes(self) -> int:
        """Bytes written since the recovery point."""
        return self._unflushed_bytes

    @property
    def surroundings(self) -> LogSurroundings:
        """What it shares with the other logs; for the modules of storage."""
        return self._around

    # -- epochs, directory ---------------------------------------------------------------------
    def begin_epoch(self, epoch: int) -> int:
        """Make an epoch the newest, durably, at the end of the log; return the offset it begins at
        (invariant 9). Nothing changes if it is the newest already. Blocks for two syncs: use
        ``DirectoryWriter.begin_epoch`` on the event loop.

        Raises StaleEpochError if a newer one is known, DiskFullError, the log's failure.
        """
        self.check()
        return log_upkeep.begin_epoch(self, epoch)

    def restart_producer_expiry(self) -> None:
        """Count the silence of producers from now on (invariant 22)."""
        self._used_ms = {}

    def save_epochs(self, history: EpochHistory) -> None:
        """Make a history durable, then the log's. Raises DiskFullError, DirectoryOfflineError."""
        try:
            write_checkpoint(self._around.files, f"{self.path}/{EPOCHS_FILE}", history.dump())
        except OSError as error:
            raise self._around.health.refusal("writing the epoch history", error) from error
        self.epochs = history

    # -- appending, loop -----------------------------------------------------------------------
    def check_producers(self, headers: Sequence[BatchHeader], now_ms: int) -> list[Verdict]:
        """The verdicts on batches of one request, as if they were appended one after another
        (invariant 21). ``now_ms`` is monotonic; it serves expiry only, counted from the last
        append or the start of the epoch (invariant 22). Changes nothing of the log's state."""
        self._forget_deleted()
        ids = {header.producer_id for header in headers} - {0}
        limit = now_ms - self._config.producer_expiry_ms
        expired = [one for one in ids if self._used_ms.setdefault(one, now_ms) < limit]
        verdicts = self.producers.check_all(headers, expired)
        for producer_id in ids:
            self._used_ms[producer_id] = now_ms
            if self.producers.get(producer_id) is None:
                del self._used_ms[producer_id]
        return verdicts

    def stage(
        self,
        batches: Sequence[IncomingBatch],
        leader_epoch: int,
        append_timestamp_ms: int,
    ) -> StagedAppend:
        """Assign offsets and take the batches into the producer table; nothing is written yet.

        The append must then be given to ``DirectoryWriter.submit`` or ``write_now``, in the order
        of staging. Raises StaleEpochError unless ``leader_epoch`` is the newest epoch,
        BatchTooLargeError, LogBusyError while an epoch is being begun, and the log's failure.
        """
        self._check_stage(batches, leader_epoch)
        staged = stage_as_leader(
            batches,
            self.producers,
            end_offset=self.end_offset,
            synced_end_offset=self.synced_end_offset,
            leader_epoch=leader_epoch,
            append_timestamp_ms=append_timestamp_ms,
        )
        return self._staged(tuple(staged), append_timestamp_ms)

    def stage_as_follower(self, batches: Sequence[IncomingBatch]) -> StagedAppend:
        """Stage batches of one epoch from the leader, as ``follower.take_frames`` gives them; the
        leader's offsets stay. Raises StaleEpochError unless that epoch is the newest one begun,
        LogBusyError, MalformedAppendError unless they continue the log, and its failure."""
        self._check_stage(batches, batches[0].header.leader_epoch)
        if batches[0].header.base_offset != self.end_offset:
            raise MalformedAppendError(f"the batches do not begin at {self.end_offset}")
        staged = stage_as_follower(
            batches, self.producers, synced_end_offset=self.synced_end_offset
        )
        return self._staged(tuple(staged), batches[-1].header.append_timestamp_ms)

    def _check_stage(self, batches: Sequence[IncomingBatch], leader_epoch: int) -> None:
        self.check()
        if self.epoch_pending:
            raise LogBusyError("a new leader epoch is being begun")
        if leader_epoch != self.epochs.latest:
            raise StaleEpochError(f"epoch {leader_epoch} is not {self.epochs.latest}")
        if not batches:
            raise ValueError("an append has at least one batch")
        for data, _ in batches:
            if len(data) > self._config.max_message_bytes:
                raise BatchTooLargeError(
                    f"batch of {len(data)} bytes is larger than {self._config.max_message_bytes}"
                )
        self._forget_deleted()

    def _staged(self, staged: tuple[StagedBatch, ...], append_timestamp_ms: int) -> StagedAppend:
        base, end = staged[0].base_offset, staged[-1].next_offset
        self.end_offset = end
        self.in_flight += 1
        size = sum(batch.frame_bytes for batch in staged)
        return StagedAppend(self, self.generation, base, end, append_timestamp_ms, size, staged)

    def _forget_deleted(self) -> None:
        if self._forgotten_below < self.start_offset:
            self._forgotten_below = self.start_offset
            silence_ms = self._config.producer_expiry_ms
            for producer_id in self.producers.forget_below(self.start_offset, silence_ms):
                self._used_ms.pop(producer_id, None)

    @property
    def can_write_now(self) -> bool:
        """Ask after staging: true if the append just staged may go through ``write_now``, being in
        page-cache mode and the only one in flight."""
        return self._config.flush_mode is FlushMode.PAGE_CACHE and self.in_flight == 1

    def write_now(self, staged: StagedAppend) -> None:
        """Write an append to the page cache on the event loop; on return
        it counts as written. Raises what ``AppendDone`` would be given; the append is undone
        then."""
        if not self.can_write_now:
            raise LogBusyError("write_now needs page-cache mode and nothing in flight")
        error: StorageError | None
        try:
            written, error = self.write([staged])
        except DirectoryOfflineError as failure:
            written, error = 0, failure
        self.settle(written, error)
        if error is not None:
            raise error

    def settle(self, completed: int, error: StorageError | None) -> None:
        """Account for appends that came back from the disk (loop); on an error everything staged
        behind them is taken back: offsets, producers (invariant 33)."""
        self.in_flight -= completed
        if error is not None:
            self.take_back()

    def take_back(self) -> None:
        """Forget everything that is staged but not written (loop; no write may be running)."""
        with self.append_lock:
            self.generation += 1
            self.in_flight = 0
            self.end_offset = self.written_end_offset
            self.producers = self._written_producers.copy()
            self._forgotten_below = 0

    # -- writing, directory (write: also the loop, in page-cache mode) ---------------------------
    def write(self, appends: Sequence[StagedAppend]) -> tuple[int, StorageError | None]:
        """Write appends in order, rolling where due; returns how many were written and why not
        more. Raises DirectoryOfflineError: then nothing is known of any of them."""
        with self.append_lock:
            return log_upkeep.write(self, appends)

    def note_written(self, append: StagedAppend) -> None:
        """Take an append that stands in the file into the written state (append lock held)."""
        for batch in append.batches:
            if batch.producer is not None:
                self._written_producers.put(*batch.producer)
        self._unflushed_bytes += append.size_bytes
        self.written_end_offset = append.end_offset

    def sync(self) -> None:
        """Sync everything written so far; ``synced_end_offset`` follows. Moves the recovery point
        up when that is due. Raises DirectoryOfflineError."""
        due = self._unflushed_bytes >= self._around.recovery_point_bytes
        log_upkeep.sync(self, move_recovery_point=due)

    def flush(self) -> None:
        """Sync everything written and move the recovery point up, durably. Raises
        DirectoryOfflineError."""
        self.check()
        log_upkeep.sync(self, move_recovery_point=True)
        log_upkeep.save_points(self)

    def written_state(self) -> tuple[int, ProducerTable]:
        """(written end, producers there), consistent with each other."""
        with self.append_lock:
            return self.written_end_offset, self._written_producers.copy()

    def reset_written_state(self, end_offset: int, producers: ProducerTable) -> None:
        """Make another end the log's, after a truncation (append lock held, nothing in flight)."""
        self.generation += 1
        self.in_flight = 0
        self.end_offset = self.written_end_offset = end_offset
        self.synced_end_offset = min(self.synced_end_offset, end_offset)
        self.producers, self._written_producers = producers, producers.copy()
        self._forgotten_below = 0

    def move_recovery_point(self, offset: int, producers: ProducerTable) -> None:
        """Remember that everything below is synced: snapshot, then the point, which ``LogPoints``
        makes durable. Raises OSError."""
        self.snapshots.write(offset, producers)
        self._unflushed_bytes = 0
        self.recovery_point = offset
        self.put_points()

    def lower_recovery_point(self, offset: int) -> None:
        """Forget durably that more than this was synced (invariant 15). Raises OSError."""
        if offset < self.recovery_point:  # a recovery begins where a batch does
            self.recovery_point = self.segments.boundary_below(offset)
        self.put_points()
        self._around.points.save()
        self.snapshots.drop_above(offset)

    def put_points(self, start_offset: int | None = None) -> None:
        """Hand recovery point and start to the directory's checkpoint, not yet durable."""
        start = self.start_offset if start_offset is None else start_offset
        points = Points(self.recovery_point, start)
        self._around.points.put(self.key.folder_name, points)

    def forget_written_below(self, start_offset: int) -> None:
        """Drop producers below the start from the written state (append lock held)."""
        self._written_producers.forget_below(start_offset, self._config.producer_expiry_ms)

    # -- reading, any --------------------------------------------------------------------------
    def read(
        self, offset: int, bytes_max: int, end_offset: int, *, verified: bool = False
    ) -> bytes:
        """Whole frames (``0x7a`` length batch …) from the batch that holds ``offset``, ending at or
        below ``end_offset``: at most ``bytes_max`` bytes, but at least one batch. Empty if there is
        nothing to read below ``end_offset`` yet. The first batch may begin before ``offset``.

        Both checksums are verified below the recovery point and in closed segments (31), or of all
        that is read. Raises OffsetOutOfRangeError, LogDamagedError, and the log's failure.
        """
        return self._reader.read(offset, bytes_max, end_offset, verified=verified)

    def reads_from_memory(self, offset: int) -> bool:
        """True if a read at this offset is cheap enough for the event loop: its position is known
        and its bytes were written lately. All other reads belong on the pool."""
        return offset >= self.recovery_point and self.segments.active.knows_position(offset)

    def find_offset(self, timestamp_ms: int, end_offset: int) -> FoundOffset | None:
        """First record below ``end_offset`` with this timestamp or a later one; None if there is
        none. Reads and may decompress one batch: for the pool. Raises as ``read``."""
        return self._reader.find_offset(timestamp_ms, end_offset)

    # -- upkeep, directory ---------------------------------------------------------------------
    def retain(self, now_ms: int, end_offset: int) -> int:
        """Remove closed segments by time and size, none that reaches beyond ``end_offset``; closes
        the open segment by age. ``now_ms`` is wall time. Returns bytes removed. Raises
        DiskFullError and the log's failure."""
        self.check()
        return log_upkeep.retain(self, now_ms, end_offset)

    def delete_before(self, offset: int) -> int:
        """Move the start up to ``offset``, durably, and remove segments below it. Returns the new
        start. Raises OffsetOutOfRangeError beyond the written end."""
        self.check()
        if offset > self.written_end_offset:
            raise OffsetOutOfRangeError(offset, self.start_offset, self.written_end_offset)
        if offset > self.start_offset:
            log_upkeep.move_start(self, offset)
        return self.start_offset

    def truncate_to(self, offset: int) -> int:
        """Cut the log at a batch boundary at or below ``offset``, durably (invariant 15): recovery
        point first, then files and folder, then epochs and producers. Nothing may be in flight
        (LogBusyError). Returns the new end."""
        self.check()
        if self.in_flight:
            raise LogBusyError(f"{self.in_flight} appends are in flight")
        return log_upkeep.truncate(self, offset)
