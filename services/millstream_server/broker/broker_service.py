"""The calls of `BrokerService` over the broker's parts, and the streams that are open."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.appender import Appender
from millstream_server.broker.fetch_stream import FetchStream
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.log_dirs import describe_log_dirs
from millstream_server.broker.offsets import Offsets
from millstream_server.broker.produce_stream import ProduceStream
from millstream_server.broker.publishing import Publishing
from millstream_server.broker.subscribing import Subscribing
from millstream_server.runtime.callers import Callers
from millstream_server.runtime.errors import ServiceError

_T = TypeVar("_T")
_Context = grpc.aio.ServicerContext[Any, Any]


class BrokerCalls:
    """One method per call; raises ServiceError or Refusal."""

    def __init__(
        self,
        hosted: HostedPartitions,
        appender: Appender,
        publishing: Publishing,
        subscribing: Subscribing,
        offsets: Offsets,
        callers: Callers,
        path: str,
    ) -> None:
        self._hosted = hosted
        self._appender = appender
        self._publishing = publishing
        self._subscribing = subscribing
        self._offsets = offsets
        self._callers = callers
        self._path = path
        self.counters = hosted.counters
        # Calls that last: ended when the broker stops.
        self._streams: dict[asyncio.Task[Any], None] = {}
        self._stopping = False

    async def produce(self, context: _Context) -> None:
        """See the proto."""
        with self._stream("produce"):
            from_node = self._callers.is_a_node(context)
            stream = ProduceStream(self._appender, context.peer(), from_node=from_node)
            await self._until_stopped(stream.run(context))

    async def fetch(self, context: _Context) -> None:
        """See the proto."""
        with self._stream("fetch"):
            await self._until_stopped(FetchStream(self._hosted, context.peer()).run(context))

    async def subscribe(self, request: pb.SubscribeRequest) -> AsyncIterator[pb.SubscribeResponse]:
        """See the proto."""
        with self._stream("subscribe"):
            try:
                async for response in self._subscribing.subscribe(request):
                    yield response
            except asyncio.CancelledError:
                self._say_why_cancelled()
                raise

    async def publish(self, request: pb.PublishRequest) -> pb.PublishResponse:
        """See the proto."""
        return await self._publishing.publish(request)

    async def list_offsets(self, request: pb.ListOffsetsRequest) -> pb.ListOffsetsResponse:
        """See the proto."""
        return await self._offsets.list_offsets(request)

    async def delete_records(self, request: pb.DeleteRecordsRequest) -> pb.DeleteRecordsResponse:
        """See the proto."""
        return await self._offsets.delete_records(request)

    async def describe_log_dirs(
        self, request: pb.DescribeLogDirsRequest
    ) -> pb.DescribeLogDirsResponse:
        """See the proto."""
        return await describe_log_dirs(self._hosted, self._path, request)

    async def timed(self, api: str, call: Awaitable[_T]) -> _T:
        """Await a unary call and note how long it took."""
        begin_s = self._hosted.loop_time()
        try:
            return await call
        finally:
            self.counters.durations[api].observe(self._hosted.loop_time() - begin_s)

    def end_streams(self) -> None:
        """End the calls that last, with NODE_SHUTTING_DOWN."""
        self._stopping = True
        for task in tuple(self._streams):
            task.cancel()

    @contextmanager
    def _stream(self, api: str) -> Any:
        if self._stopping:
            raise ServiceError("NODE_SHUTTING_DOWN", "the broker is stopping")
        task = asyncio.current_task()
        assert task is not None
        self._streams[task] = None
        self.counters.stream_opened(api)
        try:
            yield
        finally:
            self._streams.pop(task, None)
            self.counters.stream_closed(api)

    async def _until_stopped(self, serving: Awaitable[None]) -> None:
        try:
            await serving
        except asyncio.CancelledError:
            self._say_why_cancelled()
            raise

    def _say_why_cancelled(self) -> None:
        """If it was ``end_streams`` that cancelled, end the call with a reason instead."""
        task = asyncio.current_task()
        if self._stopping and task is not None:
            task.uncancel()
            raise ServiceError("NODE_SHUTTING_DOWN", "the broker is stopping") from None
