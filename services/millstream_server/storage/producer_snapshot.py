"""Producer states of a log at one offset, as a file beside its segments.

``<offset, 20 digits>.producers`` is a checkpoint whose payload is, little-endian::

    u32  version, 1
    u32  number of producers, then for each
         u64 producer id · u32 epoch · u8 number of batches, then for each, oldest first,
             u32 first sequence · u32 last sequence · u64 base offset · u64 last offset
             · u64 append timestamp, milliseconds

A snapshot at offset S stands for a replay of all batches below S (invariant 22). The last three
are kept: the recovery point that is durable may be older than the newest snapshot.
"""

import struct
from collections.abc import Iterator

from millstream_server.runtime.checkpoint import (
    CorruptCheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from millstream_server.runtime.ports import Files
from millstream_server.storage.producers import AppendedBatch, ProducerState, ProducerTable

SNAPSHOT_SUFFIX = ".producers"
_VERSION = 1
_KEPT = 3
_COUNTS = struct.Struct("<II")
_PRODUCER = struct.Struct("<QIB")
_BATCH = struct.Struct("<IIQQQ")


def encode_snapshot(table: ProducerTable) -> bytes:
    """The payload of a snapshot."""
    pieces = [_COUNTS.pack(_VERSION, len(table))]
    for producer_id, state in table:
        pieces.append(_PRODUCER.pack(producer_id, state.epoch, len(state.batches)))
        pieces.extend(_BATCH.pack(*batch) for batch in state.batches)
    return b"".join(pieces)


def decode_snapshot(payload: bytes) -> ProducerTable:
    """Read what ``encode_snapshot`` wrote. Raises ValueError."""
    try:
        version, count = _COUNTS.unpack_from(payload)
        if version != _VERSION:
            raise ValueError(f"snapshot version {version} is not known")
        table = ProducerTable()
        position = _COUNTS.size
        for _ in range(count):
            producer_id, epoch, batches = _PRODUCER.unpack_from(payload, position)
            position += _PRODUCER.size
            end = position + batches * _BATCH.size
            found = tuple(map(AppendedBatch._make, _BATCH.iter_unpack(payload[position:end])))
            if len(found) != batches or not found:
                raise ValueError("snapshot is cut off")
            table.put(producer_id, ProducerState(epoch, found))
            position = end
    except struct.error as error:
        raise ValueError(str(error)) from None
    return table


class ProducerSnapshots:
    """The snapshot files of one log."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = folder

    def write(self, offset: int, table: ProducerTable) -> None:
        """Write the snapshot at an offset and drop all but the newest ones. Raises OSError."""
        write_checkpoint(self._files, self._path(offset), encode_snapshot(table))
        for old in list(self._offsets())[_KEPT:]:
            self._files.remove(self._path(old))

    def newest(self, offset_max: int) -> tuple[int, ProducerTable] | None:
        """The newest readable snapshot at or below an offset. Raises OSError."""
        for offset in self._offsets():
            if offset > offset_max:
                continue
            try:
                payload = read_checkpoint(self._files, self._path(offset))
                if payload is not None:
                    return offset, decode_snapshot(payload)
            except (CorruptCheckpointError, ValueError):
                continue
        return None

    def drop_above(self, offset: int) -> None:
        """Remove snapshots beyond a cut. Raises OSError."""
        for found in list(self._offsets()):
            if found > offset:
                self._files.remove(self._path(found))

    def _offsets(self) -> Iterator[int]:
        """Offsets of all snapshots, newest first."""
        for name in reversed(self._files.list_directory(self._folder)):
            stem = name.removesuffix(SNAPSHOT_SUFFIX)
            if stem != name and stem.isdecimal():
                yield int(stem)

    def _path(self, offset: int) -> str:
        return f"{self._folder}/{offset:020d}{SNAPSHOT_SUFFIX}"
