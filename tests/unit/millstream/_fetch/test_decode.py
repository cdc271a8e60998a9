"""Batches to records: every codec, every kind of null, every way to be damaged."""

import pytest

from millstream._consumer.record import ConsumerRecord, TopicPartition
from millstream._fetch.decode import (
    BatchDamage,
    Deserializers,
    decode_batch,
    decode_columns,
)
from millstream.record.batch import broker_head, build_batch, parse_header
from millstream.record.columns import encode_records
from tests.fakes.fetch_broker import stored_batch

LOGS = TopicPartition("logs", 2)
CODECS = {"none": 0, "lz4": 3, "zstd": 4}


def decode(batch: bytes, position: int = 0, **how: object) -> list[ConsumerRecord]:
    settings = {"log_append_time": False, "check_crcs": True, **how}
    return decode_batch(LOGS, batch, position, **settings).records  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_records_come_back_as_they_were_written(codec: int) -> None:
    batch = stored_batch(
        [b"one", None, b"", b"\xff\x00"],
        base_offset=40,
        leader_epoch=7,
        keys=[b"k", None, b"", b"\xfe"],
        headers=[[("a", b"1"), ("a", None)], [], [("ü", b"")], []],
        codec=codec,
        timestamp_ms=123,
    )
    records = decode(batch, 40)
    assert [record.offset for record in records] == [40, 41, 42, 43]
    assert [record.value for record in records] == [b"one", None, b"", b"\xff\x00"]
    assert [record.key for record in records] == [b"k", None, b"", b"\xfe"]
    assert [record.headers for record in records] == [
        (("a", b"1"), ("a", None)),
        (),
        (("ü", b""),),
        (),
    ]
    assert {(r.topic, r.partition, r.leader_epoch, r.timestamp_ms) for r in records} == {
        ("logs", 2, 7, 123)
    }


def test_a_record_is_frozen_and_shows_its_fields() -> None:
    record = decode(stored_batch([b"v"], base_offset=3))[0]
    with pytest.raises(AttributeError):
        record.value = b"other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        record.other = 1  # type: ignore[attr-defined]
    assert "offset=3" in repr(record)


def test_records_below_the_position_are_skipped() -> None:
    batch = stored_batch([b"a", b"b", b"c"], base_offset=10)
    assert [record.offset for record in decode(batch, 12)] == [12]
    assert decode(batch, 13) == []


def test_gaps_left_by_compaction_keep_their_offsets() -> None:
    payload = encode_records([b"a", b"b"])
    deltas = b"\x4a\x08" + (1).to_bytes(4, "little") + (4).to_bytes(4, "little")
    batch = restamped(payload + deltas, count=2, last_delta=5, base_offset=100)
    decoded = decode_batch(LOGS, batch, 0, log_append_time=False, check_crcs=True)
    assert [record.offset for record in decoded.records] == [101, 104]
    assert decoded.next_offset == 106
    assert [record.offset for record in decode(batch, 102)] == [104]


def restamped(payload: bytes, *, count: int, last_delta: int, base_offset: int) -> bytes:
    """A batch whose last offset delta is not its record count minus one."""
    produced = bytearray(
        build_batch(payload, record_count=count, base_timestamp_ms=0, max_timestamp_ms=0)
    )
    produced[48:52] = last_delta.to_bytes(4, "little")
    import google_crc32c

    crc = google_crc32c.value(bytes(produced[42:]))
    head = broker_head(
        crc, base_offset=base_offset, leader_epoch=1, append_timestamp_ms=0, synced_end_offset=0
    )
    return head + bytes(produced[42:])


def test_control_batches_are_passed_over() -> None:
    batch = stored_batch([b"marker"], base_offset=5, attributes=0x20)
    decoded = decode_batch(LOGS, batch, 5, log_append_time=False, check_crcs=True)
    assert (decoded.records, decoded.next_offset) == ([], 6)


def test_append_time_replaces_the_producers_time() -> None:
    batch = stored_batch([b"a"], base_offset=0, timestamp_ms=1, append_timestamp_ms=99)
    assert decode(batch, log_append_time=True)[0].timestamp_ms == 99


def test_every_damaged_byte_is_noticed() -> None:
    batch = stored_batch([b"some", b"values"], base_offset=0, keys=[b"k", None])
    for index in range(len(batch)):
        damaged = bytearray(batch)
        damaged[index] ^= 0x41
        with pytest.raises(BatchDamage):
            decode(bytes(damaged))


def test_every_cut_is_noticed() -> None:
    batch = stored_batch([b"some", b"values"], base_offset=0)
    for size in range(len(batch)):
        with pytest.raises(BatchDamage):
            decode(batch[:size])


def test_without_checksums_the_form_is_still_checked() -> None:
    batch = bytearray(stored_batch([b"some"], base_offset=0))
    batch[38] ^= 1
    assert decode(bytes(batch), check_crcs=False)[0].value == b"some"
    with pytest.raises(BatchDamage):
        decode(bytes(batch[:-1]), check_crcs=False)


def test_ends_that_do_not_ascend_are_refused() -> None:
    ends = b"".join(end.to_bytes(4, "little") for end in (3, 1, 4))
    payload = b"\x22\x0c" + ends + b"\x2a\x04abcd"
    batch = restamped(payload, count=3, last_delta=2, base_offset=0)
    with pytest.raises(BatchDamage):
        decode(batch)


def test_a_lying_record_count_is_refused() -> None:
    payload = encode_records([b"a", b"b"])
    for count, last_delta in ((3, 2), (1, 0), (2, 7)):
        batch = restamped(payload, count=count, last_delta=last_delta, base_offset=0)
        with pytest.raises(BatchDamage):
            decode(batch)


def test_a_decompression_bomb_is_refused() -> None:
    batch = stored_batch([bytes(17 * 1024 * 1024)], base_offset=0, codec=4)
    assert len(batch) < 64 * 1024
    with pytest.raises(BatchDamage):
        decode(batch)


def test_columns_hold_the_same_as_records() -> None:
    batch = stored_batch([b"a", None, b"c"], base_offset=10, keys=[None, b"k", b""])
    columns, next_offset, epoch = decode_columns(
        LOGS, batch, 11, log_append_time=False, check_crcs=True
    )
    assert columns is not None
    assert (list(columns.offsets), columns.values, columns.keys) == (
        [11, 12],
        [None, b"c"],
        [b"k", b""],
    )
    assert (len(columns), next_offset, epoch) == (2, 13, 1)
    nothing = decode_columns(LOGS, batch, 13, log_append_time=False, check_crcs=True)
    assert nothing == (None, 13, 1)


def test_deserializers_make_what_the_application_wants() -> None:
    batch = stored_batch([b"1", None, b"3"], base_offset=0, keys=[b"a", None, b"c"])
    records = decode(batch, deserializers=Deserializers(bytes.decode, int))
    assert [record.value for record in records] == [1, None, 3]
    assert [record.key for record in records] == ["a", None, "c"]


def test_a_record_that_cannot_be_deserialized_keeps_those_before_it() -> None:
    batch = stored_batch([b"1", b"2", b"x", b"4"], base_offset=10)
    decoded = decode_batch(
        LOGS,
        batch,
        10,
        log_append_time=False,
        check_crcs=True,
        deserializers=Deserializers(None, int),
    )
    assert [record.value for record in decoded.records] == [1, 2]
    assert decoded.next_offset == 12
    assert isinstance(decoded.failure, ValueError)
    again = decode(batch, 13, deserializers=Deserializers(None, int))
    assert [record.value for record in again] == [4]


def test_the_header_peeked_at_is_where_the_format_has_it() -> None:
    batch = stored_batch([b"a", b"b"], base_offset=77, leader_epoch=5)
    header = parse_header(batch)
    assert int.from_bytes(batch[15:23], "little") == header.base_offset
    assert int.from_bytes(batch[24:28], "little") == header.leader_epoch
    assert int.from_bytes(batch[48:52], "little") == header.last_offset_delta
