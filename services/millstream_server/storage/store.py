"""The bytes of a segment: a file of frames, written at the end and read anywhere.

The open segment keeps one descriptor for writing and reading. A closed segment opens its file for
each read (some 10 µs against the milliseconds of a cold read), so that thousands of segments need
no descriptors, and a file can be removed while it is being read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from millstream_server.runtime.ports import File, Files


class Store:
    """One segment file. Written by one thread at a time, read by any."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self.path = path
        # Bytes that hold whole frames; readers go by the segment's own, published end.
        self.size = 0
        # Bytes of it known to be on the disk.
        self.synced_size = 0
        self._file: File | None = None
        self._allocated = 0
        # Readers of the descriptor; a retired descriptor is closed by the last of them.
        self._readers = 0
        self._retired = False
        self._lock = Lock()

    def create(self) -> None:
        """Make the file, empty, and open it. Its directory entry is not synced yet."""
        self._file = self._files.open(self.path, create=True)
        self._file.truncate(0)
        self.size = self.synced_size = 0

    def open_for_writing(self) -> None:
        """Open a file that exists; its size becomes the store's."""
        if self._file is None:
            self._file = self._files.open(self.path)
            self._retired = False
        self.size = self._file.size()

    def measure(self) -> None:
        """Take the size from a file that stays closed."""
        with self.reading() as file:
            self.size = self.synced_size = file.size()

    @property
    def is_open(self) -> bool:
        """True while it has a descriptor for writing."""
        return self._file is not None and not self._retired

    @property
    def writable(self) -> File:
        """The open file. Raises RuntimeError for a closed segment."""
        if self._file is None:
            raise RuntimeError(f"{self.path} is not open")
        return self._file

    def append(self, buffers: Sequence[bytes | memoryview], size: int) -> None:
        """Write ``size`` bytes at the end. After an OSError call ``cut_torn_tail``."""
        self.writable.write(self.size, buffers)
        self.size += size

    def reserve(self, ahead: int) -> None:
        """Have blocks reserved for more bytes than stand in the file now; does nothing while half
        of ``ahead`` is left."""
        if ahead and self._allocated - self.size < ahead // 2:
            begin = max(self._allocated, self.size)
            self.writable.allocate(begin, ahead)
            self._allocated = begin + ahead

    def cut_torn_tail(self) -> None:
        """Cut what a failed write left behind the last whole append (invariant 33). Raises
        OSError; the file is then unusable."""
        if self.writable.size() != self.size:
            self.writable.truncate(self.size)
            self._allocated = 0

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes and sync it."""
        self.writable.truncate(size)
        self.size = size
        self._allocated = 0
        self.writable.sync()
        self.synced_size = size

    def sync(self) -> None:
        """fdatasync what is written so far. Raises OSError: fatal (invariant 32)."""
        target = self.size
        if self.synced_size < target:
            self.writable.sync()
            self.synced_size = target

    def release_reserve(self) -> None:
        """Give blocks reserved beyond the end back."""
        if self._allocated > self.size:
            self.writable.truncate(self.size)
            self._allocated = 0

    @contextmanager
    def reading(self) -> Iterator[File]:
        """The file for reads, safe against ``retire`` and removal. Raises FileNotFoundError if it
        was removed."""
        with self._lock:
            file = None if self._retired else self._file
            if file is not None:
                self._readers += 1
        if file is None:
            opened = self._files.open(self.path, read_only=True)
            try:
                yield opened
            finally:
                opened.close()
            return
        try:
            yield file
        finally:
            with self._lock:
                self._readers -= 1
                if self._retired and self._readers == 0:
                    self._close(file)

    def retire(self) -> None:
        """Close the descriptor once nobody reads by it."""
        with self._lock:
            self._retired = True
            if self._file is not None and self._readers == 0:
                self._close(self._file)

    def _close(self, file: File) -> None:
        file.close()
        self._file = None
