"""Calls of the public metadata API with a request id, retried at one node after the other."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from millstream import MillstreamError
from millstream._errors.status import from_status
from millstream.v1 import metadata_service_pb2 as pb
from millstream.v1 import metadata_service_pb2_grpc as pb_grpc

_CALL_TIMEOUT_S = 3.0
_RETRY_PAUSE_S = 0.05
_PATIENCE_S = 20.0
# A node that is killed must be found again soon after it is back.
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.enable_retries", 0),
    # A client keeps its own connections, as if it were a process.
    ("grpc.use_local_subchannel_pool", 1),
)
# Refusals that a later try may not meet.
_TRY_AGAIN = frozenset({"THROTTLED", "NOT_CONTROLLER", "NODE_SHUTTING_DOWN", "VERSION_CONFLICT"})
# What a node says, or a client about it, that is out of touch with the others for a while.
_COMES_BACK = frozenset({"UNAVAILABLE", "TIMED_OUT"})
LINEARIZABLE = pb.ReadConsistency(linearizable=True)

Method = Callable[[Any, float], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a write ended: an answer, a refusal that nothing preceded, or doubt."""

    answer: Any = None
    refusal: MillstreamError | None = None
    # Tries that were sent.
    tries: int = 1

    @property
    def is_unknown(self) -> bool:
        """It may have taken effect, or may do so still."""
        return self.answer is None and self.refusal is None


class MetadataCalls:
    """One client: its connections, its request session, its way around the nodes."""

    def __init__(self, addresses: Sequence[str], chance: random.Random) -> None:
        """The first address is the one that the client likes best."""
        self._channels = [grpc.aio.insecure_channel(one, options=_OPTIONS) for one in addresses]
        self._stubs = [pb_grpc.MetadataServiceStub(channel) for channel in self._channels]
        self._chance = chance
        self._session_id = 0
        self._sequence = 0

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def next_request_id(self) -> pb.RequestId:
        """An id that was never used; needs ``open_session``."""
        self._sequence += 1
        return pb.RequestId(session_id=self._session_id, sequence=self._sequence)

    async def open_session(self, deadline_s: float) -> None:
        """Open a new session. Raises TimeoutError."""
        request = pb.OpenRequestSessionRequest()
        async with asyncio.timeout(deadline_s):
            while True:
                outcome = await self.write("OpenRequestSession", request, deadline_s)
                if outcome.answer is not None:
                    self._session_id, self._sequence = outcome.answer.session_id, 0
                    return
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def read(self, method: str, request: Any, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        """One try at the client's own node. Raises MillstreamError."""
        try:
            return await getattr(self._stubs[0], method)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_status(error) from None

    async def read_patiently(self, method: str, request: Any) -> Any:
        """Tries at the client's own node, until it is in touch with the others or time is up.
        Raises MillstreamError."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return await self.read(method, request)
            except MillstreamError as error:
                if error.code not in _COMES_BACK or time.monotonic() >= end:
                    raise
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def write(
        self, method: str, request: Any, deadline_s: float, *, patience: float = 1.0
    ) -> Outcome:
        """Try with the same request, and so the same request id, at one node after the other,
        until one says yes or no, or time is up. After a doubt the client goes on with the
        probability ``patience``. A no after a doubt is none: the earlier try may be under way."""
        doubt, tries = False, 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while True:
                    stub = self._stubs[tries % len(self._stubs)]
                    tries += 1
                    sent_doubt, doubt = doubt, True  # while the answer is awaited
                    try:
                        answer = await getattr(stub, method)(request, timeout=_CALL_TIMEOUT_S)
                        return Outcome(answer, tries=tries)
                    except grpc.aio.AioRpcError as call_error:
                        error = from_status(call_error)
                    if not error.indeterminate:
                        doubt = sent_doubt
                        if error.code not in _TRY_AGAIN:
                            return Outcome(refusal=None if doubt else error, tries=tries)
                    elif self._chance.random() > patience:
                        break
                    await asyncio.sleep(_RETRY_PAUSE_S)
        return Outcome(refusal=None if doubt else MillstreamError("gave up"), tries=tries)
