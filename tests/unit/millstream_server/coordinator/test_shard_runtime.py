"""A shard over a fake log: taken over, fenced, replayed; writes whose fate is not clear."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from millstream.record import parse_header
from millstream_raft.image import ShardLease
from millstream_server.coordinator.changes import Changes, Result
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.group_shard import GroupShard
from millstream_server.coordinator.positions import PositionCommit
from millstream_server.coordinator.records import GroupMetadata, GroupMetadataRecord
from millstream_server.coordinator.shard_runtime import Handler, ShardPhase, ShardRuntime
from millstream_server.coordinator.topics import TopicIndex
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.system import SystemClock
from tests.fakes.group_world import Observer
from tests.fakes.partition_log import FakePartitionLog

CONFIG = CoordinatorConfig(log_retry_ms=1, log_retry_ms_max=4, write_timeout_ms=5_000)
TOPIC = b"t" * 16
Take = Callable[..., ShardRuntime]


@pytest.fixture
def log() -> FakePartitionLog:
    return FakePartitionLog()


@pytest.fixture
async def take(log: FakePartitionLog) -> AsyncIterator[Take]:
    taken = []

    def one(
        epoch: int, config: CoordinatorConfig = CONFIG, in_session: Callable[[], bool] | None = None
    ) -> ShardRuntime:
        runtime = ShardRuntime(
            ShardLease(0, 1, epoch, 9000),
            1,
            log,
            config=config,
            clock=SystemClock(),
            new_shard=lambda: GroupShard(config, Observer(), lambda: "m"),
            topics=TopicIndex,
            in_session=in_session or (lambda: True),
        )
        taken.append(runtime)
        return runtime

    yield one
    for runtime in taken:
        await runtime.close()


async def serving(runtime: ShardRuntime) -> ShardRuntime:
    async with asyncio.timeout(5):
        while runtime.phase is not ShardPhase.SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return runtime


def commit(offset: int, number: int = 0) -> Handler[Any]:
    return lambda core, now: core.positions.commit(
        "g", [PositionCommit(TOPIC, number, offset)], {}, now
    )


async def committed(runtime: ShardRuntime) -> list[int]:
    found = await runtime.call(lambda core, _: core.positions.fetch("g", None))
    return [position.offset for _, position in found]


async def test_a_fence_comes_first_and_sequences_follow_on(
    log: FakePartitionLog, take: Take
) -> None:
    runtime = await serving(take(3))
    await runtime.call(commit(1))
    await runtime.call(commit(2))
    headers = [parse_header(batch) for batch in log.batches]
    assert [header.is_control for header in headers] == [True, False, False]
    assert {header.producer_id for header in headers} == {9000}
    assert [(h.producer_epoch, h.base_sequence) for h in headers] == [(3, 0), (3, 1), (3, 2)]


async def test_what_comes_in_one_turn_shares_a_batch(log: FakePartitionLog, take: Take) -> None:
    runtime = await serving(take(1))
    await asyncio.gather(*(runtime.call(commit(5, number)) for number in range(10)))
    assert len(log.batches) == 2
    assert parse_header(log.batches[1]).record_count == 10


async def test_a_new_owner_finds_everything_and_the_former_one_is_refused(
    log: FakePartitionLog, take: Take
) -> None:
    former = await serving(take(1))
    await former.call(commit(7))
    owner = await serving(take(2))
    assert await committed(owner) == [7]
    with pytest.raises(ServiceError, match="UNAVAILABLE"):
        await former.call(commit(8))
    assert former.phase is not ShardPhase.SERVING
    assert await committed(owner) == [7]


async def test_an_answer_that_was_lost_is_asked_for_again_and_stored_once(
    log: FakePartitionLog, take: Take
) -> None:
    runtime = await serving(take(1))
    log.answers_to_lose = 2
    await runtime.call(commit(7))
    assert log.sent.count((1, 1)) == 3
    assert len(log.batches) == 2
    assert runtime.phase is ShardPhase.SERVING


async def test_writes_wait_for_a_leader_that_is_away(log: FakePartitionLog, take: Take) -> None:
    runtime = await serving(take(1))
    log.stop()
    waiting = asyncio.ensure_future(runtime.call(commit(7)))
    reading = asyncio.ensure_future(committed(runtime))
    await asyncio.sleep(0.02)
    # Nobody hears of what might not last.
    assert not waiting.done()
    assert not reading.done()
    log.restart()
    assert await waiting == [None]
    assert await reading == [7]


async def test_no_more_than_five_batches_are_under_way_and_they_keep_their_order(
    log: FakePartitionLog, take: Take
) -> None:
    runtime = await serving(take(1))
    log.answering.clear()
    calls = []
    for offset in range(1, 20):
        calls.append(asyncio.ensure_future(runtime.call(commit(offset))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    assert log.in_flight_max == 5
    log.answering.set()
    await asyncio.gather(*calls)
    assert log.in_flight_max <= 5
    assert await committed(runtime) == [19]
    sequences = [parse_header(batch).base_sequence for batch in log.batches]
    assert sequences == sorted(sequences)


async def test_a_batch_turned_away_for_now_takes_those_behind_it_along(
    log: FakePartitionLog, take: Take
) -> None:
    runtime = await serving(take(1))
    log.refusals.extend(["NOT_ENOUGH_REPLICAS", "", "", "THROTTLED"])
    calls = []
    for offset in range(1, 6):
        calls.append(asyncio.ensure_future(runtime.call(commit(offset))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    sequences = [parse_header(batch).base_sequence for batch in log.batches]
    assert sequences == list(range(len(sequences)))
    assert await committed(runtime) == [5]


async def test_a_definite_refusal_drops_the_shard_and_loads_it_again(
    log: FakePartitionLog, take: Take
) -> None:
    runtime = await serving(take(1))
    await runtime.call(commit(7))
    log.refusals.append("RECORD_TOO_LARGE")
    with pytest.raises(ServiceError, match="UNAVAILABLE"):
        await runtime.call(commit(8))
    await serving(runtime)
    assert await committed(runtime) == [7]
    # The same epoch writes on where the log ends.
    await runtime.call(commit(9))
    assert [parse_header(batch).base_sequence for batch in log.batches] == [0, 1, 2]


async def test_a_bug_in_a_handler_drops_what_it_did(log: FakePartitionLog, take: Take) -> None:
    runtime = await serving(take(1))
    await runtime.call(commit(7))

    def broken(core: GroupShard, _: Any) -> Result[None]:
        Changes(core.state).emit(GroupMetadataRecord("half", GroupMetadata(5)))
        raise RuntimeError("as the test says")

    with pytest.raises(ServiceError, match="INTERNAL"):
        await runtime.call(broken)
    await serving(runtime)
    assert list(runtime.core.state.groups) == ["g"]
    assert await committed(runtime) == [7]


async def test_everything_is_refused_while_loading_out_of_session_and_after_the_end(
    log: FakePartitionLog, take: Take
) -> None:
    session = [True]
    log.available = False
    runtime = take(1, in_session=lambda: session[0])
    with pytest.raises(ServiceError, match="COORDINATOR_LOADING"):
        await runtime.call(commit(1))
    log.available = True
    await serving(runtime)
    session[0] = False
    with pytest.raises(ServiceError, match="NOT_COORDINATOR"):
        await runtime.call(commit(1))
    session[0] = True
    await runtime.drain()
    with pytest.raises(ServiceError, match="NOT_COORDINATOR"):
        await runtime.call(commit(1))


async def test_a_shard_given_up_fails_what_waits(log: FakePartitionLog, take: Take) -> None:
    runtime = await serving(take(1))
    log.answering.clear()
    sent = asyncio.ensure_future(runtime.call(commit(7)))
    await asyncio.sleep(0.01)
    await runtime.close()
    with pytest.raises(ServiceError, match="may have happened"):
        await sent


async def test_what_waits_for_the_log_is_bounded(log: FakePartitionLog, take: Take) -> None:
    runtime = await serving(take(1, replace(CONFIG, pending_bytes_max=300)))
    log.stop()
    calls = [asyncio.ensure_future(runtime.call(commit(5, number))) for number in range(20)]
    await asyncio.sleep(0.01)
    assert any(call.done() and "THROTTLED" in str(call.exception()) for call in calls)
    log.restart()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_drain_waits_until_everything_is_stored(log: FakePartitionLog, take: Take) -> None:
    runtime = await serving(take(1))
    log.answering.clear()
    sent = asyncio.ensure_future(runtime.call(commit(7)))
    await asyncio.sleep(0.01)
    draining = asyncio.ensure_future(runtime.drain())
    await asyncio.sleep(0.01)
    assert not draining.done()
    log.answering.set()
    await draining
    assert await sent == [None]
