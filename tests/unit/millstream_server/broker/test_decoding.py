"""Records for `Subscribe`: whatever a batch holds, a bounded part of it at a time."""

import pytest

from millstream.record import CorruptBatchError, build_batch, compress, encode_records
from millstream.record.batch import BROKER_BYTES, broker_head, frame, parse_header
from millstream_server.broker.decoding import Window, decode_run

_NO_STOP = 1 << 62


def stored(payload: bytes, count: int, base_offset: int, codec: int = 0) -> bytes:
    batch = build_batch(
        compress(codec, payload),
        record_count=count,
        base_timestamp_ms=1000,
        max_timestamp_ms=1000,
        attributes=codec,
    )
    head = broker_head(
        parse_header(batch).crc,
        base_offset=base_offset,
        leader_epoch=1,
        append_timestamp_ms=1,
        synced_end_offset=0,
    )
    return frame(head + batch[BROKER_BYTES:])


def read(data: bytes, start: int = 0) -> tuple[int, int]:
    """(records, next offset) of one decoding."""
    window = Window(0, start, _NO_STOP, None)
    decoded = decode_run(data, window, text=False, log_append_time=False)
    return len(decoded.records), decoded.next_offset


def test_a_run_is_decoded_whole() -> None:
    data = stored(encode_records([b"a", b"b"]), 2, 0) + stored(encode_records([b"c"]), 1, 2)
    assert read(data) == (3, 3)
    assert read(data, 1) == (2, 3)


def test_very_many_records_come_in_several_parts() -> None:
    count = 200_000
    data = stored(b"", count, 0)
    first, middle = read(data)
    assert 0 < first == middle < count
    assert read(data, middle) == (count - first, count)


def test_a_run_that_swells_is_decoded_batch_by_batch() -> None:
    payload = encode_records([bytes(5 << 20)])
    data = b"".join(stored(payload, 1, number, codec=4) for number in range(20))
    assert len(data) < 256 * 1024
    assert read(data) == (2, 2)
    assert read(data, 2) == (2, 4)


def test_damage_is_told() -> None:
    data = bytearray(stored(encode_records([b"a"]), 1, 0))
    data[-1] ^= 1
    with pytest.raises(CorruptBatchError):
        read(bytes(data))
