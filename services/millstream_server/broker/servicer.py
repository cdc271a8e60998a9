"""`BrokerService` on the wire: proto in, proto out, and nothing else.

The two hot streams have (de)serialisers of their own: `Produce` requests keep their batches as
bytes (``RawProduceRequest``), `Fetch` responses are bytes already. The `.proto` stays the truth.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from millstream.record.wire import RawProduceRequest
from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.broker_service import BrokerCalls
from millstream_server.broker.refusal import Refusal
from millstream_server.runtime.errors import ServiceError, abort

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["BrokerService"].full_name
_Context = grpc.aio.ServicerContext[Any, Any]


def parse_produce_request(data: bytes) -> tuple[int, Any]:
    """(size, request); the request is None if the bytes are none."""
    try:
        return len(data), RawProduceRequest.FromString(data)
    except DecodeError:
        return len(data), None


def parser_of(message: Any) -> Callable[[bytes], Any]:
    """A deserialiser that gives None for bytes that are no such message, so that the caller is
    told in our own terms."""

    def parse(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            return None

    return parse


def _require(request: Any, message: Any) -> None:
    if request is None:
        raise ServiceError("INVALID_REQUEST", f"the message is not a {message.DESCRIPTOR.name}")


class BrokerServicer:
    """Binds the calls to gRPC."""

    def __init__(self, calls: BrokerCalls) -> None:
        self._calls = calls

    def add_to(self, server: grpc.aio.Server) -> str:
        """Add the service to a server; returns its full name."""
        handlers = self.handlers()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),)
        )
        server.add_registered_method_handlers(SERVICE_NAME, handlers)
        return SERVICE_NAME

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The handler of every method of the service."""
        calls = self._calls
        return {
            "Produce": grpc.stream_stream_rpc_method_handler(
                self._stream(calls.produce),
                request_deserializer=parse_produce_request,
                response_serializer=pb.ProduceResponse.SerializeToString,
            ),
            "Fetch": grpc.stream_stream_rpc_method_handler(
                self._stream(calls.fetch), request_deserializer=parser_of(pb.FetchRequest)
            ),
            "Subscribe": grpc.unary_stream_rpc_method_handler(
                self._subscribe,
                request_deserializer=parser_of(pb.SubscribeRequest),
                response_serializer=pb.SubscribeResponse.SerializeToString,
            ),
            "Publish": self._unary(calls.publish, pb.PublishRequest, "publish"),
            "ListOffsets": self._unary(calls.list_offsets, pb.ListOffsetsRequest, "list_offsets"),
            "DeleteRecords": self._unary(
                calls.delete_records, pb.DeleteRecordsRequest, "delete_records"
            ),
            "DescribeLogDirs": self._unary(
                calls.describe_log_dirs, pb.DescribeLogDirsRequest, "describe_log_dirs"
            ),
        }

    def _stream(
        self, serve: Callable[[_Context], Awaitable[None]]
    ) -> Callable[[Any, _Context], Awaitable[None]]:
        async def call(_: Any, context: _Context) -> None:
            try:
                await serve(context)
            except ServiceError as error:
                await abort(context, error)

        return call

    async def _subscribe(
        self, request: pb.SubscribeRequest, context: _Context
    ) -> AsyncIterator[pb.SubscribeResponse]:
        try:
            _require(request, pb.SubscribeRequest)
            async for response in self._calls.subscribe(request):
                yield response
        except (ServiceError, Refusal) as error:
            await abort(context, self._counted("subscribe", error))

    def _unary(
        self, serve: Callable[[Any], Awaitable[Any]], request_type: Any, api: str
    ) -> grpc.RpcMethodHandler[Any, Any]:
        async def call(request: Any, context: _Context) -> Any:
            try:
                _require(request, request_type)
                return await self._calls.timed(api, serve(request))
            except (ServiceError, Refusal) as error:
                await abort(context, self._counted(api, error))

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=parser_of(request_type),
            response_serializer=lambda response: response.SerializeToString(),
        )

    def _counted(self, api: str, error: ServiceError | Refusal) -> ServiceError:
        if isinstance(error, Refusal):
            metadata = {}
            if error.retry_after_ms:
                metadata["retry_after_ms"] = str(error.retry_after_ms)
            if error.indeterminate:
                metadata["indeterminate"] = "true"
            error = ServiceError(error.reason, error.message, metadata)
        self._calls.counters.errors[api, error.reason] += 1
        return error
