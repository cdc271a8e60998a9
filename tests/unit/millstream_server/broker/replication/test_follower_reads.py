"""Reading from a follower (KIP-392): what is committed, never a reset."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.partition import Role
from millstream_server.runtime.errors import reason_name
from tests.fakes.broker_node import BrokerNode
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_leader import ScriptedLeader, leader_frame


class Reading:
    """A fetch stream of a client."""

    def __init__(self, node: BrokerNode, topic_id: bytes) -> None:
        self._call: Any = node.stub.Fetch()
        self._topic_id = topic_id

    async def at(self, offset: int, **fields: int) -> None:
        position = pb.FetchPosition(topic_id=self._topic_id, token=1, offset=offset, **fields)
        await self._call.write(pb.FetchRequest(positions=[position], credit_bytes=1 << 20))

    async def pushed(self) -> pb.FetchedPartition:
        response = await self._call.read()
        assert response is not grpc.aio.EOF
        return response.partitions[0]

    def end(self) -> None:
        self._call.cancel()


@pytest.fixture
async def reading(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> AsyncIterator[Reading]:
    """A reader of a follower that holds three records, two of them committed."""
    frames = [leader_frame(b"v", base_offset=n) for n in range(3)]
    await leader.push(await leader.begin(), *frames, high_watermark=2)
    await leader.reported(3)
    one = Reading(follower, metadata.image.topic_ids["logs"])
    yield one
    one.end()


async def test_a_follower_in_sync_serves_what_it_knows_to_be_committed(reading: Reading) -> None:
    await reading.at(0)
    pushed = await reading.pushed()
    assert [batch.base_offset for batch in pushed.batches] == [0, 1]
    assert pushed.high_watermark == 2


async def test_an_offset_not_copied_yet_is_no_reason_to_reset(reading: Reading) -> None:
    await reading.at(9)
    assert reason_name((await reading.pushed()).error) == "OFFSET_NOT_AVAILABLE"


async def test_a_record_of_an_epoch_not_copied_yet_is_not_called_truncated(
    reading: Reading,
) -> None:
    await reading.at(2, last_epoch=4)
    assert reason_name((await reading.pushed()).error) == "OFFSET_NOT_AVAILABLE"


async def test_a_follower_that_left_the_in_sync_replicas_serves_no_more(
    reading: Reading, metadata: FakeMetadata
) -> None:
    await reading.at(0)
    await reading.pushed()
    metadata.change_partition("logs", 0, isr=(2,))
    pushed = await reading.pushed()
    while not pushed.error:
        pushed = await reading.pushed()
    assert reason_name(pushed.error) == "NOT_LEADER"


async def test_only_the_leader_answers_end_offsets(
    reading: Reading, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    assert follower.replica("logs").state.role is Role.FOLLOWING
    with pytest.raises(Exception, match="node 2 leads"):
        follower.app.hosted.find(metadata.image.topic_ids["logs"], 0)
