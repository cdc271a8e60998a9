"""The usual gRPC server metrics, under the names that existing dashboards use.

The gRPC interceptor counts calls and, through the (de)serialisers, messages; it adds no task and
no wrapper to streams.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from millstream_server.runtime.method_handlers import behaviour_of, code_of, rebuild

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class GrpcServerMetrics:
    """The collectors, made on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = Counter("grpc_server_started", "Calls started.", _LABELS, registry=registry)
        self.handled = Counter(
            "grpc_server_handled", "Calls ended.", (*_LABELS, "grpc_code"), registry=registry
        )
        self.received = Counter(
            "grpc_server_msg_received", "Messages received.", _LABELS, registry=registry
        )
        self.sent = Counter("grpc_server_msg_sent", "Messages sent.", _LABELS, registry=registry)
        self.handling = Histogram(
            "grpc_server_handling_seconds",
            "Duration of unary calls.",
            _LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )

        self._calls_by_peer: dict[str, int] = {}
        Gauge(
            "millstream_connections",
            "Connections with a call in progress.",
            registry=registry,
        ).set_function(lambda: len(self._calls_by_peer))

    def call_started(self, peer: str) -> None:
        """A call of this connection began."""
        self._calls_by_peer[peer] = self._calls_by_peer.get(peer, 0) + 1

    def call_ended(self, peer: str) -> None:
        """A call of this connection ended."""
        self._calls_by_peer[peer] -= 1
        if not self._calls_by_peer[peer]:
            del self._calls_by_peer[peer]


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Counts every call of the server; handlers are wrapped once per method."""

    def __init__(self, metrics: GrpcServerMetrics) -> None:
        self._metrics = metrics
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any] | None] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler with counting around it."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:  # unknown methods are not remembered: their number has no bound
                return handler
            self._wrapped[method] = _wrap(handler, method, self._metrics)
        return self._wrapped[method]


def _wrap(
    handler: grpc.RpcMethodHandler[Any, Any], method: str, metrics: GrpcServerMetrics
) -> grpc.RpcMethodHandler[Any, Any]:
    service, _, name = method.removeprefix("/").partition("/")
    labels = (_call_type(handler), service, name)
    started = metrics.started.labels(*labels)
    received = metrics.received.labels(*labels)
    sent = metrics.sent.labels(*labels)
    handling = metrics.handling.labels(*labels)
    deserialize, serialize = handler.request_deserializer, handler.response_serializer

    def counted_deserialize(data: bytes) -> Any:
        received.inc()
        return deserialize(data) if deserialize else data

    def counted_serialize(message: Any) -> bytes:
        sent.inc()
        return serialize(message) if serialize else message

    def begun(peer: str) -> None:
        started.inc()
        metrics.call_started(peer)

    def ended(peer: str, code: str, begin: float) -> None:
        metrics.call_ended(peer)
        metrics.handled.labels(*labels, code).inc()
        if not handler.response_streaming and not handler.request_streaming:
            handling.observe(time.perf_counter() - begin)

    counted = _counted_call(behaviour_of(handler), begun, ended)
    return rebuild(handler, counted, counted_deserialize, counted_serialize)


def _call_type(handler: grpc.RpcMethodHandler[Any, Any]) -> str:
    kinds = {
        (False, False): "unary",
        (False, True): "server_stream",
        (True, False): "client_stream",
        (True, True): "bidi_stream",
    }
    return kinds[bool(handler.request_streaming), bool(handler.response_streaming)]


def _counted_call(
    behaviour: Any, begun: Callable[[str], None], ended: Callable[[str, str, float], None]
) -> Any:
    """Wrap a handler of either style: an asynchronous generator, or a coroutine."""

    if inspect.isasyncgenfunction(behaviour):

        async def generator(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            peer = context.peer()
            begun(peer)
            begin = time.perf_counter()
            failed = True
            try:
                async for response in behaviour(request, context):
                    yield response
                failed = False
            finally:
                ended(peer, _code_after(code_of(context).name, failed), begin)

        return generator

    async def coroutine(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        peer = context.peer()
        begun(peer)
        begin = time.perf_counter()
        failed = True
        try:
            response = await behaviour(request, context)
            failed = False
            return response
        finally:
            ended(peer, _code_after(code_of(context).name, failed), begin)

    return coroutine


def _code_after(code: str, failed: bool) -> str:
    # A call that ended by an exception without a status of its own was cancelled or broke.
    return "CANCELLED" if failed and code == grpc.StatusCode.OK.name else code
