"""Records as columns: everything comes back, and what lies is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.record import (
    CODEC_NUMBERS,
    CorruptRecordsError,
    build_batch,
    compress,
    decode_records,
    decompress,
    encode_records,
    parse_header,
    parse_records,
)
from millstream.v1 import record_pb2

CELL = st.one_of(st.none(), st.just(b""), st.binary(max_size=20))
HEADER = st.tuples(st.text(max_size=5), st.one_of(st.none(), st.binary(max_size=5)))


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 12))

    def column(cell: st.SearchStrategy[Any]) -> Any:
        return draw(st.lists(cell, min_size=count, max_size=count))

    return {
        "values": column(CELL),
        "keys": column(CELL) if draw(st.booleans()) else None,
        "timestamp_deltas_ms": (
            column(st.integers(-(2**31), 2**31 - 1)) if draw(st.booleans()) else None
        ),
        "headers": column(st.lists(HEADER, max_size=3)) if draw(st.booleans()) else None,
    }


def check_round_trip(rows: dict[str, Any], payload: bytes) -> None:
    count = len(rows["values"])
    found = decode_records(payload, count)
    none = [None] * count
    assert (found.values or none) == rows["values"]
    if rows["keys"] is None:
        assert found.keys is None
    else:
        assert (found.keys or none) == rows["keys"]
    assert found.timestamp_deltas_ms == rows["timestamp_deltas_ms"]
    if rows["headers"] is None:
        assert found.headers is None
    else:
        assert found.headers == [tuple(of_record) for of_record in rows["headers"]]
    assert found.offset_deltas is None


@given(columns(), st.sampled_from(sorted(CODEC_NUMBERS)))
def test_records_come_back_through_every_codec(rows: dict[str, Any], codec: str) -> None:
    number = CODEC_NUMBERS[codec]
    payload = encode_records(**rows)
    batch = build_batch(
        compress(number, payload), record_count=len(rows["values"]), base_timestamp_ms=0,
        max_timestamp_ms=0, attributes=number,
    )  # fmt: skip
    header = parse_header(batch)
    check_round_trip(rows, decompress(header.codec, batch[header.payload_start :]))


@given(columns())
def test_the_payload_is_the_message_of_the_proto(rows: dict[str, Any]) -> None:
    payload = encode_records(**rows)
    message = record_pb2.Records.FromString(payload)
    again = message.SerializeToString()
    check_round_trip(rows, again)
    if rows["keys"] is not None and any(key is not None for key in rows["keys"]):
        assert message.key_ends[-1] == len(message.keys)


def test_bytes_that_are_no_text_are_kept() -> None:
    rows = {
        "values": [bytes(range(256)), None, b""],
        "keys": [b"\xff\xfe", b"", None],
        "timestamp_deltas_ms": None,
        "headers": [[("ключ", b"\x80")], [("", None), ("", b"")], []],
    }
    check_round_trip(rows, encode_records(**rows))


def test_a_delta_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        encode_records([b""], timestamp_deltas_ms=[2**31])


def lying(**changes: Any) -> bytes:
    message = record_pb2.Records.FromString(
        encode_records([b"ab", b"c"], [b"k", None], [1, 2], [[("h", b"v")], []])
    )
    for name, value in changes.items():
        target = message
        *path, last = name.split("__")
        for part in path:
            target = getattr(target, part)
        field = getattr(target, last)
        if isinstance(value, bytes):
            setattr(target, last, value)
        else:
            del field[:]
            field.extend(value)
    return message.SerializeToString()


@pytest.mark.parametrize(
    "changes",
    [
        {"value_ends": [2]},
        {"value_ends": [2, 3, 3]},
        {"value_ends": [2, 4]},
        {"value_ends": []},
        {"values": b"abcd"},
        {"value_ends": [5, 3]},
        {"key_ends": [1, 0], "keys": b""},
        {"null_values": [0]},
        {"null_keys": [7]},
        {"null_keys": [1, 1, 1]},
        {"timestamp_deltas_ms": [1]},
        {"offset_deltas": [0, 1, 2]},
        {"headers__record_ends": [1]},
        {"headers__record_ends": [1, 2]},
        {"headers__record_ends": [2, 1]},
        {"headers__record_ends": [0, 0]},
        {"headers__name_ends": [9]},
        {"headers__value_ends": [0]},
        {"headers__null_values": [3]},
        {"headers__null_values": [0]},
    ],
)
def test_columns_that_lie_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptRecordsError):
        decode_records(lying(**changes), 2)


@pytest.mark.parametrize("count", [0, 1, 3, 1 << 30])
def test_a_wrong_count_is_refused(count: int) -> None:
    with pytest.raises(CorruptRecordsError):
        parse_records(lying(), count)


@given(st.binary(max_size=200), st.integers(0, 5))
def test_rubbish_is_decoded_or_refused_with_the_one_error(data: bytes, count: int) -> None:
    try:
        decode_records(data, count)
    except CorruptRecordsError:
        pass


@given(columns(), st.data())
def test_spoilt_payloads_are_decoded_or_refused_with_the_one_error(
    rows: dict[str, Any], data: st.DataObject
) -> None:
    payload = bytearray(encode_records(**rows))
    if payload:
        position = data.draw(st.integers(0, len(payload) - 1))
        payload[position] = data.draw(st.integers(0, 255))
    try:
        decode_records(bytes(payload), len(rows["values"]))
    except CorruptRecordsError:
        pass
