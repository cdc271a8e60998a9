"""The payload of a batch: records as columns.

Encoding joins the keys and values of a batch and writes their cumulative ends as one little-endian
column; decoding
slices them out again. No step makes a Protobuf object per record.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from google.protobuf.message import DecodeError

from millstream.record.wire import RawRecords

RecordHeaders = Sequence[tuple[str, bytes | None]]
_NO_HEADERS: tuple[()] = ()

TIMESTAMP_DELTA_MS_MAX = (1 << 31) - 1


class CorruptRecordsError(ValueError):
    """The payload is not a valid set of columns for the number of records claimed."""


def encode_records(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None = None,
    timestamp_deltas_ms: Sequence[int] | None = None,
    headers: Sequence[RecordHeaders] | None = None,
) -> bytes:
    """Encode records as the serialised ``Records`` message. All sequences given have one entry per
    record.

    ``keys=None`` means that no record has a key, ``timestamp_deltas_ms=None`` that all are zero,
    ``headers=None`` that no
    record has headers. Raises OverflowError if a delta does not fit into 32 bits.
    """
    records = RawRecords()
    _put_column(records, "value_ends", "values", "null_values", values)
    if keys is not None:
        _put_column(records, "key_ends", "keys", "null_keys", keys)
    if timestamp_deltas_ms is not None:
        records.timestamp_deltas_ms = array("i", timestamp_deltas_ms).tobytes()
    if headers is not None:
        _put_headers(records.headers, headers)
    encoded: bytes = records.SerializeToString()
    return encoded


def _put_column(
    message: Any, ends_name: str, data_name: str, nulls_name: str, items: Sequence[bytes | None]
) -> None:
    try:
        data = b"".join(items)  # type: ignore[arg-type]
        ends = accumulate(map(len, items))  # type: ignore[arg-type]
    except TypeError:
        nulls = [index for index, item in enumerate(items) if item is None]
        if len(nulls) == len(items):
            return
        present = [item or b"" for item in items]
        data = b"".join(present)
        ends = accumulate(map(len, present))
        setattr(message, nulls_name, array("I", nulls).tobytes())
    setattr(message, ends_name, array("I", ends).tobytes())
    setattr(message, data_name, data)


def _put_headers(message: Any, headers: Sequence[RecordHeaders]) -> None:
    flat = [header for of_record in headers for header in of_record]
    message.record_ends = array("I", accumulate(map(len, headers))).tobytes()
    names = [name.encode() for name, _ in flat]
    message.name_ends = array("I", accumulate(map(len, names))).tobytes()
    message.names = b"".join(names)
    values = [value for _, value in flat]
    nulls = [index for index, value in enumerate(values) if value is None]
    present = [value or b"" for value in values]
    message.value_ends = array("I", accumulate(map(len, present))).tobytes()
    message.values = b"".join(present)
    if nulls:
        message.null_values = array("I", nulls).tobytes()


class Columns(NamedTuple):
    """A decoded payload. Lists have one entry per record; None stands for an absent column."""

    keys: list[bytes | None] | None
    values: list[bytes | None] | None
    timestamp_deltas_ms: list[int] | None
    headers: list[tuple[tuple[str, bytes | None], ...]] | None
    offset_deltas: list[int] | None


def parse_records(payload: bytes, count: int) -> Any:
    """Parse an uncompressed payload and check its columns against the number of records, in
    O(columns).

    Returns the raw message. Raises CorruptRecordsError. Whether the ends ascend is the readers'
    business.
    """
    try:
        records = RawRecords.FromString(payload)
    except DecodeError:
        raise CorruptRecordsError("payload cannot be parsed") from None
    width = 4 * count
    _check_ends("key", records.key_ends, records.keys, width)
    _check_ends("value", records.value_ends, records.values, width)
    for name in ("null_keys", "null_values"):
        nulls = getattr(records, name)
        if len(nulls) % 4 or len(nulls) > width:
            raise CorruptRecordsError(f"{name} does not fit {count} records")
    for name in ("timestamp_deltas_ms", "offset_deltas"):
        if len(getattr(records, name)) not in (0, width):
            raise CorruptRecordsError(f"{name} does not have {count} entries")
    if records.HasField("headers"):
        _check_headers(records.headers, width)
    return records


def _check_ends(name: str, ends: bytes, data: bytes, width: int) -> None:
    if not ends:
        if data:
            raise CorruptRecordsError(f"{name}s without their ends")
        return
    if len(ends) != width:
        raise CorruptRecordsError(f"{len(ends) // 4} {name} ends for {width // 4} records")
    if int.from_bytes(ends[-4:], "little") != len(data):
        raise CorruptRecordsError(f"{name} ends do not fit a buffer of {len(data)} bytes")


def _check_headers(headers: Any, width: int) -> None:
    if len(headers.record_ends) != width:
        raise CorruptRecordsError("header counts do not fit the number of records")
    total = 4 * int.from_bytes(headers.record_ends[-4:], "little")
    if total == 0 and (headers.name_ends or headers.value_ends or headers.names or headers.values):
        raise CorruptRecordsError("headers beyond the counts")
    if total:
        for name, data in (("name", headers.names), ("value", headers.values)):
            ends = getattr(headers, f"{name}_ends")
            if len(ends) != total or int.from_bytes(ends[-4:], "little") != len(data):
                raise CorruptRecordsError(f"header {name}s do not fit their ends")
    if len(headers.null_values) % 4 or len(headers.null_values) > total:
        raise CorruptRecordsError("null headers do not fit the headers")


def decode_records(payload: bytes, count: int) -> Columns:
    """Decode an uncompressed payload of ``count`` records. Raises CorruptRecordsError."""
    records = parse_records(payload, count)
    headers = _take_headers(records.headers, count) if records.HasField("headers") else None
    return Columns(
        _take_column(records.key_ends, records.keys, records.null_keys),
        _take_column(records.value_ends, records.values, records.null_values),
        _numbers(records.timestamp_deltas_ms, "i"),
        headers,
        _numbers(records.offset_deltas, "I"),
    )


def _numbers(column: bytes, kind: Literal["i", "I"]) -> list[int] | None:
    return memoryview(column).cast(kind).tolist() if column else None


def _take_column(ends_column: bytes, data: bytes, nulls: bytes) -> list[bytes | None] | None:
    if not ends_column:
        return None
    items: list[bytes | None] = [*_slices(ends_column, data, bytes)]
    _set_nulls(items, nulls)
    return items


def _slices(ends_column: bytes, data: bytes, make: Callable[[bytes], Any]) -> Iterable[Any]:
    ends: list[int] = memoryview(ends_column).cast("I").tolist()
    out = []
    begin = 0
    for end in ends:
        if end < begin:
            raise CorruptRecordsError("ends do not ascend")
        out.append(data[begin:end])
        begin = end
    return out if make is bytes else map(make, out)


def _set_nulls(items: list[bytes | None], nulls: bytes) -> None:
    for index in memoryview(nulls).cast("I").tolist() if nulls else ():
        if index >= len(items) or items[index]:
            raise CorruptRecordsError("a null is out of range or has a length")
        items[index] = None


def _take_headers(headers: Any, count: int) -> list[tuple[tuple[str, bytes | None], ...]]:
    names = list(
        _slices(headers.name_ends, headers.names, lambda raw: raw.decode("utf-8", "replace"))
    )
    values: list[bytes | None] = list(_slices(headers.value_ends, headers.values, bytes))
    _set_nulls(values, headers.null_values)
    out: list[tuple[tuple[str, bytes | None], ...]] = []
    begin = 0
    for end in memoryview(headers.record_ends).cast("I").tolist():
        if end < begin or end > len(names):
            raise CorruptRecordsError("header counts do not ascend")
        out.append(
            tuple(zip(names[begin:end], values[begin:end], strict=True))
            if end > begin
            else _NO_HEADERS
        )
        begin = end
    return out
