"""`Publish`: plain records in, batches built here, forwarded one hop where another broker leads."""

import asyncio
from collections.abc import Collection, Sequence
from random import Random
from zlib import crc32

import grpc

from millstream.record import build_batch, encode_records
from millstream.record.batch import SEQUENCE_MODULUS
from millstream.record.columns import TIMESTAMP_DELTA_MS_MAX
from millstream.v1 import broker_service_pb2 as pb
from millstream_raft.image import TopicState
from millstream_server.broker.append_request import AppendRequest
from millstream_server.broker.appender import Appender
from millstream_server.broker.config import BrokerConfig
from millstream_server.broker.peers import Peers
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.routing import Routing
from millstream_server.broker.validation import TIMESTAMP_MS_MAX
from millstream_server.runtime.errors import ServiceError, error_of
from millstream_server.runtime.ports import Clock

# What a leader says, definitely, that does not know of its new partition yet.
_NOT_READY = frozenset({"LEADER_NOT_AVAILABLE", "NOT_LEADER", "UNKNOWN_TOPIC", "UNKNOWN_PARTITION"})
_READY_POLL_S = 0.02
_DELTA_MS_MIN = -(1 << 31)


def _not_ready(error: ServiceError | Refusal) -> bool:
    if isinstance(error, Refusal):
        return error.reason in _NOT_READY and not error.indeterminate
    return error.reason in _NOT_READY and "indeterminate" not in error.metadata


def key_of(record: pb.PublishRecord) -> bytes | None:
    """The key of a record as bytes; None for null."""
    kind = record.WhichOneof("key_form")
    if kind is None:
        return None
    return record.key if kind == "key" else record.key_text.encode()


def value_of(record: pb.PublishRecord) -> bytes | None:
    """The value of a record as bytes; None for null."""
    kind = record.WhichOneof("value_form")
    if kind is None:
        return None
    return record.value if kind == "value" else record.value_text.encode()


class Publishing:
    """Serves `Publish`."""

    def __init__(
        self,
        config: BrokerConfig,
        appender: Appender,
        routing: Routing,
        peers: Peers,
        clock: Clock,
        random: Random,
    ) -> None:
        self._config = config
        self._appender = appender
        self._routing = routing
        self._peers = peers
        self._clock = clock
        self._random = random

    async def publish(self, request: pb.PublishRequest) -> pb.PublishResponse:
        """Append the records. Raises ServiceError, or Refusal with the reason of the first record
        that failed."""
        size = request.ByteSize()
        self._check(request, size)
        self._appender.check_open()
        topic = self._routing.image.topic(request.topic)
        if topic is None:
            topic = await self._routing.create(request.topic)
        if topic.internal:
            raise ServiceError("INTERNAL_TOPIC", f"topic {topic.name} is written by its owner only")
        groups = self._partition(request, topic)
        self._appender.budget.take(size, self._config.throttle_retry_ms)
        try:
            answers = await asyncio.gather(
                *(
                    self._publish_in_time(topic, number, indexes, request)
                    for number, indexes in groups.items()
                ),
                return_exceptions=True,
            )
        finally:
            self._appender.budget.give_back(size)
        return _merge(len(request.records), groups.values(), answers)

    def _check(self, request: pb.PublishRequest, size: int) -> None:
        if size > self._config.request_bytes_max:
            raise ServiceError(
                "REQUEST_TOO_LARGE",
                f"the request has {size} bytes, at most {self._config.request_bytes_max} are "
                "accepted",
            )
        if len(request.records) > self._config.publish_records_max:
            raise ServiceError(
                "REQUEST_TOO_LARGE",
                f"records: {len(request.records)} are given, at most "
                f"{self._config.publish_records_max} are accepted",
            )
        if not request.records:
            raise ServiceError("INVALID_REQUEST", "records: there is none")
        if request.acks not in pb.Acks.values():
            raise ServiceError("INVALID_REQUEST", f"acks: {request.acks} is not known")
        if request.base_sequence >= SEQUENCE_MODULUS:
            raise ServiceError("INVALID_REQUEST", "base_sequence: out of range")
        if not request.producer_id and (request.producer_epoch or request.base_sequence):
            raise ServiceError("INVALID_REQUEST", "producer_id: not given, but epoch or sequence")
        if request.producer_id and not request.HasField("partition"):
            raise ServiceError("INVALID_REQUEST", "partition: an idempotent producer must name it")
        for record in request.records:
            if record.HasField("timestamp_ms") and not (
                0 <= record.timestamp_ms <= TIMESTAMP_MS_MAX
            ):
                raise ServiceError("INVALID_REQUEST", "records.timestamp_ms: out of range")

    def _partition(self, request: pb.PublishRequest, topic: TopicState) -> dict[int, list[int]]:
        """Indexes of the records by partition, in order."""
        if request.HasField("partition"):
            self._routing.partition(topic, request.partition)
            return {request.partition: list(range(len(request.records)))}
        count = len(topic.partitions)
        keyless = self._random.randrange(count)
        groups: dict[int, list[int]] = {}
        for index, record in enumerate(request.records):
            key = key_of(record)
            number = keyless if key is None else crc32(key) % count
            groups.setdefault(number, []).append(index)
        return groups

    async def _publish_in_time(
        self,
        topic: TopicState,
        number: int,
        indexes: Sequence[int],
        request: pb.PublishRequest,
    ) -> pb.PublishResponse:
        """Publish; give leaders that are being elected, or open their logs, a bounded time."""
        end_ms = self._clock.monotonic_ms() + self._config.leader_wait_ms
        while True:
            try:
                newest = self._routing.image.topics.get(topic.topic_id, topic)
                return await self._publish_to(newest, number, indexes, request)
            except (ServiceError, Refusal) as error:
                late = self._clock.monotonic_ms() > end_ms
                if request.forwarded or late or not _not_ready(error):
                    raise
            await asyncio.sleep(_READY_POLL_S)

    async def _publish_to(
        self,
        topic: TopicState,
        number: int,
        indexes: Sequence[int],
        request: pb.PublishRequest,
    ) -> pb.PublishResponse:
        records = [request.records[index] for index in indexes]
        leader = self._routing.remote_leader(topic, number, request.forwarded)
        if leader is None:
            return await self._append(topic, number, records, request)
        forwarded = pb.PublishRequest(
            topic=topic.name,
            partition=number,
            records=records,
            acks=request.acks,
            timeout_ms=request.timeout_ms,
            producer_id=request.producer_id,
            producer_epoch=request.producer_epoch,
            base_sequence=request.base_sequence,
            forwarded=True,
        )
        stub = self._peers.stub(self._routing.image, leader)
        try:
            return await stub.Publish(forwarded, timeout=self._config.forward_timeout_ms / 1000)
        except grpc.RpcError as error:
            raise error_of(error) from None

    async def _append(
        self,
        topic: TopicState,
        number: int,
        records: Sequence[pb.PublishRecord],
        request: pb.PublishRequest,
    ) -> pb.PublishResponse:
        now_ms = self._clock.wall_ms()
        times = [
            record.timestamp_ms if record.HasField("timestamp_ms") else now_ms for record in records
        ]
        batches = _build_batches(records, times, request)
        append = await self._append_batches(topic.topic_id, number, batches, request)
        return pb.PublishResponse(
            records=[
                pb.PublishedRecord(
                    partition=number,
                    offset=None if append.base_offset is None else append.base_offset + index,
                    timestamp_ms=append.append_timestamp_ms if append.log_append_time else time,
                )
                for index, time in enumerate(times)
            ],
            durability=append.durability,
        )

    async def _append_batches(
        self, topic_id: bytes, number: int, batches: list[bytes], request: pb.PublishRequest
    ) -> AppendRequest:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[AppendRequest] = loop.create_future()

        def done(append: AppendRequest, refusal: Refusal | None) -> None:
            if future.done():  # the caller went away
                return
            if refusal is not None:
                future.set_exception(refusal)
            else:
                future.set_result(append)

        self._appender.submit(
            AppendRequest(
                topic_id,
                number,
                batches,
                # An answer is due in any case, so "none" is the leader's word too.
                acks=pb.ACKS_LEADER if request.acks == pb.ACKS_NONE else request.acks,
                timeout_ms=request.timeout_ms,
                received_at_s=loop.time(),
                done=done,
            )
        )
        return await future


def _build_batches(
    records: Sequence[pb.PublishRecord], times: Sequence[int], request: pb.PublishRequest
) -> list[bytes]:
    """One batch, or more where timestamps are too far apart for one."""
    batches = []
    begin = 0
    for end in range(1, len(records) + 1):
        if end == len(records) or not (
            _DELTA_MS_MIN <= times[end] - times[begin] <= TIMESTAMP_DELTA_MS_MAX
        ):
            batches.append(_build(records[begin:end], times[begin:end], request, begin))
            begin = end
    return batches


def _build(
    records: Sequence[pb.PublishRecord],
    times: Sequence[int],
    request: pb.PublishRequest,
    begin: int,
) -> bytes:
    keys = [key_of(record) for record in records]
    headers = [
        [
            (header.name, header.value if header.HasField("value") else None)
            for header in record.headers
        ]
        for record in records
    ]
    base = times[0]
    payload = encode_records(
        [value_of(record) for record in records],
        None if all(key is None for key in keys) else keys,
        None if all(time == base for time in times) else [time - base for time in times],
        headers if any(headers) else None,
    )
    sequence = (request.base_sequence + begin) % SEQUENCE_MODULUS if request.producer_id else 0
    return build_batch(
        payload,
        record_count=len(records),
        base_timestamp_ms=base,
        max_timestamp_ms=max(times),
        producer_id=request.producer_id,
        producer_epoch=request.producer_epoch,
        base_sequence=sequence,
    )


def _merge(
    count: int,
    groups: Collection[list[int]],
    answers: Sequence[pb.PublishResponse | BaseException],
) -> pb.PublishResponse:
    """Answers in the order of the records; the least durability. Groups are in the order of their
    first records, so the first failure is that of the first record that failed."""
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    placed: list[pb.PublishedRecord | None] = [None] * count
    durability: int = max(pb.Durability.values())
    for indexes, answer in zip(groups, answers, strict=True):
        assert isinstance(answer, pb.PublishResponse)
        durability = min(durability, answer.durability)
        for index, record in zip(indexes, answer.records, strict=True):
            placed[index] = record
    return pb.PublishResponse(
        records=[record for record in placed if record is not None],
        durability=pb.Durability.ValueType(durability),
    )
