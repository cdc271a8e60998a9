"""How an admin call runs: as a generator that yields questions and is sent the answers.

``topics``, ``groups`` and ``logs`` hold the flows; the blocking and the
asyncio client drive the same ones and differ only in how they wait.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from millstream._client import methods
from millstream._client.methods import Method
from millstream._errors import MillstreamError, UnknownSessionError
from millstream.v1 import metadata_service_pb2 as metadata

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """Make this call: to ``address``, to the coordinator of ``group_id``, or to any broker."""

    method: Method[Any, Any]
    request: Any
    address: str | None = None
    group_id: str | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so long."""

    delay_ms: int


# The answer to an Ask is sent in, or its MillstreamError thrown in; a Pause gets None.
Flow = Generator[Ask | Pause, Any, T]


@dataclass(slots=True)
class RequestSession:
    """Numbers metadata writes, so that each takes effect once however often it is retried."""

    session_id: int = 0
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def write(
        self, method: Method[Any, Any], make: Callable[[metadata.RequestId], Any]
    ) -> Flow[Any]:
        """Make a write under a fresh request id; opens the session when it is needed."""
        for _ in range(2):
            if not self.session_id:
                opened = yield Ask(
                    methods.OPEN_REQUEST_SESSION, metadata.OpenRequestSessionRequest()
                )
                self.session_id = opened.session_id
                self._numbers = itertools.count(1)
            request_id = metadata.RequestId(
                session_id=self.session_id, sequence=next(self._numbers)
            )
            try:
                return (yield Ask(method, make(request_id)))
            except UnknownSessionError:
                # It expired unused; the request was not executed.
                self.session_id = 0
        raise UnknownSessionError("request sessions expire as fast as they are opened")


def for_each(items: Iterable[Any], flow: Callable[[Any], Flow[T]]) -> Flow[list[T]]:
    """Run a flow for each item, also after one failed; then raise the first error, with all of
    them in ``failures``."""
    results: list[T] = []
    failures: dict[Any, MillstreamError] = {}
    for item in items:
        try:
            results.append((yield from flow(item)))
        except MillstreamError as error:
            failures[getattr(item, "name", item)] = error
    raise_failures(failures)
    return results


def raise_failures(failures: Mapping[Any, MillstreamError]) -> None:
    """Raise the first of several errors, with all of them in ``failures``; nothing if none."""
    for error in failures.values():
        error.failures = dict(failures)
        raise error
