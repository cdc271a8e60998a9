"""The ports of ``ports.py`` on a real machine."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from millstream_server.runtime.ports import DirectoryLock, File, T

_FALLOC_FL_KEEP_SIZE = 1
_IOV_MAX = 1024


def _load_fallocate() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):  # not glibc
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    return function


_fallocate = _load_fallocate()


# Linux has it; elsewhere the plain monotonic clock must do, and a machine must not be suspended.
_SESSION_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's clocks.

    Monotonic time goes on while the machine is suspended (CLOCK_BOOTTIME). Python's own monotonic
    clock stands still then: a leader on a laptop or a virtual machine that wakes up would believe
    itself within a session that ended hours ago, and answer although another one was elected.
    """

    def monotonic_ms(self) -> int:
        """See ``Clock``."""
        return time.clock_gettime_ns(_SESSION_CLOCK) // 1_000_000

    def wall_ms(self) -> int:
        """See ``Clock``."""
        return time.time_ns() // 1_000_000


class SystemFile:
    """A file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, position: int, length: int) -> bytes:
        """See ``File``."""
        data = os.pread(self._descriptor, length, position)
        if len(data) == length or not data:
            return data
        pieces = [data]
        done = len(data)
        while done < length and (
            data := os.pread(self._descriptor, length - done, position + done)
        ):
            pieces.append(data)
            done += len(data)
        return b"".join(pieces)

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        """See ``File``."""
        for first in range(0, len(buffers), _IOV_MAX):
            some = buffers[first : first + _IOV_MAX]
            total = sum(map(len, some))
            done = os.pwritev(self._descriptor, some, position)
            if done < total:  # a short write; the next attempt either goes on or says why not
                rest = memoryview(b"".join(some))
                while done < total:
                    done += os.pwrite(self._descriptor, rest[done:], position + done)
            position += total

    def truncate(self, size: int) -> None:
        """See ``File``."""
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        """See ``File``."""
        return os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        """See ``File``."""
        os.fdatasync(self._descriptor)

    def allocate(self, position: int, length: int) -> None:
        """See ``File``."""
        if _fallocate is not None:
            _fallocate(self._descriptor, _FALLOC_FL_KEEP_SIZE, position, length)

    def drop_cache(self) -> None:
        """See ``File``."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """See ``File``."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class _SystemLock:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class SystemFiles:
    """The machine's file system."""

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        """See ``Files``."""
        flags = os.O_RDONLY if read_only else os.O_RDWR
        return SystemFile(
            os.open(path, flags | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
        )

    def exists(self, path: str) -> bool:
        """See ``Files``."""
        return os.path.exists(path)

    def list_directory(self, path: str) -> list[str]:
        """See ``Files``."""
        return sorted(os.listdir(path))

    def make_directory(self, path: str) -> None:
        """See ``Files``."""
        os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        """See ``Files``."""
        os.replace(source, target)

    def remove(self, path: str) -> None:
        """See ``Files``."""
        os.remove(path)

    def remove_tree(self, path: str) -> None:
        """See ``Files``."""
        shutil.rmtree(path)

    def sync_directory(self, path: str) -> None:
        """See ``Files``."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def disk_usage(self, path: str) -> tuple[int, int]:
        """See ``Files``."""
        usage = shutil.disk_usage(path)
        return usage.total, usage.free

    def lock_directory(self, path: str) -> DirectoryLock:
        """See ``Files``."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return _SystemLock(descriptor)


class ThreadExecutor:
    """One thread that runs jobs in order and hands the results to an event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Callable[..., None]] | None] = (
            queue.SimpleQueue()
        )
        self._pending = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """See ``Executor``."""
        self._pending += 1
        self._jobs.put((job, done))

    def post(self, callback: Callable[[], None]) -> None:
        """See ``Executor``."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback)

    def pending(self) -> int:
        """See ``Executor``."""
        return self._pending

    def close(self) -> None:
        """See ``Executor``."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result, error = None, None
            try:
                result = job()
            except BaseException as caught:  # noqa: BLE001 - handed to the submitter, who decides
                error = caught
            try:
                self._loop.call_soon_threadsafe(self._deliver, done, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _deliver(self, done: Callable[..., None], result: Any, error: BaseException | None) -> None:
        self._pending -= 1
        done(result, error)
