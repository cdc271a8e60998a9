"""Gathering records: sizes, sealing, buffer memory, timestamps, headers, batch calls."""

from collections import Counter
from typing import Any

import pytest

from millstream import InvalidRequestError, RecordTooLargeError, UnknownPartitionError
from millstream._producer.accumulator import Accumulator
from millstream._producer.batch import Batch
from millstream._producer.record_input import check_many
from tests.fakes.produce_world import ProduceWorld


def _sent_values(world: ProduceWorld, partition: int = 0) -> list[bytes | None]:
    for _ in range(200):
        sent = world.collect()
        for each in sent:
            world.answer(each)
        if not sent:
            break
    return world.values(partition)


def _append(accumulator: Accumulator, *args: Any, **more: Any) -> Batch:
    batch = accumulator.append("t", *args, **more)
    assert batch is not None
    return batch


def test_a_batch_is_sealed_when_it_is_full() -> None:
    world = ProduceWorld(batch_size=1_000)
    batches = {id(world.send(b"x" * 92)[0]) for _ in range(30)}
    assert len(batches) == 3
    assert len(_sent_values(world)) == 30
    assert all(header.size < 1_400 for header in world.logs[0].batches)


def test_a_record_of_exactly_the_largest_size_goes_and_one_byte_more_does_not() -> None:
    world = ProduceWorld(max_request_size=2_000, batch_size=100)
    headers = {"name": b"v" * 96}
    _append(world.accumulator, b"x" * 1_800, b"k" * 100, headers, 0)
    with pytest.raises(RecordTooLargeError, match=r"2001 bytes exceeds max\.request\.size=2000"):
        world.accumulator.append("t", b"x" * 1_801, b"k" * 100, headers, 0)
    with pytest.raises(RecordTooLargeError):
        world.accumulator.append_many("t", [b"x" * 2_001], None, None, 0, lambda *run: None)
    assert len(_sent_values(world)) == 1


def test_buffer_memory_is_counted_in_bytes_and_comes_back() -> None:
    world = ProduceWorld(buffer_memory=16_384, batch_size=4_096)
    count = 0
    while world.accumulator.append("t", b"x" * 1_016) is not None:
        count += 1
    assert count == 16
    assert world.accumulator.buffered == 16_384
    _sent_values(world)
    assert world.accumulator.buffered == 0
    assert world.accumulator.append("t", b"x") is not None


def test_a_record_larger_than_all_of_buffer_memory_goes_alone() -> None:
    world = ProduceWorld(buffer_memory=16_384, batch_size=4_096)
    world.send(b"small")
    assert world.accumulator.append("t", b"x" * 20_000) is None
    _sent_values(world)
    assert world.accumulator.append("t", b"x" * 20_000) is not None


def test_many_idle_partitions_do_not_use_buffer_memory_up() -> None:
    world = ProduceWorld(partitions=200, buffer_memory=2**22, batch_size=2**18)
    for partition in range(200):
        world.send(b"x", partition)


def test_keys_keep_their_partition_and_records_without_one_stay_together() -> None:
    world = ProduceWorld(partitions=3)
    seen: dict[bytes, set[int]] = {}
    for number in range(100):
        key = b"%d" % (number % 10)
        seen.setdefault(key, set()).add(_append(world.accumulator, b"v", key).partition)
    assert all(len(partitions) == 1 for partitions in seen.values())
    assert len({_append(world.accumulator, b"v").partition for _ in range(50)}) == 1


def test_a_sealed_batch_moves_records_without_a_key_on() -> None:
    world = ProduceWorld(partitions=3, batch_size=300)
    used = Counter(_append(world.accumulator, b"x" * 92).partition for _ in range(90))
    assert set(used) == {0, 1, 2}
    assert sum(len(_sent_values(world, partition)) for partition in range(3)) == 90


def test_records_carry_the_time_of_their_send_to_the_millisecond() -> None:
    world = ProduceWorld()
    for _ in range(4):
        world.send(b"x")
        world.clock.now_ms += 7
    _sent_values(world)
    stamps = [record.timestamp_ms for record in world.logs[0].records]
    assert [stamp - stamps[0] for stamp in stamps] == [0, 7, 14, 21]


def test_given_timestamps_are_kept_and_too_far_ones_start_a_new_batch() -> None:
    world = ProduceWorld()
    given = [5, 1_000, 1_000, 3, 1_700_000_000_000]
    batches = [_append(world.accumulator, b"x", None, None, 0, stamp) for stamp in given]
    world.send(b"now")
    assert len({id(batch) for batch in batches}) == 2
    _sent_values(world)
    stamps = [record.timestamp_ms for record in world.logs[0].records]
    assert stamps == [*given, 1_700_000_001_000]
    assert [
        batch.timestamp_ms(index) for batch, index in zip(batches, (0, 1, 2, 3, 0), strict=True)
    ]
    for bad in (-1, 10**15, "now"):
        with pytest.raises(InvalidRequestError, match="timestamp_ms"):
            world.accumulator.append("t", b"x", timestamp_ms=bad)  # type: ignore[arg-type]


def test_headers_nulls_text_and_buffers_arrive_as_they_were_meant() -> None:
    world = ProduceWorld()
    world.send(b"plain")
    _append(world.accumulator, "täxt", "k", [("a", b"1"), ("a", None), ("b", "2")], 0)
    _append(world.accumulator, None, b"", {"only": b""}, 0)
    _append(world.accumulator, bytearray(b"buffer"), memoryview(b"view"), None, 0)
    _sent_values(world)
    found = [(r.key, r.value, r.headers) for r in world.logs[0].records]
    assert found == [
        (None, b"plain", ()),
        (b"k", "täxt".encode(), (("a", b"1"), ("a", None), ("b", b"2"))),
        (b"", None, (("only", b""),)),
        (b"view", b"buffer", ()),
    ]


@pytest.mark.parametrize(
    ("record", "part"),
    [
        ({"value": 5}, "value_serializer"),
        ({"key": 5}, "key_serializer"),
        ({"headers": [("a",)]}, "headers"),
        ({"headers": 5}, "headers"),
        ({"headers": {5: b""}}, "must be text"),
        ({"headers": {"a": 5}}, "header"),
    ],
)
def test_what_cannot_be_sent_is_refused(record: dict[str, Any], part: str) -> None:
    world = ProduceWorld()
    with pytest.raises(InvalidRequestError, match=part):
        world.accumulator.append("t", **record)
    assert world.accumulator.buffered == 0


def test_an_unknown_partition_is_refused() -> None:
    world = ProduceWorld(partitions=2)
    for partition in (2, -1):
        with pytest.raises(UnknownPartitionError):
            world.accumulator.append("t", b"x", partition=partition)


def test_more_partitions_change_where_keys_go_and_take_records() -> None:
    world = ProduceWorld(partitions=1)
    world.accumulator.append("t", b"x", b"key5")
    world.partitions = 10
    world.logs += [type(world.logs[0])() for _ in range(9)]
    world.tell_leader(1)
    places = {_append(world.accumulator, b"x", b"key%d" % n).partition for n in range(50)}
    assert len(places) > 5


@pytest.mark.parametrize("keyed", [False, True])
def test_append_many_places_every_record_once_and_in_order(keyed: bool) -> None:
    world = ProduceWorld(partitions=3, batch_size=500, buffer_memory=16_384)
    values = [b"%d" % number for number in range(2_000)]
    keys = [b"%d" % (number % 7) if number % 5 else None for number in range(2_000)]
    runs: list[tuple[Batch, int, Any]] = []
    done = 0
    while done < len(values):
        done += world.accumulator.append_many(
            "t",
            values,
            keys if keyed else None,
            None,
            done,
            lambda batch, index, positions: runs.append((batch, index, positions)),
        )
        for partition in range(3):
            _sent_values(world, partition)
    logs = [_sent_values(world, partition) for partition in range(3)]
    assert Counter(value for log in logs for value in log) == Counter(values)
    placed: dict[int, tuple[int, int | None]] = {}
    for batch, index, positions in runs:
        for step, position in enumerate(positions):
            metadata = batch.result_of(index + step)
            placed[position] = (metadata.partition, metadata.offset)
    assert sorted(placed) == list(range(2_000))
    for position, (partition, offset) in placed.items():
        assert logs[partition][offset or 0] == values[position]
    if keyed:
        for key in range(7):
            mine = [n for n in range(2_000) if n % 7 == key and n % 5]
            offsets = [placed[n][1] or 0 for n in mine]
            assert offsets == sorted(offsets)


def test_batch_calls_convert_their_columns() -> None:
    assert check_many(["a", b"b", None], None) == ([b"a", b"b", None], None)
    assert check_many((b"a",), [bytearray(b"k")]) == ([b"a"], [b"k"])
    with pytest.raises(InvalidRequestError, match="1 keys for 2 values"):
        check_many([b"a", b"b"], [b"k"])


def test_ctrl_c_between_the_columns_of_a_record_drops_just_that_record() -> None:
    world = ProduceWorld()
    batch, _ = world.send(b"whole")
    batch.values.append(b"half")
    assert _sent_values(world) == [b"whole"]


def test_topics_that_nothing_is_sent_to_are_forgotten() -> None:
    world = ProduceWorld(metadata_max_age_ms=1_000)
    world.send(b"x")
    world.clock.now_ms += 2_000
    assert world.accumulator.forget_unused(world.clock.now_ms) == []
    _sent_values(world)
    assert world.accumulator.forget_unused(world.clock.now_ms) == ["t"]
    assert world.accumulator.append("t", b"y") is None
