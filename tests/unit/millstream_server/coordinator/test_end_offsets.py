"""Ends of logs, asked of their leaders."""

import asyncio
from typing import Any

from millstream.v1 import broker_service_pb2 as pb
from millstream_raft.image import Image
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.end_offsets import EndOffsets
from millstream_server.coordinator.log_ports import LogUnavailable
from millstream_server.coordinator.positions import LogBounds, PositionCommit
from tests.fakes.manual_clock import ManualClock

LOG = (b"t" * 16, 0)


class Leader:
    """A broker's channel; answers as told, once it is let."""

    def __init__(self, end_offset: int, leader_epoch: int) -> None:
        self.end_offset = end_offset
        self.leader_epoch = leader_epoch
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0

    def unary_unary(self, path: str, **_: object) -> Any:
        return self._list_offsets

    def stream_stream(self, path: str, **_: object) -> Any:
        return None

    unary_stream = stream_unary = stream_stream

    async def _list_offsets(
        self, request: pb.ListOffsetsRequest, timeout: float
    ) -> pb.ListOffsetsResponse:
        self.asked += 1
        await self.may_answer.wait()
        response = pb.ListOffsetsResponse()
        for query in request.queries:
            offset = self.end_offset if query.position.latest else 0
            response.answers.add(offset=offset, leader_epoch=self.leader_epoch)
        return response


class Channels:
    """See ``BrokerChannels``."""

    def __init__(self) -> None:
        self.leaders: list[Leader] = []

    def leader(self, image: Image, topic_id: bytes, number: int) -> tuple[int, Any]:
        if not self.leaders:
            raise LogUnavailable("the partition has no leader at present")
        return len(self.leaders), self.leaders[-1]


def make(channels: Channels) -> EndOffsets:
    config = CoordinatorConfig(end_offset_timeout_ms=1_000)
    return EndOffsets(Image, channels, config, ManualClock())  # type: ignore[arg-type]


def commit(offset: int) -> PositionCommit:
    return PositionCommit(*LOG, offset)


async def test_only_what_is_beyond_the_known_end_is_asked_for() -> None:
    channels = Channels()
    channels.leaders = [Leader(30, 1)]
    ends = make(channels)
    assert await ends.bounds_for([commit(30)]) == {LOG: LogBounds(0, 30)}
    assert await ends.bounds_for([commit(29)]) == {LOG: LogBounds(0, 30)}
    assert channels.leaders[0].asked == 1
    channels.leaders[0].end_offset = 40
    assert await ends.bounds_for([commit(31)]) == {LOG: LogBounds(0, 40)}
    assert channels.leaders[0].asked == 2
    await ends.close()


async def test_without_a_leader_nothing_is_known() -> None:
    ends = make(Channels())
    assert await ends.bounds_for([commit(30)]) == {}
    assert ends.end_offset(LOG) is None
    await ends.close()


async def test_the_late_answer_of_a_former_leader_is_not_believed() -> None:
    channels = Channels()
    former = Leader(30, 1)
    former.may_answer.clear()
    channels.leaders = [former]
    ends = make(channels)
    first = asyncio.create_task(ends.bounds_for([commit(30)]))
    await asyncio.sleep(0)
    channels.leaders.append(Leader(32, 2))
    assert await ends.bounds_for([commit(32)]) == {LOG: LogBounds(0, 32)}
    former.may_answer.set()
    assert await first == {LOG: LogBounds(0, 32)}, "a commit at 30 is fine all the same"
    assert ends.end_offset(LOG) == 32
    await ends.close()
