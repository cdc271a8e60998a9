"""The error tree: complete, documented as it is, and mapped from the wire without reading text."""

import grpc
from google.rpc import error_details_pb2, status_pb2

import millstream
from millstream import MillstreamError, _errors
from millstream._errors import status as _status
from millstream.v1 import errors_pb2


class _Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: bytes | None) -> None:
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "TOPIC_ALREADY_EXISTS is in the text only"

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return (("grpc-status-details-bin", self._details),) if self._details else ()


def _rich(reason: str, domain: str = "millstream.dev") -> bytes:
    status = status_pb2.Status(code=9, message="for people")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(250)
    status.details.add().Pack(retry)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"topic": "t"})
    )
    return status.SerializeToString()


def test_every_reason_has_a_class_of_its_own() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in dict(errors_pb2.ErrorReason.items())}
    assert reasons - {"UNSPECIFIED"} <= set(_status.CLASS_BY_CODE)


def test_the_documented_tree_is_the_tree() -> None:
    flags = {"i": "indeterminate", "m": "refresh_metadata", "r": "retriable", "f": "fatal"}
    documented = (_errors.__doc__ or "").replace("|", " ")
    for name in _errors.__all__:
        kind = getattr(millstream, name)
        marks = "".join(sorted(mark for mark, flag in flags.items() if getattr(kind, flag)))
        assert f" {name}{f'[{marks}]' if marks else ''}" in documented


def test_a_status_is_mapped_by_its_error_info() -> None:
    error = _status.from_status(_Failed(grpc.StatusCode.UNKNOWN, _rich("NOT_LEADER")))
    assert isinstance(error, millstream.NotLeaderError)
    assert error.retriable
    assert error.refresh_metadata
    assert error.details == {"topic": "t"}
    assert error.retry_after_ms == 250
    assert str(error) == "NOT_LEADER: for people"


def test_text_and_foreign_domains_decide_nothing() -> None:
    foreign = _Failed(grpc.StatusCode.UNAVAILABLE, _rich("NOT_LEADER", "other.example"))
    assert isinstance(_status.from_status(foreign), millstream.UnavailableError)
    late = _Failed(grpc.StatusCode.DEADLINE_EXCEEDED, None)
    assert isinstance(_status.from_status(late), millstream.TimedOutError)
    assert isinstance(_status.from_status(late), TimeoutError)


def test_reasons_newer_than_the_sdk_are_internal_errors() -> None:
    assert _status.from_reason(9_999, "x").code == "INTERNAL"
    newer = _Failed(grpc.StatusCode.UNKNOWN, _rich("FROM_THE_FUTURE"))
    assert _status.from_status(newer).code == "INTERNAL"


def test_a_result_says_itself_whether_it_is_indeterminate() -> None:
    number = errors_pb2.ERROR_REASON_NOT_LEADER
    assert not _status.from_reason(number).indeterminate
    assert _status.from_reason(number, indeterminate=True).indeterminate
    assert not MillstreamError().abortable
