"""A leader (real broker on loopback) and followers that the test plays."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from millstream.v1 import broker_service_pb2 as broker_pb
from millstream.v1 import errors_pb2
from millstream_server.broker.config import BrokerConfig
from millstream_server.runtime.errors import ServiceError, reason_name
from millstream_server.v1 import replication_service_pb2 as pb
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_follower import CATCH_UP, TAIL, ScriptedFollower, records_in
from tests.fakes.waiting import until

CONFIG = with_config(in_sync_check_ms=20, in_sync_retry_ms=20, drain_timeout_ms=200)
Start = Callable[..., Awaitable[BrokerNode]]


@pytest.fixture
async def start_leader(metadata: FakeMetadata, tmp_path: Path) -> AsyncIterator[Start]:
    nodes: list[BrokerNode] = []

    async def start(config: BrokerConfig = CONFIG, **options: Any) -> BrokerNode:
        node = BrokerNode(metadata, tmp_path / "node-1", config=config)
        nodes.append(node)
        await node.start()
        metadata.register(2, 1, epoch=20)
        metadata.register(3, 1, epoch=30)
        return node

    yield start
    for node in nodes:
        await node.stop()


@pytest.fixture
async def node(start_leader: Start) -> BrokerNode:
    return await start_leader()


async def topic(
    node: BrokerNode, replicas: tuple[int, ...] = (1, 2), *, min_isr: int = 1, **configs: str
) -> bytes:
    """A topic "logs" that the node leads, everybody in sync."""
    names = {key.replace("_", "."): value for key, value in configs.items()}
    topic_id = node.metadata.create_topic("logs", [1], names, replicas=[replicas])
    node.metadata.change_partition("logs", 0, min_isr=min_isr)
    await node.until_leading("logs")
    return topic_id


def follower(node: BrokerNode, node_id: int = 2, **options: Any) -> ScriptedFollower:
    return ScriptedFollower(node.channel, follower_id=node_id, epoch=node_id * 10, **options)


class Producer:
    """A produce stream."""

    def __init__(self, node: BrokerNode, topic_id: bytes) -> None:
        self._call = node.stub.Produce()
        self._topic_id = topic_id
        self._count = 0

    async def send(self, *values: bytes, **options: Any) -> None:
        self._count += 1
        await self._call.write(
            produce_request(
                self._topic_id, batch_of(*values), correlation_id=self._count, **options
            )
        )

    async def answer(self) -> Any:
        async with asyncio.timeout(10):
            return (await self._call.read()).results[0]


async def test_what_is_produced_is_pushed_and_acknowledged_when_it_is_reported(
    node: BrokerNode,
) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    async with follower(node) as copying:
        number = await copying.begin(topic_id)
        await producer.send(b"a", b"b")
        push = await copying.next(news=False)
        assert (push.previous_offset, push.HasField("previous_epoch")) == (0, False)
        assert (push.round, push.leader_epoch, records_in(push)) == (number, 1, 2)
        await copying.report(topic_id, 2, 0)
        assert node.replica("logs").state.high_watermark == 0
        await copying.report(topic_id, 2)
        answer = await producer.answer()
        assert (answer.error, answer.base_offset) == (0, 0)
        assert answer.durability == broker_pb.DURABILITY_REPLICATED_DISK
        news = await copying.next()
        assert (news.high_watermark, news.frames) == (2, b"")
        await producer.send(b"c")
        push = await copying.next(news=False)
        assert (push.previous_offset, push.previous_epoch, push.high_watermark) == (2, 1, 2)


async def test_a_session_with_an_old_registration_is_refused(node: BrokerNode) -> None:
    with pytest.raises(ServiceError, match="STALE_NODE_EPOCH"):
        await ScriptedFollower(node.channel, epoch=19).open(TAIL)
    with pytest.raises(ServiceError, match="UNAVAILABLE"):
        await ScriptedFollower(node.channel, epoch=21).open(TAIL)
    with pytest.raises(ServiceError, match="CLUSTER_MISMATCH"):
        await ScriptedFollower(node.channel, epoch=20, cluster_id="other").open(TAIL)
    with pytest.raises(ServiceError, match="INVALID_REQUEST"):
        await ScriptedFollower(node.channel, epoch=20, leader_id=9).open(TAIL)


async def test_a_new_registration_of_the_follower_ends_its_session(node: BrokerNode) -> None:
    topic_id = await topic(node)
    async with follower(node) as copying:
        await copying.begin(topic_id)
        await copying.next()
        node.metadata.register(2, 1, epoch=25)
        assert (await copying.end_of(TAIL)).reason == "STALE_NODE_EPOCH"
        assert (await copying.end_of(CATCH_UP)).reason == "STALE_NODE_EPOCH"


async def test_a_new_session_takes_the_place_of_the_old_one(node: BrokerNode) -> None:
    topic_id = await topic(node)
    async with follower(node) as old, follower(node, session_id=78) as new:
        assert (await old.end_of(CATCH_UP)).reason == "UNAVAILABLE"
        await new.begin(topic_id)
        assert (await new.next()).error == errors_pb2.ERROR_REASON_UNSPECIFIED


async def test_the_end_of_one_lane_ends_the_session(node: BrokerNode) -> None:
    async with follower(node) as copying:
        await copying.calls[CATCH_UP].done_writing()
        assert (await copying.end_of(TAIL)).reason == "UNAVAILABLE"


async def test_positions_belong_on_the_tail_lane(node: BrokerNode) -> None:
    async with follower(node) as copying:
        await copying.say(CATCH_UP, positions=[pb.FollowerPosition()])
        assert (await copying.end_of(CATCH_UP)).reason == "INVALID_REQUEST"


async def test_rule_13_leader_epochs_are_compared_both_ways(node: BrokerNode) -> None:
    topic_id = await topic(node)
    async with follower(node) as copying:
        for epoch, reason in ((0, "FENCED_LEADER_EPOCH"), (2, "UNKNOWN_LEADER_EPOCH")):
            number = await copying.begin(topic_id, leader_epoch=epoch)
            answer = await copying.next()
            assert (reason_name(answer.error), answer.round) == (reason, number)
        await copying.begin(bytes(16))
        assert reason_name((await copying.next()).error) == "UNKNOWN_LEADER_EPOCH"


async def test_rule_13_the_end_of_leadership_ends_the_pushing(node: BrokerNode) -> None:
    topic_id = await topic(node)
    async with follower(node) as copying:
        await copying.begin(topic_id)
        await copying.next()
        node.metadata.change_partition("logs", 0, leader_id=2, leader_epoch=2)
        answer = await copying.next(news=False)
        assert reason_name(answer.error) == "FENCED_LEADER_EPOCH"
        assert answer.leader_epoch == 2
        # A report that was under way counts for nothing and answers nothing.
        await copying.report(topic_id, 0)
        await copying.begin(topic_id, leader_epoch=2)
        assert reason_name((await copying.next()).error) == "NOT_LEADER"


async def test_rule_13_a_new_leader_epoch_here_ends_the_pushing_under_the_old(
    node: BrokerNode,
) -> None:
    topic_id = await topic(node)
    async with follower(node) as copying:
        await copying.begin(topic_id)
        await copying.next()
        node.metadata.change_partition("logs", 0, leader_epoch=2)
        assert reason_name((await copying.next(news=False)).error) == "FENCED_LEADER_EPOCH"
        await node.until_leading("logs")
        await copying.begin(topic_id, leader_epoch=2)
        assert (await copying.next()).leader_epoch == 2


async def test_rule_14_a_log_of_another_history_is_told_where_it_parts(node: BrokerNode) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    await producer.send(b"a", b"b", acks=broker_pb.ACKS_LEADER)
    await producer.answer()
    node.metadata.change_partition("logs", 0, leader_epoch=4)
    await node.until_leading("logs")
    async with follower(node) as copying:
        # Epoch 1 is longer here; epoch 3 is not known to the leader.
        for end, last_epoch in ((5, 1), (2, 3), (7, 3)):
            number = await copying.begin(topic_id, end, last_epoch=last_epoch, leader_epoch=4)
            answer = await copying.next(news=False)
            assert answer.HasField("divergence"), answer
            assert answer.round == number
            assert (answer.divergence.epoch, answer.divergence.end_offset) == (1, 2)


async def test_rule_15_a_diverged_beginning_changes_nothing_of_the_follower(
    node: BrokerNode,
) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    async with follower(node) as copying:
        await copying.begin(topic_id)
        await producer.send(b"a", b"b")
        await copying.records(2)
        await copying.report(topic_id, 2, 1)
        await until(lambda: node.replica("logs").state.high_watermark == 1)
        await copying.begin(topic_id, 9, last_epoch=1)
        assert (await copying.next(news=False)).HasField("divergence")
        assert node.replica("logs").state.followers.ends[2] == 1


async def test_a_follower_behind_the_log_start_is_told_where_it_begins(node: BrokerNode) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    for value in (b"a", b"b"):
        await producer.send(value, acks=broker_pb.ACKS_LEADER)
        await producer.answer()
    replica = node.replica("logs")
    await asyncio.get_running_loop().run_in_executor(None, replica.log.delete_before, 1)
    async with follower(node) as copying:
        await copying.begin(topic_id, 0)
        answer = await copying.next()
        assert (reason_name(answer.error), answer.log_start_offset) == ("OFFSET_OUT_OF_RANGE", 1)
        await copying.begin(topic_id, 1)
        push = await copying.next(news=False)
        assert (push.previous_offset, push.HasField("previous_epoch")) == (1, False)


async def test_a_follower_is_told_of_the_batch_that_holds_its_end_or_the_log_start(
    node: BrokerNode,
) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    await producer.send(b"a", b"b", b"c", acks=broker_pb.ACKS_LEADER)
    await producer.answer()
    async with follower(node) as copying:
        await copying.begin(topic_id, 1)
        answer = await copying.next(news=False)
        assert (reason_name(answer.error), answer.log_start_offset) == ("OFFSET_OUT_OF_RANGE", 0)
    replica = node.replica("logs")
    await asyncio.get_running_loop().run_in_executor(None, replica.log.delete_before, 2)
    async with follower(node) as copying:
        await copying.begin(topic_id, 0)
        push = await copying.next(news=False)
        assert (push.previous_offset, push.log_start_offset, records_in(push)) == (0, 2, 3)


async def test_reports_that_cannot_be_true_end_the_copying(node: BrokerNode) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    async with follower(node) as copying:
        await copying.begin(topic_id)
        await producer.send(b"a", b"b")
        await copying.records(2)
        for end, synced in ((3, 3), (2, 3)):
            await copying.report(topic_id, end, synced)
            answer = await copying.next(news=False)
            assert reason_name(answer.error) == "INVALID_REQUEST"
            assert node.replica("logs").state.high_watermark == 0
            await copying.begin(topic_id, 2, last_epoch=1, synced=0)


async def test_nothing_is_pushed_beyond_the_credit(node: BrokerNode) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    for _ in range(10):
        await producer.send(b"x" * 1000, acks=broker_pb.ACKS_LEADER)
        await producer.answer()
    async with follower(node, credit=2500) as copying:
        await copying.begin(topic_id)
        push = await copying.next(news=False)
        assert records_in(push) == 2
        size = len(push.frames)
        await copying.report(topic_id, 2)
        await copying.say(TAIL, credit_bytes=size)
        assert (await copying.next(news=False)).previous_offset == 2


async def test_a_batch_larger_than_the_credit_goes_when_nothing_is_under_way(
    node: BrokerNode,
) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    async with follower(node, credit=100) as copying:
        await copying.begin(topic_id)
        for _ in range(2):
            await producer.send(b"x" * 1000)
        first = await copying.next(news=False)
        assert records_in(first) == 1
        await copying.say(TAIL, credit_bytes=len(first.frames))
        assert records_in(await copying.next(news=False)) == 1


async def test_a_follower_far_behind_catches_up_on_its_own_lane(start_leader: Start) -> None:
    node = await start_leader(
        with_config(catch_up_from_bytes=8_000, replication_message_bytes=2_500)
    )
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    for _ in range(20):
        await producer.send(b"x" * 1000, acks=broker_pb.ACKS_LEADER)
        await producer.answer()
    async with follower(node) as copying:
        await copying.begin(topic_id)
        pushes = await copying.records(19, CATCH_UP)
        ends = [push.previous_offset + records_in(push) for push in pushes]
        assert [push.previous_offset for push in pushes] == [0, *ends[:-1]]
        # The rest waits until all of that is reported, and comes on the other lane.
        await producer.send(b"y")
        await copying.report(topic_id, ends[-1])
        assert (await copying.next(news=False)).previous_offset == ends[-1]


async def test_catching_up_keeps_nobody_waiting(start_leader: Start) -> None:
    node = await start_leader(
        with_config(catch_up_from_bytes=8_000, replication_message_bytes=2_500)
    )
    topic_id = node.metadata.create_topic("logs", [1, 1], {}, replicas=[(1, 2), (1, 2)])
    await node.until_leading("logs", 2)
    producer = Producer(node, topic_id)
    for _ in range(20):
        await producer.send(b"x" * 1000, acks=broker_pb.ACKS_LEADER)
        await producer.answer()
    async with follower(node, credit=5_000) as copying:
        await copying.begin(topic_id)
        await copying.begin(topic_id, partition=1)
        await copying.records(4, CATCH_UP)  # all that the credit allows, and none is given back
        for number in range(10):
            await producer.send(b"y", partition=1)
            push = await copying.next(news=False)
            assert (push.partition, push.previous_offset) == (1, number)
            await copying.report(topic_id, number + 1, partition=1)
            assert not (await producer.answer()).error
            await copying.say(TAIL, credit_bytes=len(push.frames))


async def test_records_that_are_no_longer_in_memory_are_read_and_pushed(
    node: BrokerNode, metadata: FakeMetadata
) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    for _ in range(3):
        await producer.send(b"value", acks=broker_pb.ACKS_LEADER)
        await producer.answer()
    await node.stop()
    again = BrokerNode(metadata, Path(node.app.directory.path), config=CONFIG)
    await again.start(epoch=11)
    metadata.change_partition("logs", 0, leader_epoch=2)
    await again.until_leading("logs")
    assert not again.replica("logs").log.reads_from_memory(0)
    async with follower(again) as copying:
        await copying.begin(topic_id, leader_epoch=2)
        assert sum(map(records_in, await copying.records(3))) == 3
    await again.stop()


async def test_a_follower_that_leaves_is_pushed_nothing_more(node: BrokerNode) -> None:
    topic_id = await topic(node)
    producer = Producer(node, topic_id)
    async with follower(node) as copying:
        await copying.begin(topic_id)
        await copying.next()
        await copying.say(
            TAIL, positions=[pb.FollowerPosition(topic_id=topic_id, leader_epoch=1, leave=True)]
        )
        await producer.send(b"a", acks=broker_pb.ACKS_LEADER)
        await producer.answer()
        await copying.begin(topic_id)
        assert (await copying.next(news=False)).round == 2


async def test_the_lanes_end_when_the_broker_stops(node: BrokerNode) -> None:
    async with follower(node) as copying:
        stopping = asyncio.create_task(node.stop())
        assert (await copying.end_of(TAIL)).reason == "NODE_SHUTTING_DOWN"
        await stopping
