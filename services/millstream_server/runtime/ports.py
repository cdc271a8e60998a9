"""The edges of the system as protocols: clock, files, executor. Everything that the simulator
replaces is named here.

Production implementations are in ``system.py``; services get them from their ``app`` and never
reach around them.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Time. Monotonic time drives sessions, leases and lags; wall time stamps records (invariant
    36)."""

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary moment; never goes back, and counts the time in which the
        machine is suspended."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC; may jump."""


class File(Protocol):
    """An open file. All positions and lengths are bytes. Every method may raise OSError."""

    def read(self, position: int, length: int) -> bytes:
        """Read up to ``length`` bytes; fewer only at the end of the file."""

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        """Write the buffers one after another, all of them. After an OSError any prefix may have
        been written."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def size(self) -> int:
        """Length of the file."""

    def sync(self) -> None:
        """fdatasync: on return, data and size are on the disk. After an OSError nothing may be
        assumed (ATC'20)."""

    def allocate(self, position: int, length: int) -> None:
        """Reserve blocks without changing the size (FALLOC_FL_KEEP_SIZE); a no-op where that is
        not supported."""

    def drop_cache(self) -> None:
        """Forget cached clean pages, so that the next read shows what the disk holds
        (FADV_DONTNEED)."""

    def close(self) -> None:
        """Close the file; closing twice is allowed."""


class DirectoryLock(Protocol):
    """A held lock on a directory."""

    def release(self) -> None:
        """Give the lock up; the end of the process does so too."""


class Files(Protocol):
    """A file system. Paths are strings. Every method may raise OSError."""

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        """Open a file for reading and writing; ``create`` makes it when it is missing."""

    def exists(self, path: str) -> bool:
        """True if a file or directory has this path."""

    def list_directory(self, path: str) -> list[str]:
        """Names in a directory, sorted."""

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents; no error if it exists."""

    def rename(self, source: str, target: str) -> None:
        """Rename, replacing an existing file in one step. Durable after ``sync_directory``."""

    def remove(self, path: str) -> None:
        """Remove a file."""

    def remove_tree(self, path: str) -> None:
        """Remove a directory with everything in it."""

    def sync_directory(self, path: str) -> None:
        """fsync a directory: on return, its entries are on the disk."""

    def disk_usage(self, path: str) -> tuple[int, int]:
        """(total, free) bytes of the file system that holds the path."""

    def lock_directory(self, path: str) -> DirectoryLock:
        """Lock a directory for this process. Raises BlockingIOError if another process holds it."""


class Executor(Protocol):
    """Runs blocking jobs one after another, away from the event loop, in the order of
    submission."""

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run ``job``; then call ``done(result, error)`` on the event loop. Exactly one of the two
        is not None,
        unless the job returned None."""

    def post(self, callback: Callable[[], None]) -> None:
        """Call back on the event loop as soon as it has time; to be called from inside a job, to
        tell of what is done before the job is. Comes before the job's ``done``."""

    def pending(self) -> int:
        """Jobs that were submitted and are not done yet."""

    def close(self) -> None:
        """Finish the jobs submitted so far, then end."""
