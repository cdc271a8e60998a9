"""What the consumer's core asks of the network; a driver (async or threaded) carries it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from millstream._client.methods import Method
from millstream._errors import MillstreamError
from millstream.v1 import broker_service_pb2, group_coordinator_service_pb2

# Called with (answer, error, monotonic milliseconds); exactly one of the first two is None.
Answered = Callable[[Any, MillstreamError | None, int], None]


@dataclass(frozen=True, slots=True)
class OpenFetch:
    """Open a fetch stream; report what happens on it under its id."""

    stream_id: int
    address: str


@dataclass(frozen=True, slots=True)
class SendFetch:
    """Send on a fetch stream."""

    stream_id: int
    request: broker_service_pb2.FetchRequest


@dataclass(frozen=True, slots=True)
class CloseFetch:
    """End a fetch stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """Open a session stream to the coordinator that was found."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class SendGroup:
    """Send on a session stream."""

    stream_id: int
    request: group_coordinator_service_pb2.SessionRequest


@dataclass(frozen=True, slots=True)
class CloseGroup:
    """End a session stream after everything sent on it before."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class SeekCoordinator:
    """Look the group's coordinator up anew, at most for ``timeout_ms``."""

    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Call:
    """Make a unary call, with the client's retries, at most for ``timeout_ms``."""

    method: Method[Any, Any]
    request: Any
    # True: to the group's coordinator. False: to any broker.
    to_group: bool
    timeout_ms: int
    answered: Answered


@dataclass(frozen=True, slots=True)
class UseTopic:
    """Watch a topic."""

    topic: str


Effect = (
    OpenFetch
    | SendFetch
    | CloseFetch
    | OpenGroup
    | SendGroup
    | CloseGroup
    | SeekCoordinator
    | Call
    | UseTopic
)
