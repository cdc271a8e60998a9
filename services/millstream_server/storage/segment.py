"""A stretch of a log: one store with its two indexes.

The open segment also remembers where its latest batches stand, so that a read at the tail is one
``pread`` and no search. Appends come from one thread at a time; reads may run on any thread beside
them: ``tail`` is replaced as one tuple after everything that a reader below it needs.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Lock
from typing import NamedTuple

from millstream_server.runtime.ports import File, Files
from millstream_server.storage.appends import StagedBatch
from millstream_server.storage.index_file import IndexDamagedError
from millstream_server.storage.offset_index import OffsetEntry, OffsetIndex
from millstream_server.storage.scan import DamageError, PlacedBatch, scan_buffer, walk_headers
from millstream_server.storage.store import Store
from millstream_server.storage.time_index import NO_TIMESTAMP_MS, TimeEntry, TimeIndex

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
TIME_INDEX_SUFFIX = ".timeindex"
_RECENT_BATCHES_MAX = 4096
# A search that passes more headers than this had no help from its index.
_HOPS_MAX = 512
_REBUILT_INTERVAL_BYTES = 4096


class Tail(NamedTuple):
    """End of what readers may see."""

    next_offset: int
    position: int


def segment_name(base_offset: int) -> str:
    """File name of a segment without suffix: 20 digits, so that names sort by offset."""
    return f"{base_offset:020d}"


class Segment:
    """One segment of a log. Positions and sizes are bytes of the segment file."""

    def __init__(self, files: Files, folder: str, base_offset: int) -> None:
        stem = f"{folder}/{segment_name(base_offset)}"
        self.base_offset = base_offset
        self._files = files
        self._folder = folder
        self._rebuild_lock = Lock()
        self.store = Store(files, stem + LOG_SUFFIX)
        self.offset_index = OffsetIndex(files, stem + INDEX_SUFFIX, base_offset)
        self.time_index = TimeIndex(files, stem + TIME_INDEX_SUFFIX, base_offset)
        self.tail = Tail(base_offset, 0)
        # Largest times so far; those of an empty segment are below every time.
        self.max_timestamp_ms = NO_TIMESTAMP_MS
        self.append_timestamp_ms = NO_TIMESTAMP_MS
        # Append time of the first batch; None in an empty segment.
        self.first_append_ms: int | None = None
        # (positions, base offsets) of the latest batches, both ascending.
        self._recent: tuple[list[int], list[int]] = ([], [])
        self._indexed_position = 0

    @property
    def paths(self) -> tuple[str, str, str]:
        """The segment's files, the store first."""
        return self.store.path, self.offset_index.path, self.time_index.path

    @property
    def size(self) -> int:
        """Bytes of whole frames that readers may see."""
        return self.tail.position

    def create(self) -> None:
        """Make the segment's file, empty; nothing is synced yet. Raises OSError."""
        self.offset_index.clear()
        self.time_index.clear()
        self.store.create()

    def remove(self) -> None:
        """Remove the segment's files; nothing is synced. Raises OSError."""
        self.store.retire()
        for path in self.paths:
            if self._files.exists(path):
                self._files.remove(path)

    # -- writing -----------------------------------------------------------------------------
    def append(self, batches: Sequence[StagedBatch], index_interval: int) -> None:
        """Write batches at the end. After an OSError nothing of them is readable; call
        ``store.cut_torn_tail``."""
        buffers = [buffer for batch in batches for buffer in batch.buffers]
        self.store.append(buffers, sum(batch.frame_bytes for batch in batches))
        tail = self.tail
        positions, bases = self._recent
        for batch in batches:
            self.note(
                OffsetEntry(batch.base_offset, tail.position),
                batch.max_timestamp_ms,
                batch.append_timestamp_ms,
                index_interval,
            )
            positions.append(tail.position)
            bases.append(batch.base_offset)
            tail = Tail(batch.next_offset, tail.position + batch.frame_bytes)
        self.tail = tail
        if len(bases) > _RECENT_BATCHES_MAX:
            half = _RECENT_BATCHES_MAX // 2
            self._recent = (positions[-half:], bases[-half:])

    def note(
        self, entry: OffsetEntry, max_timestamp_ms: int, append_timestamp_ms: int, interval: int
    ) -> None:
        """Take a batch that stands at ``entry`` into the indexes and times."""
        if entry.position and entry.position - self._indexed_position >= interval:
            self.offset_index.add(entry)
            self.time_index.add(
                TimeEntry(entry.offset, self.max_timestamp_ms, self.append_timestamp_ms)
            )
            self._indexed_position = entry.position
        if max_timestamp_ms > self.max_timestamp_ms:
            self.max_timestamp_ms = max_timestamp_ms
        if append_timestamp_ms > self.append_timestamp_ms:
            self.append_timestamp_ms = append_timestamp_ms
        if self.first_append_ms is None:
            self.first_append_ms = append_timestamp_ms

    def note_placed(self, placed: PlacedBatch, interval: int) -> None:
        """Take in a batch found in the file: indexes, times, positions of latest batches, tail."""
        header = placed.header
        entry = OffsetEntry(header.base_offset, placed.position)
        self.note(entry, header.max_timestamp_ms, header.append_timestamp_ms, interval)
        positions, bases = self._recent
        positions.append(placed.position)
        bases.append(header.base_offset)
        if len(bases) > _RECENT_BATCHES_MAX:
            half = _RECENT_BATCHES_MAX // 2
            self._recent = (positions[-half:], bases[-half:])
        self.tail = Tail(header.next_offset, placed.end)

    def finish(self) -> None:
        """Write the indexes of a segment that gets no more appends."""
        self.time_index.add(
            TimeEntry(self.tail.next_offset, self.max_timestamp_ms, self.append_timestamp_ms)
        )
        with suppress(OSError):  # hints: what is missing is found again from the headers
            self.flush_indexes()
        self._recent = ([], [])

    def flush_indexes(self) -> None:
        """Write index entries that stand in memory only. Raises OSError."""
        self.offset_index.flush()
        self.time_index.flush()

    # -- finding -----------------------------------------------------------------------------
    def knows_position(self, offset: int) -> bool:
        """True if the batch that holds the offset is among the latest ones."""
        bases = self._recent[1]
        return bool(bases) and bases[0] <= offset

    def position_of(self, offset: int) -> int:
        """Position of the frame that holds an offset below the tail. Raises DamageError."""
        positions, bases = self._recent
        if bases and bases[0] <= offset:
            return positions[bisect_right(bases, offset) - 1]
        walked = 0
        with self.store.reading() as file:
            for placed in self._walk_to(file, offset):
                if offset < placed.header.base_offset:
                    break
                if offset < placed.header.next_offset:
                    if walked > _HOPS_MAX:
                        self._rebuild_indexes(file)
                    return placed.position
                walked += 1
        raise DamageError(self.size, f"offset {offset} is not where it should be")

    def _walk_to(self, file: File, offset: int) -> Iterator[PlacedBatch]:
        """Batches from the last index entry at or below the offset on. Raises DamageError."""
        position = 0
        try:
            position = self._indexed_position_of(file, offset)
        except IndexDamagedError:
            self._rebuild_indexes(file)
            with suppress(IndexDamagedError):  # damaged again at once: the walk is only longer
                position = self._indexed_position_of(file, offset)
        return walk_headers(file, position, self.size)

    def _indexed_position_of(self, file: File, offset: int) -> int:
        entry = self.offset_index.last_at_or_below(offset)
        if entry is None:
            return 0
        if entry.offset > offset:
            raise IndexDamagedError("the entries are not in order")
        self._check_entry(file, entry, self.size)
        return entry.position

    def _rebuild_indexes(self, file: File) -> None:
        """Make both indexes of a closed segment anew from its headers (invariant 35); those of the
        open one are in memory. Raises DamageError."""
        if self.store.is_open:
            return
        with self._rebuild_lock:
            twin = Segment(self._files, self._folder, self.base_offset)
            for placed in walk_headers(file, 0, self.size):
                twin.note_placed(placed, _REBUILT_INTERVAL_BYTES)
            twin.time_index.add(
                TimeEntry(twin.tail.next_offset, twin.max_timestamp_ms, twin.append_timestamp_ms)
            )
            with suppress(OSError):  # kept in memory then
                self.offset_index.replace(twin.offset_index.pending())
                self.time_index.replace(twin.time_index.pending())

    def _check_entry(self, file: File, entry: OffsetEntry, end: int) -> None:
        try:
            first = next(walk_headers(file, entry.position, end), None)
        except DamageError:
            first = None
        if first is None or first.header.base_offset != entry.offset:
            raise IndexDamagedError(f"no batch {entry.offset} at {entry.position}")

    def read(self, offset: int, bytes_max: int, end_offset: int, verified_end: int) -> bytes:
        """Whole frames from the batch that holds ``offset``, as ``Log.read``; both checksums are
        verified for batches below ``verified_end``. Raises DamageError, FileNotFoundError."""
        tail = self.tail
        positions, bases = self._recent
        if bases and bases[0] <= offset and offset >= verified_end:
            first = bisect_right(bases, offset) - 1
            start = positions[first]
            last = len(bases) if end_offset >= tail.next_offset else None
            end = tail.position
            if last is None:
                # The batch that begins at or below end_offset, but ends beyond it, is left out.
                end = positions[bisect_right(bases, end_offset) - 1]
            if end - start > bytes_max:
                fitting = bisect_right(positions, start + bytes_max) - 1
                if fitting <= first:
                    fitting = first + 1
                if fitting < len(bases) and positions[fitting] < end:
                    end = positions[fitting]
            if end <= start:
                return b""
            with self.store.reading() as file:
                return file.read(start, end - start)
        return self._read_cold(offset, bytes_max, end_offset, verified_end)

    def _read_cold(self, offset: int, bytes_max: int, end_offset: int, verified_end: int) -> bytes:
        start = self.position_of(offset)
        with self.store.reading() as file:
            wanted = bytes_max
            while True:
                length = min(wanted, self.size - start)
                data = file.read(start, length)
                if len(data) < length:  # cut under the log: more of it never comes
                    raise DamageError(start + len(data), "the file ends early")
                used, cut_off = self._usable(data, offset, start, end_offset, verified_end)
                if used or not cut_off:
                    return data if used == len(data) else data[:used]
                # The first batch alone is larger than asked for.
                first = next(walk_headers(file, start, self.size))
                if first.end - start <= len(data):
                    raise DamageError(start, "batch is damaged")
                wanted = first.end - start

    def _usable(
        self, data: bytes, offset: int, start: int, end_offset: int, verified_end: int
    ) -> tuple[int, bool]:
        """(bytes of whole frames that end at or below end_offset, true if a frame was cut off).
        The first one holds ``offset``."""
        used = 0
        for placed in scan_buffer(data, start, verify_below=verified_end):
            if used == 0 and not placed.header.base_offset <= offset < placed.header.next_offset:
                raise DamageError(start, f"offset {offset} is not where it should be")
            if placed.header.next_offset > end_offset:
                return used, False
            used = placed.end - start
        return used, used < len(data)

    # -- loading and rebuilding ----------------------------------------------------------------
    def resume_indexes(self, file: File, end_offset: int, end: int, interval: int) -> None:
        """Take up a segment whose frames below ``end_offset`` are to be trusted: keep the index
        entries that hold, walk the headers behind them. Afterwards ``tail`` is the batch boundary
        at ``end_offset``, or the last one before it. Raises DamageError, OSError."""
        self._forget()
        self.offset_index.open()
        self.time_index.open()
        start = 0
        try:
            self.offset_index.truncate(end_offset)
            last = self.offset_index.last
            self.time_index.truncate(last.offset + 1 if last else self.base_offset)
            if last is not None:
                self._check_entry(file, last, end)
                times = self.time_index.last
                if times is None or times.offset != last.offset:
                    raise IndexDamagedError("the indexes do not end together")
                start = last.position
                self.max_timestamp_ms = times.max_timestamp_ms
                self.append_timestamp_ms = times.append_timestamp_ms
                self.tail = Tail(last.offset, start)
                self._indexed_position = start
                first = next(walk_headers(file, 0, end))
                self.first_append_ms = first.header.append_timestamp_ms
        except IndexDamagedError:
            self._forget(clear_files=True)
            start = 0
        if self.tail.next_offset >= end_offset:
            return
        for placed in walk_headers(file, start, end):
            if placed.header.next_offset > end_offset:
                return
            self.note_placed(placed, interval)
            if placed.header.next_offset == end_offset:
                return  # what follows is not to be trusted, not even read

    def _forget(self, *, clear_files: bool = False) -> None:
        self.tail = Tail(self.base_offset, 0)
        self.max_timestamp_ms = self.append_timestamp_ms = NO_TIMESTAMP_MS
        self.first_append_ms = None
        self._recent = ([], [])
        self._indexed_position = 0
        if clear_files:
            self.offset_index.clear()
            self.time_index.clear()

    def load_times(self, end_offset: int) -> None:
        """Learn the times of a closed segment that ends at ``end_offset`` from its time index, or
        from its headers. Raises DamageError, FileNotFoundError."""
        if self.append_timestamp_ms != NO_TIMESTAMP_MS:
            return
        last = self._closing_entry()
        if last is None or last.offset != end_offset:
            with self.store.reading() as file:
                self._rebuild_indexes(file)
            last = self._closing_entry()
        if last is not None:
            self.max_timestamp_ms = last.max_timestamp_ms
            self.append_timestamp_ms = last.append_timestamp_ms

    def _closing_entry(self) -> TimeEntry | None:
        try:
            return self.time_index.last
        except IndexDamagedError:
            return None

    def truncate(self, offset: int, interval: int) -> None:
        """Cut everything from ``offset`` on and sync. The segment must be open for writing. Raises
        DamageError, OSError."""
        with self.store.writable() as file:
            self.resume_indexes(file, offset, self.store.size, interval)
        self.store.truncate(self.tail.position)

    def walk_from_time(
        self, file: File, timestamp_ms: int, *, by_append_time: bool
    ) -> Iterator[PlacedBatch]:
        """Batches from the last one that is known to be too early on. Raises DamageError."""
        position = 0
        try:
            entry = self.time_index.last_below_time(timestamp_ms, by_append_time=by_append_time)
            if entry is not None and entry.offset < self.tail.next_offset:
                position = self.position_of(entry.offset)
        except IndexDamagedError:
            pass
        return walk_headers(file, position, self.size)
