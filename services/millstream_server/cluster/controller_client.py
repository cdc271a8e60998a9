"""Calls to the active controller, wherever it is.

What is known of the leader is only a hint: a wrong one costs a hop. An election that this node
hears of ends every call to a former controller, which may be hung: the same request goes to the new
one. A call ends within its deadline, in an answer or in an error that says whether the outcome is
known (invariant 39).
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc

from millstream_server.cluster.backoff import Backoff
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.runtime.errors import ServiceError, error_of
from millstream_server.runtime.ports import Clock
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc

T = TypeVar("T")
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
        # Epoch of the newest controller that this node heard of; set and replaced when it steps.
        self._epoch = 0
        self._elected = asyncio.Event()

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

    def controller_elected(self, node_id: int, epoch: int) -> None:
        """A controller of this epoch was elected; older news is ignored."""
        address = self._channels.address_of(node_id)
        if epoch <= self._epoch or address is None:
            return
        self._epoch = epoch
        self._leader = address
        elected, self._elected = self._elected, asyncio.Event()
        elected.set()

    async def unless_elsewhere(self, address: str, work: Coroutine[Any, Any, T]) -> T:
        """Do some work with the controller at this address; given up with ServiceError UNAVAILABLE
        as soon as another one is known to be elected."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            while True:
                elected = asyncio.ensure_future(self._elected.wait())
                try:
                    await asyncio.wait((task, elected), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    elected.cancel()
                if task.done():
                    return task.result()
                if self._leader != address:
                    raise ServiceError("UNAVAILABLE", "another controller was elected")
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def pause(self, milliseconds: float) -> None:
        """Wait before another try; an election ends the wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(milliseconds / 1000):
                await self._elected.wait()

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
        """The quorum as the leader sees it; without one as a node that knows of one, else as any
        node. Raises ServiceError."""
        first = self.leader_address()
        others = [address for address in self._channels.addresses if address != first]
        error = ServiceError("UNAVAILABLE", "no metadata node answers")
        best: pb.DescribeQuorumResponse | None = None
        for address in (first, *others):
            try:
                answer = await self._channels.stub(address).DescribeQuorum(
                    pb.DescribeQuorumRequest(), timeout=self._config.try_timeout_ms / 1000
                )
            except grpc.aio.AioRpcError as call_error:
                error = error_of(call_error)
                continue
            quorum = answer.quorum
            leader = next((one for one in quorum.nodes if one.node_id == quorum.leader_id), None)
            if leader is not None and leader.address == address:
                return answer
            if best is None or leader is not None:
                best = answer
        if best is None:
            raise error
        return best

    async def _retrying(
        self,
        call: Callable[["pb_grpc.ControllerServiceAsyncStub", float], Awaitable[T]],
        timeout_ms: int,
        doubt: OutcomeDoubt | None,
    ) -> T:
        deadline_ms = self._clock.monotonic_ms() + timeout_ms
        backoff = Backoff(
            self._config.reconnect_ms_min, self._config.reconnect_ms_max, self._random
        )
        doubt = doubt or OutcomeDoubt()
        hops = 0
        while True:
            left_ms = deadline_ms - self._clock.monotonic_ms()
            address, epoch = self.leader_address(), self._epoch
            try:
                reply = await self.unless_elsewhere(
                    address,
                    _answer(
                        call,
                        self._channels.stub(address),
                        max(1, min(left_ms, self._config.try_timeout_ms)) / 1000,
                    ),
                )
            except ServiceError as failure:
                error = failure
            else:
                self.succeeded(address)
                return reply
            if error.reason not in _DEFINITE_RETRIABLE and error.reason not in _UNKNOWN:
                raise error
            doubt.exists = doubt.exists or error.reason in _UNKNOWN
            self.failed(address, error)
            hinted = "leader_address" in error.metadata and hops < len(self._channels.addresses)
            hops += 1
            pause_ms = 0.0 if hinted or self._epoch != epoch else backoff.next_ms()
            if error.reason == "INTERNAL" or self._clock.monotonic_ms() + pause_ms >= deadline_ms:
                raise _final(error, doubt)
            await self.pause(pause_ms)


async def _answer(
    call: Callable[["pb_grpc.ControllerServiceAsyncStub", float], Awaitable[T]],
    stub: "pb_grpc.ControllerServiceAsyncStub",
    seconds: float,
) -> T:
    try:
        return await call(stub, seconds)
    except grpc.aio.AioRpcError as call_error:
        raise error_of(call_error) from None


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
