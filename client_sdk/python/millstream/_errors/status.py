"""From the wire to an exception: reason numbers and gRPC statuses become ``MillstreamError``.

A failed call carries ``google.rpc.ErrorInfo`` in its trailing metadata; its reason decides, never
the text. Calls that failed without one (no connection, deadline) are mapped by their gRPC code.
"""

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from millstream import _errors
from millstream._errors import MillstreamError
from millstream.v1 import errors_pb2

DOMAIN = "millstream.dev"
_PREFIX = "ERROR_REASON_"
_DETAILS_KEY = "grpc-status-details-bin"


def _leaves(base: type[MillstreamError]) -> list[type[MillstreamError]]:
    below = base.__subclasses__()
    return [leaf for kind in below for leaf in _leaves(kind)] if below else [base]


# Written once, at import; subclasses made later by applications are not reasons.
CLASS_BY_CODE = {kind.code: kind for kind in _leaves(MillstreamError)}

_CODE_BY_STATUS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "TIMED_OUT",
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_REQUEST",
    grpc.StatusCode.UNIMPLEMENTED: "UNSUPPORTED",
    grpc.StatusCode.PERMISSION_DENIED: "PERMISSION_DENIED",
    grpc.StatusCode.UNAUTHENTICATED: "PERMISSION_DENIED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "REQUEST_TOO_LARGE",
    grpc.StatusCode.INTERNAL: "INTERNAL",
    grpc.StatusCode.UNKNOWN: "INTERNAL",
}


def code_of(number: int) -> str:
    """Name of a reason number; ``"INTERNAL"`` for numbers newer than this SDK."""
    try:
        return errors_pb2.ErrorReason.Name(number).removeprefix(_PREFIX)  # type: ignore[arg-type]
    except ValueError:
        return "INTERNAL"


def from_reason(
    number: int,
    message: str = "",
    *,
    indeterminate: bool | None = None,
    retry_after_ms: int = 0,
) -> MillstreamError:
    """The error for the ``ErrorReason`` of a partial result."""
    kind = CLASS_BY_CODE[code_of(number)]
    return kind(message, indeterminate=indeterminate, retry_after_ms=retry_after_ms)


def from_code(code: str, message: str = "") -> MillstreamError:
    """The error for a reason name such as ``"UNKNOWN_TOPIC"``."""
    return CLASS_BY_CODE.get(code, _errors.InternalServerError)(message)


def from_status(error: BaseException) -> MillstreamError:
    """The error behind a failed gRPC call (``grpc.RpcError`` of either API)."""
    if isinstance(error, MillstreamError):
        return error
    details: Any = getattr(error, "trailing_metadata", lambda: None)() or ()
    for key, value in details:
        if key == _DETAILS_KEY:
            found = _from_rich_status(value)
            if found is not None:
                return found
    status: Any = getattr(error, "code", lambda: None)()
    text: Any = getattr(error, "details", lambda: None)()
    return from_code(_CODE_BY_STATUS.get(status, "UNAVAILABLE"), str(text or error))


def _from_rich_status(data: bytes) -> MillstreamError | None:
    status = status_pb2.Status.FromString(data)
    retry_after_ms = 0
    found: error_details_pb2.ErrorInfo | None = None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            found = info
        elif detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    if found is None:
        return None
    kind = CLASS_BY_CODE.get(found.reason, _errors.InternalServerError)
    metadata = dict(found.metadata)
    return kind(status.message, details=metadata, retry_after_ms=retry_after_ms)
