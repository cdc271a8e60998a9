"""Where batches stand in a segment: sparse (base offset → position), a hint (invariant 35).

::

    <base offset>.index   entries of 16 bytes, little-endian
    u64  base offset of a batch
    u32  position of its frame in the segment file
    u32  CRC-32C of the segment's base offset and the 12 bytes before
"""

from typing import NamedTuple

from millstream_server.runtime.ports import Files
from millstream_server.storage.index_file import IndexFile


class OffsetEntry(NamedTuple):
    """A batch and where it begins."""

    offset: int
    position: int


class OffsetIndex(IndexFile[OffsetEntry]):
    """Offset index of one segment."""

    def __init__(self, files: Files, path: str, base_offset: int) -> None:
        super().__init__(files, path, base_offset, "<QI", OffsetEntry)
