"""A file system in memory with a page cache and a disk, so that power can be cut.

Every file has two images: what programs see (the page cache) and what the disk holds. ``sync``
copies dirty pages down; ``power_loss`` keeps an arbitrary part of the dirty pages and of the
directory changes and throws the rest away. A failed ``sync`` marks the pages clean without writing
them, as Linux does (ATC'20). Writes run short and fail with ENOSPC at ``capacity_bytes``, and any
operation can be made to fail.
"""

import errno
import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from random import Random
from threading import RLock

from millstream_server.runtime.ports import DirectoryLock, File
from tests.fakes.memory_inode import PAGE_BYTES, Inode


@dataclass
class Fault:
    """Makes operations fail: the ``skip``-th next one that matches, and ``times`` from there."""

    operation: str
    path: str = "*"
    error: int = errno.EIO
    skip: int = 0
    times: int = 1 << 30
    # A failing write leaves this many bytes behind.
    short_bytes: int = 0
    hits: int = field(default=0, init=False)

    def strikes(self, operation: str, path: str) -> bool:
        """Count an operation; True if it is to fail."""
        if operation != self.operation or not fnmatch(path, self.path):
            return False
        self.hits += 1
        return self.skip < self.hits <= self.skip + self.times


@dataclass
class Folder:
    """Names of one directory: as programs see them, and as the disk holds them."""

    cached: dict[str, Inode] = field(default_factory=dict)
    durable: dict[str, Inode] = field(default_factory=dict)


class _Lock:
    def __init__(self, held: set[str], path: str) -> None:
        self._held, self._path = held, path

    def release(self) -> None:
        self._held.discard(self._path)


class MemoryFile:
    """An open file."""

    def __init__(self, files: "MemoryFiles", path: str, inode: Inode) -> None:
        self._files, self._path, self._inode = files, path, inode
        self._closed = False

    def _begin(self, operation: str) -> Fault | None:
        if self._closed:
            raise OSError(errno.EBADF, "file is closed", self._path)
        if self._files.before is not None:
            self._files.before(operation)
        self._files.operations.append((operation, self._path))
        return self._files.fault_for(operation, self._path)

    def read(self, position: int, length: int) -> bytes:
        """See ``File``."""
        with self._files.lock:
            _raise(self._begin("read"), self._path)
            self._files.bytes_read += max(0, min(length, len(self._inode.cached) - position))
            return bytes(self._inode.cached[position : position + length])

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        """See ``File``."""
        with self._files.lock:
            fault = self._begin("write")
            data = b"".join(buffers)
            room = fault.short_bytes if fault else len(data)
            growth = position + len(data) - len(self._inode.cached)
            free = self._files.free_bytes()
            full = growth > 0 and free is not None and growth > free
            if full and free is not None:
                room = min(room, max(0, len(data) - (growth - free)))
            image = self._inode.cached
            if room:
                if len(image) < position:
                    image.extend(bytes(position - len(image)))
                image[position : position + room] = data[:room]
                self._inode.touch(position, position + room)
            _raise(fault, self._path)
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def truncate(self, size: int) -> None:
        """See ``File``."""
        with self._files.lock:
            _raise(self._begin("truncate"), self._path)
            image = self._inode.cached
            if size < len(image):
                del image[size:]
                self._inode.touch(size - size % PAGE_BYTES, size)
                last = -(-size // PAGE_BYTES)
                self._inode.dirty = {page for page in self._inode.dirty if page < last}
            else:
                image.extend(bytes(size - len(image)))
            self._inode.size_dirty = True

    def size(self) -> int:
        """See ``File``."""
        with self._files.lock:
            _raise(self._begin("size"), self._path)
            return len(self._inode.cached)

    def sync(self) -> None:
        """See ``File``."""
        with self._files.lock:
            fault = self._begin("sync")
            if fault is not None:
                self._inode.clean()
            _raise(fault, self._path)
            self._inode.flush()

    def allocate(self, position: int, length: int) -> None:
        """See ``File``."""
        with self._files.lock:
            self._begin("allocate")

    def drop_cache(self) -> None:
        """See ``File``."""
        with self._files.lock:
            self._begin("drop_cache")
            size = len(self._inode.cached)  # the inode's size is no page
            image = self._inode.durable[:size] + bytes(max(0, size - len(self._inode.durable)))
            for page in sorted(self._inode.dirty):
                start = page * PAGE_BYTES
                image[start : start + PAGE_BYTES] = self._inode.cached[start : start + PAGE_BYTES]
            self._inode.cached = image

    def close(self) -> None:
        """See ``File``."""
        self._closed = True


class MemoryFiles:
    """The file system. Directories are durable once made; their entries are not."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.faults: list[Fault] = []
        # Every operation on files and directories, in order, as (name, path).
        self.operations: list[tuple[str, str]] = []
        self.bytes_read = 0
        # Called before every operation with its name; what it raises ends the operation.
        self.before: Callable[[str], None] | None = None
        self.lock = RLock()
        self._folders: dict[str, Folder] = {"/": Folder()}
        self._held: set[str] = set()

    # -- what tests do to it ---------------------------------------------------------------------
    def power_loss(self, random: Random | None = None, keep: float = 0.0) -> None:
        """Cut the power: of what was not synced, each page and each directory change survives
        with probability ``keep``."""
        random = random or Random(0)
        inodes: dict[int, Inode] = {}
        for path in sorted(self._folders):
            folder = self._folders[path]
            for name in sorted({*folder.cached, *folder.durable}):
                choice = folder.cached if random.random() < keep else folder.durable
                before = folder.durable.get(name)
                after = choice.get(name)
                if after is not None:
                    folder.durable[name] = after
                    inodes[id(after)] = after
                elif before is not None:
                    del folder.durable[name]
            folder.cached = dict(folder.durable)
        for inode in inodes.values():
            inode.lose_power(random, keep)

    def release_locks(self) -> None:
        """Do what the end of a process does."""
        self._held.clear()

    def copy(self) -> "MemoryFiles":
        """An independent copy of both images, without faults."""
        copied = MemoryFiles(self.capacity_bytes)
        twins: dict[int, Inode] = {}

        def twin(inode: Inode) -> Inode:
            if id(inode) not in twins:
                new = twins[id(inode)] = Inode()
                new.cached, new.durable = bytearray(inode.cached), bytearray(inode.durable)
                new.dirty, new.size_dirty = set(inode.dirty), inode.size_dirty
            return twins[id(inode)]

        for path, folder in self._folders.items():
            copied._folders[path] = Folder(
                {name: twin(inode) for name, inode in folder.cached.items()},
                {name: twin(inode) for name, inode in folder.durable.items()},
            )
        return copied

    def paths(self) -> list[str]:
        """Every file that programs see, sorted."""
        return sorted(
            posixpath.join(path, name)
            for path, folder in self._folders.items()
            for name in folder.cached
        )

    def content(self, path: str) -> bytes:
        """What programs see of a file."""
        return bytes(self._inode(path).cached)

    def damage(self, path: str, content: bytes) -> None:
        """Replace a file's content on the disk and in the cache."""
        inode = self._inode(path)
        inode.cached, inode.durable = bytearray(content), bytearray(content)
        inode.clean()

    def durable_size(self, path: str) -> int:
        """Bytes of a file that the disk holds."""
        return len(self._inode(path).durable)

    def rot(self, path: str, position: int, bits: int, *, cached: bool = True) -> None:
        """Flip bits of a byte on the disk. The page cache knows nothing of it; unless it is not
        ``cached``, and so read from the disk."""
        inode = self._inode(path)
        inode.durable[position] ^= bits
        if not cached and position // PAGE_BYTES not in inode.dirty:
            inode.cached[position] ^= bits

    def used_bytes(self) -> int:
        """Bytes of all files."""
        used = {
            id(inode): len(inode.cached)
            for folder in self._folders.values()
            for inode in folder.cached.values()
        }
        return sum(used.values())

    def free_bytes(self) -> int | None:
        """Room left; None without a limit."""
        if self.capacity_bytes is None:
            return None
        return max(0, self.capacity_bytes - self.used_bytes())

    def fault_for(self, operation: str, path: str) -> Fault | None:
        """The fault that strikes now, if any."""
        struck = [fault for fault in self.faults if fault.strikes(operation, path)]
        return struck[0] if struck else None

    def _inode(self, path: str) -> Inode:
        folder = self._folders.get(posixpath.dirname(path))
        inode = folder.cached.get(posixpath.basename(path)) if folder else None
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return inode

    def _begin(self, operation: str, path: str) -> None:
        if self.before is not None:
            self.before(operation)
        self.operations.append((operation, path))
        _raise(self.fault_for(operation, path), path)

    # -- Files -------------------------------------------------------------------------------------
    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        """See ``Files``."""
        with self.lock:
            self._begin("open", path)
            try:
                inode = self._inode(path)
            except FileNotFoundError:
                folder = self._folders.get(posixpath.dirname(path))
                if not create or folder is None:
                    raise
                inode = folder.cached[posixpath.basename(path)] = Inode()
            return MemoryFile(self, path, inode)

    def exists(self, path: str) -> bool:
        """See ``Files``."""
        folder = self._folders.get(posixpath.dirname(path))
        return path in self._folders or (
            folder is not None and posixpath.basename(path) in folder.cached
        )

    def list_directory(self, path: str) -> list[str]:
        """See ``Files``."""
        with self.lock:
            if path not in self._folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            inner = [
                posixpath.basename(name)
                for name in self._folders
                if posixpath.dirname(name) == path and name != path
            ]
            return sorted([*self._folders[path].cached, *inner])

    def make_directory(self, path: str) -> None:
        """See ``Files``."""
        with self.lock:
            self._begin("make_directory", path)
            while path not in self._folders:
                self._folders[path] = Folder()
                path = posixpath.dirname(path)

    def rename(self, source: str, target: str) -> None:
        """See ``Files``."""
        with self.lock:
            self._begin("rename", source)
            if source in self._folders:
                for path in [p for p in self._folders if p == source or p.startswith(source + "/")]:
                    self._folders[target + path[len(source) :]] = self._folders.pop(path)
                return
            inode = self._inode(source)
            del self._folders[posixpath.dirname(source)].cached[posixpath.basename(source)]
            self._folders[posixpath.dirname(target)].cached[posixpath.basename(target)] = inode

    def remove(self, path: str) -> None:
        """See ``Files``."""
        with self.lock:
            self._begin("remove", path)
            self._inode(path)
            del self._folders[posixpath.dirname(path)].cached[posixpath.basename(path)]

    def remove_tree(self, path: str) -> None:
        """See ``Files``."""
        with self.lock:
            self._begin("remove_tree", path)
            for found in [p for p in self._folders if p == path or p.startswith(path + "/")]:
                del self._folders[found]

    def sync_directory(self, path: str) -> None:
        """See ``Files``."""
        with self.lock:
            self._begin("sync_directory", path)
            folder = self._folders.get(path)
            if folder is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            folder.durable = dict(folder.cached)

    def disk_usage(self, path: str) -> tuple[int, int]:
        """See ``Files``."""
        free = self.free_bytes()
        total = self.capacity_bytes if self.capacity_bytes is not None else 1 << 40
        return total, total if free is None else free

    def lock_directory(self, path: str) -> DirectoryLock:
        """See ``Files``."""
        if path in self._held:
            raise BlockingIOError(errno.EAGAIN, "locked by another process", path)
        self._held.add(path)
        return _Lock(self._held, path)


def _raise(fault: Fault | None, path: str) -> None:
    if fault is not None:
        raise OSError(fault.error, os.strerror(fault.error), path)
