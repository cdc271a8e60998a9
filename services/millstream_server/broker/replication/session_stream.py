"""One `Replicate` stream, a lane of a follower's session: reads into the session and writes what it
has to say. At most one message is on its way to gRPC at any time."""

import asyncio
import contextlib
from typing import Any

import grpc

from millstream_server.broker.replication.leader import Hello, Leader
from millstream_server.broker.replication.leader_wire import welcome_message
from millstream_server.broker.replication.session import FollowerSession
from millstream_server.broker.replication.transfers import Lane
from millstream_server.runtime.callers import Callers
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import replication_service_pb2 as pb

_Context = grpc.aio.ServicerContext[Any, Any]
_HELLO_TIMEOUT_S = 5.0
# Answers that need no credit and that the follower has not taken: beyond it, it is not read.
_BACKLOG_MAX = 10_000


class SessionStream:
    """See the module's docstring."""

    def __init__(self, leader: Leader, callers: Callers) -> None:
        self._leader = leader
        self._callers = callers
        self._written = asyncio.Event()

    async def run(self, context: _Context) -> None:
        """Serve until the session ends. Raises ServiceError."""
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                first = await _read(context)
        except TimeoutError:
            raise ServiceError("INVALID_REQUEST", "hello: it did not come") from None
        if first is None:
            return
        hello = _hello(first)
        if not self._callers.is_node(context, hello.follower_id):
            raise ServiceError(
                "PERMISSION_DENIED", f"the certificate is not that of node {hello.follower_id}"
            )
        session = self._leader.open(hello)
        reason = ServiceError("UNAVAILABLE", "a lane of the session ended")
        try:
            await context.write(welcome_message(self._leader.node_epoch))
            session.handle(hello.lane, first)
            await self._serve(context, session, hello.lane)
        except ServiceError as error:
            reason = error
            raise
        finally:
            self._leader.close(session, reason)

    async def _serve(self, context: _Context, session: FollowerSession, lane: Lane) -> None:
        reading = asyncio.get_running_loop().create_task(self._read_all(context, session, lane))
        reading.add_done_callback(lambda _: session.wake[lane].set())
        wake = session.wake[lane]
        try:
            while True:
                if session.ended is not None:
                    raise session.ended
                if reading.done():
                    reading.result()  # raises what ended the reading
                    return
                message = session.next_message(lane)
                if message is not None:
                    await context.write(message)
                    self._written.set()
                    continue
                await wake.wait()
                wake.clear()
        finally:
            reading.cancel()
            with contextlib.suppress(BaseException):
                await reading

    async def _read_all(self, context: _Context, session: FollowerSession, lane: Lane) -> None:
        while (request := await _read(context)) is not None:
            session.handle(lane, request)
            while session.backlog >= _BACKLOG_MAX:
                self._written.clear()
                await self._written.wait()


async def _read(context: _Context) -> pb.ReplicateRequest | None:
    request = await context.read()
    if request is grpc.aio.EOF:
        return None
    if request is None:
        raise ServiceError("INVALID_REQUEST", "the message is not a ReplicateRequest")
    assert isinstance(request, pb.ReplicateRequest)
    return request


def _hello(request: pb.ReplicateRequest) -> Hello:
    if not request.HasField("hello"):
        raise ServiceError("INVALID_REQUEST", "hello: the first message must have it")
    hello = request.hello
    try:
        lane = Lane(hello.lane)
    except ValueError:
        raise ServiceError("INVALID_REQUEST", f"lane: {hello.lane} is not known") from None
    return Hello(
        cluster_id=hello.cluster_id,
        follower_id=hello.follower_id,
        follower_epoch=hello.follower_epoch,
        leader_id=hello.leader_id,
        session_id=hello.session_id,
        lane=lane,
    )
