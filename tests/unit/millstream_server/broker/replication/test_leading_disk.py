"""A leader whose disk is slow or fails: what followers get, and what is acknowledged."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millstream_server.runtime.errors import reason_name
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_follower import ScriptedFollower, records_in
from tests.fakes.slow_files import SlowFiles


@pytest.fixture
def files() -> SlowFiles:
    return SlowFiles()


@pytest.fixture
async def node(
    metadata: FakeMetadata, tmp_path: Path, files: SlowFiles
) -> AsyncIterator[BrokerNode]:
    """Leads "logs", which node 2 follows."""
    broker = BrokerNode(metadata, tmp_path / "node-1", files=files)
    await broker.start()
    metadata.register(2, 1, epoch=20)
    metadata.create_topic("logs", [1], replicas=[(1, 2)])
    await broker.until_leading("logs")
    yield broker
    files.syncing.set()
    await broker.stop()


async def produce(node: BrokerNode) -> Any:
    call = node.stub.Produce()
    await call.write(produce_request(node.metadata.image.topic_ids["logs"], batch_of(b"value")))
    return call


async def answer(call: Any) -> Any:
    async with asyncio.timeout(10):
        return (await call.read()).results[0]


async def test_rule_13_a_push_does_not_wait_for_the_leaders_own_sync(
    node: BrokerNode, files: SlowFiles
) -> None:
    topic_id = node.metadata.image.topic_ids["logs"]
    async with ScriptedFollower(node.channel, epoch=20) as follower:
        await follower.begin(topic_id)
        await follower.next()
        files.syncing.clear()
        call = await produce(node)
        assert records_in(await follower.next(news=False)) == 1
        await follower.report(topic_id, 1)
        state = node.replica("logs").state
        async with asyncio.timeout(10):
            while state.followers.ends.get(2) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0)
        # Rule 10: the leader's own end counts when it is synced.
        assert (state.high_watermark, state.written_end_offset) == (0, 1)
        files.syncing.set()
        assert not (await answer(call)).error
        assert state.high_watermark == 1


async def test_an_append_that_was_not_written_is_never_pushed(
    node: BrokerNode, files: SlowFiles
) -> None:
    topic_id = node.metadata.image.topic_ids["logs"]
    async with ScriptedFollower(node.channel, epoch=20) as follower:
        await follower.begin(topic_id)
        await follower.next()
        files.write_error = errno.ENOSPC
        assert reason_name((await answer(await produce(node))).error) == "DISK_FULL"
        files.write_error = 0
        async with asyncio.timeout(10):
            pushed = asyncio.create_task(follower.next(news=False))
            while not pushed.done():  # until the disk is tried again
                await produce(node)
                await asyncio.sleep(0.05)
        assert ((await pushed).previous_offset, records_in(await pushed)) == (0, 1)


async def test_rule_32_a_failed_sync_ends_the_pushing_and_acknowledges_nothing(
    node: BrokerNode, files: SlowFiles
) -> None:
    topic_id = node.metadata.image.topic_ids["logs"]
    async with ScriptedFollower(node.channel, epoch=20) as follower:
        await follower.begin(topic_id)
        await follower.next()
        files.syncing.clear()
        files.sync_error = errno.EIO
        call = await produce(node)
        await follower.records(1)
        await follower.report(topic_id, 1)
        files.syncing.set()
        failed = await answer(call)
        assert reason_name(failed.error) == "STORAGE_ERROR"
        assert failed.indeterminate  # the follower may well have it
        assert reason_name((await follower.next(news=False)).error) == "STORAGE_ERROR"
        assert node.view.offline_reported


async def test_what_was_synced_in_the_background_counts_when_the_mode_becomes_fsync(
    node: BrokerNode,
) -> None:
    metadata = node.metadata
    topic_id = metadata.image.topic_ids["logs"]
    metadata.change_partition("logs", 0, flush_mode="page_cache")
    async with ScriptedFollower(node.channel, epoch=20) as follower:
        await follower.begin(topic_id)
        call = await produce(node)
        await follower.records(1)
        replica = node.replica("logs")
        synced = asyncio.Event()
        node.app.writer.run(replica.log, replica.log.flush, lambda _, __: synced.set())
        await synced.wait()
        metadata.change_partition("logs", 0, flush_mode="fsync")
        async with asyncio.timeout(10):
            while not replica.state.fsync:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await follower.report(topic_id, 1)
        assert not (await answer(call)).error
