"""Group commit: everything that waits is written and synced as one job of the directory's thread.

Measured in performance.md §1b: one thread per directory that writes and syncs in one job beats a
sync alone in an executor and beats several threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from millstream_server.runtime.ports import Executor, T
from millstream_server.storage.appends import AppendDone, StagedAppend
from millstream_server.storage.directory import LogDirectory
from millstream_server.storage.errors import StorageError
from millstream_server.storage.log import Log


class DirectoryWriter:
    """The one way to the disk of a log directory. All methods belong to the event loop."""

    def __init__(
        self,
        directory: LogDirectory,
        executor: Executor,
        *,
        timer: Callable[[], float] = time.perf_counter,
        observe_flush: Callable[[float], None] | None = None,
    ) -> None:
        """``executor`` must have one thread and serve nothing else. ``observe_flush`` is told the
        seconds that each round of syncs took, on the event loop."""
        raise NotImplementedError

    @property
    def waiting_bytes(self) -> int:
        """Bytes staged and not yet completed."""
        raise NotImplementedError

    def admit(self, size_bytes: int) -> None:
        """Ask before staging. Raises WriterOverloadedError when too much waits for the disk, and
        DirectoryOfflineError."""
        raise NotImplementedError

    def submit(self, log: Log, staged: StagedAppend, done: AppendDone) -> None:
        """Write (and in fsync mode sync) an append together with everything else that waits, then
        call ``done(synced_end_offset, error)``, never from within this call."""
        raise NotImplementedError

    def write_now(self, log: Log, staged: StagedAppend) -> None:
        """``log.write_now`` with its bytes counted for background syncs. Raises as that does."""
        raise NotImplementedError

    def run(
        self,
        log: Log,
        job: Callable[[], T],
        done: Callable[[T | None, StorageError | None], None],
    ) -> None:
        """Run a job that touches the log's files (retain, delete_before, flush, truncate_to) after
        everything submitted so far."""
        raise NotImplementedError

    def begin_epoch(
        self, log: Log, epoch: int, done: Callable[[int | None, StorageError | None], None]
    ) -> None:
        """``log.begin_epoch`` after everything submitted so far; nothing can be staged until it is
        done. Gives the offset that the epoch begins at."""
        raise NotImplementedError

    def maintain(self, now_ms: int) -> None:
        """To be called about once a second with monotonic time: starts background syncs of
        page-cache logs and moves recovery points up."""
        raise NotImplementedError

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing waits or runs; at once if that is so now."""
        raise NotImplementedError
