"""Storage of a node: a directory of logs, one per partition replica.

The ladder, one file each: store (bytes) → offset index → time index → segment → log → directory.

How a broker uses it::

    directory = LogDirectory(path, files, clock, config, random=SystemRandom())
    directory.open(progress)                           # blocks: recovery
    writer = DirectoryWriter(directory, ThreadExecutor("log-directory", loop))
    log = directory.create_log(topic_id, partition, log_config)
    writer.begin_epoch(log, leader_epoch, done)        # before the first append of an epoch
    verdicts = log.check_producers(headers, now_ms)    # then, in the same loop step:
    staged = log.stage(batches, leader_epoch, append_timestamp_ms)
    writer.submit(log, staged, done)                   # or writer.write_now if log.can_write_now
    log.read(offset, bytes_max, end_offset)            # loop if log.reads_from_memory(offset)
    writer.when_idle(…); directory.close()             # clean stop
"""

from millstream_server.storage.appends import AppendDone, IncomingBatch, StagedAppend
from millstream_server.storage.config import DirectoryConfig, FlushMode, LogConfig
from millstream_server.storage.directory import LogDirectory, RecoveryProgress
from millstream_server.storage.epochs import EpochEnd, EpochHistory, EpochStart
from millstream_server.storage.errors import (
    BatchTooLargeError,
    DirectoryMismatchError,
    DirectoryOfflineError,
    DiskFullError,
    DiskRefusedError,
    ForeignClusterError,
    ForeignNodeError,
    LogBusyError,
    LogDamagedError,
    LogGoneError,
    MalformedAppendError,
    NewerFormatError,
    OffsetOutOfRangeError,
    StaleEpochError,
    StorageError,
    WriterOverloadedError,
)
from millstream_server.storage.log import Log
from millstream_server.storage.log_state import LogKey
from millstream_server.storage.producers import Decision, ProducerTable, Verdict
from millstream_server.storage.reading import FoundOffset
from millstream_server.storage.writer import DirectoryWriter

__all__ = [
    "AppendDone",
    "BatchTooLargeError",
    "Decision",
    "DirectoryConfig",
    "DirectoryMismatchError",
    "DirectoryOfflineError",
    "DirectoryWriter",
    "DiskFullError",
    "DiskRefusedError",
    "EpochEnd",
    "EpochHistory",
    "EpochStart",
    "FlushMode",
    "ForeignClusterError",
    "ForeignNodeError",
    "FoundOffset",
    "IncomingBatch",
    "Log",
    "LogBusyError",
    "LogConfig",
    "LogDamagedError",
    "LogDirectory",
    "LogGoneError",
    "LogKey",
    "MalformedAppendError",
    "NewerFormatError",
    "OffsetOutOfRangeError",
    "ProducerTable",
    "RecoveryProgress",
    "StagedAppend",
    "StaleEpochError",
    "StorageError",
    "Verdict",
    "WriterOverloadedError",
]
