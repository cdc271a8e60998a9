"""The log of one partition replica: what was appended, under which epochs, by which producers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from millstream.record import BatchHeader
from millstream_server.storage.appends import IncomingBatch, StagedAppend
from millstream_server.storage.config import LogConfig
from millstream_server.storage.epochs import EpochHistory
from millstream_server.storage.errors import StorageError
from millstream_server.storage.producers import ProducerTable, Verdict


class LogKey(NamedTuple):
    """Which partition a log belongs to. Equal to the plain tuple."""

    topic_id: bytes
    partition: int


class FoundOffset(NamedTuple):
    """The first record at or after a time."""

    offset: int
    timestamp_ms: int


class Log:
    """One partition's log. Made by ``LogDirectory.open`` and ``LogDirectory.create_log``.

    Who may call what: "loop" = the event loop only; "directory" = a job on the directory's
    executor, best through ``DirectoryWriter.run``; "any" = any thread.
    """

    # -- facts, any thread ---------------------------------------------------------------------
    key: LogKey
    path: str
    # First offset that may be read.
    start_offset: int
    # Offset of the next record to be staged (loop only: it includes what is not written yet).
    end_offset: int
    # End of what is in the file, hence readable by replicas.
    written_end_offset: int
    # End of what was fdatasync'ed by this process. Never ahead of ``written_end_offset``.
    synced_end_offset: int
    # Synced end that is remembered across a crash; a recovery scans from here.
    recovery_point: int
    # Stepped whenever staged or written offsets are taken back.
    generation: int
    # Why nothing can be appended or read any more; None while all is well.
    failure: StorageError | None
    producers: ProducerTable
    epochs: EpochHistory

    @property
    def config(self) -> LogConfig:
        """The settings in force."""
        raise NotImplementedError

    def configure(self, config: LogConfig) -> None:
        """Replace the settings (loop). Appends staged from now on follow them."""
        raise NotImplementedError

    @property
    def size_bytes(self) -> int:
        """Bytes in the segment files, written so far."""
        raise NotImplementedError

    @property
    def segment_count(self) -> int:
        """Number of segment files."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """Staged appends that are neither completed nor failed (loop)."""
        raise NotImplementedError

    # -- appending, loop -----------------------------------------------------------------------
    def begin_epoch(self, epoch: int) -> int:
        """Make an epoch the newest, durably, at the end of the log; return the offset it begins at
        (invariant 9). Nothing changes if it is the newest already. Blocks for two syncs: use
        ``DirectoryWriter.begin_epoch`` on the event loop.

        Raises StaleEpochError if a newer one is known, LogBusyError with appends in flight.
        """
        raise NotImplementedError

    def check_producers(self, headers: Sequence[BatchHeader], now_ms: int) -> list[Verdict]:
        """The verdicts on batches of one request, as if they were appended one after another
        (invariant 21). ``now_ms`` is monotonic; it serves expiry only. Changes nothing."""
        raise NotImplementedError

    def stage(
        self,
        batches: Sequence[IncomingBatch],
        leader_epoch: int,
        append_timestamp_ms: int,
    ) -> StagedAppend:
        """Assign offsets and take the batches into the producer table; nothing is written yet.

        The append must then be given to ``DirectoryWriter.submit`` or ``write_now``, in the order
        of staging. Raises StaleEpochError unless ``leader_epoch`` is the newest epoch,
        BatchTooLargeError, and the log's failure.
        """
        raise NotImplementedError

    @property
    def can_write_now(self) -> bool:
        """True if ``write_now`` is allowed for the next append: page-cache mode and nothing else
        in flight."""
        raise NotImplementedError

    def write_now(self, staged: StagedAppend) -> None:
        """Write an append to the page cache on the event loop (performance.md §1b, 5); on return
        it counts as written. Raises what ``AppendDone`` would be given; the append is undone
        then."""
        raise NotImplementedError

    # -- reading, any thread -------------------------------------------------------------------
    def read(self, offset: int, bytes_max: int, end_offset: int) -> bytes:
        """Whole frames (``0x7a`` length batch …) from the batch that holds ``offset``, ending at or
        below ``end_offset``: at most ``bytes_max`` bytes, but at least one batch. Empty if there is
        nothing to read below ``end_offset`` yet. The first batch may begin before ``offset``.

        Both checksums are verified for bytes below the recovery point (invariant 31). Raises
        OffsetOutOfRangeError, LogDamagedError, and the log's failure.
        """
        raise NotImplementedError

    def reads_from_memory(self, offset: int) -> bool:
        """True if a read at this offset is cheap enough for the event loop: its position is known
        and its bytes were written lately. All other reads belong on the pool."""
        raise NotImplementedError

    def find_offset(self, timestamp_ms: int, end_offset: int) -> FoundOffset | None:
        """First record below ``end_offset`` with this timestamp or a later one; None if there is
        none. Reads and may decompress one batch: for the pool."""
        raise NotImplementedError

    # -- upkeep, directory ---------------------------------------------------------------------
    def retain(self, now_ms: int, end_offset: int) -> int:
        """Remove closed segments by time and size, none that reaches beyond ``end_offset``; closes
        the open segment by age. ``now_ms`` is wall time. Returns bytes removed."""
        raise NotImplementedError

    def delete_before(self, offset: int) -> int:
        """Move the start up to ``offset``, durably, and remove segments below it. Returns the new
        start. Raises OffsetOutOfRangeError beyond ``synced_end_offset`` or the written end in
        page-cache mode."""
        raise NotImplementedError

    def flush(self) -> None:
        """Sync everything written and move the recovery point up. A failure is fatal for the
        directory."""
        raise NotImplementedError


Job = Callable[[], object]
