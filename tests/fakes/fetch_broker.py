"""A broker to read from: real encoded batches over real gRPC, on 127.0.0.1, one node.

Serves ``Fetch``, ``ListOffsets``, ``WatchCluster``, and with a ``FakeCoordinator`` also the group
services. Tests append, truncate, fail and cut streams; credit and tokens are kept by the rules and
violations are collected in ``violations``.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from millstream.record.batch import broker_head, build_batch, frame, parse_header
from millstream.record.columns import encode_records
from millstream.record.compression import compress
from millstream.record.wire import RawFetchedPartition, RawFetchResponse
from millstream.v1 import broker_service_pb2 as pb
from millstream.v1 import (
    errors_pb2,
    group_coordinator_service_pb2_grpc,
    metadata_service_pb2_grpc,
)
from millstream.v1 import metadata_service_pb2 as metadata
from tests.fakes.coordinator import FakeCoordinator, abort

PUSH_BYTES = 256 * 1024


def reason(name: str) -> Any:
    """Number of a reason such as ``"NOT_LEADER"``."""
    return errors_pb2.ErrorReason.Value(f"ERROR_REASON_{name}")


def stored_batch(
    values: Sequence[bytes | None],
    *,
    base_offset: int,
    leader_epoch: int = 1,
    keys: Sequence[bytes | None] | None = None,
    headers: Any = None,
    codec: int = 0,
    timestamp_ms: int = 1_000,
    append_timestamp_ms: int = 9_000,
    attributes: int = 0,
) -> bytes:
    """A batch as a leader stores it."""
    payload = compress(codec, encode_records(values, keys, None, headers))
    produced = build_batch(
        payload,
        record_count=len(values),
        base_timestamp_ms=timestamp_ms,
        max_timestamp_ms=timestamp_ms,
        attributes=codec | attributes,
    )
    head = broker_head(
        parse_header(produced).crc,
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        append_timestamp_ms=append_timestamp_ms,
        synced_end_offset=0,
    )
    return head + produced[42:]


@dataclass
class FakeLog:
    """One partition."""

    topic: str
    topic_id: bytes
    partition: int
    leader_epoch: int = 1
    start: int = 0
    end: int = 0
    # (base offset, next offset, batch)
    batches: list[tuple[int, int, bytes]] = field(default_factory=list)
    # Reason to answer instead of records, once per entry.
    failures: list[str] = field(default_factory=list)
    log_append_time: bool = False

    def append(self, values: Sequence[bytes | None], **how: Any) -> int:
        """Append one batch; returns its base offset."""
        base = self.end
        batch = stored_batch(values, base_offset=base, leader_epoch=self.leader_epoch, **how)
        return self.append_raw(batch)

    def append_raw(self, batch: bytes) -> int:
        """Append a batch as it is."""
        header = parse_header(batch)
        self.batches.append((header.base_offset, header.next_offset, batch))
        self.end = header.next_offset
        return header.base_offset

    def from_offset(self, offset: int) -> int:
        """Index of the batch that holds an offset."""
        for index, (_, following, _batch) in enumerate(self.batches):
            if following > offset:
                return index
        return len(self.batches)


@dataclass
class _Reading:
    token: int
    offset: int
    announced: bool = False


class FakeBroker:
    """See the module. ``async with FakeBroker({"logs": 3}) as broker``."""

    def __init__(self, topics: dict[str, int], coordinator: FakeCoordinator | None = None) -> None:
        self.coordinator = coordinator
        self.address = ""
        self.logs: dict[tuple[bytes, int], FakeLog] = {}
        self.violations: list[str] = []
        self.requests: list[pb.FetchRequest] = []
        self.pushed_bytes = 0
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._version = 1
        self._cut = asyncio.Event()
        self.watches: list[metadata.WatchClusterRequest] = []
        for name, count in topics.items():
            self.add_topic(name, count)

    # --- what tests do --------------------------------------------------------

    def add_topic(self, name: str, count: int, generation: int = 0) -> None:
        """Make a topic."""
        topic_id = hashlib.md5(f"{name}/{generation}".encode()).digest()
        for number in range(count):
            self.logs[topic_id, number] = FakeLog(name, topic_id, number)
        self.metadata_changed()

    def log(self, topic: str, partition: int = 0) -> FakeLog:
        """A partition by name."""
        return next(
            log for log in self.logs.values() if (log.topic, log.partition) == (topic, partition)
        )

    def wake(self) -> None:
        """Something was appended or broken: look again."""
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    def metadata_changed(self) -> None:
        """Announce topics and leader epochs as they are now."""
        self._version += 1
        self.wake()

    def cut_streams(self) -> None:
        """Break every fetch stream."""
        event, self._cut = self._cut, asyncio.Event()
        event.set()
        self.wake()

    async def __aenter__(self) -> "FakeBroker":
        """Serve on a free port."""
        server = grpc.aio.server()
        handlers = {
            "Fetch": grpc.stream_stream_rpc_method_handler(
                self._fetch, pb.FetchRequest.FromString, None
            ),
            "ListOffsets": grpc.unary_unary_rpc_method_handler(
                self._list_offsets,
                pb.ListOffsetsRequest.FromString,
                pb.ListOffsetsResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("millstream.v1.BrokerService", handlers),)
        )
        metadata_service_pb2_grpc.add_MetadataServiceServicer_to_server(_Metadata(self), server)
        if self.coordinator is not None:
            group_coordinator_service_pb2_grpc.add_GroupCoordinatorServiceServicer_to_server(
                self.coordinator, server
            )
        port = server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        assert self._server is not None
        await self._server.stop(0)

    # --- fetch --------------------------------------------------------

    async def _fetch(self, requests: AsyncIterator[pb.FetchRequest], context: Any) -> None:
        reading: dict[tuple[bytes, int], _Reading] = {}
        credit = [0, 0]
        took = asyncio.Event()

        async def take() -> None:
            async for request in requests:
                self.requests.append(request)
                credit[0] += request.credit_bytes
                credit[1] = max(credit)
                for position in request.positions:
                    key = (position.topic_id, position.partition)
                    reading[key] = _Reading(position.token, position.offset)
                    self._check_position(key, position)
                for removal in request.removals:
                    reading.pop((removal.topic_id, removal.partition), None)
                took.set()

        taker = asyncio.create_task(take())
        cut = self._cut
        try:
            while not cut.is_set():
                took.clear()
                changed = self._changed
                if await self._push_round(reading, credit, context):
                    continue
                waits = [asyncio.ensure_future(one.wait()) for one in (took, changed, cut)]
                try:
                    await asyncio.wait((*waits, taker), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
                if taker.done():
                    return
        finally:
            taker.cancel()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "cut by the test")

    def _check_position(self, key: tuple[bytes, int], position: pb.FetchPosition) -> None:
        log = self.logs.get(key)
        if log is None:
            return
        if position.HasField("leader_epoch") and position.leader_epoch > log.leader_epoch:
            log.failures.append("UNKNOWN_LEADER_EPOCH")
        elif position.HasField("leader_epoch") and position.leader_epoch < log.leader_epoch:
            log.failures.append("FENCED_LEADER_EPOCH")
        elif position.offset > log.end or position.offset < log.start:
            log.failures.append("OFFSET_OUT_OF_RANGE")

    async def _push_round(
        self, reading: dict[tuple[bytes, int], _Reading], credit: list[int], context: Any
    ) -> bool:
        pushed = False
        for key, one in list(reading.items()):
            log = self.logs.get(key)
            if log is None or log.failures:
                name = "UNKNOWN_TOPIC" if log is None else log.failures.pop(0)
                reading.pop(key, None)
                await self._send(context, key, one.token, log, (), reason(name))
                pushed = True
                continue
            run, size, following = self._run(log, one.offset, credit)
            if run or not one.announced:
                one.announced = True
                one.offset = following
                credit[0] -= size
                self.pushed_bytes += size
                await self._send(context, key, one.token, log, run, 0)
                pushed = pushed or bool(run)
        return pushed

    def _run(self, log: FakeLog, offset: int, credit: list[int]) -> tuple[list[bytes], int, int]:
        run: list[bytes] = []
        size = 0
        for index in range(log.from_offset(offset), len(log.batches)):
            _, following, batch = log.batches[index]
            cost = len(frame(batch))
            allowed = size + cost <= credit[0] or (not run and credit[0] >= credit[1] > 0)
            if not allowed or (run and size + cost > PUSH_BYTES):
                break
            run.append(batch)
            size += cost
            offset = following
        return run, size, offset

    async def _send(
        self,
        context: Any,
        key: tuple[bytes, int],
        token: int,
        log: FakeLog | None,
        run: Sequence[bytes],
        error: int,
    ) -> None:
        entry = RawFetchedPartition(
            topic_id=key[0], partition=key[1], token=token, error=error, batches=run
        )
        if log is not None:
            entry.high_watermark = log.end
            entry.log_start_offset = log.start
            entry.leader_epoch = log.leader_epoch
            entry.log_append_time = log.log_append_time
            if error == reason("LOG_TRUNCATED"):
                entry.truncated_offset = log.end
        await context.write(RawFetchResponse(partitions=[entry]).SerializeToString())

    # --- offsets --------------------------------------------------------

    async def _list_offsets(self, request: pb.ListOffsetsRequest, _: Any) -> Any:
        answers = []
        for query in request.queries:
            answer = pb.OffsetAnswer(topic=query.topic, partition=query.partition)
            answers.append(answer)
            found = [
                log
                for log in self.logs.values()
                if log.partition == query.partition
                and query.topic_id in (b"", log.topic_id)
                and (query.topic_id or log.topic == query.topic)
            ]
            if not found:
                answer.error = reason("UNKNOWN_TOPIC")
                continue
            log = found[0]
            answer.leader_epoch = log.leader_epoch
            kind = query.position.WhichOneof("kind")
            if kind == "earliest":
                answer.offset = log.start
            elif kind == "latest":
                answer.offset = log.end
            else:
                for base, _following, batch in log.batches:
                    time_ms = parse_header(batch).max_timestamp_ms
                    if time_ms >= query.position.timestamp_ms:
                        answer.offset = base
                        answer.timestamp_ms = time_ms
                        break
        return pb.ListOffsetsResponse(answers=answers)

    # --- metadata --------------------------------------------------------

    def node(self) -> metadata.Node:
        """This node, which does everything."""
        host, port = self.address.rsplit(":", 1)
        roles = (metadata.NODE_ROLE_BROKER, metadata.NODE_ROLE_COORDINATOR)
        return metadata.Node(node_id=1, roles=roles, host=host, port=int(port), epoch=1)

    def describe(self, topics: Sequence[str], everything: bool) -> metadata.WatchClusterResponse:
        """The cluster as a watch with this filter sees it."""
        by_name: dict[str, metadata.Topic] = {}
        for log in self.logs.values():
            if everything or log.topic in topics:
                topic = by_name.setdefault(
                    log.topic, metadata.Topic(name=log.topic, topic_id=log.topic_id)
                )
                topic.partitions.add(
                    partition=log.partition,
                    leader_id=1,
                    leader_epoch=log.leader_epoch,
                    replica_ids=[1],
                )
        return metadata.WatchClusterResponse(
            version=self._version,
            complete=True,
            cluster_id="fake",
            nodes=[self.node()],
            topics=by_name.values(),
            missing_topics=[name for name in topics if name not in by_name],
        )

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()


class _Metadata(metadata_service_pb2_grpc.MetadataServiceServicer):
    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    async def WatchCluster(  # type: ignore[override]
        self, request: Any, context: Any
    ) -> AsyncIterator[Any]:
        """Everything, again after each change."""
        broker = self._broker
        broker.watches.append(request)
        version = 0
        while True:
            message = broker.describe(request.topics, request.all_topics)
            if message.version != version:
                version = message.version
                yield message
            await broker.changed()

    async def FindCoordinator(self, request: Any, context: Any) -> Any:  # type: ignore[override]
        """This node."""
        return metadata.FindCoordinatorResponse(node=self._broker.node(), shard=0, shard_epoch=1)

    async def DescribeTopics(self, request: Any, context: Any) -> Any:  # type: ignore[override]
        """Only used to prove that a topic is missing."""
        await abort(context, "UNKNOWN_TOPIC")
