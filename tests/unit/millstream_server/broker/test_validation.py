"""Every batch that would poison a log is refused with the right reason."""

from array import array
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.record import (
    CorruptRecordsError,
    build_batch,
    compress,
    decode_records,
    encode_records,
)
from millstream.record.compression import CODEC_NUMBERS
from millstream.record.wire import RawRecords
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.validation import (
    any_slow_to_check,
    check_headers,
    check_payloads,
    parse_batches,
)

RECORD_BYTES_MAX = 1024


@dataclass
class Wanted:
    control_allowed: bool = False
    acks_all: bool = True


def build(*values: bytes | None, codec: int = 0, **fields: int) -> bytes:
    fields = {
        "record_count": len(values),
        "base_timestamp_ms": 1000,
        "max_timestamp_ms": 1000,
        "attributes": codec,
        **fields,
    }
    return build_batch(compress(codec, encode_records(values)), **fields)


def check(*batches: bytes, wanted: Wanted | None = None) -> None:
    wanted = wanted or Wanted()
    parsed = parse_batches(batches)
    check_headers(parsed, control_allowed=wanted.control_allowed, acks_all=wanted.acks_all)
    check_payloads(parsed, RECORD_BYTES_MAX)


def reason_of(*batches: bytes, wanted: Wanted | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        check(*batches, wanted=wanted)
    assert not caught.value.indeterminate
    return caught.value.reason


@pytest.mark.parametrize("codec", CODEC_NUMBERS.values())
def test_a_good_batch_of_any_codec_passes(codec: int) -> None:
    batch = build(b"a", None, b"", codec=codec)
    check(batch)
    assert any_slow_to_check(parse_batches([batch])) is (codec != 0)


def test_very_many_records_are_slow_to_check() -> None:
    assert any_slow_to_check(parse_batches([build(record_count=1 << 20)]))


def test_no_batch_is_no_request() -> None:
    assert reason_of() == "INVALID_REQUEST"


def test_a_header_that_is_not_canonical_is_refused() -> None:
    batch = bytearray(build(b"a"))
    batch[14], batch[23] = batch[23], batch[14]
    assert reason_of(bytes(batch)) == "CORRUPT_BATCH"
    assert reason_of(b"rubbish") == "CORRUPT_BATCH"
    assert reason_of(build(b"a") + b"\0") == "CORRUPT_BATCH"


def test_a_flipped_bit_is_noticed() -> None:
    batch = bytearray(build(b"value"))
    batch[-1] ^= 1
    assert reason_of(bytes(batch)) == "CORRUPT_BATCH"


@pytest.mark.parametrize("position", [1, 6, 15, 24, 29])
def test_fields_of_brokers_must_be_zero(position: int) -> None:
    batch = bytearray(build(b"a"))
    batch[position] = 1
    assert reason_of(bytes(batch)) == "CORRUPT_BATCH"


@pytest.mark.parametrize("count", [2, 3, 1000])
def test_a_lying_record_count_is_refused(count: int) -> None:
    assert reason_of(build(b"a", record_count=count)) == "CORRUPT_BATCH"


def test_an_empty_batch_is_refused() -> None:
    batch = build_batch(encode_records([]), record_count=1, base_timestamp_ms=0, max_timestamp_ms=0)
    check(batch)  # one record with a null value and no columns at all
    with pytest.raises(Exception, match=r".*"):
        build_batch(b"", record_count=0, base_timestamp_ms=0, max_timestamp_ms=0)


def test_an_unknown_codec_is_refused() -> None:
    assert reason_of(build(b"a", attributes=5)) == "UNSUPPORTED_CODEC"
    assert reason_of(build(b"a", attributes=1)) == "UNSUPPORTED_CODEC"


def test_unknown_attributes_are_not_canonical() -> None:
    assert reason_of(build(b"a", attributes=0x100)) == "CORRUPT_BATCH"


def test_transactions_and_foreign_control_batches_are_refused() -> None:
    assert reason_of(build(b"a", attributes=0x10)) == "UNSUPPORTED"
    assert reason_of(build(b"a", attributes=0x20)) == "INVALID_REQUEST"
    check(build(b"a", attributes=0x20), wanted=Wanted(control_allowed=True))


@pytest.mark.parametrize("codec", [3, 4])
def test_a_decompression_bomb_is_refused(codec: int) -> None:
    bomb = compress(codec, bytes(64 << 20))
    assert len(bomb) < 1 << 20
    batch = build_batch(
        bomb, record_count=1, base_timestamp_ms=0, max_timestamp_ms=0, attributes=codec
    )
    assert reason_of(batch) == "CORRUPT_BATCH"


@pytest.mark.parametrize("codec", [3, 4])
def test_rubbish_in_place_of_compressed_bytes_is_refused(codec: int) -> None:
    batch = build_batch(
        b"rubbish", record_count=1, base_timestamp_ms=0, max_timestamp_ms=0, attributes=codec
    )
    assert reason_of(batch) == "CORRUPT_BATCH"


@pytest.mark.parametrize("codec", CODEC_NUMBERS.values())
def test_a_record_of_exactly_the_largest_size_passes_and_one_byte_more_does_not(
    codec: int,
) -> None:
    check(build(b"v" * RECORD_BYTES_MAX, codec=codec))
    check(build(b"v" * RECORD_BYTES_MAX, b"w" * RECORD_BYTES_MAX, codec=codec))
    assert reason_of(build(b"v" * (RECORD_BYTES_MAX + 1), codec=codec)) == "RECORD_TOO_LARGE"
    two = build(b"v" * (RECORD_BYTES_MAX + 1), b"w", codec=codec)
    assert reason_of(two) == "RECORD_TOO_LARGE"


def test_keys_and_headers_count_as_part_of_the_record() -> None:
    def batch(key_bytes: int, header_bytes: int) -> bytes:
        payload = encode_records(
            [b"v" * 500, b"w"],
            [b"k" * key_bytes, None],
            headers=[[("name", b"h" * header_bytes)], []],
        )
        return build_batch(payload, record_count=2, base_timestamp_ms=0, max_timestamp_ms=0)

    check(batch(500, 20))
    assert reason_of(batch(500, 21)) == "RECORD_TOO_LARGE"


@pytest.mark.parametrize(
    ("base", "maximum"), [(-1, 1000), (1000, 999), (0, 1 << 60), (1 << 60, 1 << 60)]
)
def test_senseless_timestamps_are_refused(base: int, maximum: int) -> None:
    batch = build(b"a", base_timestamp_ms=base, max_timestamp_ms=maximum)
    assert reason_of(batch) == "CORRUPT_BATCH"


def test_idempotence_needs_acks_all() -> None:
    batch = build(b"a", producer_id=7)
    check(batch)
    assert reason_of(batch, wanted=Wanted(acks_all=False)) == "INVALID_REQUEST"


def test_producer_fields_without_a_producer_or_out_of_range_are_refused() -> None:
    assert reason_of(build(b"a", producer_epoch=1)) == "INVALID_REQUEST"
    assert reason_of(build(b"a", base_sequence=1)) == "INVALID_REQUEST"
    assert reason_of(build(b"a", producer_id=7, base_sequence=1 << 31)) == "INVALID_REQUEST"
    assert reason_of(build(b"a", producer_id=1 << 63)) == "INVALID_REQUEST"


def test_one_bad_batch_of_several_spoils_the_request() -> None:
    assert reason_of(build(b"a"), build(b"a", attributes=0x10)) == "UNSUPPORTED"


def test_records_that_take_no_bytes_are_bounded() -> None:
    check(build(record_count=1 << 20))
    assert reason_of(build(record_count=(1 << 20) + 1)) == "CORRUPT_BATCH"
    assert reason_of(build(record_count=(1 << 32) - 1)) == "CORRUPT_BATCH"


_NUMBERS = st.lists(st.integers(0, 6) | st.integers(0, (1 << 32) - 1), max_size=4)


@settings(max_examples=300)
@given(_NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS)
def test_what_passes_can_be_decoded(
    values: list[int],
    nulls: list[int],
    of_record: list[int],
    names: list[int],
    contents: list[int],
    null_contents: list[int],
) -> None:
    def column(numbers: list[int]) -> bytes:
        return array("I", numbers).tobytes()

    records = RawRecords(value_ends=column(values), null_values=column(nulls))
    records.values = bytes(values[-1] if values and values[-1] < 100 else 0)
    if of_record:
        headers = records.headers
        headers.record_ends, headers.name_ends = column(of_record), column(names)
        headers.value_ends, headers.null_values = column(contents), column(null_contents)
        headers.names = bytes(names[-1] if names and names[-1] < 100 else 0)
        headers.values = bytes(contents[-1] if contents and contents[-1] < 100 else 0)
    count = max(1, len(values) or len(of_record))
    payload = records.SerializeToString()
    batch = build_batch(payload, record_count=count, base_timestamp_ms=0, max_timestamp_ms=0)
    try:
        decode_records(payload, count)
    except CorruptRecordsError:
        assert reason_of(batch) == "CORRUPT_BATCH"
    else:
        check(batch)
