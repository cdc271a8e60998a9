"""A leader that says what the test says: it records what followers tell it and pushes by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from millstream.record import parse_header
from millstream.record.batch import BROKER_BYTES, broker_head, frame
from millstream.v1 import errors_pb2
from millstream_server.v1 import replication_service_pb2 as pb
from millstream_server.v1 import replication_service_pb2_grpc as pb_grpc
from tests.fakes.broker_node import batch_of

TAIL = pb.REPLICATION_LANE_TAIL
CATCH_UP = pb.REPLICATION_LANE_CATCH_UP


def leader_frame(
    *values: bytes | None, base_offset: int, leader_epoch: int = 1, **fields: int
) -> bytes:
    """A framed batch as a leader has it in its file."""
    batch = batch_of(*values, **fields)
    head = broker_head(
        parse_header(batch).crc,
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        append_timestamp_ms=5_000,
        synced_end_offset=0,
    )
    return frame(head + batch[BROKER_BYTES:])


class ScriptedLeader(pb_grpc.ReplicationServiceServicer):
    """Start with ``start``; ``position`` waits for what a follower says next."""

    def __init__(self, node_id: int = 2) -> None:
        self.node_id = node_id
        self.hellos: list[pb.ReplicationHello] = []
        self.credit = {TAIL: 0, CATCH_UP: 0}
        self._positions: asyncio.Queue[pb.FollowerPosition] = asyncio.Queue()
        self._contexts: dict[int, Any] = {}
        self._ended = asyncio.Event()
        self._server = grpc.aio.server()
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        pb_grpc.add_ReplicationServiceServicer_to_server(self, self._server)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def Replicate(self, _: Any, context: Any) -> None:
        """See the service."""
        first = await context.read()
        lane = first.hello.lane
        self.hellos.append(first.hello)
        self.credit[lane] = first.credit_bytes
        await context.write(pb.ReplicateResponse(welcome=pb.ReplicationWelcome()))
        self._contexts[lane] = context
        reading = asyncio.create_task(self._read(context, lane))
        ended = asyncio.create_task(self._ended.wait())
        await asyncio.wait((reading, ended), return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        ended.cancel()

    async def _read(self, context: Any, lane: pb.ReplicationLane.ValueType) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            self.credit[lane] += request.credit_bytes
            for position in request.positions:
                self._positions.put_nowait(position)

    def end_sessions(self) -> None:
        """Break the streams."""
        self._contexts.clear()
        self._ended.set()
        self._ended = asyncio.Event()

    async def position(
        self, accepted: Callable[[pb.FollowerPosition], bool] = lambda _: True
    ) -> pb.FollowerPosition:
        """The next position that is accepted; others are dropped."""
        async with asyncio.timeout(10):
            while True:
                position = await self._positions.get()
                if accepted(position):
                    return position

    async def begin(self) -> pb.FollowerPosition:
        """The next start of a round."""
        return await self.position(lambda position: position.HasField("begin"))

    async def reported(self, end_offset: int) -> pb.FollowerPosition:
        """The report that this end is synced."""
        return await self.position(lambda position: position.synced_end_offset == end_offset)

    async def push(
        self, begun: pb.FollowerPosition, *frames: bytes, lane: int = TAIL, **fields: Any
    ) -> None:
        """Push to a follower in the round that it began."""
        error = fields.pop("reason", None)
        data = b"".join(frames)
        self.credit[lane] -= len(data)
        entry = pb.ReplicatedPartition(
            topic_id=begun.topic_id,
            partition=begun.partition,
            frames=data,
            **{
                "leader_epoch": begun.leader_epoch,
                "round": begun.begin.round,
                "previous_offset": begun.end_offset,
                **fields,
            },
        )
        if error is not None:
            entry.error = errors_pb2.ErrorReason.Value("ERROR_REASON_" + error)
        async with asyncio.timeout(10):
            while lane not in self._contexts:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await self._contexts[lane].write(pb.ReplicateResponse(partitions=[entry]))
