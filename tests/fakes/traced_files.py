"""Files that write down every operation that could be the last one before a crash, and crash at a
chosen one. What is on the list is what the code did in a real run; nobody types it.
"""

import os.path
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from types import FrameType

from tests.fakes.crash_files import CrashFile, CrashFiles


class Loss(Enum):
    """What the crash does to what was not synced."""

    #: kill -9: the page cache survives.
    NOTHING = "nothing"
    #: The power goes, and everything with it.
    ALL = "all"
    #: The beginning of each file had been written back.
    PART = "part"
    #: Pages, renames and removals had been written back in any order.
    TORN = "torn"


@dataclass(frozen=True, slots=True, order=True)
class Operation:
    """One kind of operation: what, on which file, and who asked for it."""

    what: str
    file: str
    by: str

    def __str__(self) -> str:
        return f"{self.what} {self.file} by {self.by}"


@dataclass
class Trace:
    """All operations of one node, over all of its lives."""

    operations: list[Operation] = field(default_factory=list)
    #: Position in ``operations`` at which the node crashes next.
    crash_at: int | None = None
    #: Positions at which it did.
    crashes: list[int] = field(default_factory=list)
    #: Syncs of these are skipped, as (what, file): how a test plants a bug.
    skipped: frozenset[tuple[str, str]] = frozenset()

    def note(self, operation: Operation) -> bool:
        """Write an operation down; True if the crash comes in it."""
        position = len(self.operations)
        self.operations.append(operation)
        if position != self.crash_at:
            return False
        self.crashes.append(position)
        return True


class _TracedFile(CrashFile):
    def __init__(self, files: "TracedFiles", file: CrashFile, name: str) -> None:
        super().__init__(files, file._inode)
        self._traced, self._name = files, name

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        self._traced.touched = self._name
        super().write(position, buffers)

    def truncate(self, size: int) -> None:
        self._traced.touched = self._name
        super().truncate(size)

    def sync(self) -> None:
        self._traced.touched = self._name
        if not self._traced.skips("sync"):
            super().sync()


class TracedFiles(CrashFiles):
    """See ``CrashFiles``. ``next_life`` gives what the node finds when it starts again."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        #: File or directory of the operation under way.
        self.touched = ""
        #: A crash in the next write that is part of the script, not one of the points.
        self.crash_in_write = False

    def operation(self, name: str) -> bool:
        """See ``CrashFiles``. After the crash nothing happens any more."""
        if not self.crashed:
            crash = self.trace.note(Operation(name, self.touched, _caller()))
            self.crashed = crash or (self.crash_in_write and name == "write")
        return self.crashed

    def skips(self, what: str) -> bool:
        """True if a test took this operation out."""
        return (what, self.touched) in self.trace.skipped

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> CrashFile:
        file = super().open(path, create=create, read_only=read_only)
        return _TracedFile(self, file, os.path.basename(path))

    def rename(self, source: str, target: str) -> None:
        self.touched = os.path.basename(target)
        super().rename(source, target)

    def remove(self, path: str) -> None:
        self.touched = os.path.basename(path)
        super().remove(path)

    def sync_directory(self, path: str) -> None:
        self.touched = path + "/" if path != "/" else path
        if not self.skips("sync_directory"):
            super().sync_directory(path)

    def next_life(self, loss: Loss, chance: Random) -> "TracedFiles":
        """What the node finds after a crash that loses this."""
        if loss is Loss.NOTHING:
            found = self.after_kill()
        elif loss is Loss.TORN:
            found = self.after_power_loss(chance)
        elif loss is Loss.ALL:
            found = self.after_power_loss()
        else:
            found = self._after_write_back(chance)
        files = TracedFiles(self.trace)
        files._entries = found._entries
        files._durable_entries = found._durable_entries
        files._directories = found._directories
        return files

    def _after_write_back(self, chance: Random) -> CrashFiles:
        for inode in {id(one): one for one in self._every_inode()}.values():
            if inode.dirty:
                written = chance.randrange(len(inode.cached) + 1)
                inode.durable = bytes(inode.cached[:written]) + inode.durable[written:]
        return self.after_power_loss()

    def _every_inode(self) -> list:
        return [*self._entries.values(), *self._durable_entries.values()]


def _caller() -> str:
    """The product's function that wanted the operation, past the one that replaces files."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("millstream_raft.") and not module.endswith(".checked_file"):
            return f"{module.rpartition('.')[2]}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "nobody"
