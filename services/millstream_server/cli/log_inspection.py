"""Reads a segment file offline, batch by batch, and says what is wrong with it. Pure.

Checked are the form of each batch, both checksums, the order of the offsets and, unless asked
otherwise, that the payload decompresses into as many records as the header claims.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from millstream.record import (
    BatchHeader,
    Columns,
    CorruptBatchError,
    CorruptRecordsError,
    DecompressionError,
    UnsupportedCodecError,
    decode_records,
    decompress,
    parse_header,
    verify_batch,
)
from millstream.record.batch import read_frame


@dataclass(frozen=True)
class InspectedBatch:
    """A batch of a segment file, or the place where batches end to be readable."""

    # Where its frame begins and ends in the file, bytes.
    position: int
    end: int
    # None: nothing from here on can be read.
    header: BatchHeader | None
    # What is wrong; empty: nothing.
    problem: str = ""
    # None unless the payload was decoded.
    records: Columns | None = None


def inspect_segment(
    data: memoryview, *, decode: bool, gaps_allowed: bool = False, first_offset: int | None = None
) -> Iterator[InspectedBatch]:
    """Yield every batch. ``decode``: read the payloads too. ``gaps_allowed``: compaction may have
    left gaps. ``first_offset``: what the file's name says. Stops at the first place that cannot be
    read, for where the next batch begins is not known then."""
    position = 0
    expected = first_offset
    while position < len(data):
        try:
            frame = read_frame(data, position, len(data))
            header = parse_header(data, frame.batch_start, frame.end)
        except CorruptBatchError as error:
            rest = len(data) - position
            yield InspectedBatch(
                position, len(data), None, f"{error}; the last {rest} bytes cannot be read"
            )
            return
        batch = bytes(data[frame.batch_start : frame.end])
        problem = _order_problem(header, expected, gaps_allowed)
        records: Columns | None = None
        try:
            verify_batch(batch, header)
            if decode:
                records = decode_payload(batch, header)
        except (
            CorruptBatchError,
            CorruptRecordsError,
            DecompressionError,
            UnsupportedCodecError,
        ) as error:
            problem = str(error)
        yield InspectedBatch(position, frame.end, header, problem, records)
        position, expected = frame.end, header.next_offset


def decode_payload(batch: bytes, header: BatchHeader) -> Columns:
    """The records of a batch. Raises the errors of ``millstream.record``."""
    payload = decompress(header.codec, batch[header.payload_start :])
    return decode_records(payload, header.record_count)


def _order_problem(header: BatchHeader, expected: int | None, gaps_allowed: bool) -> str:
    if expected is None or header.base_offset == expected:
        return ""
    if header.base_offset < expected:
        return f"offset {header.base_offset} comes after offset {expected - 1}"
    if gaps_allowed:
        return ""
    return f"offsets {expected} to {header.base_offset - 1} are missing"
