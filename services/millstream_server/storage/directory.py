"""The log directory of a node: whose it is, which logs it holds, how it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from millstream_server.runtime.ports import Clock, Files
from millstream_server.storage.config import DirectoryConfig, LogConfig
from millstream_server.storage.errors import StorageError
from millstream_server.storage.log import Log, LogKey


@dataclass(frozen=True, slots=True)
class RecoveryProgress:
    """How far ``LogDirectory.open`` is."""

    logs_done: int
    logs_total: int
    # Bytes of segments read and verified so far.
    scanned_bytes: int
    # Bytes of torn tails cut so far.
    cut_bytes: int
    # Logs found damaged so far (they are offline).
    damaged_logs: int


class LogDirectory:
    """All logs of a node. ``open`` and ``close`` block; the other methods are noted."""

    def __init__(
        self,
        path: str,
        files: Files,
        clock: Clock,
        config: DirectoryConfig,
        *,
        random: Random,
    ) -> None:
        """Nothing is touched yet. ``random`` makes the directory id; a ``SystemRandom`` in
        production."""
        raise NotImplementedError

    # Random, 16 bytes, made once; known after ``open`` (invariant 7).
    directory_id: bytes
    # Node epoch last recorded before this start; None if there was none.
    previous_node_epoch: int | None
    # True if the directory was left by ``close`` under ``previous_node_epoch``, or is new.
    clean_shutdown: bool
    # What ``open`` had to do.
    recovery: RecoveryProgress
    logs: dict[tuple[bytes, int], Log]

    def open(self, progress: Callable[[RecoveryProgress], None] | None = None) -> None:
        """Check whose directory it is, recover every log, set leftovers aside.

        The caller holds the lock on the node's folder. Raises ForeignClusterError,
        ForeignNodeError, NewerFormatError, DirectoryOfflineError.
        """
        raise NotImplementedError

    @property
    def offline_reason(self) -> StorageError | None:
        """Why nothing here works any more; None while all is well (any thread)."""
        raise NotImplementedError

    def create_log(self, topic_id: bytes, partition: int, config: LogConfig) -> Log:
        """Make the log of a partition, or return the one that is there with its settings replaced.
        Blocks for a few syncs."""
        raise NotImplementedError

    def set_aside_log(self, topic_id: bytes, partition: int) -> bool:
        """Take a log out of use at once: its folder is renamed and later removed by
        ``empty_trash``. False if there is none."""
        raise NotImplementedError

    def empty_trash(self) -> int:
        """Remove a bounded number of files of deleted topics and segments; return how many are
        left. Any thread but the event loop."""
        raise NotImplementedError

    def record_node_epoch(self, epoch: int) -> None:
        """Remember the node epoch durably, before serving under it (invariant 7). Blocks."""
        raise NotImplementedError

    def close(self) -> None:
        """Sync all logs, write snapshots, recovery points and the clean-shutdown marker. The writer
        must be idle. Without the marker if the directory is offline."""
        raise NotImplementedError

    def disk_usage(self) -> tuple[int, int]:
        """(total, free) bytes of the disk."""
        raise NotImplementedError

    def damaged_logs(self) -> Iterable[LogKey]:
        """Logs that are offline because rot was found in them."""
        raise NotImplementedError
