"""An append on its way to the disk: batches with their offsets assigned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from millstream.record import BatchHeader
from millstream_server.storage.producers import ProducerState

if TYPE_CHECKING:
    from millstream_server.storage.errors import StorageError
    from millstream_server.storage.log import Log


class IncomingBatch(NamedTuple):
    """A batch as its producer sent it, checked by the caller (both form and ``crc``)."""

    data: bytes
    header: BatchHeader


class StagedBatch(NamedTuple):
    """Where a batch goes and what the indexes must know of it."""

    base_offset: int
    next_offset: int
    # Length in the file, with the frame's tag and length.
    frame_bytes: int
    max_timestamp_ms: int
    append_timestamp_ms: int
    leader_epoch: int
    # What to write, in order.
    buffers: tuple[bytes | memoryview, ...]
    # The producer's id and its state after this batch; None without an idempotent producer.
    producer: tuple[int, ProducerState] | None


@dataclass(frozen=True, slots=True)
class StagedAppend:
    """Batches of one partition that are appended as a whole or not at all."""

    log: Log
    # Generation of the log that assigned the offsets; a truncation makes the append void.
    generation: int
    base_offset: int
    # Offset after the last record.
    end_offset: int
    append_timestamp_ms: int
    # Bytes in the file.
    size_bytes: int
    batches: tuple[StagedBatch, ...]


# Called once per append on the event loop: the log's synced end offset, and the error if the
# append failed. Without an error the batches are written, and in fsync mode also synced.
AppendDone = Callable[[int, "StorageError | None"], None]
