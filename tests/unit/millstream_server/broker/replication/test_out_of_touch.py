"""A leader without a controller goes on while its followers do, and gives up when they do not."""

from typing import Any

import pytest

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.config import BrokerConfig
from millstream_server.runtime.errors import reason_name
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_leader import ScriptedLeader


@pytest.fixture
def config() -> BrokerConfig:
    return with_config(expiry_interval_ms=5, stall_ms=20)


class Producing:
    def __init__(self, node: BrokerNode, topic_id: bytes) -> None:
        self._call: Any = node.stub.Produce()
        self._topic_id = topic_id

    async def send(self) -> pb.ProduceResult:
        await self._call.write(produce_request(self._topic_id, batch_of(b"v")))
        response = await self._call.read()
        return response.results[0]

    def end(self) -> None:
        self._call.cancel()


async def lead(follower: BrokerNode, metadata: FakeMetadata, **changes: Any) -> Producing:
    metadata.change_partition("logs", 0, leader_id=1, leader_epoch=2, **changes)
    await follower.until_leading("logs")
    return Producing(follower, metadata.image.topic_ids["logs"])


async def test_an_append_whose_followers_are_silent_fails_before_its_time(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    producing = await lead(follower, metadata)
    follower.view.session = False
    waited = await producing.send()
    assert reason_name(waited.error) == "NOT_LEADER"
    assert waited.indeterminate
    refused = await producing.send()
    assert reason_name(refused.error) == "NOT_LEADER"
    assert not refused.indeterminate
    producing.end()


async def test_without_a_controller_records_are_acknowledged_as_long_as_replicas_follow(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    producing = await lead(follower, metadata, isr=(1,))
    follower.view.session = False
    assert not (await producing.send()).error
    producing.end()


async def test_back_in_touch_it_takes_appends_again(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    producing = await lead(follower, metadata)
    follower.view.session = False
    assert (await producing.send()).error
    follower.view.session = True
    metadata.change_partition("logs", 0, isr=(1,))
    answer = await producing.send()
    while answer.error:  # until it has seen the change
        answer = await producing.send()
    producing.end()
