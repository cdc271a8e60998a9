"""Answers bytes that are no message of the request's type with INVALID_REQUEST.

By itself gRPC calls that an unknown error. Handlers that parse by functions of their own are left
alone.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from millstream_server.runtime.errors import ServiceError, abort
from millstream_server.runtime.method_handlers import behaviour_of, rebuild

if TYPE_CHECKING:
    from millstream_server.runtime.method_handlers import Handler

    _Context = grpc.aio.ServicerContext[Any, Any]

_MALFORMED = object()


class MalformedRequestInterceptor(grpc.aio.ServerInterceptor):
    """Wraps handlers of generated message types, once per method."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler with the check around it."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None or not _parses_messages(handler):
                return handler
            self._wrapped[method] = _checked(handler)
        return self._wrapped[method]


def _parses_messages(handler: Handler) -> bool:
    return getattr(handler.request_deserializer, "__name__", "") == "FromString"


def _checked(handler: Handler) -> Handler:
    parse = handler.request_deserializer

    def parse_or_mark(data: bytes) -> Any:
        try:
            return parse(data) if parse else data
        except DecodeError:
            return _MALFORMED

    check = _check_stream if handler.request_streaming else _check_request
    return rebuild(
        handler,
        _after(check, behaviour_of(handler)),
        parse_or_mark,
        handler.response_serializer,
    )


def _after(check: Callable[[Any, _Context], Awaitable[Any]], behaviour: Any) -> Any:
    """A handler of the same style that sees what ``check`` returns for its request."""
    if inspect.isasyncgenfunction(behaviour):

        async def generator(request: Any, context: _Context) -> AsyncIterator[Any]:
            async for response in behaviour(await check(request, context), context):
                yield response

        return generator

    async def coroutine(request: Any, context: _Context) -> Any:
        return await behaviour(await check(request, context), context)

    return coroutine


async def _check_request(request: Any, context: _Context) -> Any:
    if request is _MALFORMED:
        await _refuse(context)
    return request


async def _check_stream(requests: AsyncIterator[Any], context: _Context) -> AsyncIterator[Any]:
    async def checked() -> AsyncIterator[Any]:
        async for request in requests:
            yield await _check_request(request, context)

    return checked()


async def _refuse(context: _Context) -> None:
    await abort(context, ServiceError("INVALID_REQUEST", "the bytes are no message of the request"))
