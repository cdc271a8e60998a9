"""Rebuilding of gRPC method handlers, for interceptors that wrap them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

_KINDS: dict[str, Callable[..., Any]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def behaviour_of(handler: Handler) -> Any:
    """The servicer's method: an asynchronous generator function, or a coroutine function."""
    return getattr(handler, _kind(handler))


def rebuild(
    handler: Handler,
    behaviour: Any,
    request_deserializer: Callable[[bytes], Any] | None,
    response_serializer: Callable[[Any], bytes] | None,
) -> Handler:
    """A handler of the same kind with these parts."""
    made: Handler = _KINDS[_kind(handler)](
        behaviour,
        request_deserializer=request_deserializer,
        response_serializer=response_serializer,
    )
    return made


def code_of(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    """The status that a call has so far; OK if none was set."""
    # grpc.aio gives the number of a status that it was given as a member.
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES.get(code, grpc.StatusCode.UNKNOWN) if code else grpc.StatusCode.OK


def _kind(handler: Handler) -> str:
    return next(name for name in _KINDS if getattr(handler, name))
