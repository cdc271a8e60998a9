"""The edges of consensus as protocols: clock, files, chance, and the end of the process.

A structural subset of the services' ports, so that one implementation serves both without an
import from here to there.
"""

from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol


class Clock(Protocol):
    """Time. Elections and deadlines use only the monotonic clock (invariant 36)."""

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary moment; never goes back."""


class Random(Protocol):
    """Chance; ``random.Random`` is one."""

    def random(self) -> float:
        """A number in [0, 1)."""


class File(Protocol):
    """An open file. Positions and lengths are bytes. Every method may raise OSError."""

    def read(self, position: int, length: int) -> bytes:
        """Read up to ``length`` bytes; fewer only at the end of the file."""

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        """Write all buffers, one after another."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def size(self) -> int:
        """Length of the file."""

    def sync(self) -> None:
        """fdatasync: on return, data and size are on the disk."""

    def drop_cache(self) -> None:
        """Forget cached clean pages, so that the next read shows what the disk holds."""

    def close(self) -> None:
        """Close the file; closing twice is allowed."""


class Files(Protocol):
    """A file system. Every method may raise OSError."""

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

    def sync_directory(self, path: str) -> None:
        """fsync a directory: on return, its entries are on the disk."""


#: Ends the process, telling why. Called where going on could break a promise already given: an
#: I/O error on the log (a failed fsync must not be retried, ATC'20), a state machine that raised.
FailStop = Callable[[str], NoReturn]
