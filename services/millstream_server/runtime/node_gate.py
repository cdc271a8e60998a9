"""The one gate before everything that only nodes may call.

Methods of the public services pass; every other one, of services that are still to come too, needs
a caller that is a node of this cluster. What is refused here or behind the gate is logged and
counted.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from prometheus_client import CollectorRegistry, Counter

from millstream_server.runtime.errors import ServiceError, abort
from millstream_server.runtime.method_handlers import behaviour_of, code_of, rebuild

if TYPE_CHECKING:
    from millstream_server.runtime.callers import Callers, Context
    from millstream_server.runtime.method_handlers import Handler

_log = structlog.get_logger()
PUBLIC_PREFIXES = ("/millstream.v1.", "/grpc.health.v1.", "/grpc.reflection.")
_REFUSALS = {
    grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_argument",
}


class RefusedPeers:
    """Tells the operator about callers that were sent away."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "millstream_refused_peers",
            "Calls of internal methods that were refused.",
            ("reason",),
            registry=registry,
        )

    def note(self, reason: str, method: str, context: Context) -> None:
        """A call was refused; the context has the status."""
        self._counter.labels(reason).inc()
        _log.warning(
            "peer refused",
            reason=reason,
            peer=context.peer(),
            method=method,
            message=context.details(),
        )


class NodeGate(grpc.aio.ServerInterceptor):
    """Wraps the handlers of internal methods, once per method."""

    def __init__(self, callers: Callers, refused: RefusedPeers) -> None:
        self._callers = callers
        self._refused = refused
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler, behind the gate unless it is public."""
        method = handler_call_details.method
        if method.startswith(PUBLIC_PREFIXES):
            return await continuation(handler_call_details)
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:  # unknown methods are not remembered: their number has no bound
                return handler
            self._wrapped[method] = rebuild(
                handler,
                self._gated(method, behaviour_of(handler)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return self._wrapped[method]

    def _gated(self, method: str, behaviour: Any) -> Any:
        """A handler of the same style behind the gate."""
        if inspect.isasyncgenfunction(behaviour):

            async def generator(request: Any, context: Context) -> AsyncIterator[Any]:
                await self._admit(method, context)
                try:
                    async for response in behaviour(request, context):
                        yield response
                finally:
                    self._note_refusal(method, context)

            return generator

        async def coroutine(request: Any, context: Context) -> Any:
            await self._admit(method, context)
            try:
                return await behaviour(request, context)
            finally:
                self._note_refusal(method, context)

        return coroutine

    async def _admit(self, method: str, context: Context) -> None:
        if self._callers.is_a_node(context):
            return
        error = ServiceError(
            "PERMISSION_DENIED", "only nodes of this cluster may call this: no node's certificate"
        )
        try:
            await abort(context, error)
        finally:
            self._refused.note("not_a_node", method, context)

    def _note_refusal(self, method: str, context: Context) -> None:
        reason = _REFUSALS.get(code_of(context))
        if reason is not None:
            self._refused.note(reason, method, context)
