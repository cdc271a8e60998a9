"""Reading a segment file from front to back: headers only, or every byte verified.

Three readers over a ``File``: ``walk_headers`` hops from header to header, ``scan_batches``
verifies both checksums of every batch, ``find_headers`` looks past damage for headers whose
``header_crc`` holds (invariant 34). None of them changes anything.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from millstream.record import BatchHeader, CorruptBatchError, parse_header, verify_batch
from millstream.record.batch import BROKER_BYTES, HEADER_BYTES, read_frame, verify_header_crc
from millstream_server.runtime.ports import File

# Frame tag, varint, header, payload tag, varint: no header needs more.
_HEAD_BYTES = 1 + 5 + HEADER_BYTES + 1 + 5
_NEAR_WINDOW_BYTES = 64 * 1024
_SMALL_FRAME_BYTES = 4096
CHUNK_BYTES = 4 * 1024 * 1024

# The tags of a header stand at fixed places, so a header can be found wherever it begins.
_HEADER_PATTERN = re.compile(
    rb"(?=\x0d.{4}\x11.{8}\x19.{8}\x25.{4}\x29.{8}\x35.{4}\x3d.{4}\x45.{4}\x4d)", re.DOTALL
)


class DamageError(Exception):
    """The bytes at a position are not a whole batch in canonical form with right checksums."""

    def __init__(self, position: int, text: str) -> None:
        super().__init__(f"at byte {position}: {text}")
        self.position = position


class PlacedBatch(NamedTuple):
    """A batch and where its frame stands in the segment file."""

    header: BatchHeader
    # First byte of the frame.
    position: int
    # Byte after the frame.
    end: int


def walk_headers(file: File, start: int, end: int) -> Iterator[PlacedBatch]:
    """Yield the batches whose frames fill [start, end) of the file, verifying ``header_crc`` and
    that no offset is missing between them, but not reading payloads. Raises DamageError."""
    position = start
    next_offset = None
    buffer, buffer_start = b"", start
    window = _NEAR_WINDOW_BYTES
    while position < end:
        inside = position - buffer_start
        needed = min(_HEAD_BYTES, end - position)
        if inside + needed > len(buffer):
            buffer, buffer_start = file.read(position, min(window, end - position)), position
            inside = 0
            if len(buffer) < needed:
                raise DamageError(position, "the file ends early")
        try:
            frame = read_frame(buffer, inside, end - buffer_start)
            header = parse_header(buffer, frame.batch_start, frame.end)
            verify_header_crc(buffer[frame.batch_start : frame.batch_start + BROKER_BYTES], header)
        except CorruptBatchError as error:
            raise DamageError(position, str(error)) from None
        _check_follows(position, header, next_offset)
        next_offset = header.next_offset
        placed = PlacedBatch(header, position, buffer_start + frame.end)
        yield placed
        position = placed.end
        # Hopping over large batches, a window would be read for its first bytes only.
        small = frame.end - inside <= _SMALL_FRAME_BYTES
        window = _NEAR_WINDOW_BYTES if small else _HEAD_BYTES


def _check_follows(position: int, header: BatchHeader, next_offset: int | None) -> None:
    """Whole batches may have changed places: every checksum holds then (invariant 20)."""
    if next_offset is not None and header.base_offset != next_offset:
        raise DamageError(position, f"offset {header.base_offset} instead of {next_offset}")


def scan_batches(file: File, start: int, end: int) -> Iterator[PlacedBatch]:
    """Yield the batches whose frames fill [start, end) of the file, every byte verified. Raises
    DamageError."""
    position = start
    wanted = CHUNK_BYTES
    while position < end:
        chunk = file.read(position, min(wanted, end - position))
        if len(chunk) < min(wanted, end - position):
            raise DamageError(position, "the file ends early")
        used = 0
        for placed in scan_buffer(chunk, position):
            used = placed.end - position
            yield placed
        if used == 0:
            # Either one batch larger than a chunk, or damage; the frame's own length tells.
            wanted = _frame_bytes(chunk, position, end)
            if len(chunk) >= wanted:
                raise DamageError(position, "batch is damaged")
            continue
        position += used
        wanted = CHUNK_BYTES


def _frame_bytes(chunk: bytes, position: int, end: int) -> int:
    try:
        found = read_frame(chunk, 0, end - position)
        parse_header(chunk, found.batch_start, found.end)  # a wrong length is met here
    except (CorruptBatchError, IndexError, struct.error) as error:
        raise DamageError(position, str(error)) from None
    return found.end


def scan_buffer(
    data: bytes, position: int, verify_below: int | None = None
) -> Iterator[PlacedBatch]:
    """Yield the whole batches at the front of a buffer that was read at ``position``; stops before
    a frame that is cut off by the end of the buffer. Every byte is verified, or only those of
    batches that begin below the offset ``verify_below``. Raises DamageError."""
    start = 0
    next_offset = None
    while start < len(data):
        try:
            frame = read_frame(data, start, len(data))
        except CorruptBatchError:
            return  # cut off, or damage: the caller knows which
        try:
            header = parse_header(data, frame.batch_start, frame.end)
            if verify_below is None or header.base_offset < verify_below:
                verify_batch(data[frame.batch_start : frame.end], header)
        except CorruptBatchError as error:
            raise DamageError(position + start, str(error)) from None
        _check_follows(position + start, header, next_offset)
        next_offset = header.next_offset
        yield PlacedBatch(header, position + start, position + frame.end)
        start = frame.end


class FoundHeader(NamedTuple):
    """A header past damage: what it says of this replica's synced end."""

    position: int
    base_offset: int
    synced_end_offset: int


def find_headers(file: File, start: int, end: int) -> Iterator[FoundHeader]:
    """Yield every header in [start, end) whose ``header_crc`` holds, wherever it stands."""
    position = start
    while position < end:
        chunk = file.read(position, min(CHUNK_BYTES, end - position))
        if not chunk:
            return
        for match in _HEADER_PATTERN.finditer(chunk):
            found = _header_at(chunk, match.start())
            if found is not None:
                yield FoundHeader(position + match.start(), *found)
        if position + len(chunk) >= end:
            return
        # Chunks overlap by less than a header: none is missed, none is found twice.
        position += max(1, len(chunk) - HEADER_BYTES + 1)


def _header_at(chunk: bytes, start: int) -> tuple[int, int] | None:
    """(base offset, synced end) of the header at ``start`` if its checksum holds."""
    if len(chunk) - start < HEADER_BYTES:
        return None
    head = chunk[start : start + HEADER_BYTES] + b"\x7a\x00"
    try:
        header = parse_header(head)
        verify_header_crc(head, header)
    except CorruptBatchError:
        return None
    if header.synced_end_offset > header.base_offset:
        return None  # no replica wrote this
    return header.base_offset, header.synced_end_offset
