"""Rot in records that nobody reads is found all the same."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream_server.broker.scrub import Scrub
from millstream_server.storage.errors import LogDamagedError
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata

VALUE = bytes(50_000)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[BrokerNode]:
    """Leads two partitions of "logs", of segments that hold a few records each."""
    node = BrokerNode(FakeMetadata(), tmp_path / "node-1")
    await node.start()
    topic_id = await node.lead("logs", 2, segment_bytes="200000")
    call = node.stub.Produce()
    for partition in (0, 1):
        for _ in range(10):
            await call.write(produce_request(topic_id, batch_of(VALUE), partition=partition))
            assert not (await call.read()).results[0].error
    call.cancel()
    yield node
    await node.stop()


def flush(node: BrokerNode) -> int:
    """Move the recovery points up; returns the bytes below them."""
    logs = [node.replica("logs", number).log for number in (0, 1)]
    for log in logs:
        log.flush()
    return sum(log.size_bytes for log in logs)


def spoil(node: BrokerNode) -> None:
    segment = node.replica("logs", 1).log.segments.all[1]
    with open(segment.store.path, "r+b") as file:
        file.seek(segment.size // 2)
        file.write(b"rot")


async def test_every_byte_below_the_recovery_points_is_read(node: BrokerNode) -> None:
    size = flush(node)
    await Scrub(node.app.hosted).go_over_all()
    assert node.app.counters.scrubbed_bytes == size
    assert node.scrape("millstream_log_scrubbed_bytes_total") == size


async def test_rot_takes_the_log_offline_and_is_reported(node: BrokerNode) -> None:
    flush(node)
    spoil(node)
    await Scrub(node.app.hosted).go_over_all()
    assert isinstance(node.replica("logs", 1).log.failure, LogDamagedError)
    assert node.replica("logs", 0).log.failure is None
    async with asyncio.timeout(10):
        while not node.view.executed:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    [log] = node.view.executed[-1].report_damaged_logs.logs
    assert log.partition == 1


async def test_it_goes_on_where_records_were_deleted_meanwhile(node: BrokerNode) -> None:
    flush(node)
    log = node.replica("logs", 0).log
    scrub = Scrub(node.app.hosted)
    started = asyncio.create_task(scrub.go_over_all())
    await asyncio.sleep(0)
    log.delete_before(8)
    await started
    assert log.failure is None
    assert node.app.counters.scrubbed_bytes > 0


async def test_it_is_no_faster_than_allowed(tmp_path: Path) -> None:
    config = with_config(scrub_bytes_per_s=1 << 20, scrub_interval_ms=None)
    node = BrokerNode(FakeMetadata(), tmp_path / "node-1", config=config)
    await node.start()
    try:
        topic_id = await node.lead("logs")
        call = node.stub.Produce()
        for _ in range(8):
            await call.write(produce_request(topic_id, batch_of(VALUE)))
            assert not (await call.read()).results[0].error
        call.cancel()
        node.replica("logs").log.flush()
        began_s = asyncio.get_running_loop().time()
        await Scrub(node.app.hosted).go_over_all()
        assert asyncio.get_running_loop().time() - began_s >= 0.15
        await Scrub(node.app.hosted).run()  # switched off: over at once
    finally:
        await node.stop()
