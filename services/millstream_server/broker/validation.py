"""What a broker checks of a batch before it may enter a log (architecture §2, invariant 31).

Everything that would poison a log is checked: canonical header, checksum, attributes, counts,
columns, sizes; a batch that no consumer can decode would stop them all. That costs some 10 ns a
record, and more only for batches so large that one record could exceed the limit. Compressed
payloads cost a decompression: check what ``any_slow_to_check`` says off the loop.
"""

from array import array
from collections.abc import Sequence
from typing import Any

from millstream.record import (
    BatchHeader,
    CorruptBatchError,
    CorruptRecordsError,
    DecompressionError,
    UnsupportedCodecError,
    decompress,
    parse_header,
    parse_records,
    verify_crc,
)
from millstream.record.batch import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_TRANSACTIONAL,
    CODEC_MASK,
    SEQUENCE_MODULUS,
    broker_fields_are_zero,
)
from millstream.record.compression import CODEC_NAMES
from millstream_server.broker.refusal import Refusal
from millstream_server.storage.appends import IncomingBatch

# Beyond the year 5000; a timestamp outside cannot be a time, and would upset retention by time.
TIMESTAMP_MS_MAX = 100_000_000_000_000
_PRODUCER_ID_MAX = (1 << 63) - 1
# Records without keys and values take no bytes, but memory wherever they are decoded.
RECORD_COUNT_MAX = 1 << 20
_RECORDS_CHECKED_AT_ONCE = 1 << 15
_TOP_BIT = b"\0\0\0\x80"


def parse_batches(encoded: Sequence[bytes]) -> list[IncomingBatch]:
    """Read the headers; cheap. Raises Refusal CORRUPT_BATCH or INVALID_REQUEST."""
    if not encoded:
        raise Refusal("INVALID_REQUEST", "batches: no batch is given for the partition")
    try:
        return [IncomingBatch(data, parse_header(data)) for data in encoded]
    except CorruptBatchError as error:
        raise Refusal("CORRUPT_BATCH", str(error)) from None


def check_headers(
    batches: Sequence[IncomingBatch], *, control_allowed: bool, acks_all: bool
) -> None:
    """Check what the headers say. Raises Refusal with the reason."""
    for _, header in batches:
        _check_attributes(header, control_allowed)
        if not broker_fields_are_zero(header):
            raise Refusal("CORRUPT_BATCH", "a field that brokers set is not zero")
        if header.record_count < 1:
            raise Refusal("CORRUPT_BATCH", "record_count is zero")
        if header.record_count > RECORD_COUNT_MAX:
            raise Refusal(
                "CORRUPT_BATCH",
                f"record_count is {header.record_count}, at most {RECORD_COUNT_MAX} are accepted",
            )
        if header.last_offset_delta != header.record_count - 1:
            raise Refusal(
                "CORRUPT_BATCH",
                f"last_offset_delta is {header.last_offset_delta} "
                f"for {header.record_count} records",
            )
        if not 0 <= header.base_timestamp_ms <= TIMESTAMP_MS_MAX or not (
            header.base_timestamp_ms <= header.max_timestamp_ms <= TIMESTAMP_MS_MAX
        ):
            raise Refusal(
                "CORRUPT_BATCH",
                f"timestamps {header.base_timestamp_ms} to {header.max_timestamp_ms} "
                "are out of range or out of order",
            )
        _check_producer(header, acks_all)


def _check_attributes(header: BatchHeader, control_allowed: bool) -> None:
    if header.attributes & CODEC_MASK not in CODEC_NAMES:
        raise Refusal("UNSUPPORTED_CODEC", f"unknown codec {header.codec}")
    if header.attributes & ATTRIBUTE_TRANSACTIONAL:
        raise Refusal("UNSUPPORTED", "transactions are not supported")
    if header.attributes & ATTRIBUTE_CONTROL and not control_allowed:
        raise Refusal("INVALID_REQUEST", "attributes: only the system writes control batches")


def _check_producer(header: BatchHeader, acks_all: bool) -> None:
    if header.base_sequence >= SEQUENCE_MODULUS:
        raise Refusal("INVALID_REQUEST", f"base_sequence {header.base_sequence} is out of range")
    if header.producer_id:
        if header.producer_id > _PRODUCER_ID_MAX:
            raise Refusal("INVALID_REQUEST", f"producer_id {header.producer_id} is out of range")
        if not acks_all:
            raise Refusal("INVALID_REQUEST", "acks: an idempotent producer needs acks all")
    elif header.producer_epoch or header.base_sequence:
        raise Refusal("INVALID_REQUEST", "producer_epoch or base_sequence without producer_id")


def any_slow_to_check(batches: Sequence[IncomingBatch]) -> bool:
    """True if checking the payloads means to decompress, or may mean to measure very many records:
    too long for the event loop."""
    return any(
        header.attributes & CODEC_MASK or header.record_count > _RECORDS_CHECKED_AT_ONCE
        for _, header in batches
    )


def check_payloads(batches: Sequence[IncomingBatch], record_bytes_max: int) -> None:
    """Check checksums, counts, columns and record sizes. Raises Refusal with the reason.

    Safe to run on any thread.
    """
    for data, header in batches:
        try:
            verify_crc(data, header)
            payload = decompress(header.attributes & CODEC_MASK, data[header.payload_start :])
            records = parse_records(payload, header.record_count)
            _check_columns(records)
            if len(payload) > record_bytes_max:  # else no record in it can exceed the limit
                _check_record_sizes(records, header.record_count, record_bytes_max)
        except UnsupportedCodecError as error:
            raise Refusal("UNSUPPORTED_CODEC", str(error)) from None
        except (CorruptBatchError, CorruptRecordsError, DecompressionError) as error:
            raise Refusal("CORRUPT_BATCH", str(error)) from None
        if records.offset_deltas:
            raise Refusal("CORRUPT_BATCH", "offset_deltas are written by compaction only")


def _check_columns(records: Any) -> None:
    """What ``parse_records`` leaves to readers, who would fail for ever."""
    if not (_ascend(records.key_ends) and _ascend(records.value_ends)):
        raise CorruptRecordsError("ends do not ascend")
    for ends, nulls in (
        (records.key_ends, records.null_keys),
        (records.value_ends, records.null_values),
    ):
        if ends and nulls:
            _check_nulls(ends, nulls)
    headers = records.headers
    if not headers.record_ends:
        return
    if not all(map(_ascend, (headers.record_ends, headers.name_ends, headers.value_ends))):
        raise CorruptRecordsError("ends of headers do not ascend")
    if headers.null_values:
        _check_nulls(headers.value_ends, headers.null_values)


def _ascend(column: bytes) -> bool:
    """True if the numbers of a column of ends never go down; the last one is below 2^31.

    All are compared at once, as digits of two large integers one place apart: with its top bit set
    a digit lends itself, and has the bit still if it was not the smaller one.
    """
    if len(column) < 8:
        return True
    tops = int.from_bytes(_TOP_BIT * (len(column) // 4 - 1), "little")
    lower = int.from_bytes(column[:-4], "little")
    if lower & tops:
        return False
    return ((int.from_bytes(column[4:], "little") | tops) - lower) & tops == tops


def _check_nulls(ends_column: bytes, nulls: bytes) -> None:
    ends = _ends(ends_column)
    for index in _ends(nulls):
        if index >= len(ends) or ends[index] != (ends[index - 1] if index else 0):
            raise CorruptRecordsError("a null is out of range or has a length")


def _check_record_sizes(records: Any, count: int, record_bytes_max: int) -> None:
    headers = records.headers
    total = len(records.keys) + len(records.values) + len(headers.names) + len(headers.values)
    if total <= record_bytes_max:
        return
    largest = total if count == 1 else _largest_record(records, count)
    if largest > record_bytes_max:
        raise Refusal(
            "RECORD_TOO_LARGE",
            f"a record of {largest} bytes exceeds max.message.bytes={record_bytes_max}",
        )


def _largest_record(records: Any, count: int) -> int:
    sizes = [0] * count
    columns: list[Sequence[int]] = [_ends(records.key_ends), _ends(records.value_ends)]
    if records.HasField("headers"):
        of_record = _ends(records.headers.record_ends)
        columns += [
            _picked(of_record, _ends(records.headers.name_ends)),
            _picked(of_record, _ends(records.headers.value_ends)),
        ]
    for ends in columns:
        begin = 0
        for index, end in enumerate(ends):
            if end < begin:
                raise CorruptRecordsError("ends do not ascend")
            sizes[index] += end - begin
            begin = end
    return max(sizes)


def _ends(column: bytes) -> Sequence[int]:
    return array("I", column)


def _picked(of_record: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Cumulative bytes up to each record, from cumulative headers and the ends of each header."""
    if of_record and max(of_record) > len(ends):
        raise CorruptRecordsError("header counts do not ascend")
    return [ends[index - 1] if index else 0 for index in of_record]
