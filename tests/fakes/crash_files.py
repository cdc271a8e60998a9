"""A file system in memory that can lose power, for tests of what survives.

It keeps two images: what the page cache shows and what the disk holds. ``sync`` and
``sync_directory`` bring the second up to the first. A crash may come at any numbered operation.
"""

import os.path
from collections.abc import Sequence
from random import Random


class Crash(BaseException):
    """The machine stopped here. Not an Exception, so that no handler takes it for an error."""


class _Inode:
    def __init__(self, cached: bytes = b"", durable: bytes = b"") -> None:
        self.cached = bytearray(cached)
        self.durable = bytes(durable)
        self.dirty = False


class CrashFile:
    """See ``File``."""

    def __init__(self, files: "CrashFiles", inode: _Inode) -> None:
        self._files = files
        self._inode = inode

    def read(self, position: int, length: int) -> bytes:
        return bytes(self._inode.cached[position : position + length])

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        data = b"".join(buffers)
        inode = self._inode
        crash = self._files.operation("write")
        if crash:  # half of it reached the cache
            data = data[: len(data) // 2]
        if position > len(inode.cached):
            inode.cached.extend(bytes(position - len(inode.cached)))
        inode.cached[position : position + len(data)] = data
        inode.dirty = True
        if crash:
            raise Crash

    def truncate(self, size: int) -> None:
        if self._files.operation("truncate"):
            raise Crash
        del self._inode.cached[size:]
        self._inode.cached.extend(bytes(max(0, size - len(self._inode.cached))))
        self._inode.dirty = True

    def size(self) -> int:
        return len(self._inode.cached)

    def sync(self) -> None:
        if self._files.operation("sync"):
            raise Crash
        if self._files.failing_syncs > 0:
            self._files.failing_syncs -= 1
            self._inode.dirty = False  # the kernel forgets that the pages were never written
            raise OSError(5, "input/output error")
        if self._inode.dirty:
            self._inode.durable = bytes(self._inode.cached)
            self._inode.dirty = False

    def allocate(self, position: int, length: int) -> None:
        pass

    def drop_cache(self) -> None:
        if not self._inode.dirty:
            self._inode.cached = bytearray(self._inode.durable)

    def close(self) -> None:
        pass


class CrashFiles:
    """See ``Files``."""

    def __init__(self) -> None:
        self._entries: dict[str, _Inode] = {}
        self._durable_entries: dict[str, _Inode] = {}
        self._directories: set[str] = set()
        #: Operations so far, by name; and how many more may happen before the crash.
        self.operations: list[str] = []
        self.crash_at: int | None = None
        self.crashed = False
        self.failing_syncs = 0
        self.full = False

    def operation(self, name: str) -> bool:
        """Count an operation; True if the crash comes in it."""
        if self.full and name == "write":
            raise OSError(28, "no space left on device")
        if self.crashed:
            # The library swallows exceptions of some calls: a process that crashed must still do
            # nothing more to its disk.
            raise Crash
        self.operations.append(name)
        if self.crash_at is not None and len(self.operations) > self.crash_at:
            self.crashed = True
        return self.crashed

    def after_power_loss(self, chance: Random | None = None) -> "CrashFiles":
        """What the disk holds after the power went. With ``chance``, of what was never synced some
        things are there all the same: whole files, torn ones, and renames."""
        files = CrashFiles()
        files._directories = set(self._directories)
        entries = dict(self._durable_entries)
        if chance is not None:
            for path in sorted(self._entries.keys() | entries.keys()):
                if self._entries.get(path) is not entries.get(path) and chance.random() < 0.5:
                    if path in self._entries:
                        entries[path] = self._entries[path]
                    else:
                        del entries[path]
        for path, inode in entries.items():
            data = inode.durable
            if chance is not None and inode.dirty:
                data = _torn(inode, chance)
            files._entries[path] = files._durable_entries[path] = _Inode(data, data)
        return files

    def after_kill(self) -> "CrashFiles":
        """What the next process finds after kill -9: all of the page cache."""
        files = CrashFiles()
        files._directories = set(self._directories)
        copies = {id(inode): _copy(inode) for inode in self._entries.values()}
        copies.update(
            (id(inode), _copy(inode))
            for inode in self._durable_entries.values()
            if id(inode) not in copies
        )
        files._entries = {path: copies[id(inode)] for path, inode in self._entries.items()}
        files._durable_entries = {
            path: copies[id(inode)] for path, inode in self._durable_entries.items()
        }
        return files

    def change(self, path: str, data: bytes) -> None:
        """Make a file hold this, on the disk too: damage."""
        self._entries[path] = self._durable_entries[path] = _Inode(data, data)

    def content(self, path: str) -> bytes:
        """What the cache shows."""
        return bytes(self._entries[path].cached)

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> CrashFile:
        if path not in self._entries:
            if not create:
                raise FileNotFoundError(2, "no such file", path)
            self._entries[path] = _Inode()
        return CrashFile(self, self._entries[path])

    def exists(self, path: str) -> bool:
        return path in self._entries or path in self._directories

    def list_directory(self, path: str) -> list[str]:
        return sorted(
            os.path.basename(entry) for entry in self._entries if os.path.dirname(entry) == path
        )

    def make_directory(self, path: str) -> None:
        self._directories.add(path)

    def rename(self, source: str, target: str) -> None:
        if self.operation("rename"):
            raise Crash
        self._entries[target] = self._entries.pop(source)

    def remove(self, path: str) -> None:
        if self.operation("remove"):
            raise Crash
        del self._entries[path]

    def sync_directory(self, path: str) -> None:
        if self.operation("sync_directory"):
            raise Crash
        for name in [entry for entry in self._durable_entries if os.path.dirname(entry) == path]:
            if name not in self._entries:
                del self._durable_entries[name]
        for name, inode in self._entries.items():
            if os.path.dirname(name) == path:
                self._durable_entries[name] = inode


def _copy(inode: _Inode) -> _Inode:
    copy = _Inode(bytes(inode.cached), inode.durable)
    copy.dirty = inode.dirty
    return copy


def _torn(inode: _Inode, chance: Random, page: int = 64) -> bytes:
    """Any of the unsynced pages reached the disk, in any order. Small pages, small files."""
    data = bytearray(inode.durable)
    size = chance.choice((len(inode.durable), len(inode.cached)))
    del data[size:]
    data.extend(bytes(size - len(data)))
    for start in range(0, size, page):
        fresh = inode.cached[start : min(start + page, size)]
        if chance.random() < 0.5:
            data[start : start + len(fresh)] = fresh
    return bytes(data)
