"""``AsyncConsumer`` over loopback gRPC against a fake broker and coordinator."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from millstream._async_consumer import AsyncConsumer
from millstream._errors import (
    CorruptBatchError,
    InvalidConfigError,
    InvalidRequestError,
    LogTruncatedError,
    MillstreamError,
    NoCommittedOffsetError,
    OffsetOutOfRangeError,
)
from millstream._record import ConsumerRecord, OffsetAndMetadata, TopicPartition
from millstream._subscription import RebalanceListener
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.fetch_broker import FakeBroker

P0, P1, P2 = (TopicPartition("logs", number) for number in range(3))


@asynccontextmanager
async def cluster(partitions: int = 3) -> AsyncIterator[FakeBroker]:
    coordinator = FakeCoordinator()
    async with FakeBroker({"logs": partitions}, coordinator) as broker:
        coordinator.partitions = lambda: [
            (log.topic, log.topic_id, log.partition) for log in broker.logs.values()
        ]
        yield broker
        assert coordinator.violations == []


def consumer(broker: FakeBroker, *topics: str, **config: Any) -> AsyncConsumer:
    settings = {
        "bootstrap_servers": broker.address,
        "auto_offset_reset": "earliest",
        "retry_backoff_ms": 10,
        "request_timeout_ms": 5_000,
        "default_api_timeout_ms": 5_000,
        **config,
    }
    return AsyncConsumer(*topics, **settings)


def fill(broker: FakeBroker, batches: int = 4, size: int = 5) -> int:
    """Append batches of numbered values everywhere; returns the number of records."""
    for log in broker.logs.values():
        for _ in range(batches):
            log.append([b"%d" % (log.end + index) for index in range(size)])
    broker.wake()
    return batches * size * len(broker.logs)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the server side has no event for it
            await asyncio.sleep(0.005)


async def read(reader: AsyncConsumer, count: int) -> list[ConsumerRecord]:
    out: list[ConsumerRecord] = []
    async with asyncio.timeout(10):
        while len(out) < count:
            for records in (await reader.getmany(timeout_ms=200)).values():
                out += records
    return out


def asked(broker: FakeBroker) -> list[Any]:
    """Every position that was asked for."""
    return [position for request in broker.requests for position in request.positions]


def check_order(records: list[ConsumerRecord]) -> None:
    """Each partition's records without gap or repeat, each with its own value."""
    following: dict[int, int] = {}
    for record in records:
        expected = following.setdefault(record.partition, record.offset)
        assert record.offset == expected
        assert record.value == b"%d" % record.offset
        following[record.partition] += 1


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
        await eventually(lambda: bool(broker.requests))
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
        await eventually(lambda: reader.lag(P0) == 0)
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
        await eventually(lambda: bool(reader.assignment()))
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
        await eventually(lambda: bool(r.assignment()))
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
            await eventually(lambda: [one.leader_epoch for one in asked(broker)] == [1, 2])
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
        await eventually(lambda: (reader.lag(P0) or 0) <= 10)
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


# --- groups -----------------------------------------------------------------------------------


class Journal(RebalanceListener):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[int]]] = []

    def on_assign(self, partitions: list[TopicPartition]) -> None:
        self.told.append(("assign", [name.partition for name in partitions]))

    async def on_revoke(self, partitions: list[TopicPartition]) -> None:
        self.told.append(("revoke", [name.partition for name in partitions]))

    def on_lost(self, partitions: list[TopicPartition]) -> None:
        self.told.append(("lost", [name.partition for name in partitions]))


async def test_a_clean_rebalance_delivers_every_record_once() -> None:
    async with cluster() as broker:
        total = fill(broker, 40)
        seen: list[ConsumerRecord] = []
        done = asyncio.Event()

        async def member(stop_after: int | None) -> None:
            count = 0
            async with consumer(broker, "logs", group_id="g", max_poll_records=7) as reader:
                while not done.is_set() and count != stop_after:
                    for records in (await reader.getmany(timeout_ms=20)).values():
                        seen.extend(records)
                        count += 1
                    if len(seen) >= total:
                        done.set()
                    await asyncio.sleep(0.002)

        async with asyncio.timeout(20):
            await asyncio.gather(member(None), member(12), member(None))
        assert len(seen) == total
        assert len({(record.partition, record.offset) for record in seen}) == total
        assert broker.coordinator is not None
        ends = {key: offset.offset for key, offset in broker.coordinator.committed.items()}
        assert ends == {("logs", number): 200 for number in range(3)}


async def test_iteration_in_a_group_hands_everything_on_at_close() -> None:
    async with cluster(1) as broker:
        fill(broker)
        seen = []
        for stop in (3, 9, 20):
            async with consumer(broker, "logs", group_id="g") as reader:
                async for record in reader:
                    seen.append(record.offset)
                    if len(seen) == stop:
                        break
        assert seen == list(range(20))


async def test_a_record_in_hand_is_read_again_if_its_processing_failed() -> None:
    async with cluster(1) as broker:
        fill(broker)

        async def process() -> None:
            async with consumer(broker, "logs", group_id="g") as reader:
                async for record in reader:
                    if record.offset == 7:
                        raise RuntimeError("processing failed")

        with pytest.raises(RuntimeError):
            await process()
        async with consumer(broker, "logs", group_id="g") as reader:
            assert (await reader.getone()).offset == 7


async def test_positions_are_committed_by_hand_with_metadata() -> None:
    async with cluster() as broker:
        fill(broker)
        async with consumer(broker, "logs", group_id="g", enable_auto_commit=False) as reader:
            await read(reader, 60)
            await reader.commit({P0: OffsetAndMetadata(5, "note", 1), P1: 6})
            found = await reader.committed_offsets([P0, P1, P2])
            assert found == {P0: (5, "note", 1), P1: (6, "", None), P2: None}
            await reader.commit()
            assert await reader.committed(P2) == 20
        async with consumer(broker, group_id="g") as reader:
            reader.assign([P2])
            reader.seek(P2, 0)
            assert await reader.position(P2) == 0
            reader.seek_to_committed(P2)
            assert await reader.position(P2) == 20


async def test_auto_commit_covers_only_what_was_handed_out_before_the_last_step() -> None:
    async with cluster(1) as broker:
        fill(broker)
        config = {"group_id": "g", "auto_commit_interval_ms": 20}
        async with consumer(broker, "logs", **config) as reader:
            async for record in reader:
                if record.offset == 4:
                    await asyncio.sleep(0.1)
                    assert broker.coordinator is not None
                    stored = broker.coordinator.committed.get(("logs", 0))
                    assert stored is None or stored.offset <= 4
                if record.offset == 5:
                    await eventually(lambda: bool(broker.coordinator.commits))  # type: ignore[union-attr]
                    assert broker.coordinator.committed["logs", 0].offset == 5
                    break


async def test_commits_for_a_group_without_members() -> None:
    async with cluster(1) as broker:
        fill(broker)
        async with consumer(broker, group_id="g") as reader:
            reader.assign([P0])
            await read(reader, 20)
            await reader.commit()
            assert await reader.committed(P0) == 20
        async with consumer(broker, group_id="g") as reader:
            reader.assign([P0])
            assert await reader.position(P0) == 20


async def test_listeners_hear_of_assignment_revocation_and_loss() -> None:
    async with cluster(2) as broker:
        fill(broker)
        journal = Journal()
        coordinator = broker.coordinator
        assert coordinator is not None
        async with consumer(broker, group_id="g") as first:
            first.subscribe(["logs"], listener=journal)
            await read(first, 40)
            assert journal.told == [("assign", [0, 1])]
            second = consumer(broker, "logs", group_id="g")
            await second.start()
            async with asyncio.timeout(10):
                while second.assignment() != {P1}:
                    await first.getmany(timeout_ms=10)
                    await second.getmany(timeout_ms=10)
            assert journal.told[1:] == [("revoke", [1])]
            await second.close()
            async with asyncio.timeout(10):
                while len(journal.told) < 3:
                    await first.getmany(timeout_ms=10)
            assert first.assignment() == {P0, P1}
            assert journal.told[2:] == [("assign", [1])]
            coordinator.fence(next(iter(coordinator.members)))
            async with asyncio.timeout(10):
                while len(journal.told) < 5:
                    await first.getmany(timeout_ms=10)
            assert journal.told[3] == ("lost", [0, 1])
            assert journal.told[4] == ("assign", [0, 1])
        assert journal.told[5] == ("revoke", [0, 1])


async def test_broken_session_streams_do_not_move_partitions() -> None:
    async with cluster(2) as broker:
        total = fill(broker, 20)
        journal = Journal()
        coordinator = broker.coordinator
        assert coordinator is not None
        async with consumer(broker, group_id="g") as reader:
            reader.subscribe(["logs"], listener=journal)
            records: list[ConsumerRecord] = []
            while len(records) < total:
                records += await read(reader, min(50, total - len(records)))
                coordinator.drop_streams()
            await reader.commit()
            check_order(records)
        assert len(records) == total
        assert [what for what, _ in journal.told] == ["assign", "revoke"]
        assert len(coordinator.joins) > 1
        assert {join.member_id for join in coordinator.joins} == {"", "member-1"}


async def test_nothing_of_a_lost_partition_is_delivered() -> None:
    async with cluster(1) as broker:
        fill(broker, 1, 50)
        coordinator = broker.coordinator
        assert coordinator is not None
        coordinator.session_timeout_ms = 1_000
        config = {"group_id": "g", "session_timeout_ms": 1_000}
        async with consumer(broker, "logs", **config) as reader:
            handed = 0
            async with asyncio.timeout(10):
                async for _ in reader:
                    handed += 1
                    if handed == 3:
                        coordinator.mute = True
                        coordinator.refuse_joins = ["COORDINATOR_LOADING"] * 100
                        await eventually(lambda: not reader.assignment())
                        coordinator.refuse_joins = []
                        coordinator.mute = False
                        break
                assert handed == 3
                # Nothing was committed, so the new ownership begins at the first record.
                assert (await reader.getone()).offset == 0


async def test_heartbeats_go_on_while_the_application_works_between_polls() -> None:
    async with cluster(1) as broker:
        fill(broker)
        coordinator = broker.coordinator
        assert coordinator is not None
        async with consumer(broker, "logs", group_id="g") as reader:
            await reader.getone()
            member = coordinator.members["member-1"]
            before = member.heartbeats
            await eventually(lambda: member.heartbeats >= before + 3)


async def test_a_member_that_stops_polling_leaves_its_group() -> None:
    async with cluster(1) as broker:
        fill(broker)
        coordinator = broker.coordinator
        assert coordinator is not None
        config = {"group_id": "g", "max_poll_interval_ms": 1_000}
        async with consumer(broker, "logs", **config) as reader:
            await reader.getone()
            await eventually(lambda: bool(coordinator.left))
            assert reader.assignment() == set()
            assert (await reader.getone()).offset == 0


async def test_a_stale_commit_is_repeated_with_the_current_epoch() -> None:
    async with cluster(1) as broker:
        fill(broker)
        coordinator = broker.coordinator
        assert coordinator is not None
        async with consumer(broker, "logs", group_id="g", enable_auto_commit=False) as reader:
            await read(reader, 20)
            coordinator.commit_failures = ["STALE_MEMBER_EPOCH", "COORDINATOR_LOADING"]
            await reader.commit()
            assert await reader.committed(P0) == 20
            coordinator.commit_failures = ["INVALID_COMMIT_OFFSET"]
            with pytest.raises(MillstreamError, match="INVALID_COMMIT_OFFSET"):
                await reader.commit({P0: 3})


async def test_a_fatal_refusal_is_raised_at_the_next_step() -> None:
    async with cluster(1) as broker:
        coordinator = broker.coordinator
        assert coordinator is not None
        coordinator.refuse_joins = ["GROUP_FULL"]
        async with consumer(broker, "logs", group_id="g") as reader:
            with pytest.raises(MillstreamError, match="GROUP_FULL"):
                await reader.getone()


async def test_unsubscribing_commits_and_leaves_and_allows_another_subscription() -> None:
    async with cluster(1) as broker:
        fill(broker)
        coordinator = broker.coordinator
        assert coordinator is not None
        async with consumer(broker, "logs", group_id="g") as reader:
            await read(reader, 20)
            await reader.unsubscribe()
            assert coordinator.committed["logs", 0].offset == 20
            assert coordinator.members == {}
            reader.assign([P0])
            reader.seek(P0, 19)
            assert (await reader.getone()).offset == 19
