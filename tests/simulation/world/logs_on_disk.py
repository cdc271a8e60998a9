"""Reads the logs of a broker straight from its disk, without a line of the storage's code that
finds, checks or caches anything."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from millstream.record import BatchHeader, iterate_frames, parse_header
from tests.fakes.memory_files import MemoryFiles

LogKey = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch, without what each replica sets for itself (synced end, header_crc)."""

    base_offset: int
    next_offset: int
    leader_epoch: int
    crc: int
    append_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int

    @classmethod
    def of(cls, header: BatchHeader) -> "StoredBatch":
        """From its header."""
        return cls(
            header.base_offset,
            header.next_offset,
            header.leader_epoch,
            header.crc,
            header.append_timestamp_ms,
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
        )


@dataclass
class LogScan:
    """How far one log was read, and what was found; goes on where it ended."""

    batches: list[StoredBatch] = field(default_factory=list)
    headers: list[BatchHeader] = field(default_factory=list)
    generation: int = -1
    _file: str = ""
    _position: int = 0
    _end_offset: int = 0

    def take(self, disk: MemoryFiles, log: Any) -> list[StoredBatch]:
        """The batches that were written since the last time."""
        if log.generation != self.generation or log.written_end_offset < self._end_offset:
            self.__init__(generation=log.generation)  # type: ignore[misc]
        if log.written_end_offset == self._end_offset:
            return []
        begin = len(self.batches)
        names = [name for name in disk.list_directory(log.path) if name.endswith(".log")]
        for name in names:
            if name < self._file:
                continue
            if name != self._file:
                self._file, self._position = name, 0
            self._take_file(disk.content(f"{log.path}/{name}"), log.written_end_offset)
        return self.batches[begin:]

    def _take_file(self, content: bytes, end_offset: int) -> None:
        data = content[self._position :]
        for frame in _frames(data):
            header = parse_header(data, frame.batch_start, frame.end)
            if header.next_offset > end_offset:
                return
            self.batches.append(StoredBatch.of(header))
            self.headers.append(header)
            self._position += frame.end - frame.start
            self._end_offset = header.next_offset


def _frames(data: bytes) -> Iterator[Any]:
    try:
        yield from iterate_frames(data)
    except ValueError:  # a torn tail, beyond what counts
        return
