"""Batches as bytes: what is accepted, what is refused, and what brokers rewrite."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.record import (
    BatchHeader,
    CorruptBatchError,
    build_batch,
    iterate_frames,
    parse_header,
    verify_batch,
    verify_crc,
)
from millstream.record.batch import (
    BROKER_BYTES,
    broker_fields_are_zero,
    broker_head,
    frame,
    frame_prefix,
    replica_head,
)
from millstream.record.wire import decode_varint, encode_varint
from millstream.v1 import record_pb2

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def built(draw: st.DrawFn) -> bytes:
    return build_batch(
        draw(st.binary(max_size=300)),
        record_count=draw(st.integers(1, 2**31)),
        base_timestamp_ms=draw(I64),
        max_timestamp_ms=draw(I64),
        attributes=draw(st.sampled_from([0, 3, 4, 0x10, 0x20, 0x33])),
        producer_id=draw(U64),
        producer_epoch=draw(U32),
        base_sequence=draw(st.integers(0, 2**31 - 1)),
    )


@given(built())
def test_protobuf_reads_and_writes_the_same_bytes(batch: bytes) -> None:
    header = parse_header(batch)
    verify_crc(batch, header)
    assert broker_fields_are_zero(header)
    message = record_pb2.RecordBatch.FromString(batch)
    assert message.SerializeToString() == batch
    names = [field.name for field in record_pb2.RecordBatch.DESCRIPTOR.fields][:-1]
    assert [getattr(message, name) for name in names] == list(header[:14])
    assert message.payload == batch[header.payload_start :]


@given(built(), U64, U32, U64, U64, U64)
def test_leader_and_replica_rewrite_their_own_fields_only(
    batch: bytes, base_offset: int, epoch: int, now: int, synced: int, replica_synced: int
) -> None:
    crc = parse_header(batch).crc
    head = broker_head(
        crc, base_offset=base_offset, leader_epoch=epoch, append_timestamp_ms=now,
        synced_end_offset=synced,
    )  # fmt: skip
    stored = head + batch[BROKER_BYTES:]
    header = parse_header(stored)
    verify_batch(stored, header)
    assert header[1:5] == (synced, base_offset, epoch, now)
    assert header[5:14] == parse_header(batch)[5:14]
    copied = replica_head(stored, replica_synced) + stored[BROKER_BYTES:]
    replica = parse_header(copied)
    verify_batch(copied, replica)
    assert replica[2:14] == header[2:14]
    assert replica.synced_end_offset == replica_synced


def stored_batch(payload: bytes = b"payload") -> bytes:
    batch = build_batch(payload, record_count=1, base_timestamp_ms=1, max_timestamp_ms=2)
    head = broker_head(
        parse_header(batch).crc, base_offset=7, leader_epoch=2, append_timestamp_ms=3,
        synced_end_offset=5,
    )  # fmt: skip
    return head + batch[BROKER_BYTES:]


def test_every_flipped_bit_of_a_stored_batch_is_found() -> None:
    batch = stored_batch()
    for position in range(len(batch)):
        for bit in range(8):
            spoilt = bytearray(batch)
            spoilt[position] ^= 1 << bit
            with pytest.raises(CorruptBatchError):
                verify_batch(bytes(spoilt), parse_header(bytes(spoilt)))


def test_every_cut_is_found() -> None:
    batch = stored_batch()
    for size in range(len(batch)):
        with pytest.raises(CorruptBatchError):
            parse_header(batch[:size])
    with pytest.raises(CorruptBatchError):
        parse_header(batch + b"\x00")


def test_a_length_in_more_bytes_than_needed_is_not_canonical() -> None:
    batch = stored_batch(b"x")
    assert batch[94:96] == b"\x7a\x01"
    with pytest.raises(CorruptBatchError):
        parse_header(batch[:95] + b"\x81\x00" + batch[96:])


def test_the_same_message_in_another_order_is_not_canonical() -> None:
    message = record_pb2.RecordBatch.FromString(stored_batch())
    header, rest = message.SerializeToString()[:5], message.SerializeToString()[5:]
    assert record_pb2.RecordBatch.FromString(rest + header) == message
    with pytest.raises(CorruptBatchError):
        parse_header(rest + header)


@given(st.binary(max_size=400))
def test_rubbish_is_refused_with_the_one_error(data: bytes) -> None:
    with pytest.raises(CorruptBatchError):
        parse_header(data)
    try:
        for found in iterate_frames(data):
            assert found.end <= len(data)
    except CorruptBatchError:
        pass


@given(st.lists(built(), max_size=4))
def test_frames_are_found_again_and_are_a_segment(batches: list[bytes]) -> None:
    data = b"".join(map(frame, batches))
    assert [data[f.batch_start : f.end] for f in iterate_frames(data)] == batches
    message = record_pb2.Segment(batches=map(record_pb2.RecordBatch.FromString, batches))
    assert message.SerializeToString() == data


def test_a_frame_that_is_cut_off_is_refused() -> None:
    data = frame(stored_batch())
    for size in range(1, len(data)):
        with pytest.raises(CorruptBatchError):
            list(iterate_frames(data[:size]))


@given(st.integers(0, 2**35 - 1))
def test_varints(value: int) -> None:
    data = encode_varint(value)
    assert decode_varint(data + b"\xff", 0, len(data) + 1) == (value, len(data))
    assert frame_prefix(value) == b"\x7a" + data
    with pytest.raises(ValueError, match="cut off"):
        decode_varint(data, 0, len(data) - 1)


def test_sequences_wrap() -> None:
    values = [0] * 13 + [2**31 - 2, 0, 0]
    values[7] = 3
    header = BatchHeader(*values)
    assert header.last_sequence == 1
    assert struct.calcsize("<I") == 4
