"""Where a run of framed batches begins and ends in offsets, without parsing the batches.

Only the lengths of the frames are walked, and three fixed fields are read (see
``millstream.record.batch``).
"""

from typing import NamedTuple

from millstream.record.wire import decode_varint

# Bytes of a read on the event loop whose checksums are verified there, a few milliseconds at most.
VERIFIED_BYTES = 32 * 1024
_BASE_OFFSET = slice(15, 23)
_LAST_OFFSET_DELTA = slice(48, 52)


class Run(NamedTuple):
    """Framed batches as they stand in a file. Empty data: nothing was readable."""

    data: bytes
    # Offset of the first record of the first batch.
    first_offset: int
    # Offset after the last record of the last batch.
    next_offset: int


def measure(data: bytes, offset: int) -> Run:
    """The run that ``data`` is; ``offset`` is where an empty one stands."""
    if not data:
        return Run(data, offset, offset)
    position = 0
    size = len(data)
    first = None
    while True:
        length, start = decode_varint(data, position + 1, size)
        if first is None:
            first = _field(data, start, _BASE_OFFSET)
        position = start + length
        if position >= size:
            break
    base = _field(data, start, _BASE_OFFSET)
    return Run(data, first, base + _field(data, start, _LAST_OFFSET_DELTA) + 1)


def _field(data: bytes, start: int, field: slice) -> int:
    return int.from_bytes(data[start + field.start : start + field.stop], "little")
