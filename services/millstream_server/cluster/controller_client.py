"""Calls to the active controller, wherever it is.

What is known of the leader is only a hint: a wrong one costs a hop. A call ends within its
deadline, in an answer or in an error that says whether the outcome is known (invariant 39).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from millstream_server.cluster.backoff import Backoff
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.runtime.errors import ServiceError, error_of
from millstream_server.runtime.ports import Clock
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc

Reply = TypeVar("Reply")
# Nothing was changed, and another node or a later moment may do.
_DEFINITE_RETRIABLE = frozenset({"NOT_CONTROLLER", "NODE_SHUTTING_DOWN", "VERSION_CONFLICT"})
# The outcome is unknown; the same request may be sent again.
_UNKNOWN = frozenset({"UNAVAILABLE", "QUORUM_UNAVAILABLE", "TIMED_OUT", "INTERNAL"})


class OutcomeDoubt:
    """Whether an earlier try of a request may have taken effect."""

    def __init__(self) -> None:
        self.exists = False


class ControllerClient:
    """Finds the active controller and retries."""

    def __init__(
        self,
        channels: MetadataChannels,
        config: ClusterConfig,
        clock: Clock,
        random: random.Random,
    ) -> None:
        self._channels = channels
        self._config = config
        self._clock = clock
        self._random = random
        # Where the active controller was last, or was said to be.
        self._leader: str | None = None
        self._turn = 0

    def leader_address(self) -> str:
        """Where to try next."""
        if self._leader is None:
            addresses = self._channels.addresses
            return addresses[self._turn % len(addresses)]
        return self._leader

    def failed(self, address: str, error: ServiceError) -> None:
        """A call to this address failed: follow the hint in the error, or try the next node."""
        hint = error.metadata.get("leader_address")
        if hint is not None and hint != address and self._channels.is_known(hint):
            self._leader = hint
            return
        if self._leader == address:
            self._leader = None
        self._turn += 1

    def succeeded(self, address: str) -> None:
        """The node at this address is the active controller."""
        self._leader = address

    async def execute(
        self, request: pb.ExecuteRequest, timeout_ms: int, doubt: OutcomeDoubt | None = None
    ) -> pb.ExecuteResponse:
        """Execute a write that may be sent several times: one with a request id, or one that is
        harmless to repeat. Raises ServiceError; UNAVAILABLE, QUORUM_UNAVAILABLE and TIMED_OUT
        mean that the outcome is unknown."""
        return await self._retrying(
            lambda stub, seconds: stub.Execute(request, timeout=seconds), timeout_ms, doubt
        )

    async def read_barrier(self, timeout_ms: int) -> int:
        """A version that holds everything acknowledged before the call. Raises ServiceError."""
        response = await self._retrying(
            lambda stub, seconds: stub.ReadBarrier(pb.ReadBarrierRequest(), timeout=seconds),
            timeout_ms,
            None,
        )
        return response.version

    async def describe_quorum(self) -> pb.DescribeQuorumResponse:
        """The quorum as the leader sees it, or, without one, any node. Raises ServiceError."""
        first = self.leader_address()
        others = [address for address in self._channels.addresses if address != first]
        error = ServiceError("UNAVAILABLE", "no metadata node answers")
        answer: pb.DescribeQuorumResponse | None = None
        for address in (first, *others):
            try:
                answer = await self._channels.stub(address).DescribeQuorum(
                    pb.DescribeQuorumRequest(), timeout=self._config.call_timeout_ms / 1000
                )
            except grpc.aio.AioRpcError as call_error:
                error = error_of(call_error)
                continue
            quorum = answer.quorum
            leader = next((one for one in quorum.nodes if one.node_id == quorum.leader_id), None)
            if leader is None or leader.address == address:
                return answer
        if answer is None:
            raise error
        return answer

    async def _retrying(
        self,
        call: Callable[["pb_grpc.ControllerServiceAsyncStub", float], Awaitable[Reply]],
        timeout_ms: int,
        doubt: OutcomeDoubt | None,
    ) -> Reply:
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        backoff = Backoff(
            self._config.reconnect_ms_min, self._config.reconnect_ms_max, self._random
        )
        doubt = doubt or OutcomeDoubt()
        hops = 0
        while True:
            left_ms = deadline_ms - self._clock.monotonic_ms()
            address = self.leader_address()
            try:
                reply = await call(
                    self._channels.stub(address),
                    max(1, min(left_ms, self._config.call_timeout_ms)) / 1000,
                )
            except grpc.aio.AioRpcError as call_error:
                error = error_of(call_error)
            else:
                self.succeeded(address)
                return reply
            if error.reason not in _DEFINITE_RETRIABLE and error.reason not in _UNKNOWN:
                raise error
            doubt.exists = doubt.exists or error.reason in _UNKNOWN
            self.failed(address, error)
            hinted = "leader_address" in error.metadata and hops < len(self._channels.addresses)
            hops += 1
            pause_ms = 0.0 if hinted else backoff.next_ms()
            if error.reason == "INTERNAL" or self._clock.monotonic_ms() + pause_ms >= deadline_ms:
                raise _final(error, doubt)
            await asyncio.sleep(pause_ms / 1000)


def _final(error: ServiceError, doubt: OutcomeDoubt) -> ServiceError:
    if error.reason == "INTERNAL":
        return error
    if doubt.exists:
        return ServiceError(
            "QUORUM_UNAVAILABLE",
            f"no answer from the metadata quorum in time ({error.message}); "
            "the write may have taken effect",
        )
    return ServiceError(
        "QUORUM_UNAVAILABLE", f"the metadata quorum has no active controller ({error.message})"
    )
