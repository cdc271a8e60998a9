"""The bytes of the journal, and what can be said about a journal that was cut or damaged.

::

    file    = header record*
    header  = magic 8 | format version u32 | synced length u64 | crc32 u32
    record  = magic 4 | crc32 u32 | command length u32 | index u64 | term u64 | synced length u64
              | command

All numbers are little endian. A record's crc covers what follows it. A record whose index is not
above the last one's replaces that entry and all behind it (a conflict, Raft §5.3), so the file only
ever grows until it is rewritten as a whole.

The *synced length* is the length of the file that was known to be on the disk when the header or
record was made. It separates two kinds of damage (invariant 34): below the largest such length
something acknowledged may be gone, and the node must not start; above it, nobody was told anything
yet, and the tail is cut. A valid record may follow a hole, since pages are written back in any
order. Where the end of the file was cut off, the records that told its synced length are gone too:
that is what a ``JournalMark``, kept elsewhere, is for.
"""

import struct
import zlib
from dataclasses import dataclass

from millstream_raft.directory_errors import DirectoryDamaged, NewerFormat
from millstream_raft.raft_messages import LogEntry

FORMAT_VERSION = 1
_MAGIC = b"MSRJRNL\0"
_RECORD_MAGIC = b"\xa7MSR"
_HEADER = struct.Struct("<8sIQI")
_HEADER_COVERED = struct.Struct("<IQ")
_RECORD = struct.Struct("<4sIIQQQ")
_RECORD_COVERED = struct.Struct("<IQQQ")
_CRC_END = 8  # where in a record the covered part begins

HEADER_BYTES = _HEADER.size
RECORD_OVERHEAD_BYTES = _RECORD.size


def encode_header(synced_length: int) -> bytes:
    """The header of a file whose first ``synced_length`` bytes are synced before it is used."""
    covered = _HEADER_COVERED.pack(FORMAT_VERSION, synced_length)
    return _HEADER.pack(_MAGIC, FORMAT_VERSION, synced_length, zlib.crc32(covered))


def encode_record(entry: LogEntry, synced_length: int) -> bytes:
    """The bytes of one record."""
    covered = _RECORD_COVERED.pack(len(entry.command), entry.index, entry.term, synced_length)
    crc = zlib.crc32(entry.command, zlib.crc32(covered))
    return _RECORD_MAGIC + crc.to_bytes(4, "little") + covered + entry.command


def encode_file(entries: list[LogEntry]) -> bytes:
    """A whole file that holds exactly these entries, to be synced before it is used."""
    length = HEADER_BYTES + sum(RECORD_OVERHEAD_BYTES + len(entry.command) for entry in entries)
    return encode_header(length) + b"".join(encode_record(entry, 0) for entry in entries)


@dataclass(frozen=True, slots=True)
class JournalMark:
    """A synced length of one file, noted outside of it. Which file is told by where it begins and
    by its length when it was written as a whole: it is only ever written anew to begin at a later
    entry, but for a first snapshot of two entries, which makes it longer."""

    first_index: int
    whole_bytes: int
    synced_bytes: int


@dataclass(frozen=True, slots=True)
class JournalContent:
    """What a file holds."""

    entries: list[LogEntry]
    #: Where the file must be cut: its own length unless its tail was torn.
    valid_bytes: int
    #: Its length when it was last written as a whole.
    whole_bytes: int


def decode_file(data: bytes, name: str, mark: JournalMark | None = None) -> JournalContent:
    """Read a whole file. Raises DirectoryDamaged for damage below a synced length, which the mark
    may know of, and NewerFormat."""
    whole = synced = _decode_header(data, name)
    entries: list[LogEntry] = []
    position = HEADER_BYTES
    while (record := _record_at(data, position)) is not None:
        entry, record_synced, end = record
        synced = max(synced, record_synced)
        _place(entries, entry, name, position)
        position = end
    if position < len(data):
        synced = max(synced, _synced_length_behind(data, position + 1))
    if mark is not None and (mark.first_index, mark.whole_bytes) == (_first_index(entries), whole):
        synced = max(synced, mark.synced_bytes)
    if position < synced:
        raise DirectoryDamaged(
            f"{name} is damaged at byte {position}, though {synced} bytes of it were on the disk"
        )
    if not entries:
        raise DirectoryDamaged(f"{name} holds no entry")
    return JournalContent(entries, position, whole)


def _first_index(entries: list[LogEntry]) -> int:
    return entries[0].index if entries else 0


def _decode_header(data: bytes, name: str) -> int:
    if len(data) < HEADER_BYTES:
        raise DirectoryDamaged(f"{name} is cut short: {len(data)} bytes")
    magic, version, synced_length, crc = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise DirectoryDamaged(f"{name} is not a journal: it begins with {magic!r}")
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"{name} has format {version}; this version of the software reads up to "
            f"{FORMAT_VERSION}"
        )
    if zlib.crc32(data[8 : HEADER_BYTES - 4]) != crc:
        raise DirectoryDamaged(f"{name} has a damaged header")
    return int(synced_length)


def _record_at(data: bytes, position: int) -> tuple[LogEntry, int, int] | None:
    """The entry at a position, its synced length and where it ends; None unless it is whole."""
    if position + RECORD_OVERHEAD_BYTES > len(data):
        return None
    magic, crc, length, index, term, synced_length = _RECORD.unpack_from(data, position)
    end = position + RECORD_OVERHEAD_BYTES + length
    if magic != _RECORD_MAGIC or end > len(data):
        return None
    if zlib.crc32(memoryview(data)[position + _CRC_END : end]) != crc:
        return None
    command = data[position + RECORD_OVERHEAD_BYTES : end]
    return LogEntry(command, index, term), synced_length, end


def _place(entries: list[LogEntry], entry: LogEntry, name: str, position: int) -> None:
    if entries:
        offset = entry.index - entries[0].index
        if not 0 < offset <= len(entries):
            raise DirectoryDamaged(
                f"{name} has index {entry.index} at byte {position} behind {entries[-1].index}"
            )
        del entries[offset:]
    entries.append(entry)


def _synced_length_behind(data: bytes, position: int) -> int:
    """The largest synced length that a whole record behind the damage tells of."""
    synced = 0
    while (position := data.find(_RECORD_MAGIC, position)) >= 0:
        record = _record_at(data, position)
        if record is None:
            position += 1
        else:
            synced = max(synced, record[1])
            position = record[2]
    return synced
