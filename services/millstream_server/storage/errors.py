"""What can go wrong in storage, as one family of errors.

::

    StorageError                 STORAGE_ERROR        refused, nothing changed
    ├── DiskFullError            DISK_FULL            no room; nothing changed; try again later
    ├── DiskRefusedError         STORAGE_ERROR        no right or no descriptor; nothing changed
    ├── DirectoryOfflineError    STORAGE_ERROR        the whole log directory failed (invariant 32)
    ├── LogDamagedError          LOG_DAMAGED          rot was found in this log (invariant 34)
    ├── LogGoneError             UNKNOWN_PARTITION    the log was set aside
    ├── OffsetOutOfRangeError    OFFSET_OUT_OF_RANGE  below the start or beyond the end of the log
    ├── BatchTooLargeError       RECORD_TOO_LARGE     larger than max.message.bytes
    ├── StaleEpochError          FENCED_LEADER_EPOCH  an append of another epoch than the newest
    ├── MalformedAppendError     CORRUPT_BATCH        bytes that are no batch, or do not follow on
    ├── LogBusyError             STORAGE_ERROR        appends are in flight; wait for them first
    ├── WriterOverloadedError    THROTTLED            too many bytes wait for the disk
    └── DirectoryMismatchError   STORAGE_ERROR        the folder cannot be used by this process
        ├── ForeignClusterError                       it belongs to another cluster
        ├── ForeignNodeError                          it belongs to another node
        └── NewerFormatError                          a newer version of the software wrote it
"""


class StorageError(Exception):
    """Base of the family; the text is one plain sentence."""

    # Name in `errors.proto`, without its prefix.
    reason = "STORAGE_ERROR"
    # True if the bytes of a failed append may be on the disk all the same.
    indeterminate = False


class DiskFullError(StorageError):
    """A write found no room. The torn tail was cut, no byte of the append is readable (invariant
    33)."""

    reason = "DISK_FULL"


class DiskRefusedError(StorageError):
    """A write was refused though there is room: a read-only or forbidden path, too many open
    files. No byte of the append is readable."""


class DirectoryOfflineError(StorageError):
    """A sync failed or a device gave an I/O error: everything in this directory fails from then on
    and nothing is tried again (invariant 32)."""

    indeterminate = True


class LogDamagedError(StorageError):
    """Bytes that were synced once are missing or wrong. The log is offline and left as it is."""

    reason = "LOG_DAMAGED"

    def __init__(self, message: str, *, offset: int, path: str) -> None:
        super().__init__(message)
        # First offset that cannot be read.
        self.offset = offset
        # Segment file that holds the damage.
        self.path = path


class LogGoneError(StorageError):
    """The log was set aside because its topic was deleted, or was closed."""

    reason = "UNKNOWN_PARTITION"


class OffsetOutOfRangeError(StorageError):
    """The offset asked for is not in the log."""

    reason = "OFFSET_OUT_OF_RANGE"

    def __init__(self, offset: int, start_offset: int, end_offset: int) -> None:
        super().__init__(f"offset {offset} is not within {start_offset} and {end_offset}")
        self.offset = offset
        self.start_offset = start_offset
        self.end_offset = end_offset


class BatchTooLargeError(StorageError):
    """A batch is larger than the topic allows."""

    reason = "RECORD_TOO_LARGE"


class StaleEpochError(StorageError):
    """An append names another leader epoch than the newest one begun in this log (invariant 2)."""

    reason = "FENCED_LEADER_EPOCH"


class MalformedAppendError(StorageError):
    """Replicated bytes are not batches, fail a checksum or do not continue the log."""

    reason = "CORRUPT_BATCH"


class LogBusyError(StorageError):
    """The operation needs a log without appends in flight."""


class WriterOverloadedError(StorageError):
    """More bytes wait for the disk than are allowed."""

    reason = "THROTTLED"


class DirectoryMismatchError(StorageError):
    """The log directory cannot be used by this process (invariant 37)."""


class ForeignClusterError(DirectoryMismatchError):
    """The log directory belongs to another cluster."""


class ForeignNodeError(DirectoryMismatchError):
    """The log directory belongs to another node."""


class NewerFormatError(DirectoryMismatchError):
    """The log directory was written by a newer version of the software."""
