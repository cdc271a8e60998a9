"""The record batch as bytes: canonical layout, both checksums, broker fields.

A batch is 94 bytes of fixed-width header, then ``0x7a``, the payload's length and the payload. In
a segment file and in
a fetch response each batch is *framed* by the same tag and its own length::

    frame   0x7a  varint length  batch
    batch   [0:5]    header_crc                  written by each replica   \\
            [5:14]   synced_end_offset           written by each replica    | CRC-32C over [5:42]
            [14:42]  base_offset … crc           written by leader, producer /  stands in header_crc
            [42:94]  attributes … base_sequence  written by the producer   \\  CRC-32C over [42:]
            [94:]    0x7a  varint length  payload                          /   stands in crc

Every field is preceded by its one-byte Protobuf tag, so ``protoc --decode`` reads the same bytes.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c

from millstream.record.wire import decode_varint, encode_varint

HEADER_BYTES = 94
BROKER_BYTES = 42  # fields 1 to 6: what brokers rewrite, and the producer's crc
FRAME_TAG = (
    0x7A  # field 15, length-delimited: both of `Segment.batches` and of `RecordBatch.payload`
)

CODEC_MASK = 0x07
ATTRIBUTE_TRANSACTIONAL = 0x10
ATTRIBUTE_CONTROL = 0x20
_KNOWN_ATTRIBUTES = CODEC_MASK | ATTRIBUTE_TRANSACTIONAL | ATTRIBUTE_CONTROL

SEQUENCE_MODULUS = 1 << 31

_HEADER = struct.Struct("<BIBQBQBIBQBIBIBIBIBqBqBQBIBI")
_BROKER = struct.Struct("<BIBQBQBIBQBI")
_PRODUCER = struct.Struct("<BIBIBIBqBqBQBIBI")
_REPLICA = struct.Struct("<BIBQ")
_TAGS = (0x0D, 0x11, 0x19, 0x25, 0x29, 0x35, 0x3D, 0x45, 0x4D, 0x51, 0x59, 0x61, 0x6D, 0x75)
_CRC_FIELD = slice(BROKER_BYTES - 4, BROKER_BYTES)
assert _HEADER.size == HEADER_BYTES
assert _BROKER.size == BROKER_BYTES


class CorruptBatchError(ValueError):
    """The bytes are not a batch in canonical form, or a checksum does not match."""


class BatchHeader(NamedTuple):
    """The header fields of a batch; units and meaning as in ``record.proto``."""

    header_crc: int
    synced_end_offset: int
    base_offset: int
    leader_epoch: int
    append_timestamp_ms: int
    crc: int
    attributes: int
    last_offset_delta: int
    record_count: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    # Where the payload begins, counted from the start of the batch.
    payload_start: int
    # Length of the whole batch, bytes.
    size: int

    @property
    def last_offset(self) -> int:
        """Offset of the last record."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """Offset after the last record."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record, modulo 2^31."""
        return (self.base_sequence + self.last_offset_delta) % SEQUENCE_MODULUS

    @property
    def codec(self) -> int:
        """Codec number, see ``Codec`` in ``record.proto``."""
        return self.attributes & CODEC_MASK

    @property
    def is_control(self) -> bool:
        """True for batches that carry markers instead of records."""
        return bool(self.attributes & ATTRIBUTE_CONTROL)


def parse_header(data: bytes | memoryview, start: int = 0, end: int | None = None) -> BatchHeader:
    """Read the header of the batch that fills ``data[start:end]``; checks the form, not the
    checksums.

    Raises CorruptBatchError if the bytes are not one batch in canonical form.
    """
    end = len(data) if end is None else end
    if end - start < HEADER_BYTES + 2:
        raise CorruptBatchError(f"batch of {end - start} bytes is shorter than its header")
    fields = _HEADER.unpack_from(data, start)
    if fields[0::2] != _TAGS:
        raise CorruptBatchError("batch header is not in canonical form")
    values = fields[1::2]
    if values[6] & ~_KNOWN_ATTRIBUTES:
        raise CorruptBatchError(f"unknown attribute bits in {values[6]:#x}")
    if data[start + HEADER_BYTES] != FRAME_TAG:
        raise CorruptBatchError("batch payload is not in canonical form")
    try:
        length, payload = decode_varint(data, start + HEADER_BYTES + 1, end)
    except ValueError as error:
        raise CorruptBatchError(f"payload length: {error}") from None
    if payload + length != end:
        raise CorruptBatchError(f"payload of {length} bytes does not end with the batch")
    return BatchHeader._make((*values, payload - start, end - start))


def verify_crc(batch: bytes, header: BatchHeader) -> None:
    """Check the producer's checksum of a whole batch. Raises CorruptBatchError on a mismatch."""
    if google_crc32c.value(batch[BROKER_BYTES:]) != header.crc:
        raise CorruptBatchError("crc does not match")


def verify_header_crc(batch: bytes | memoryview, header: BatchHeader) -> None:
    """Check the replica's checksum; needs only the first 42 bytes. Raises CorruptBatchError on a
    mismatch."""
    if google_crc32c.value(bytes(batch[5:BROKER_BYTES])) != header.header_crc:
        raise CorruptBatchError("header_crc does not match")


def verify_batch(batch: bytes, header: BatchHeader) -> None:
    """Check both checksums (invariant 31). Raises CorruptBatchError on a mismatch."""
    verify_header_crc(batch, header)
    verify_crc(batch, header)


def build_batch(
    payload: bytes,
    *,
    record_count: int,
    base_timestamp_ms: int,
    max_timestamp_ms: int,
    attributes: int = 0,
    producer_id: int = 0,
    producer_epoch: int = 0,
    base_sequence: int = 0,
) -> bytes:
    """Make a batch as a producer sends it: checksum set, broker fields zero."""
    length = len(payload)
    tail = b"".join(
        (
            _PRODUCER.pack(
                0x3D, attributes, 0x45, record_count - 1, 0x4D, record_count,
                0x51, base_timestamp_ms, 0x59, max_timestamp_ms,
                0x61, producer_id, 0x6D, producer_epoch, 0x75, base_sequence,
            ),
            b"\x7a",
            encode_varint(length),
            payload,
        )
    )  # fmt: skip
    crc = google_crc32c.value(tail)
    return _BROKER.pack(0x0D, 0, 0x11, 0, 0x19, 0, 0x25, 0, 0x29, 0, 0x35, crc) + tail


def broker_head(
    crc: int,
    *,
    base_offset: int,
    leader_epoch: int,
    append_timestamp_ms: int,
    synced_end_offset: int,
) -> bytes:
    """The first 42 bytes of a batch as a leader stores it; ``batch[42:]`` follows unchanged."""
    body = _BROKER.pack(
        0x0D, 0, 0x11, synced_end_offset, 0x19, base_offset, 0x25, leader_epoch,
        0x29, append_timestamp_ms, 0x35, crc,
    )[5:]  # fmt: skip
    return b"\x0d" + struct.pack("<I", google_crc32c.value(body)) + body


def replica_head(batch: bytes | memoryview, synced_end_offset: int) -> bytes:
    """The first 42 bytes of a leader's batch as a follower stores it (only the replica's fields
    differ)."""
    body = b"\x11" + synced_end_offset.to_bytes(8, "little") + bytes(batch[14:BROKER_BYTES])
    return b"\x0d" + struct.pack("<I", google_crc32c.value(body)) + body


def broker_fields_are_zero(header: BatchHeader) -> bool:
    """True if the batch is as a producer must send it."""
    return header[:5] == (0, 0, 0, 0, 0)


def frame(batch: bytes) -> bytes:
    """The batch with the tag and length that stand before it in files and fetch responses."""
    return b"".join((b"\x7a", encode_varint(len(batch)), batch))


def frame_prefix(batch_bytes: int) -> bytes:
    """Tag and length that stand before a batch of that many bytes."""
    return b"\x7a" + encode_varint(batch_bytes)


class Frame(NamedTuple):
    """Where a framed batch stands in a buffer: [start, end) with tag and length, the batch at
    [batch_start, end)."""

    start: int
    batch_start: int
    end: int


def read_frame(data: bytes | memoryview, start: int, end: int) -> Frame:
    """Find the frame that begins at ``start``. Raises CorruptBatchError if it is malformed or cut
    off."""
    if start >= end or data[start] != FRAME_TAG:
        raise CorruptBatchError("no batch begins here")
    try:
        length, batch_start = decode_varint(data, start + 1, end)
    except ValueError as error:
        raise CorruptBatchError(f"batch length: {error}") from None
    if batch_start + length > end:
        raise CorruptBatchError("batch is cut off")
    return Frame(start, batch_start, batch_start + length)


def iterate_frames(
    data: bytes | memoryview, start: int = 0, end: int | None = None
) -> Iterator[Frame]:
    """Yield the frames that fill ``data[start:end]``. Raises CorruptBatchError at the first
    malformed one."""
    end = len(data) if end is None else end
    while start < end:
        found = read_frame(data, start, end)
        yield found
        start = found.end
