"""Taking a log up after a stop, clean or not (invariant 34).

After an unclean stop the files from the recovery point on and their folder are synced and their
cached pages dropped, so that what is scanned is what the disk holds. Then every batch from the
recovery point on is verified. The first damage, at offset E, is judged by what stands behind it:

- below the recovery point, or a later header with a right ``header_crc`` says that this replica had
  synced beyond E: **rot**. Nothing is changed, the log is offline;
- otherwise a **torn tail**: no synced byte is among it, it is cut.

Below the recovery point nothing is scanned: the cost is O(bytes above it).

A log that is marked as damaged is offline from the start; one that is marked as cut lost its tail
in a recovery that nobody has heard of (see ``log_mark.py``).

Only when an operator orders it, rot is cut too, with everything behind it: then the whole log is
verified, and what remains is sound.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from millstream_server.runtime.checkpoint import (
    CorruptCheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from millstream_server.runtime.ports import File, Files
from millstream_server.storage.config import LogConfig
from millstream_server.storage.epochs import EpochHistory
from millstream_server.storage.errors import LogDamagedError
from millstream_server.storage.health import is_refusal
from millstream_server.storage.log_mark import MARK_FILE, read_mark, remove_mark
from millstream_server.storage.log_state import EPOCHS_FILE, LogState
from millstream_server.storage.points import Points
from millstream_server.storage.producer_snapshot import ProducerSnapshots
from millstream_server.storage.producers import ProducerTable
from millstream_server.storage.scan import (
    DamageError,
    PlacedBatch,
    find_headers,
    scan_batches,
    walk_headers,
)
from millstream_server.storage.segment import LOG_SUFFIX, Segment, Tail
from millstream_server.storage.segments import SegmentList

_REPORT_BYTES = 8 * 1024 * 1024
_NO_EPOCHS = EpochHistory().dump()


@dataclass(frozen=True, slots=True)
class RecoveredLog:
    """A log as it was found, and what it cost."""

    state: LogState
    # Bytes of segments read and verified.
    scanned_bytes: int
    # Bytes of a torn tail that were cut.
    cut_bytes: int
    # True if a tail was cut, now or in an earlier recovery that the controller has not heard of.
    lost_tail: bool


class LogRecovery:
    """The recovery of one log; used once. ``run`` raises OSError, which is fatal."""

    def __init__(
        self,
        files: Files,
        folder: str,
        config: LogConfig,
        points: Points | None,
        *,
        clean: bool,
        cut_rot: bool = False,
        report: Callable[[int], None] = lambda _: None,
        before_cut: Callable[[], None] = lambda: None,
    ) -> None:
        """``points`` are None where they are not known: a log that was just made, or one whose
        points were lost. ``report`` is told how many more bytes were scanned; ``before_cut`` that
        a torn tail is about to be cut. ``cut_rot``: an operator's order to begin with what is
        sound."""
        self._files = files
        self._folder = folder
        self._config = config
        self._points = points
        self._clean = clean and points is not None
        self._cut_rot = cut_rot
        self._report = report
        self._before_cut = before_cut
        self._snapshots = ProducerSnapshots(files, folder)
        self._segments: list[Segment] = []
        self._start_offset = points.start_offset if points else 0
        self._recovery_point = points.recovery_point if points else 0
        self._producers = ProducerTable()
        self._epochs = EpochHistory()
        self._epochs_payload: bytes | None = None
        self._end_offset = 0
        self._scanned_bytes = self._unreported_bytes = self._cut_bytes = 0
        self._lost_tail = False

    def run(self) -> RecoveredLog:
        """Recover; the result is ready for appends unless it has damage."""
        damage: LogDamagedError | None = None
        try:
            self._load()
        except DamageError as error:
            path = self._segments[0].store.path if self._segments else self._folder
            damage = self._rot(path, str(error), self._end_offset)
        except _RotFoundError as error:
            damage = error.damage
        self._report(self._unreported_bytes)
        recovery_point = self._recovery_point
        if damage is None:
            self._finish()
            if self._write_checkpoints():
                recovery_point = self._end_offset
            if self._cut_rot:
                remove_mark(self._files, self._folder)
        else:
            for segment in self._segments:
                segment.store.retire()
            self._segments = self._segments or [Segment(self._files, self._folder, 0)]
        state = LogState(
            SegmentList(self._files, self._folder, self._segments),
            self._start_offset,
            self._end_offset,
            recovery_point,
            self._epochs,
            self._producers,
            damage,
        )
        return RecoveredLog(state, self._scanned_bytes, self._cut_bytes, self._lost_tail)

    # -- what is there ---------------------------------------------------------------------------
    def _load(self) -> None:
        names = self._files.list_directory(self._folder)
        stems = [name.removesuffix(LOG_SUFFIX) for name in names if name.endswith(LOG_SUFFIX)]
        bases = sorted(int(stem) for stem in stems if stem.isdecimal())
        self._end_offset = self._recovery_point
        mark = read_mark(self._files, self._folder) if MARK_FILE in names else None
        self._lost_tail = mark is not None
        if mark is not None and mark.rot is not None and not self._cut_rot:
            self._end_offset = max(mark.rot.offset, self._start_offset)
            raise _RotFoundError(mark.rot)
        if not bases:
            if self._recovery_point > self._start_offset and not self._cut_rot:
                raise self._rot_error(self._folder, "all segment files are missing")
            self._load_epochs(0)
            self._begin_new(self._start_offset)
            return
        bases = self._remove_deleted(bases)
        self._segments = [Segment(self._files, self._folder, base) for base in bases]
        if self._points is None or self._cut_rot:
            self._start_offset = max(self._start_offset, bases[0])
            self._recovery_point = self._end_offset = bases[0]
        if bases[0] > self._start_offset:
            path = self._segments[0].store.path
            raise self._rot_error(path, f"segments below offset {bases[0]} are missing")
        self._recovery_point = max(self._recovery_point, bases[0])
        first = max(i for i, base in enumerate(bases) if base <= self._recovery_point)
        for number, segment in enumerate(self._segments[:first]):
            segment.store.measure()
            segment.tail = Tail(bases[number + 1], segment.store.size)
        if not (self._clean and self._resume_clean(first)):
            self._clean = False
            self._sync_and_drop_cache(first)
            self._resume(first)
            self._scan(first)
            if self._end_offset < self._start_offset:
                self._begin_anew()

    def _remove_deleted(self, bases: list[int]) -> list[int]:
        """Remove segments that end at or below the start: their renaming was lost in a crash."""
        while len(bases) > 1 and bases[1] <= self._start_offset:
            Segment(self._files, self._folder, bases[0]).remove()
            bases = bases[1:]
        return bases

    def _begin_new(self, offset: int) -> None:
        # What is known of producers may come from records that this log was told to drop.
        self._snapshots.drop_above(-1)
        self._producers = ProducerTable()
        segment = Segment(self._files, self._folder, offset)
        segment.create()
        self._files.sync_directory(self._folder)
        self._segments = [segment]
        self._end_offset = offset
        self._epochs.truncate_start(offset)

    def _begin_anew(self) -> None:
        """Nothing that is left reaches the start, which was made durable before the records that it
        is among were: those that were deleted do not come back (KAFKA-9491)."""
        if not self._cut_rot:
            self._before_cut()
            self._lost_tail = True
        self._cut_bytes += sum(segment.store.size for segment in self._segments)
        SegmentList(self._files, self._folder, self._segments).remove_all()
        self._begin_new(self._start_offset)

    def _sync_and_drop_cache(self, first: int) -> None:
        for segment in self._segments[first:]:
            segment.store.open_for_writing()
            with segment.store.writable() as file:
                file.sync()
                file.drop_cache()
        self._files.sync_directory(self._folder)

    # -- below the recovery point: trusted, not scanned --------------------------------------------
    def _resume_clean(self, first: int) -> bool:
        """Take up a log that was left cleanly; False if it does not look so."""
        if first != len(self._segments) - 1:
            return False
        active = self._segments[first]
        active.store.open_for_writing()
        try:
            self._resume(first)
        except (DamageError, _RotFoundError):
            return False
        return active.tail == Tail(self._recovery_point, active.store.size)

    def _resume(self, first: int) -> None:
        """Take up the segment that holds the recovery point, up to there, with the producers and
        epochs as of there. Damage below is rot."""
        segment = self._segments[first]
        size, point = segment.store.size, self._recovery_point
        try:
            with segment.store.writable() as file:
                segment.resume_indexes(file, point, size, self._config.index_interval_bytes)
        except DamageError as error:
            raise self._rot_error(segment.store.path, str(error)) from None
        if segment.tail.next_offset != point:
            text = f"the log ends at {segment.tail.next_offset}, but was synced up to {point}"
            raise self._rot_error(segment.store.path, text, segment.tail.next_offset)
        self._end_offset = point
        self._load_producers(first)
        self._load_epochs(first)

    def _load_producers(self, first: int) -> None:
        found = self._snapshots.newest(self._recovery_point)
        first_base = self._segments[0].base_offset  # also what was deleted and is still there (21)
        start, self._producers = found if found else (first_base, ProducerTable())
        for placed in self._headers(first, start):
            self._producers.apply(placed.header)

    def _load_epochs(self, first: int) -> None:
        try:
            payload = read_checkpoint(self._files, f"{self._folder}/{EPOCHS_FILE}")
            if payload is not None:
                self._epochs = EpochHistory.load(payload)
                self._epochs_payload = payload
                return
        except (CorruptCheckpointError, ValueError):
            pass
        # Rebuilt from the headers (invariant 15).
        self._epochs = EpochHistory()
        for placed in self._headers(first, self._start_offset):
            self._take_epoch(placed)

    def _headers(self, first: int, start: int) -> Iterator[PlacedBatch]:
        """Headers of all batches from ``start`` up to the recovery point."""
        if start >= self._recovery_point:
            return
        for segment in self._segments[: first + 1]:
            if segment.tail.next_offset <= start or not segment.size:
                continue
            try:
                position = segment.position_of(max(start, segment.base_offset))
                with segment.store.reading() as file:
                    for placed in walk_headers(file, position, segment.size):
                        if placed.header.base_offset >= start:
                            yield placed
            except DamageError as error:
                raise self._rot_error(segment.store.path, str(error)) from None

    def _take_epoch(self, placed: PlacedBatch) -> None:
        latest = self._epochs.latest
        if latest is None or placed.header.leader_epoch > latest:
            self._epochs.assign(placed.header.leader_epoch, placed.header.base_offset)

    # -- above the recovery point: every byte is verified ------------------------------------------
    def _scan(self, first: int) -> None:
        for number in range(first, len(self._segments)):
            segment = self._segments[number]
            if number > first and segment.base_offset != self._end_offset:
                previous = self._segments[number - 1]
                self._judge(number - 1, previous.tail.position, "a segment is missing behind")
                return
            try:
                with segment.store.writable() as file:
                    if number > first:
                        interval = self._config.index_interval_bytes
                        segment.resume_indexes(file, self._end_offset, 0, interval)
                    self._scan_segment(segment, file, segment.store.size)
            except DamageError as error:
                self._judge(number, segment.tail.position, str(error))
                return

    def _scan_segment(self, segment: Segment, file: File, size: int) -> None:
        for placed in scan_batches(file, segment.tail.position, size):
            header = placed.header
            if header.base_offset != self._end_offset:
                text = f"offset {header.base_offset} instead of {self._end_offset}"
                raise DamageError(placed.position, text)
            segment.note_placed(placed, self._config.index_interval_bytes)
            self._producers.apply(header)
            self._take_epoch(placed)
            self._end_offset = header.next_offset
            self._count(placed.end - placed.position)

    def _count(self, size: int) -> None:
        self._scanned_bytes += size
        self._unreported_bytes += size
        if self._unreported_bytes >= _REPORT_BYTES:
            self._report(self._unreported_bytes)
            self._unreported_bytes = 0

    def _judge(self, number: int, position: int, text: str) -> None:
        """Damage at a position of a segment, where offset ``_end_offset`` should begin: rot, or a
        torn tail, which is cut."""
        if self._cut_rot:
            self._cut(number, position)
            return
        damaged, begin = self._segments[number], position
        for segment in self._segments[number:]:
            with segment.store.writable() as file:
                for found in find_headers(file, begin, segment.store.size):
                    if found.synced_end_offset > self._end_offset:
                        text += f"; a batch at byte {found.position} of {segment.store.path} "
                        text += f"was written when {found.synced_end_offset} was synced"
                        raise self._rot_error(damaged.store.path, text, self._end_offset)
            self._count(max(0, segment.store.size - begin))
            begin = 0
        self._before_cut()
        self._lost_tail = True
        self._cut(number, position)

    def _cut(self, number: int, position: int) -> None:
        for segment in reversed(self._segments[number + 1 :]):
            self._cut_bytes += segment.store.size
            segment.remove()
        del self._segments[number + 1 :]
        self._files.sync_directory(self._folder)
        store = self._segments[number].store
        self._cut_bytes += store.size - position
        store.truncate(position)

    # -- ready for appends -------------------------------------------------------------------------
    def _finish(self) -> None:
        for segment in self._segments[:-1]:
            if segment.store.is_open:
                segment.finish()
                segment.store.retire()
        active = self._segments[-1]
        active.store.open_for_writing()
        with suppress(OSError):  # hints
            active.flush_indexes()
        for segment in self._segments:
            segment.store.synced_size = segment.store.size
        # An epoch may have begun at an end that was cut since.
        known = (one for one in self._epochs.entries if one.start_offset <= self._end_offset)
        self._epochs = EpochHistory(known)

    def _write_checkpoints(self) -> bool:
        """Remember what was found, so that the next start need not look. False on a full disk:
        the log can be read all the same, the recovery point stays where it was."""
        try:
            self._snapshots.drop_above(self._end_offset)
            newest = self._snapshots.newest(self._end_offset)
            if newest is None or newest[0] != self._end_offset:
                self._snapshots.write(self._end_offset, self._producers)
            payload = self._epochs.dump()
            if payload != (self._epochs_payload or _NO_EPOCHS):
                write_checkpoint(self._files, f"{self._folder}/{EPOCHS_FILE}", payload)
        except OSError as error:
            if not is_refusal(error):
                raise
            return False
        return True

    def _rot_error(self, path: str, text: str, offset: int | None = None) -> "_RotFoundError":
        return _RotFoundError(self._rot(path, text, self._end_offset if offset is None else offset))

    def _rot(self, path: str, text: str, offset: int) -> LogDamagedError:
        self._end_offset = offset
        return LogDamagedError(
            f"{path} is damaged: {text}; the log is offline and nothing was changed",
            offset=offset,
            path=path,
        )


class _RotFoundError(Exception):
    def __init__(self, damage: LogDamagedError) -> None:
        super().__init__(str(damage))
        self.damage = damage
