"""A follower that says what the test says: it reports by hand and records what is pushed."""

import asyncio
from collections import deque
from typing import Any, Self

import grpc

from millstream.record import iterate_frames, parse_header
from millstream_server.runtime.errors import ServiceError, error_of
from millstream_server.v1 import replication_service_pb2 as pb
from millstream_server.v1 import replication_service_pb2_grpc as pb_grpc

TAIL = pb.REPLICATION_LANE_TAIL
CATCH_UP = pb.REPLICATION_LANE_CATCH_UP
LANES = (TAIL, CATCH_UP)


def records_in(push: pb.ReplicatedPartition) -> int:
    """How many records a push has."""
    return sum(
        parse_header(push.frames, frame.batch_start, frame.end).record_count
        for frame in iterate_frames(push.frames)
    )


class ScriptedFollower:
    """A session with a leader; ``async with`` opens both lanes."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        follower_id: int = 2,
        epoch: int = 1,
        leader_id: int = 1,
        session_id: int = 77,
        cluster_id: str = "test",
        credit: int = 1 << 20,
    ) -> None:
        self._stub = pb_grpc.ReplicationServiceStub(channel)
        self._hello = pb.ReplicationHello(
            cluster_id=cluster_id,
            follower_id=follower_id,
            follower_epoch=epoch,
            leader_id=leader_id,
            session_id=session_id,
        )
        self._credit = credit
        self.calls: dict[int, Any] = {}
        self.rounds = 0
        # Pushes read and not asked for yet, by lane.
        self._read: dict[int, deque[pb.ReplicatedPartition]] = {lane: deque() for lane in LANES}

    async def __aenter__(self) -> Self:
        for lane in LANES:
            await self.open(lane)
        return self

    async def __aexit__(self, *_: object) -> None:
        for call in self.calls.values():
            call.cancel()

    async def open(self, lane: pb.ReplicationLane.ValueType) -> int:
        """Open a lane; returns the leader's node epoch. Raises ServiceError."""
        call = self.calls[lane] = self._stub.Replicate()
        hello = pb.ReplicationHello()
        hello.CopyFrom(self._hello)
        hello.lane = lane
        try:
            await call.write(pb.ReplicateRequest(hello=hello, credit_bytes=self._credit))
            answer = await call.read()
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        if answer is grpc.aio.EOF:
            raise await self.end_of(lane)
        return int(answer.welcome.leader_node_epoch)

    async def end_of(self, lane: pb.ReplicationLane.ValueType) -> ServiceError:
        """Why the leader ended a lane."""
        call = self.calls[lane]
        async with asyncio.timeout(10):
            try:
                while await call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                return error_of(error)
            if await call.code() == grpc.StatusCode.OK:
                return ServiceError("INTERNAL", "it ended well")
            return error_of(
                grpc.aio.AioRpcError(
                    await call.code(),
                    await call.initial_metadata(),
                    await call.trailing_metadata(),
                    await call.details(),
                )
            )

    async def say(self, lane: pb.ReplicationLane.ValueType, **fields: Any) -> None:
        """Send a message."""
        await self.calls[lane].write(pb.ReplicateRequest(**fields))

    async def begin(
        self,
        topic_id: bytes,
        end: int = 0,
        *,
        last_epoch: int | None = None,
        leader_epoch: int = 1,
        synced: int | None = None,
        partition: int = 0,
        partition_epoch: int = 0,
    ) -> int:
        """Begin to copy; returns the round."""
        self.rounds += 1
        position = pb.FollowerPosition(
            topic_id=topic_id,
            partition=partition,
            leader_epoch=leader_epoch,
            end_offset=end,
            synced_end_offset=end if synced is None else synced,
            begin=pb.FollowerBegin(
                round=self.rounds, last_epoch=last_epoch, partition_epoch=partition_epoch
            ),
        )
        await self.say(TAIL, positions=[position])
        return self.rounds

    async def report(
        self,
        topic_id: bytes,
        end: int,
        synced: int | None = None,
        *,
        leader_epoch: int = 1,
        partition: int = 0,
    ) -> None:
        """Tell how far the log reaches."""
        position = pb.FollowerPosition(
            topic_id=topic_id,
            partition=partition,
            leader_epoch=leader_epoch,
            end_offset=end,
            synced_end_offset=end if synced is None else synced,
        )
        await self.say(TAIL, positions=[position])

    async def next(
        self, lane: pb.ReplicationLane.ValueType = TAIL, *, news: bool = True
    ) -> pb.ReplicatedPartition:
        """What the leader says next of any partition; without ``news``, of records or errors."""
        async with asyncio.timeout(10):
            while True:
                while self._read[lane]:
                    push = self._read[lane].popleft()
                    if news or push.frames or push.error or push.HasField("divergence"):
                        return push
                response = await self.calls[lane].read()
                assert response is not grpc.aio.EOF, await self.end_of(lane)
                self._read[lane].extend(response.partitions)

    async def records(
        self, count: int, lane: pb.ReplicationLane.ValueType = TAIL
    ) -> list[pb.ReplicatedPartition]:
        """Pushes until so many records came."""
        pushes: list[pb.ReplicatedPartition] = []
        while sum(records_in(push) for push in pushes) < count:
            push = await self.next(lane, news=False)
            assert not push.error, push
            assert not push.HasField("divergence"), push
            pushes.append(push)
        return pushes
