"""One `Produce` stream: requests with batches in, coalesced results out.

The call's own task reads; one task writes. A request becomes one append per partition; whatever is
answered within a turn of the loop leaves in one message. What waits for its answer is counted in
bytes, per connection and per broker, and refused beyond (invariant 40).
"""

import asyncio
import contextlib
from typing import Any

import grpc

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.append_request import AppendRequest
from millstream_server.broker.appender import Appender
from millstream_server.broker.limits import ByteBudget
from millstream_server.broker.refusal import Refusal
from millstream_server.runtime.errors import ServiceError, reason_number

_ACKS = frozenset(pb.Acks.values())
# How often a stream with acks none looks whether the broker has room again.
_ROOM_RETRY_S = 0.05


class _Pending:
    """A request with unanswered partitions; holds its bytes of the budgets."""

    __slots__ = ("correlation_id", "left", "received_at_s", "silent", "size")

    def __init__(
        self, correlation_id: int, size: int, left: int, silent: bool, received_at_s: float
    ) -> None:
        self.correlation_id = correlation_id
        self.size = size
        self.left = left
        self.silent = silent
        self.received_at_s = received_at_s


class ProduceStream:
    """The state of one stream. Everything runs on the event loop."""

    def __init__(self, appender: Appender, peer: str, *, from_node: bool) -> None:
        """``from_node``: the caller is a node of the cluster."""
        self._appender = appender
        self._from_node = from_node
        self._config = appender.config
        self._counters = appender.counters
        self.peer = peer
        self._budget = ByteBudget(
            self._config.inflight_bytes_connection_max, "connection", appender.budget
        )
        self._results: list[pb.ProduceResult] = []
        self._first_result_s = 0.0
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._unanswered = 0
        self._writing = False
        self._closed = False
        self._loop = asyncio.get_running_loop()

    async def run(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Serve until the client ends the stream. Raises ServiceError INVALID_REQUEST."""
        writing = self._loop.create_task(self._write_results(context))
        broken: ServiceError | None = None
        try:
            try:
                await self._read_requests(context)
            except ServiceError as error:
                broken = error
            # gRPC never ends a stream whose handler returns in the middle of a write.
            while self._unanswered or self._results or self._writing:
                self._taken.clear()
                await self._taken.wait()
            if broken is not None:
                raise broken
        finally:
            self._closed = True
            writing.cancel()
            with contextlib.suppress(BaseException):
                await writing

    async def _read_requests(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while True:
            received = await context.read()
            if received is grpc.aio.EOF:
                return
            size, request = received
            if request is None:
                raise ServiceError("INVALID_REQUEST", "the message is not a ProduceRequest")
            if request.acks == pb.ACKS_NONE:
                await self._wait_for_room(size)
            self.handle(size, request)
            while len(self._results) >= self._config.unsent_results_max:
                self._taken.clear()
                await self._taken.wait()

    async def _wait_for_room(self, size: int) -> None:
        """A producer that hears no answers is slowed down instead of refused."""
        while not self._budget.has_room(size):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROOM_RETRY_S):
                    self._taken.clear()
                    await self._taken.wait()

    def handle(self, size: int, request: Any) -> None:
        """Take in one request of so many bytes (a ``RawProduceRequest``)."""
        now_s = self._loop.time()
        silent = request.acks == pb.ACKS_NONE
        pending = _Pending(request.correlation_id, 0, len(request.partitions), silent, now_s)
        if not pending.left:
            return
        self._unanswered += 1
        try:
            self._admit(size, request)
            pending.size = size
        except Refusal as refusal:
            for entry in request.partitions:
                self._answer(pending, entry.topic_id, entry.partition, refusal, None)
            return
        seen = set()
        for entry in request.partitions:
            key = (entry.topic_id, entry.partition)
            if key in seen:
                twice = Refusal("INVALID_REQUEST", "partitions: the partition appears twice")
                self._answer(pending, *key, twice, None)
                continue
            seen.add(key)
            self._submit(pending, request, entry)

    def _admit(self, size: int, request: Any) -> None:
        if size > self._config.request_bytes_max:
            raise Refusal(
                "REQUEST_TOO_LARGE",
                f"the request has {size} bytes, at most {self._config.request_bytes_max} are "
                "accepted",
            )
        if request.acks not in _ACKS:
            raise Refusal("INVALID_REQUEST", f"acks: {request.acks} is not known")
        self._appender.check_open()
        self._budget.take(size, self._config.throttle_retry_ms)

    def _submit(self, pending: _Pending, request: Any, entry: Any) -> None:
        def done(append: AppendRequest, refusal: Refusal | None) -> None:
            self._answer(pending, append.topic_id, append.partition, refusal, append)

        self._appender.submit(
            AppendRequest(
                entry.topic_id,
                entry.partition,
                entry.batches,
                acks=request.acks,
                timeout_ms=request.timeout_ms,
                received_at_s=pending.received_at_s,
                leader_epoch=entry.leader_epoch if entry.HasField("leader_epoch") else None,
                done=done,
                from_node=self._from_node,
            )
        )

    def _answer(
        self,
        pending: _Pending,
        topic_id: bytes,
        partition: int,
        refusal: Refusal | None,
        append: AppendRequest | None,
    ) -> None:
        pending.left -= 1
        now_s = self._loop.time()
        if refusal is not None:
            self._counters.errors["produce", refusal.reason] += 1
            self._counters.throttle_ms += refusal.retry_after_ms
        if not pending.silent and not self._closed:
            if not self._results:
                self._first_result_s = now_s
                self._wake.set()
            self._results.append(
                self._result(pending.correlation_id, topic_id, partition, refusal, append)
            )
        if not pending.left:
            self._unanswered -= 1
            if pending.size:
                self._budget.give_back(pending.size)
            self._counters.durations["produce"].observe(now_s - pending.received_at_s)
            if self._closed or pending.silent:
                self._taken.set()

    def _result(
        self,
        correlation_id: int,
        topic_id: bytes,
        partition: int,
        refusal: Refusal | None,
        append: AppendRequest | None,
    ) -> pb.ProduceResult:
        if refusal is not None:
            return pb.ProduceResult(
                correlation_id=correlation_id,
                topic_id=topic_id,
                partition=partition,
                error=reason_number(refusal.reason),
                message=refusal.message,
                leader_epoch=self._appender.newest_epoch(topic_id, partition),
                retry_after_ms=refusal.retry_after_ms,
                indeterminate=refusal.indeterminate,
            )
        assert append is not None
        if append.base_offset is None:
            return pb.ProduceResult(
                correlation_id=correlation_id,
                topic_id=topic_id,
                partition=partition,
                error=reason_number("DUPLICATE_SEQUENCE"),
                message="the batches were appended before, too long ago to know where",
                durability=append.durability,
                leader_epoch=append.acknowledged_epoch,
            )
        return pb.ProduceResult(
            correlation_id=correlation_id,
            topic_id=topic_id,
            partition=partition,
            base_offset=append.base_offset,
            append_timestamp_ms=append.append_timestamp_ms,
            log_start_offset=append.log_start_offset,
            durability=append.durability,
            leader_epoch=append.acknowledged_epoch,
        )

    async def _write_results(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        respond = self._counters.stages["respond"]
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._results:
                continue
            results, self._results = self._results, []
            since_s = self._first_result_s
            self._writing = True
            await context.write(pb.ProduceResponse(results=results))
            self._writing = False
            respond.observe(self._loop.time() - since_s)
            self._taken.set()
