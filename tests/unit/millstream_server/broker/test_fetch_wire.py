"""Raw messages agree with the generated ones, byte for byte or field by field."""

from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.record import build_batch, encode_records
from millstream.record.batch import broker_head, frame
from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.fetch_credit import Credit
from millstream_server.broker.fetch_wire import (
    encode_entry,
    error_header,
    join_entries,
    progress_header,
)
from millstream_server.broker.runs import measure
from millstream_server.broker.servicer import parse_produce_request, parser_of

U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)


def stored(base_offset: int, *values: bytes) -> bytes:
    batch = build_batch(
        encode_records(values), record_count=len(values), base_timestamp_ms=1, max_timestamp_ms=1
    )
    crc = int.from_bytes(batch[38:42], "little")
    head = broker_head(
        crc, base_offset=base_offset, leader_epoch=3, append_timestamp_ms=9, synced_end_offset=0
    )
    return frame(head + batch[42:])


RUNS = st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=4)


@settings(deadline=None)
@given(
    topic_id=st.binary(min_size=16, max_size=16),
    partition=U32,
    token=U64,
    mark=U64,
    start=U64,
    epoch=U32,
    append_time=st.booleans(),
    runs=RUNS,
)
def test_a_joined_response_is_what_the_generated_message_says(
    topic_id: bytes,
    partition: int,
    token: int,
    mark: int,
    start: int,
    epoch: int,
    append_time: bool,
    runs: list[list[bytes]],
) -> None:
    offset = 0
    frames = []
    for values in runs:
        frames.append(stored(offset, *values))
        offset += len(values)
    header = progress_header(
        topic_id,
        partition,
        token,
        high_watermark=mark,
        log_start_offset=start,
        leader_epoch=epoch,
        log_append_time=append_time,
    )
    failed = error_header(topic_id, partition, token, error=20, message="gone", truncated_offset=4)
    data = join_entries([encode_entry(header, b"".join(frames)), encode_entry(failed)])

    expected = pb.FetchResponse()
    entry = expected.partitions.add(
        topic_id=topic_id,
        partition=partition,
        token=token,
        high_watermark=mark,
        log_start_offset=start,
        leader_epoch=epoch,
        log_append_time=append_time,
    )
    for framed in frames:
        single = pb.FetchedPartition.FromString(framed)
        entry.batches.append(single.batches[0])
    expected.partitions.add(
        topic_id=topic_id,
        partition=partition,
        token=token,
        error=20,  # type: ignore[arg-type]
        message="gone",
        truncated_offset=4,
    )
    assert pb.FetchResponse.FromString(data) == expected
    assert data == expected.SerializeToString()


@settings(deadline=None)
@given(runs=RUNS.filter(bool), base=st.integers(0, 1 << 40))
def test_a_run_is_measured_as_its_batches_say(runs: list[list[bytes]], base: int) -> None:
    offset = base
    data = b""
    for values in runs:
        data += stored(offset, *values)
        offset += len(values)
    run = measure(data, 0)
    assert (run.first_offset, run.next_offset) == (base, offset)


def test_an_empty_run_stands_where_it_was_asked_for() -> None:
    assert measure(b"", 7)[1:] == (7, 7)


@settings(deadline=None)
@given(
    correlation_id=U64,
    acks=st.sampled_from(pb.Acks.values()),
    timeout=U32,
    entries=st.lists(
        st.tuples(
            st.binary(max_size=16),
            U32,
            st.none() | U32,
            st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=3), max_size=3),
        ),
        max_size=3,
    ),
)
def test_a_raw_produce_request_agrees_with_the_generated_one(
    correlation_id: int,
    acks: pb.Acks.ValueType,
    timeout: int,
    entries: list[tuple[bytes, int, int | None, list[list[bytes]]]],
) -> None:
    request = pb.ProduceRequest(correlation_id=correlation_id, acks=acks, timeout_ms=timeout)
    for topic_id, partition, epoch, batches in entries:
        entry = request.partitions.add(topic_id=topic_id, partition=partition, leader_epoch=epoch)
        for values in batches:
            entry.batches.add().ParseFromString(_batch(values))
    data = request.SerializeToString()
    size, raw = parse_produce_request(data)
    assert size == len(data)
    assert (raw.correlation_id, raw.acks, raw.timeout_ms) == (correlation_id, acks, timeout)
    assert raw.SerializeToString() == data
    for entry, raw_entry in zip(request.partitions, raw.partitions, strict=True):
        assert raw_entry.HasField("leader_epoch") == entry.HasField("leader_epoch")
        assert list(raw_entry.batches) == [batch.SerializeToString() for batch in entry.batches]


def _batch(values: list[bytes]) -> bytes:
    return build_batch(
        encode_records(values), record_count=len(values), base_timestamp_ms=1, max_timestamp_ms=1
    )


@given(st.binary(max_size=200))
def test_malformed_bytes_give_no_message_and_no_exception(data: bytes) -> None:
    try:
        pb.ProduceRequest.FromString(data)
    except Exception:  # noqa: BLE001 - whatever the generated parser says is the yardstick
        return
    assert parse_produce_request(data)[1] is not None
    parser_of(pb.FetchRequest)(data)


def test_rubbish_is_no_request() -> None:
    assert parse_produce_request(b"\xff\xff\xff") == (3, None)
    assert parser_of(pb.FetchRequest)(b"\xff\xff\xff") is None


def test_credit_allows_one_large_batch_only_when_nothing_is_outstanding() -> None:
    credit = Credit()
    assert not credit.allows(1)
    credit.grant(100)
    assert credit.allows(500)
    credit.spend(60)
    assert credit.allows(40)
    assert not credit.allows(41)
    credit.grant(60)
    assert credit.allows(500)
    credit.spend(500)
    assert credit.bytes_left == -400
    credit.grant(399)
    assert not credit.allows(1)
    credit.grant(101)
    assert credit.allows(500)
