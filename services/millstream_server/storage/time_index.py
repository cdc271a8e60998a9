"""Which times a segment holds up to an offset: sparse, a hint (invariant 35).

::

    <base offset>.timeindex   entries of 28 bytes, little-endian
    u64  offset
    i64  largest producer's timestamp of the segment's batches below that offset
    i64  largest append timestamp of those batches
    u32  CRC-32C of the segment's base offset and the 24 bytes before

Both times never descend. A search for a time begins at the last entry that is below it: no batch
before that entry's offset can hold the time. When a segment is closed, an entry at its end offset
tells the times of the whole segment.
"""

from typing import NamedTuple

from millstream_server.runtime.ports import Files
from millstream_server.storage.index_file import IndexFile

# Below every timestamp: the times of no batch at all.
NO_TIMESTAMP_MS = -(1 << 63)


class TimeEntry(NamedTuple):
    """Times of all batches below an offset, milliseconds since 1970 UTC."""

    offset: int
    max_timestamp_ms: int
    append_timestamp_ms: int


class TimeIndex(IndexFile[TimeEntry]):
    """Time index of one segment."""

    def __init__(self, files: Files, path: str, base_offset: int) -> None:
        super().__init__(files, path, base_offset, "<Qqq", TimeEntry)

    def last_below_time(self, timestamp_ms: int, *, by_append_time: bool) -> TimeEntry | None:
        """The last entry with a time below this one. Raises IndexDamagedError."""
        field = 2 if by_append_time else 1
        found = None
        for entry in self.entries():
            if entry[field] >= timestamp_ms:
                break
            found = entry
        return found
