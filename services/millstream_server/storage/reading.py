"""Reads of a log: which segment, what a failure means, and looking an offset up by time."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from millstream.record import (
    CorruptRecordsError,
    DecompressionError,
    UnsupportedCodecError,
    decompress,
    parse_records,
    verify_batch,
)
from millstream_server.storage.errors import (
    LogDamagedError,
    OffsetOutOfRangeError,
    StorageError,
)
from millstream_server.storage.scan import DamageError, PlacedBatch
from millstream_server.storage.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from millstream_server.runtime.ports import File
    from millstream_server.storage.log import Log

T = TypeVar("T")


class FoundOffset(NamedTuple):
    """The first record at or after a time."""

    offset: int
    timestamp_ms: int


class LogReader:
    """The reading side of one log. Any thread."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def read(self, offset: int, bytes_max: int, end_offset: int, *, verified: bool) -> bytes:
        """See ``Log.read``."""
        log = self._log
        log.check()
        written = log.written_end_offset
        if offset < log.start_offset or offset > written:
            raise OffsetOutOfRangeError(offset, log.start_offset, min(end_offset, written))
        end_offset = min(end_offset, written)
        if offset >= end_offset:
            return b""
        segment = log.segments.holding(offset)
        if segment.base_offset > offset:  # retention took the segment since the check above
            raise OffsetOutOfRangeError(offset, log.start_offset, end_offset)
        # What is appended to no more may have left the page cache, though the recovery point, which
        # moves with the next sync, is below it still.
        closed = segment is not log.segments.active
        verified_end = end_offset if verified or closed else log.recovery_point
        return self._guarded(
            segment,
            offset,
            lambda: segment.read(offset, bytes_max, end_offset, verified_end),
        )

    def _guarded(self, segment: Segment, offset: int, action: Callable[[], T]) -> T:
        """Run a read; tell removal and truncation beside it from damage and device errors."""
        log = self._log
        generation = log.generation
        try:
            return action()
        except FileNotFoundError as error:
            log.check_gone()
            log.check()
            self._check_not_cut(generation)
            if segment.base_offset < log.start_offset:
                end = log.written_end_offset
                raise OffsetOutOfRangeError(offset, log.start_offset, end) from None
            raise self._damaged(segment, offset, f"{segment.store.path} is missing") from error
        except DamageError as error:
            log.check()
            self._check_not_cut(generation)
            raise self._damaged(segment, offset, str(error)) from error
        except OSError as error:
            if error.errno == errno.EBADF and log.failure is not None:
                raise log.failure from None
            raise log.surroundings.health.refusal("reading", error) from error

    def _check_not_cut(self, generation: int) -> None:
        if self._log.segments.being_cut or generation != self._log.generation:
            raise StorageError("the log was truncated while it was read") from None

    def _damaged(self, segment: Segment, offset: int, text: str) -> LogDamagedError:
        """Rot below what was synced: the log goes offline, nothing is changed (invariant 34)."""
        path = segment.store.path
        error = LogDamagedError(f"{path} is damaged {text}", offset=offset, path=path)
        self._log.fail(error)
        return error

    def find_offset(self, timestamp_ms: int, end_offset: int) -> FoundOffset | None:
        """See ``Log.find_offset``."""
        log = self._log
        log.check()
        end_offset = min(end_offset, log.written_end_offset)
        segments = log.segments.all
        for number, segment in enumerate(segments):
            is_open = number + 1 == len(segments)
            found = self._guarded(
                segment,
                segment.base_offset,
                lambda segment=segment, is_open=is_open: (  # type: ignore[misc]
                    self._find_in(segment, is_open, timestamp_ms, end_offset)
                ),
            )
            if found is not None:
                return found
        return None

    def _find_in(
        self, segment: Segment, is_open: bool, timestamp_ms: int, end_offset: int
    ) -> FoundOffset | None:
        by_append = self._log.config.log_append_time
        if not is_open:
            segment.load_times(segment.tail.next_offset)
        newest = segment.append_timestamp_ms if by_append else segment.max_timestamp_ms
        if newest < timestamp_ms:
            return None
        start = self._log.start_offset
        with segment.store.reading() as file:
            for placed in segment.walk_from_time(file, timestamp_ms, by_append_time=by_append):
                header = placed.header
                if header.next_offset > end_offset:
                    return None
                if header.next_offset <= start:
                    continue
                time = header.append_timestamp_ms if by_append else header.max_timestamp_ms
                if time < timestamp_ms or header.is_control:
                    continue
                if by_append:
                    return FoundOffset(max(start, header.base_offset), time)
                found = _find_in_batch(file, placed, timestamp_ms, start)
                if found is not None:
                    return found
        return None


def _find_in_batch(
    file: File, placed: PlacedBatch, timestamp_ms: int, start_offset: int
) -> FoundOffset | None:
    """The first record of a batch with this timestamp or a later one. Raises DamageError."""
    header = placed.header
    batch = file.read(placed.end - header.size, header.size)
    try:
        verify_batch(batch, header)
        payload = decompress(header.codec, batch[header.payload_start :])
        records = parse_records(payload, header.record_count)
    except UnsupportedCodecError:
        return FoundOffset(max(start_offset, header.base_offset), header.base_timestamp_ms)
    except (ValueError, CorruptRecordsError, DecompressionError) as error:
        raise DamageError(placed.position, str(error)) from None
    deltas = memoryview(records.timestamp_deltas_ms).cast("i") if header.record_count else ()
    offsets = memoryview(records.offset_deltas).cast("I") if records.offset_deltas else None
    for index in range(header.record_count):
        timestamp = header.base_timestamp_ms + (deltas[index] if deltas else 0)
        offset = header.base_offset + (offsets[index] if offsets else index)
        if timestamp >= timestamp_ms and offset >= start_offset:
            return FoundOffset(offset, timestamp)
    return None
