"""Rot where nothing was synced yet, and the operator's switch for a log that is all there is."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.partition import Role
from millstream_server.runtime.errors import reason_name
from millstream_server.storage.errors import LogDamagedError
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_follower import ScriptedFollower
from tests.unit.millstream_server.broker.replication.test_damage import reports, until


@pytest.fixture
async def node(metadata: FakeMetadata, tmp_path: Path) -> AsyncIterator[BrokerNode]:
    """Leads "logs", which node 2 follows."""
    broker = BrokerNode(metadata, tmp_path / "node-1")
    await broker.start()
    metadata.register(2, 1, epoch=20)
    metadata.create_topic("logs", [1], replicas=[(1, 2)])
    await broker.until_leading("logs")
    yield broker
    await broker.stop()


async def produce(node: BrokerNode, *values: bytes, acks: Any = pb.ACKS_LEADER) -> Any:
    topic_id = node.metadata.image.topic_ids["logs"]
    call = node.stub.Produce()
    await call.write(produce_request(topic_id, *map(batch_of, values), acks=acks))
    result = (await call.read()).results[0]
    call.cancel()
    assert not result.error
    return result


def spoil(node: BrokerNode, number: int) -> None:
    """Change a byte of a record in the file, under the running broker."""
    [segment] = node.replica("logs").log.segments.all
    with open(segment.store.path, "r+b") as file:
        position = file.read().index(b"value %d" % number)
        file.seek(position)
        file.write(b"V")


async def test_a_leader_never_pushes_rot_of_its_tail_when_a_copy_begins(node: BrokerNode) -> None:
    for number in range(3):
        await produce(node, b"value %d" % number)
    assert node.replica("logs").log.recovery_point == 0
    spoil(node, 0)
    topic_id = node.metadata.image.topic_ids["logs"]
    async with ScriptedFollower(node.channel, epoch=20) as follower:
        await follower.begin(topic_id)
        push = await follower.next()
        assert push.error
        assert not push.frames
    await until(lambda: bool(reports(node, "report_damaged_logs")))


async def test_a_consumer_that_comes_never_gets_rot_of_the_tail(node: BrokerNode) -> None:
    node.metadata.create_topic("sole", [1])
    await node.until_leading("sole")
    await produce(node, b"value 0")
    replica = node.replica("logs")
    replica.state.high_watermark = 1
    spoil(node, 0)
    call = node.stub.Fetch()
    position = pb.FetchPosition(topic_id=replica.state.topic_id, partition=0, offset=0)
    await call.write(pb.FetchRequest(positions=[position], credit_bytes=1 << 20))
    entry = (await call.read()).partitions[0]
    call.cancel()
    assert entry.error
    assert isinstance(replica.log.failure, LogDamagedError)


async def damaged_and_known(node: BrokerNode, replicas: tuple[int, ...]) -> None:
    """The log is damaged, and the image has no leader any more, because it knows."""
    replica = node.replica("logs")
    spoil(node, 1)
    with pytest.raises(LogDamagedError) as caught:
        replica.log.read(1, 1, 3, verified=True)
    node.app.hosted.note_failure(replica, caught.value)
    await until(lambda: bool(reports(node, "report_damaged_logs")))
    node.metadata.change_partition(
        "logs", 0, replicas=replicas, isr=(), damaged=(1,), leader_id=None, leader_epoch=2
    )
    await until(lambda: replica.state.role is Role.IDLE)


@pytest.mark.parametrize("replicas", [(1,), (1, 2)])
async def test_the_operators_switch_cuts_at_the_damage_and_leads(
    node: BrokerNode, replicas: tuple[int, ...]
) -> None:
    for number in range(3):
        await produce(node, b"value %d" % number)
    await damaged_and_known(node, replicas)
    node.metadata.change_partition(
        "logs", 0, isr=(1,), damaged=(), leader_id=1, leader_epoch=3, recovering=True, min_isr=1
    )
    await node.until_leading("logs")
    assert node.replica("logs").log.end_offset == 1
    result = await produce(node, b"value new", acks=pb.ACKS_ALL)
    assert result.base_offset == 1


async def test_a_sole_copy_is_reported_and_never_cut_without_an_order(node: BrokerNode) -> None:
    for number in range(3):
        await produce(node, b"value %d" % number)
    await damaged_and_known(node, (1,))
    # Such as an election by the rules after a start, when the damage was found anew.
    node.metadata.change_partition("logs", 0, leader_epoch=3)
    await asyncio.sleep(0)
    assert node.replica("logs").log.end_offset == 3
    assert isinstance(node.replica("logs").log.failure, LogDamagedError)


async def test_elected_without_knowing_of_the_damage_it_reports_instead_of_cutting(
    node: BrokerNode,
) -> None:
    for number in range(3):
        await produce(node, b"value %d" % number)
    spoil(node, 1)
    replica = node.replica("logs")
    node.metadata.change_partition("logs", 0, isr=(1,), leader_epoch=2, recovering=True)
    await node.until_leading("logs")
    with pytest.raises(LogDamagedError) as caught:
        replica.log.read(1, 1, 3, verified=True)
    node.app.hosted.note_failure(replica, caught.value)
    await until(lambda: bool(reports(node, "report_damaged_logs")))
    assert replica.log.end_offset == 3


@pytest.mark.parametrize(("replicas", "reason"), [((1, 2), "NOT_LEADER"), ((1,), "LOG_DAMAGED")])
async def test_what_waits_when_rot_is_found_may_be_stored_and_only_a_sole_copy_is_called_lost(
    node: BrokerNode, replicas: tuple[int, ...], reason: str
) -> None:
    node.metadata.change_partition("logs", 0, replicas=replicas, min_isr=1)
    replica = node.replica("logs")
    topic_id = node.metadata.image.topic_ids["logs"]
    call = node.stub.Produce()
    await call.write(produce_request(topic_id, batch_of(b"value 0")))
    await until(lambda: replica.state.waiting == 1)
    error = LogDamagedError("rot", offset=0, path="some.log")
    replica.log.fail(error)
    node.app.hosted.note_failure(replica, error)
    result = (await call.read()).results[0]
    assert reason_name(result.error) == reason
    assert result.indeterminate
    await call.write(produce_request(topic_id, batch_of(b"value 1")))
    result = (await call.read()).results[0]
    call.cancel()
    assert reason_name(result.error) == reason
    assert not result.indeterminate
