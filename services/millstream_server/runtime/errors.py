"""The one error of the services and its way to a gRPC status.

A decision that fails raises ``ServiceError`` with a reason from ``errors.proto``; servicers turn
it either into the
``error`` field of a partial result or, with ``abort``, into a status with ``google.rpc.ErrorInfo``.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from millstream.v1 import errors_pb2

DOMAIN = "millstream.dev"
_PREFIX = "ERROR_REASON_"
_S = grpc.StatusCode
_R = errors_pb2.ErrorReason

_STATUS_BY_REASON: dict[str, grpc.StatusCode] = {
    "INVALID_REQUEST": _S.INVALID_ARGUMENT,
    "UNKNOWN_TOPIC": _S.NOT_FOUND,
    "UNKNOWN_PARTITION": _S.NOT_FOUND,
    "TOPIC_ALREADY_EXISTS": _S.ALREADY_EXISTS,
    "INVALID_TOPIC_NAME": _S.INVALID_ARGUMENT,
    "INVALID_PARTITION_COUNT": _S.INVALID_ARGUMENT,
    "INVALID_REPLICATION_FACTOR": _S.INVALID_ARGUMENT,
    "INVALID_CONFIG": _S.INVALID_ARGUMENT,
    "NOT_LEADER": _S.FAILED_PRECONDITION,
    "LEADER_NOT_AVAILABLE": _S.UNAVAILABLE,
    "FENCED_LEADER_EPOCH": _S.FAILED_PRECONDITION,
    "UNKNOWN_LEADER_EPOCH": _S.FAILED_PRECONDITION,
    "NOT_ENOUGH_REPLICAS": _S.UNAVAILABLE,
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND": _S.UNAVAILABLE,
    "RECORD_TOO_LARGE": _S.INVALID_ARGUMENT,
    "REQUEST_TOO_LARGE": _S.INVALID_ARGUMENT,
    "CORRUPT_BATCH": _S.INVALID_ARGUMENT,
    "UNSUPPORTED_CODEC": _S.INVALID_ARGUMENT,
    "OFFSET_OUT_OF_RANGE": _S.OUT_OF_RANGE,
    "OFFSET_NOT_AVAILABLE": _S.UNAVAILABLE,
    "LOG_TRUNCATED": _S.DATA_LOSS,
    "OUT_OF_ORDER_SEQUENCE": _S.FAILED_PRECONDITION,
    "DUPLICATE_SEQUENCE": _S.ALREADY_EXISTS,
    "UNKNOWN_PRODUCER": _S.FAILED_PRECONDITION,
    "INVALID_PRODUCER_EPOCH": _S.FAILED_PRECONDITION,
    "THROTTLED": _S.RESOURCE_EXHAUSTED,
    "TIMED_OUT": _S.DEADLINE_EXCEEDED,
    "NODE_SHUTTING_DOWN": _S.UNAVAILABLE,
    "STORAGE_ERROR": _S.INTERNAL,
    "DISK_FULL": _S.RESOURCE_EXHAUSTED,
    "LOG_DAMAGED": _S.DATA_LOSS,
    "NOT_CONTROLLER": _S.FAILED_PRECONDITION,
    "QUORUM_UNAVAILABLE": _S.UNAVAILABLE,
    "UNKNOWN_SESSION": _S.FAILED_PRECONDITION,
    "VERSION_CONFLICT": _S.ABORTED,
    "STALE_NODE_EPOCH": _S.FAILED_PRECONDITION,
    "NODE_ID_IN_USE": _S.ALREADY_EXISTS,
    "CLUSTER_MISMATCH": _S.FAILED_PRECONDITION,
    "NOT_COORDINATOR": _S.FAILED_PRECONDITION,
    "COORDINATOR_LOADING": _S.UNAVAILABLE,
    "UNKNOWN_MEMBER": _S.NOT_FOUND,
    "FENCED_MEMBER_EPOCH": _S.FAILED_PRECONDITION,
    "STALE_MEMBER_EPOCH": _S.FAILED_PRECONDITION,
    "FENCED_INSTANCE": _S.FAILED_PRECONDITION,
    "UNRELEASED_INSTANCE": _S.FAILED_PRECONDITION,
    "INVALID_GROUP_ID": _S.INVALID_ARGUMENT,
    "UNKNOWN_GROUP": _S.NOT_FOUND,
    "GROUP_NOT_EMPTY": _S.FAILED_PRECONDITION,
    "GROUP_FULL": _S.RESOURCE_EXHAUSTED,
    "NO_COMMITTED_OFFSET": _S.NOT_FOUND,
    "UNSUPPORTED": _S.UNIMPLEMENTED,
    "PERMISSION_DENIED": _S.PERMISSION_DENIED,
    "UNAVAILABLE": _S.UNAVAILABLE,
    "INTERNAL_TOPIC": _S.PERMISSION_DENIED,
    "UNSUPPORTED_ASSIGNOR": _S.INVALID_ARGUMENT,
    "INVALID_COMMIT_OFFSET": _S.INVALID_ARGUMENT,
    "UNKNOWN_NODE": _S.NOT_FOUND,
    "NODE_IN_USE": _S.FAILED_PRECONDITION,
    "ELECTION_NOT_NEEDED": _S.FAILED_PRECONDITION,
    "ELIGIBLE_LEADERS_NOT_AVAILABLE": _S.UNAVAILABLE,
    "NO_REASSIGNMENT_IN_PROGRESS": _S.FAILED_PRECONDITION,
    "INVALID_REPLICA_ASSIGNMENT": _S.INVALID_ARGUMENT,
    "INTERNAL": _S.INTERNAL,
}


class ServiceError(Exception):
    """A request, or one partition of it, failed for a reason of the error table.

    ``reason`` is the name without its prefix, for example ``"UNKNOWN_TOPIC"``; ``metadata``
    travels in ``ErrorInfo``.
    """

    def __init__(
        self, reason: str, message: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        if reason not in _STATUS_BY_REASON:
            raise KeyError(reason)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    @property
    def number(self) -> errors_pb2.ErrorReason.ValueType:
        """The reason's number, for ``error`` fields."""
        return reason_number(self.reason)


def reason_number(reason: str) -> errors_pb2.ErrorReason.ValueType:
    """Number of a reason name such as ``"UNKNOWN_TOPIC"``."""
    return _R.Value(_PREFIX + reason)


def reason_name(number: int) -> str:
    """Name of a reason number, without its prefix; unknown numbers become ``"INTERNAL"``."""
    try:
        return _R.Name(number).removeprefix(_PREFIX)  # type: ignore[arg-type]
    except ValueError:
        return "INTERNAL"


def status_of(error: ServiceError) -> status_pb2.Status:
    """The rich status of an error."""
    status = status_pb2.Status(code=_STATUS_BY_REASON[error.reason].value[0], message=error.message)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    )
    return status


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ServiceError) -> NoReturn:
    """End a call with the error's status."""
    context.set_trailing_metadata(
        (("grpc-status-details-bin", status_of(error).SerializeToString()),)
    )
    await context.abort(_STATUS_BY_REASON[error.reason], error.message)


def error_of(call_error: grpc.RpcError) -> ServiceError:
    """The error behind a failed call to another node; UNAVAILABLE when the call has no reason of
    ours."""
    details = getattr(call_error, "trailing_metadata", lambda: None)() or ()
    for key, value in details:
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if (
                    detail.Unpack(info)
                    and info.domain == DOMAIN
                    and info.reason in _STATUS_BY_REASON
                ):
                    return ServiceError(info.reason, status.message, dict(info.metadata))
    code = getattr(call_error, "code", lambda: None)()
    text = getattr(call_error, "details", lambda: None)() or str(call_error)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServiceError("TIMED_OUT", text)
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return ServiceError("INVALID_REQUEST", text)
    return ServiceError("UNAVAILABLE", text)


async def raise_status(call: grpc.aio.Call) -> None:
    """Raises ServiceError for a call that ended with an error; returns for one that ended well."""
    code = await call.code()
    if code == grpc.StatusCode.OK:
        return
    raise error_of(
        grpc.aio.AioRpcError(
            code,
            await call.initial_metadata(),
            await call.trailing_metadata(),
            details=await call.details(),
        )
    )
