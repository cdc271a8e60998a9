"""A file of fixed-width entries, each with its own checksum, ascending by its first number.

Indexes are hints (invariant 35). An entry that fails its checksum is met as ``IndexDamagedError``,
upon which the index is rebuilt from the log; a file that ends early is only less helpful. The
checksum is seeded with the segment's base offset, so that a file of another segment does not pass.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import google_crc32c

from millstream_server.runtime.ports import File, Files

_CRC = struct.Struct("<I")


class IndexDamagedError(Exception):
    """The index does not help: an entry is wrong."""


Entry = TypeVar("Entry", bound=NamedTuple)


class IndexFile(Generic[Entry]):
    """Entries of one index. The last ones may not be in the file yet; they are kept in memory.

    Written by one thread at a time; ``last_at_or_below`` may run beside it on any thread.
    """

    def __init__(
        self, files: Files, path: str, base_offset: int, layout: str, make: type[Entry]
    ) -> None:
        self._files = files
        self.path = path
        self._layout = struct.Struct(layout)
        self._width = self._layout.size + _CRC.size
        self._make = make
        self._seed = google_crc32c.value(base_offset.to_bytes(8, "little"))
        # Entries in the file, and those that follow but stand in memory only. One tuple, so that
        # readers see both change at once.
        # None until the file was looked at.
        self._loaded: tuple[int, list[Entry]] | None = None
        # In page-cache mode entries come from the event loop while a background job flushes.
        self._lock = Lock()

    @property
    def _state(self) -> tuple[int, list[Entry]]:
        if self._loaded is None:
            self._loaded = (self._entries_in_file(), [])
        return self._loaded

    @_state.setter
    def _state(self, state: tuple[int, list[Entry]]) -> None:
        self._loaded = state

    def _entries_in_file(self) -> int:
        if not self._files.exists(self.path):
            return 0
        with self._reading() as file:
            return file.size() // self._width

    @property
    def entry_count(self) -> int:
        """Entries in the file and in memory."""
        in_file, pending = self._state
        return in_file + len(pending)

    @property
    def last(self) -> Entry | None:
        """The last entry. Raises IndexDamagedError."""
        in_file, pending = self._state
        if pending:
            return pending[-1]
        return self._read(in_file - 1, 1)[0] if in_file else None

    def open(self) -> None:
        """Take in anew what the file holds; a missing file counts as empty."""
        self._loaded = None

    def clear(self) -> None:
        """Begin without entries; a file left behind by another segment is removed. Raises
        OSError."""
        if self._files.exists(self.path):
            self._files.remove(self.path)
        self._loaded = (0, [])

    def pending(self) -> list[Entry]:
        """Entries that stand in memory only."""
        return list(self._state[1])

    def add(self, entry: Entry) -> None:
        """Append an entry, in memory."""
        with self._lock:
            self._state[1].append(entry)

    def flush(self) -> None:
        """Write the entries in memory to the file, without a sync. Raises OSError."""
        with self._lock:
            in_file, pending = self._state
            if pending:
                self._write(in_file, pending)
                self._state = (in_file + len(pending), [])

    def replace(self, entries: Iterable[Entry]) -> None:
        """Write the whole file anew. Raises OSError."""
        items = list(entries)
        with self._lock:
            self._state = (0, items)
            self._write(0, items, cut=True)
            self._state = (len(items), [])

    def truncate(self, key_end: int) -> None:
        """Drop the entries whose first number is ``key_end`` or larger. Raises IndexDamagedError,
        OSError."""
        with self._lock:
            in_file, pending = self._state
            keep = [entry for entry in pending if entry[0] < key_end]
            if in_file:
                count = self._count_below(key_end, in_file)
                if count < in_file:
                    self._write(count, [], cut=True)
                    in_file = count
            self._state = (in_file, keep)

    def last_at_or_below(self, key: int) -> Entry | None:
        """The last entry whose first number is at most ``key``. Raises IndexDamagedError."""
        in_file, pending = self._state
        if pending and pending[0][0] <= key:
            return pending[bisect_right(pending, key, key=_first) - 1]
        count = self._count_below(key + 1, in_file) if in_file else 0
        return self._read(count - 1, 1)[0] if count else None

    def entries(self) -> list[Entry]:
        """All entries. Raises IndexDamagedError."""
        in_file, pending = self._state
        return [*(self._read(0, in_file) if in_file else []), *pending]

    def _count_below(self, key_end: int, count: int) -> int:
        low, high = 0, count
        with self._reading() as file:
            while low < high:
                middle = (low + high) // 2
                if self._decode(file, middle, 1)[0][0] < key_end:
                    low = middle + 1
                else:
                    high = middle
        return low

    def _read(self, first: int, count: int) -> list[Entry]:
        with self._reading() as file:
            return self._decode(file, first, count)

    @contextmanager
    def _reading(self) -> Iterator[File]:
        try:
            file = self._files.open(self.path, read_only=True)
        except FileNotFoundError:
            raise IndexDamagedError(f"{self.path} is missing") from None
        try:
            yield file
        finally:
            file.close()

    def _decode(self, file: File, first: int, count: int) -> list[Entry]:
        data = file.read(first * self._width, count * self._width)
        if len(data) != count * self._width:
            raise IndexDamagedError(f"{self.path} ends early")
        out = []
        for start in range(0, len(data), self._width):
            body = data[start : start + self._layout.size]
            (crc,) = _CRC.unpack_from(data, start + self._layout.size)
            if google_crc32c.extend(self._seed, body) != crc:
                raise IndexDamagedError(f"{self.path} has a wrong entry")
            out.append(self._make(*self._layout.unpack(body)))
        return out

    def _write(self, first: int, entries: list[Entry], *, cut: bool = False) -> None:
        data = bytearray()
        for entry in entries:
            body = self._layout.pack(*entry)
            data += body + _CRC.pack(google_crc32c.extend(self._seed, body))
        file = self._files.open(self.path, create=True)
        try:
            file.write(first * self._width, [bytes(data)])
            if cut:
                file.truncate(first * self._width + len(data))
        finally:
            file.close()


def _first(entry: NamedTuple) -> int:
    first: int = entry[0]
    return first
