"""``AsyncConsumer`` over loopback gRPC against a fake broker: reading, and trouble."""

import asyncio

import pytest

from millstream._consumer.record import ConsumerRecord, TopicPartition
from millstream._errors import (
    CorruptBatchError,
    InvalidConfigError,
    InvalidRequestError,
    LogTruncatedError,
    MillstreamError,
    NoCommittedOffsetError,
    OffsetOutOfRangeError,
)
from tests.fakes.consuming import (
    P0,
    P1,
    P2,
    asked,
    check_order,
    cluster,
    consumer,
    fill,
    read,
)
from tests.fakes.waiting import until

# --- reading ----------------------------------------------------------------------------------


async def test_every_way_of_reading_gives_every_record_once() -> None:
    async with cluster() as broker:
        total = fill(broker)
        async with consumer(broker, "logs") as reader:
            records = [await reader.getone()]
            record = await reader.poll(5)
            assert record is not None
            records.append(record)
            records += await reader.consume(7, 5)
            async for record in reader:
                records.append(record)
                if len(records) == 30:
                    break
            columns = await reader.consume_batch(5)
            assert columns is not None
            offsets = list(columns.offsets)
            records += await read(reader, total - 30 - len(offsets))
            assert await reader.poll(0.01) is None
            assert await reader.getmany() == {}
            seen = {(one.partition, one.offset) for one in records}
            seen |= {(columns.partition, offset) for offset in offsets}
            assert len(seen) == total == len(records) + len(offsets)


async def test_records_that_arrive_later_are_pushed() -> None:
    async with cluster(1) as broker, consumer(broker, "logs") as reader:
        waiting = asyncio.create_task(reader.getone())
        await until(lambda: bool(broker.requests))
        broker.log("logs").append([b"0"])
        broker.wake()
        assert (await waiting).value == b"0"
        assert reader.highwater(P0) == 1
        assert reader.lag(P0) == 0


async def test_consume_returns_what_came_in_time() -> None:
    async with cluster(1) as broker, consumer(broker, "logs") as reader:
        fill(broker, 1, 3)
        assert len(await reader.consume(10, 0.2)) == 3


async def test_a_cancelled_consume_loses_nothing() -> None:
    async with cluster(1) as broker, consumer(broker) as reader:
        fill(broker, 1, 3)
        reader.assign([P0])
        task = asyncio.create_task(reader.consume(10))
        await until(lambda: reader.lag(P0) == 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [record.offset for record in await read(reader, 3)] == [0, 1, 2]


async def test_assigned_partitions_begin_where_seek_says() -> None:
    async with cluster() as broker:
        fill(broker)
        async with consumer(broker) as reader:
            reader.assign([P0, P2])
            reader.seek(P0, 17)
            reader.seek_to_end(P2)
            assert await reader.position(P2) == 20
            assert [(r.partition, r.offset) for r in await read(reader, 3)] == [
                (0, 17), (0, 18), (0, 19),
            ]  # fmt: skip
            reader.seek_to_beginning(P2)
            assert (await reader.getone()).offset == 0
            with pytest.raises(InvalidRequestError):
                reader.seek(P1, 0)
            with pytest.raises(InvalidRequestError):
                reader.subscribe(["logs"])


async def test_seek_in_the_middle_of_an_iteration_takes_effect_at_the_next_record() -> None:
    async with cluster(1) as broker, consumer(broker, "logs") as reader:
        fill(broker)
        offsets = []
        async for record in reader:
            offsets.append(record.offset)
            if record.offset == 3:
                reader.seek(P0, 18)
            if record.offset == 19:
                break
        assert offsets == [0, 1, 2, 3, 18, 19]


async def test_seek_by_time_finds_the_first_record_that_is_new_enough() -> None:
    async with cluster(1) as broker, consumer(broker, "logs") as reader:
        log = broker.log("logs")
        log.append([b"0"], timestamp_ms=100)
        log.append([b"1"], timestamp_ms=200)
        found = await reader.offsets_for_times({P0: 150})
        assert found[P0] == (1, 200, 1)
        assert await reader.offsets_for_times({P0: 500}) == {P0: None}
        await until(lambda: bool(reader.assignment()))
        reader.seek_to_time(150)
        assert (await reader.getone()).offset == 1


async def test_paused_partitions_are_left_out_until_resumed() -> None:
    async with cluster(2) as broker:
        fill(broker, 2, 4)
        async with consumer(broker) as reader:
            reader.assign([P0, P1])
            reader.pause(P0)
            assert {record.partition for record in await read(reader, 8)} == {1}
            assert await reader.poll(0.05) is None
            assert reader.paused() == {P0}
            reader.resume(P0)
            records = await read(reader, 8)
            check_order(records)
            assert records[0].offset == 0


async def test_offsets_of_both_ends_and_of_unknown_topics() -> None:
    async with cluster() as broker, consumer(broker) as reader:
        fill(broker)
        assert await reader.beginning_offsets([P0, P1]) == {P0: 0, P1: 0}
        assert await reader.end_offsets([P0]) == {P0: 20}
        with pytest.raises(MillstreamError):
            await reader.end_offsets([TopicPartition("nope", 0)])


async def test_a_topic_made_later_is_read_from_its_start() -> None:
    async with cluster(1) as broker, consumer(broker, "later", auto_offset_reset="latest") as r:
        assert await r.poll(0.05) is None
        broker.add_topic("later", 1)
        await until(lambda: bool(r.assignment()))
        assert await r.position(TopicPartition("later", 0)) == 0


# --- trouble ----------------------------------------------------------------------------------


async def test_cut_streams_and_leader_errors_cost_no_record() -> None:
    async with cluster() as broker:
        total = fill(broker, 40, 5)
        async with consumer(broker, "logs", fetch_max_bytes=1_024) as reader:
            records: list[ConsumerRecord] = []
            failures = ["NOT_LEADER", "OFFSET_NOT_AVAILABLE", "LEADER_NOT_AVAILABLE"]
            while len(records) < total:
                records += await read(reader, min(50, total - len(records)))
                if failures:
                    broker.log("logs", len(failures) - 1).failures.append(failures.pop())
                    broker.cut_streams()
            check_order(records)


async def test_a_new_leader_epoch_is_followed_without_gap() -> None:
    async with cluster(1) as broker:
        fill(broker, 2)
        async with consumer(broker, "logs") as reader:
            records = await read(reader, 10)
            broker.log("logs").leader_epoch = 2
            broker.metadata_changed()
            await until(lambda: [one.leader_epoch for one in asked(broker)] == [1, 2])
            last = asked(broker)[-1]
            assert (last.offset, last.last_epoch) == (10, 1)
            fill(broker, 2)
            records += await read(reader, 10)
            check_order(records)
            assert {record.leader_epoch for record in records} == {1, 2}


@pytest.mark.parametrize(("policy", "first"), [("earliest", 10), ("latest", 20)])
async def test_an_offset_out_of_range_follows_the_reset_policy(policy: str, first: int) -> None:
    async with cluster(1) as broker, consumer(broker, auto_offset_reset=policy) as reader:
        fill(broker)
        broker.log("logs").start = 10
        reader.assign([P0])
        reader.seek(P0, 3)
        assert await reader.poll(0.1) is None or policy == "earliest"
        await until(lambda: (reader.lag(P0) or 0) <= 10)
        fill(broker, 1, 1)
        offset = (await reader.getone()).offset
        assert offset in (first, first + 1)


async def test_without_a_reset_policy_out_of_range_is_raised_until_a_seek() -> None:
    async with cluster(1) as broker, consumer(broker, auto_offset_reset="none") as reader:
        fill(broker)
        reader.assign([P0])
        with pytest.raises(NoCommittedOffsetError):
            await reader.getone()
        reader.seek(P0, 99)
        for _ in range(2):
            with pytest.raises(OffsetOutOfRangeError):
                await reader.getone()
        reader.seek(P0, 0)
        assert (await reader.getone()).offset == 0


async def test_a_truncated_log_is_raised_and_never_reset() -> None:
    async with cluster(1) as broker, consumer(broker, "logs") as reader:
        fill(broker)
        await read(reader, 20)
        broker.log("logs").failures.append("LOG_TRUNCATED")
        broker.wake()
        for _ in range(2):
            with pytest.raises(LogTruncatedError) as raised:
                await reader.getone()
        assert raised.value.details["truncated_offset"] == "20"
        reader.seek(P0, 15)
        assert (await reader.getone()).offset == 15


async def test_a_damaged_batch_is_fetched_again_then_raised_and_can_be_passed() -> None:
    async with cluster(1) as broker, consumer(broker, "logs") as reader:
        log = broker.log("logs")
        fill(broker, 3)
        base, following, batch = log.batches[1]
        log.batches[1] = (base, following, batch[:-1] + b"!")
        assert [record.offset for record in await read(reader, 5)] == [0, 1, 2, 3, 4]
        with pytest.raises(CorruptBatchError):
            await reader.getone()
        reader.seek(P0, following)
        assert (await reader.getone()).offset == following


async def test_a_topic_made_again_is_another_log() -> None:
    async with cluster(1) as broker, consumer(broker) as reader:
        fill(broker)
        reader.assign([P0])
        await read(reader, 20)
        broker.logs.clear()
        broker.add_topic("logs", 1, generation=1)
        fill(broker, 1, 2)
        assert [record.offset for record in await read(reader, 2)] == [0, 1]


async def test_positions_in_a_topic_made_again_are_committed() -> None:
    async with cluster(1) as broker:
        fill(broker)
        options = {"group_id": "g", "auto_commit_interval_ms": 1}
        async with consumer(broker, **options) as reader:
            reader.assign([P0])
            await read(reader, 20)
            await reader.getmany(timeout_ms=50)
            broker.logs.clear()
            broker.add_topic("logs", 1, generation=1)
            fill(broker, 1, 2)
            await read(reader, 2)
            await reader.getmany(timeout_ms=50)
            assert broker.coordinator is not None
            committed = broker.coordinator.committed
            await until(lambda: committed["logs", 0].offset == 2)


async def test_buffers_are_bounded_by_the_window() -> None:
    async with cluster(1) as broker:
        for _ in range(50):
            broker.log("logs").append([bytes(1_000)])
        async with consumer(broker, "logs", fetch_max_bytes=4_096) as reader:
            await reader.getone()
            await asyncio.sleep(0.1)
            assert broker.pushed_bytes <= 4_096 + 1_200
            assert len(await read(reader, 49)) == 49


async def test_a_batch_larger_than_the_window_is_read() -> None:
    async with cluster(1) as broker:
        for _ in range(3):
            broker.log("logs").append([bytes(5_000)])
        async with consumer(broker, "logs", fetch_max_bytes=1_024) as reader:
            assert len(await read(reader, 3)) == 3


async def test_deserializers_apply_and_their_errors_are_the_applications_own() -> None:
    async with cluster(1) as broker:
        broker.log("logs").append([b"1", b"x", b"3"])
        async with consumer(broker, "logs", value_deserializer=int) as reader:
            assert (await reader.getone()).value == 1
            with pytest.raises(ValueError, match="invalid literal"):
                await reader.getone()
            reader.seek(P0, 2)
            assert (await reader.getone()).value == 3


async def test_configuration_and_state_errors_are_clear() -> None:
    async with cluster() as broker:
        with pytest.raises(InvalidConfigError, match=r"group\.id"):
            consumer(broker, grup_id="g")
        async with consumer(broker, "logs") as reader:
            with pytest.raises(InvalidConfigError):
                await reader.commit()
            with pytest.raises(InvalidConfigError):
                await reader.committed(P0)
            with pytest.raises(InvalidRequestError):
                reader.assign([P0])
        with pytest.raises(MillstreamError):
            await reader.getone()
