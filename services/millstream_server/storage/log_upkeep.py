"""What a log does to its files away from the event loop: writing, syncing, removing, cutting.

Functions over a ``Log`` and run by it; they hold the order of steps on which durability rests.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from millstream_server.storage.appends import StagedAppend, StagedBatch
from millstream_server.storage.epochs import EpochHistory
from millstream_server.storage.errors import (
    DirectoryOfflineError,
    LogBusyError,
    LogDamagedError,
    OffsetOutOfRangeError,
    StaleEpochError,
    StorageError,
)
from millstream_server.storage.producers import ProducerTable
from millstream_server.storage.retention import (
    SegmentFacts,
    newest_timestamp_ms,
    start_after_retention,
)
from millstream_server.storage.scan import DamageError, walk_headers
from millstream_server.storage.segment import Segment

if TYPE_CHECKING:
    from millstream_server.storage.log import Log


def write(log: Log, appends: Sequence[StagedAppend]) -> tuple[int, StorageError | None]:
    """Write appends in order; see ``Log.write``. The append lock is held."""
    segments, config, health = log.segments, log.config, log.surroundings.health
    done = 0
    while done < len(appends):
        log.check()
        if segments.must_roll(appends[done], 0, config):
            try:
                segments.roll()
            except OSError as error:
                return done, _refused(log, "making a segment", error)
        run = _run_for_open_segment(log, appends[done:])
        try:
            segments.active.store.reserve(config.preallocate_bytes)
            _append_run(log, run)
            written: int = len(run)
            failure: OSError | None = None
        except OSError as error:
            # Some of them may fit: what the disk takes whole is kept.
            _cut_torn_tail(log, error)
            written, failure = _append_one_by_one(log, run)
        for append in run[:written]:
            log.note_written(append)
        done += written
        if failure is not None:
            return done, _refused(log, "appending", failure)
        health.check()
    return done, None


def _run_for_open_segment(log: Log, appends: Sequence[StagedAppend]) -> list[StagedAppend]:
    run = [appends[0]]
    size = appends[0].size_bytes
    for append in appends[1:]:
        if log.segments.must_roll(append, size, log.config):
            break
        run.append(append)
        size += append.size_bytes
    return run


def _append_run(log: Log, run: Sequence[StagedAppend]) -> None:
    batches: list[StagedBatch] = []
    for append in run:
        batches.extend(append.batches)
    log.segments.active.append(batches, log.config.index_interval_bytes)


def _append_one_by_one(log: Log, run: Sequence[StagedAppend]) -> tuple[int, OSError | None]:
    for written, append in enumerate(run):
        try:
            _append_run(log, [append])
        except OSError as error:
            _cut_torn_tail(log, error)
            return written, error
    return len(run), None


def _cut_torn_tail(log: Log, error: OSError) -> None:
    """No half batch is ever readable (invariant 33). Raises DirectoryOfflineError if the failure
    was one of the device, or the tail cannot be cut."""
    log.check_gone()
    refusal = log.surroundings.health.refusal("appending", error)
    if isinstance(refusal, DirectoryOfflineError):
        raise refusal
    try:
        log.segments.active.store.cut_torn_tail()
    except OSError as cut_error:
        raise log.surroundings.health.fail("cutting a torn tail", cut_error) from cut_error


def _refused(log: Log, action: str, error: OSError) -> StorageError:
    log.check_gone()  # its files were closed or moved under this step: no fault of the disk
    refusal = log.surroundings.health.refusal(action, error)
    if isinstance(refusal, DirectoryOfflineError):
        raise refusal
    return refusal


def begin_epoch(log: Log, epoch: int) -> int:
    """See ``Log.begin_epoch``."""
    history = log.epochs.copy()
    try:
        begun = history.assign(epoch, log.written_end_offset)
    except ValueError as error:
        raise StaleEpochError(str(error)) from None
    if begun:
        log.save_epochs(history)
        log.restart_producer_expiry()
    return log.epochs.entries[-1].start_offset


def sync(log: Log, *, move_recovery_point: bool) -> None:
    """Sync all that is written. A failed sync is fatal, whatever its reason (invariant 32): the
    kernel marks the pages clean. Raises DirectoryOfflineError."""
    health = log.surroundings.health
    health.check()
    generation = log.generation
    rolled = len(log.segments.all) > 1 and (log.segments.active.base_offset > log.recovery_point)
    wanted = move_recovery_point or rolled
    if wanted:
        target, producers = log.written_state()
    else:
        target, producers = log.written_end_offset, ProducerTable()
    try:
        log.segments.sync()
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOENT):
            log.check_gone()
        raise health.fail("syncing a log", error) from error
    log.check_gone()  # what is written by its path from here on would be another log's
    if generation != log.generation and target > log.written_end_offset:
        return
    log.synced_end_offset = max(log.synced_end_offset, target)
    if wanted and target > log.recovery_point:
        try:
            log.segments.flush_indexes()
            log.move_recovery_point(target, producers)
        except OSError as error:
            # No room for a snapshot: the recovery point stays where it is, and is tried again.
            _refused(log, "writing a producer snapshot", error)


def save_points(log: Log) -> None:
    """Make recovery point and start durable. A full disk leaves the old ones, which are lower.
    Raises DirectoryOfflineError."""
    try:
        log.surroundings.points.save()
    except OSError as error:
        _refused(log, "writing recovery points", error)


def retain(log: Log, now_ms: int, end_offset: int) -> int:
    """See ``Log.retain``."""
    _roll_by_age(log, now_ms)
    segments = log.segments.all
    facts = [_facts(log, segment) for segment in segments[:-1]]
    start = start_after_retention(
        facts,
        segments[-1].size,
        log.config,
        start_offset=log.start_offset,
        end_offset=end_offset,
        now_ms=now_ms,
    )
    before = log.size_bytes
    if start > log.start_offset:
        move_start(log, start)
    return before - log.size_bytes


def _roll_by_age(log: Log, now_ms: int) -> None:
    with log.append_lock:
        active = log.segments.active
        if active.size == 0 or active.first_append_ms is None:
            return
        config = log.config
        newest = newest_timestamp_ms(
            active.max_timestamp_ms, active.append_timestamp_ms, config, now_ms
        )
        expired = config.retention_ms is not None and newest < now_ms - config.retention_ms
        if not expired and now_ms - active.first_append_ms < config.segment_ms:
            return
        try:
            log.segments.roll()
        except OSError as error:
            raise _refused(log, "making a segment", error) from error
    sync(log, move_recovery_point=True)
    save_points(log)


def _facts(log: Log, segment: Segment) -> SegmentFacts:
    try:
        segment.load_times(segment.tail.next_offset)
    except (DamageError, FileNotFoundError) as error:
        log.check_gone()
        path = segment.store.path
        damage = LogDamagedError(
            f"{path} is damaged {error}", offset=segment.base_offset, path=path
        )
        log.fail(damage)
        raise damage from error
    except OSError as error:
        raise _refused(log, "reading the times of a segment", error) from error
    return SegmentFacts(
        segment.tail.next_offset,
        segment.size,
        segment.max_timestamp_ms,
        segment.append_timestamp_ms,
    )


def move_start(log: Log, offset: int) -> None:
    """Raise the start of the log: remembered durably before anything is removed. Raises
    DiskFullError, DirectoryOfflineError."""
    _remember_start(log, offset)
    with log.append_lock:
        try:
            trash = log.segments.remove_below(offset)
        except OSError as error:
            log.check_gone()
            raise log.surroundings.health.fail("setting a segment aside", error) from error
        log.forget_written_below(offset)
    log.surroundings.trash(trash)
    history = log.epochs.copy()
    if history.truncate_start(offset):
        log.save_epochs(history)


def _remember_start(log: Log, offset: int) -> None:
    log.put_points(start_offset=offset)
    try:
        log.surroundings.points.save()
    except OSError as error:
        log.put_points()
        raise _refused(log, "writing the log's start", error) from error
    log.start_offset = offset  # not before: followers take over what they are told, durably


@contextmanager
def _cutting(log: Log) -> Iterator[None]:
    """Readers beside it meet files that are half cut: no damage, but too late to read."""
    with log.append_lock:
        log.segments.being_cut = True
        try:
            yield
        finally:
            log.segments.being_cut = False


def _lower_recovery_point(log: Log, offset: int) -> None:
    """A full disk leaves the old one, and the log as it is: the caller's work is tried again."""
    try:
        log.lower_recovery_point(offset)
    except OSError as error:
        raise _refused(log, "lowering the recovery point", error) from error


def truncate(log: Log, offset: int) -> int:
    """See ``Log.truncate_to``."""
    if offset < log.written_end_offset:
        _cut(log, offset)
    try:
        log.surroundings.points.save()  # the start went too, if nothing is left
    except OSError as error:
        raise _refused(log, "writing the log's start", error) from error
    end = log.written_end_offset
    _trim_epochs(log, end)
    return end


def _cut(log: Log, offset: int) -> None:
    health = log.surroundings.health
    interval = log.config.index_interval_bytes
    _lower_recovery_point(log, offset)
    try:
        with _cutting(log):
            if offset >= log.start_offset:
                log.segments.truncate(offset, interval)
            if min(offset, log.segments.active.tail.next_offset) < log.start_offset:
                # Nothing is left to agree with: the log begins anew there (KAFKA-9491).
                log.start_offset = min(offset, log.start_offset)
                log.segments.restart(log.start_offset)
            end = log.segments.active.tail.next_offset
            log.reset_written_state(end, replay_producers(log, end))
    except DamageError as error:
        path = log.segments.active.store.path
        damage = LogDamagedError(f"{path} is damaged {error}", offset=offset, path=path)
        log.fail(damage)
        raise damage from error
    except OSError as error:
        log.check_gone()
        # Half of the cut may be done: only a restart can tell.
        raise health.fail("truncating a log", error) from error
    log.put_points()


def restart(log: Log, offset: int) -> int:
    """Drop everything, durably, and begin anew at an offset beyond the end: the leader has deleted
    what would come next (KAFKA-9491). An empty log may begin anywhere. Nothing may be in flight
    (LogBusyError). Returns the new end.

    Every step leaves a log that a recovery takes up, and that never ends before where it did: the
    new start comes first, then go the bytes, and last the epochs: a leader that has forgotten them
    has this done again as long as they are there.
    """
    log.check()
    if log.in_flight:
        raise LogBusyError(f"{log.in_flight} appends are in flight")
    if offset < log.end_offset != log.start_offset:
        raise OffsetOutOfRangeError(offset, log.start_offset, log.end_offset)
    _lower_recovery_point(log, min(offset, log.start_offset))
    if offset > log.start_offset:
        _remember_start(log, offset)
    try:
        log.snapshots.drop_above(-1)
        with _cutting(log):
            log.segments.remove_all()
            log.start_offset = log.recovery_point = offset
            log.put_points()
            log.surroundings.points.save()
            log.segments.restart(offset)
            log.reset_written_state(offset, ProducerTable())
            log.synced_end_offset = offset
            log.epochs = EpochHistory()  # also if the disk has no room to remember that
        log.save_epochs(log.epochs)
    except OSError as error:
        log.check_gone()
        # Half of it may be done: only a restart of the process can tell.
        raise log.surroundings.health.fail("restarting a log", error) from error
    return offset


def _trim_epochs(log: Log, end_offset: int) -> None:
    """Drop epochs that begin at or beyond the end, also when no record went (KAFKA-10706)."""
    history = log.epochs.copy()
    if history.truncate_end(end_offset):
        log.save_epochs(history)


def replay_producers(log: Log, end_offset: int) -> ProducerTable:
    """The producers as of an offset, from the newest snapshot and the headers behind it, also of
    what was deleted and is still there (21). Raises DamageError, OSError."""
    found = log.snapshots.newest(end_offset)
    first = log.segments.all[0].base_offset
    start, table = found if found is not None else (first, ProducerTable())
    for segment in log.segments.all:
        if segment.tail.next_offset <= start:
            continue
        position = segment.position_of(max(start, segment.base_offset)) if segment.size else 0
        with segment.store.reading() as file:
            for placed in walk_headers(file, position, segment.size):
                if start <= placed.header.base_offset < end_offset:
                    table.apply(placed.header)
    return table
