"""Errors travel through a status and come out the same."""

import grpc
import pytest

from millstream.v1 import errors_pb2
from millstream_server.runtime.errors import (
    ServiceError,
    error_of,
    reason_name,
    reason_number,
    status_of,
)

REASONS = [
    name.removeprefix("ERROR_REASON_")
    for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
    if name != "ERROR_REASON_UNSPECIFIED"
]


class FailedCall(grpc.RpcError):
    """What gRPC raises in a client, reduced to what is read."""

    def __init__(self, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, bytes], ...]):
        self._code, self._text, self._trailers = code, text, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._trailers


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_the_table_survives_the_wire(reason: str) -> None:
    error = ServiceError(reason, "what happened", {"leader_id": "3"})
    assert reason_name(error.number) == reason
    assert reason_number(reason) == error.number
    status = status_of(error)
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    back = error_of(FailedCall(grpc.StatusCode.UNKNOWN, "text", trailers))
    assert (back.reason, back.message, back.metadata) == (reason, error.message, error.metadata)
    assert status.code != grpc.StatusCode.OK.value[0]


def test_an_unknown_reason_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        ServiceError("NO_SUCH_REASON", "text")
    assert reason_name(9999) == "INTERNAL"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMED_OUT"),
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (grpc.StatusCode.INTERNAL, "UNAVAILABLE"),
    ],
)
def test_calls_without_details_get_a_reason_by_status(code: grpc.StatusCode, reason: str) -> None:
    assert error_of(FailedCall(code, "text", ())).reason == reason
