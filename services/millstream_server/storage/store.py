"""The bytes of a segment: a file of frames, written at the end and read anywhere.

The open segment keeps one descriptor for writing and reading. A closed segment opens its file for
each read (some 10 µs against the milliseconds of a cold read), so that thousands of segments need
no descriptors, and a file can be removed while it is being read.
"""

import errno
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
        # Threads that use the descriptor now; a retired one is closed by the last of them.
        self._users = 0
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

    @contextmanager
    def writable(self) -> Iterator[File]:
        """The open file, kept open for as long as it is used. Raises OSError (EBADF) for a
        segment that was closed."""
        with self._lock:
            file = None if self._retired else self._file
            if file is None:
                raise OSError(errno.EBADF, f"{self.path} is closed")
            self._users += 1
        try:
            yield file
        finally:
            self._leave(file)

    def append(self, buffers: Sequence[bytes | memoryview], size: int) -> None:
        """Write ``size`` bytes at the end. After an OSError call ``cut_torn_tail``."""
        with self.writable() as file:
            file.write(self.size, buffers)
        self.size += size

    def reserve(self, ahead: int) -> None:
        """Have blocks reserved for more bytes than stand in the file now; does nothing while half
        of ``ahead`` is left."""
        if ahead and self._allocated - self.size < ahead // 2:
            begin = max(self._allocated, self.size)
            with self.writable() as file:
                file.allocate(begin, ahead)
            self._allocated = begin + ahead

    def cut_torn_tail(self) -> None:
        """Cut what a failed write left behind the last whole append (invariant 33). Raises
        OSError; the file is then unusable."""
        with self.writable() as file:
            if file.size() != self.size:
                file.truncate(self.size)
                self._allocated = 0

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes and sync it."""
        with self.writable() as file:
            file.truncate(size)
            self.size = size
            self._allocated = 0
            file.sync()
        self.synced_size = size

    def sync(self) -> None:
        """fdatasync what is written so far. Raises OSError: fatal (invariant 32)."""
        target = self.size
        if self.synced_size < target:
            with self.writable() as file:
                file.sync()
            self.synced_size = target

    def release_reserve(self) -> None:
        """Give blocks reserved beyond the end back."""
        if self._allocated > self.size:
            with self.writable() as file:
                file.truncate(self.size)
            self._allocated = 0

    @contextmanager
    def reading(self) -> Iterator[File]:
        """The file for reads, safe against ``retire`` and removal. Raises FileNotFoundError if it
        was removed."""
        with self._lock:
            file = None if self._retired else self._file
            if file is not None:
                self._users += 1
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
            self._leave(file)

    def _leave(self, file: File) -> None:
        with self._lock:
            self._users -= 1
            if self._retired and self._users == 0:
                self._close(file)

    def retire(self) -> None:
        """Close the descriptor once nobody uses it."""
        with self._lock:
            self._retired = True
            if self._file is not None and self._users == 0:
                self._close(self._file)

    def _close(self, file: File) -> None:
        file.close()
        self._file = None
