"""Settings of one log and of a log directory. Lengths are bytes, times are milliseconds."""

from dataclasses import dataclass, field
from enum import Enum

_MIB = 1024 * 1024


class FlushMode(Enum):
    """What must have happened before an append counts (topic config ``flush.mode``)."""

    FSYNC = "fsync"
    PAGE_CACHE = "page_cache"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Settings of one log; those of its topic. Replaceable at run time with ``Log.configure``."""

    # A segment is closed when the next append would make it larger. Small segments make retention
    # finer, large ones keep the number of files low. Positions in the index have 32 bits.
    segment_bytes: int = 1024 * _MIB
    # A segment is closed when its first append is older than this, so that quiet logs age out too.
    segment_ms: int = 7 * 24 * 3600 * 1000
    # Closed segments whose newest record is older are removed. None: kept for ever.
    retention_ms: int | None = 7 * 24 * 3600 * 1000
    # The oldest closed segments are removed while the log is larger. None: no limit.
    retention_bytes: int | None = None
    # Timestamps further ahead than this are ignored by retention: one record from the year 3000
    # must not keep a segment for ever (invariant 36).
    timestamp_ahead_ms_max: int = 3600 * 1000
    # See FlushMode. Fsync by default: acknowledged means on the disk.
    flush_mode: FlushMode = FlushMode.FSYNC
    # One index entry per so many bytes: smaller finds faster, larger keeps indexes small.
    index_interval_bytes: int = 4096
    # Largest batch that is accepted, as encoded by the producer.
    max_message_bytes: int = 1024 * 1024 + 4096
    # Room is reserved this far ahead of the end: a sync then need not record new blocks each time
    # (788k to 923k records a second). 0: none.
    preallocate_bytes: int = 8 * _MIB
    # True if records are dated by the leader's append (message.timestamp.type=LogAppendTime).
    log_append_time: bool = False
    # A leader answers a producer that was silent for longer as if it did not know it; longer than
    # twice the longest delivery time-out (invariant 22).
    producer_expiry_ms: int = 24 * 3600 * 1000

    def validate(self) -> None:
        """Raises ValueError with the field that is wrong."""
        if not 1024 <= self.segment_bytes < 2**31:
            raise ValueError(f"segment_bytes {self.segment_bytes} is not within 1024 and 2^31 - 1")
        if self.max_message_bytes > 2**30:
            raise ValueError(f"max_message_bytes {self.max_message_bytes} is above 2^30")
        for name in ("segment_ms", "index_interval_bytes", "max_message_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is below 1")
        if self.preallocate_bytes < 0:
            raise ValueError("preallocate_bytes is negative")
        for name in ("retention_ms", "retention_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} {value} is negative; use None for no limit")


@dataclass(frozen=True, slots=True)
class DirectoryConfig:
    """Settings of a log directory."""

    # Whose directory this is; checked against what the directory says (invariant 37).
    cluster_id: str
    node_id: int
    # Logs found on the disk start with these settings until their topic's are known.
    log_defaults: LogConfig = field(default_factory=LogConfig)
    # The recovery point of a log is moved up after so many synced bytes: the scan after a kill
    # costs at most this much per log.
    recovery_point_bytes: int = 32 * _MIB
    # … and after this time, if anything was appended since.
    recovery_point_interval_ms: int = 30_000
    # Page-cache logs are synced in the background this often, so that a crash of the machine costs
    # little and the recovery point moves.
    background_flush_interval_ms: int = 5_000
    # Most bytes that may wait for the disk before appends are refused.
    waiting_bytes_max: int = 256 * _MIB
    # Most files of deleted topics and segments removed by one call of ``Trash.empty``.
    trash_files_per_turn: int = 16

    def validate(self) -> None:
        """Raises ValueError with the field that is wrong."""
        if not self.cluster_id:
            raise ValueError("cluster_id is empty")
        if self.node_id < 1:
            raise ValueError(f"node_id {self.node_id} is below 1")
        for name in ("recovery_point_bytes", "waiting_bytes_max", "trash_files_per_turn"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is below 1")
        self.log_defaults.validate()
