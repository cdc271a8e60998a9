"""``AsyncConsumer`` as a member of a group, over loopback gRPC against fakes."""

import asyncio

import pytest

from millstream._consumer.record import ConsumerRecord, OffsetAndMetadata, TopicPartition
from millstream._consumer.subscription import RebalanceListener
from millstream._errors import MillstreamError
from tests.fakes.consuming import (
    P0,
    P1,
    P2,
    check_order,
    cluster,
    consumer,
    fill,
    read,
)
from tests.fakes.waiting import until


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
        coordinator = broker.coordinator
        assert coordinator is not None
        config = {"group_id": "g", "auto_commit_interval_ms": 20}
        async with consumer(broker, "logs", **config) as reader:
            async for record in reader:
                if record.offset == 4:
                    await asyncio.sleep(0.1)
                    stored = coordinator.committed.get(("logs", 0))
                    assert stored is None or stored.offset <= 4
                if record.offset == 5:
                    # Earlier steps may have been due, too, where the machine was busy.
                    await until(lambda: [one[2] for one in coordinator.commits[-1:]] == [5])
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
                        await until(lambda: not reader.assignment())
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
            await until(lambda: member.heartbeats >= before + 3)


async def test_a_member_that_stops_polling_leaves_its_group() -> None:
    async with cluster(1) as broker:
        fill(broker)
        coordinator = broker.coordinator
        assert coordinator is not None
        config = {"group_id": "g", "max_poll_interval_ms": 1_000}
        async with consumer(broker, "logs", **config) as reader:
            await reader.getone()
            await until(lambda: bool(coordinator.left))
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
